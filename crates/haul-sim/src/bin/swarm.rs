//! Runs simulated swarms and prints how far they stay from the fluid bound.
//!
//! `cargo run --release -p haul-sim --bin swarm -- --peers 16 --bytes 256MiB --up 50` is one run, `--curve FILE` a picture
//! of the distance against the number of peers.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use haul_core::planner::splitmix64 as chance;
use haul_sim::swarm::{Mode, Outcome, PeerSpec, Scenario, Sinks, fluid_bound, rate, run, staged_bound};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Who {
    /// The planner.
    Planned,
    /// Each peer alone, rarest first.
    Alone,
    /// A planner that deals any piece to anybody who holds it.
    Random,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// With the download machine of haul-core.
    Machine,
    /// They do what plans say and nothing else.
    Simple,
}

#[derive(Parser)]
#[command(about = "Simulates a swarm around the real planner and download machine")]
struct Arguments {
    /// Downloaders, besides one seed.
    #[arg(long, default_value_t = 16)]
    peers: usize,
    /// Bytes of the blob, with KiB, MiB or GiB.
    #[arg(long, default_value = "256MiB", value_parser = bytes)]
    bytes: u64,
    /// Uplinks in Mbit/s.
    #[arg(long, default_value_t = 50)]
    up: u64,
    /// Uplinks of the downloaders in turn, in Mbit/s, if they are not all alike.
    #[arg(long, value_delimiter = ',')]
    ups: Vec<u64>,
    /// Downlinks in Mbit/s.
    #[arg(long, default_value_t = 100)]
    down: u64,
    /// Downlinks of the downloaders in turn, in Mbit/s, if they are not all alike.
    #[arg(long, value_delimiter = ',')]
    downs: Vec<u64>,
    /// So many sites, and each peer at one of them by chance: those of one site are near each other.
    #[arg(long, default_value_t = 1)]
    sites: u32,
    /// Per cent of the downloaders that break at some moment.
    #[arg(long, default_value_t = 0.0)]
    lost: f64,
    /// Downloaders that send wrong bytes.
    #[arg(long, default_value_t = 0)]
    liars: usize,
    /// Peers know their uplinks and say so when they join.
    #[arg(long)]
    told: bool,
    /// Unequal links, joins spread out, a third leaves half-way, and so does the seed after 1.05 times the blob.
    #[arg(long)]
    moving: bool,
    /// The planner dies after this part of the bound.
    #[arg(long)]
    dies: Option<f64>,
    /// Who decides.
    #[arg(long, value_enum, default_value_t = Who::Planned)]
    who: Who,
    /// How the downloaders fetch. Machines are for some hundred peers.
    #[arg(long, value_enum, default_value_t = How::Machine)]
    sinks: How,
    /// Milliseconds to or from the index, one way.
    #[arg(long, default_value_t = 150)]
    control: u64,
    /// Milliseconds from peer to peer, one way.
    #[arg(long, default_value_t = 20)]
    latency: u64,
    /// KiB that wait in front of each uplink: connections then share uplinks as TCP does, by their round trips.
    #[arg(long)]
    queue: Option<u64>,
    /// Milliseconds over which the downloaders join, one after the other.
    #[arg(long, default_value_t = 0)]
    spread: u64,
    /// Per cent of the downloaders' uplinks that acknowledgements of what they receive take away.
    #[arg(long, default_value_t = 0.0)]
    acks: f64,
    /// Leaves per event of simple sinks; more is faster and on the safe side.
    #[arg(long, default_value_t = 1)]
    quantum: u64,
    /// Seed of everything left to chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulates several numbers of peers and writes a picture.
    #[arg(long)]
    curve: Option<PathBuf>,
    /// Largest number of peers on the picture.
    #[arg(long, default_value_t = 10_000)]
    largest: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    println!("{HEADER}");
    if let Some(file) = &arguments.curve {
        return curve::draw(&arguments, file);
    }
    let scenario = scenario(&arguments, arguments.peers);
    let (outcome, bound, real) = simulate(&scenario);
    println!("{}", row(arguments.peers, &outcome, bound, real));
    Ok(())
}

const HEADER: &str = "peers   bound s  median s    last s  median/b  last/b  seed/F  waste/F  planner s  us/assignment  \
                      plans  partners  unfinished  events  real s  outline/F  near";

fn row(peers: usize, outcome: &Outcome, bound: Duration, real: Duration) -> String {
    let seconds = |time: Duration| time.as_secs_f64();
    let ratio = |time: Duration| seconds(time) / seconds(bound);
    let size = outcome.size as f64;
    let planner = seconds(outcome.planner_time.0);
    format!(
        "{peers:>5} {:>9.2} {:>9.2} {:>9.2} {:>9.4} {:>7.4} {:>7.4} {:>8.5} {planner:>10.2} {:>14.2} {:>6} {:>9} {:>11} {:>7.0}k {:>7.1} {:>10.4} {:>5.2}",
        seconds(bound),
        seconds(outcome.median()),
        seconds(outcome.last()),
        ratio(outcome.median()),
        ratio(outcome.last()),
        outcome.seed_bytes as f64 / size,
        outcome.wasted_bytes as f64 / size,
        planner * 1e6 / outcome.assigned.max(1) as f64,
        outcome.plans,
        outcome.partners,
        outcome.unfinished,
        outcome.events as f64 / 1e3,
        seconds(real),
        outcome.seed_outline as f64 / size,
        outcome.near_share,
    )
}

fn simulate(scenario: &Scenario) -> (Outcome, Duration, Duration) {
    let started = Instant::now();
    let outcome = run(scenario);
    let still = scenario.peers.iter().all(|peer| peer.joins.is_zero() && peer.leaves_at.is_none());
    let bound = if still { fluid_bound(scenario, outcome.size) } else { staged_bound(scenario, outcome.size) };
    (outcome, bound, started.elapsed())
}

fn scenario(arguments: &Arguments, peers: usize) -> Scenario {
    let mut scenario = Scenario::equal(arguments.bytes, peers, rate(arguments.up), rate(arguments.down));
    if arguments.moving {
        scenario.peers = moving(peers, arguments.bytes, arguments.seed);
    }
    for (peer, up) in scenario.peers.iter_mut().skip(1).zip(arguments.ups.iter().cycle()) {
        peer.up = rate(*up);
    }
    for (peer, down) in scenario.peers.iter_mut().skip(1).zip(arguments.downs.iter().cycle()) {
        peer.down = rate(*down);
    }
    for (at, peer) in scenario.peers.iter_mut().enumerate().skip(1).filter(|_| arguments.spread > 0) {
        peer.joins = Duration::from_millis(arguments.spread * (at as u64 - 1) / peers as u64);
    }
    for peer in scenario.peers.iter_mut().skip(1) {
        peer.up = (peer.up as f64 * (1.0 - arguments.acks / 100.0)) as u64;
    }
    let mut places = arguments.seed;
    for peer in &mut scenario.peers {
        peer.site = 1 + (chance(&mut places) % u64::from(arguments.sites.max(1))) as u32;
    }
    for peer in scenario.peers.iter_mut().filter(|_| arguments.told) {
        peer.told = true;
    }
    scenario.mode = match arguments.who {
        Who::Planned => Mode::Planned,
        Who::Alone => Mode::Alone,
        Who::Random => Mode::Random,
    };
    scenario.sinks = match arguments.sinks {
        How::Machine => Sinks::Machine,
        How::Simple => Sinks::Simple,
    };
    scenario.latency = Duration::from_millis(arguments.latency);
    scenario.control = Duration::from_millis(arguments.control);
    scenario.quantum = arguments.quantum;
    scenario.queue = arguments.queue.map(|kib| kib * 1024);
    scenario.random = arguments.seed;
    let bound = fluid_bound(&scenario, arguments.bytes);
    scenario.planner_dies = arguments.dies.map(|part| bound.mul_f64(part));
    let lost = (peers as f64 * arguments.lost / 100.0).round() as usize;
    let mut random = arguments.seed;
    for _ in 0..lost {
        let at = 1 + chance(&mut random) as usize % peers;
        let when = (chance(&mut random) % 1000) as f64 / 1000.0;
        scenario.peers[at].breaks = Some(bound.mul_f64(when));
    }
    for liar in 0..arguments.liars.min(peers) {
        scenario.peers[1 + liar].lies = true;
    }
    scenario
}

/// Uplinks of 10 to 200 Mbit/s, joins over the first fifth, every third leaves when it holds half, and the seed once it
/// has sent 1.05 times the blob.
fn moving(peers: usize, bytes: u64, seed: u64) -> Vec<PeerSpec> {
    let mut random = seed;
    let mut specs = vec![PeerSpec::new(rate(50), rate(500)); peers + 1];
    let spread = bytes as f64 / rate(50) as f64 / 5.0;
    for (at, spec) in specs.iter_mut().enumerate().skip(1) {
        spec.up = rate(10 + chance(&mut random) % 191);
        spec.joins = Duration::from_secs_f64(spread * (at - 1) as f64 / peers as f64);
        spec.leaves_at = at.is_multiple_of(3).then_some(50);
    }
    specs[0].seed = true;
    specs[0].leaves_after = Some(105);
    specs
}

fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|error| format!("{text}: {error}"))?;
    let factor = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("{text}: the unit is KiB, MiB or GiB")),
    };
    Ok(number * factor)
}

/// The picture: distance to the bound against the number of peers.
mod curve {
    use std::path::Path;

    use plotters::prelude::*;

    use super::{Arguments, Sinks, row, scenario, simulate};

    /// Numbers of peers on the picture, and the leaves per event for them.
    const PEERS: [(usize, u64); 8] = [(4, 1), (8, 1), (16, 1), (64, 1), (256, 1), (1_000, 2), (4_000, 4), (10_000, 4)];

    /// Beyond so many peers their sinks are simple ones.
    const MACHINES: usize = 256;

    pub(super) fn draw(arguments: &Arguments, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let mut medians = Vec::new();
        let mut lasts = Vec::new();
        for (peers, quantum) in PEERS.into_iter().filter(|(peers, _)| *peers <= arguments.largest) {
            let mut scenario = scenario(arguments, peers);
            scenario.quantum = quantum;
            if peers > MACHINES {
                scenario.sinks = Sinks::Simple;
            }
            let (outcome, bound, real) = simulate(&scenario);
            println!("{}", row(peers, &outcome, bound, real));
            let ratio = |time: std::time::Duration| time.as_secs_f64() / bound.as_secs_f64();
            medians.push((peers as f64, ratio(outcome.median())));
            lasts.push((peers as f64, ratio(outcome.last())));
        }
        plot(file, &[("last peer", RED, &lasts), ("median", BLUE, &medians)])
    }

    /// Name, colour, points.
    type Line<'a> = (&'a str, RGBColor, &'a Vec<(f64, f64)>);

    fn plot(file: &Path, lines: &[Line<'_>]) -> Result<(), Box<dyn std::error::Error>> {
        let highest = lines.iter().flat_map(|(_, _, points)| points.iter()).map(|point| point.1).fold(1.05, f64::max);
        let most = lines.iter().flat_map(|(_, _, points)| points.iter()).map(|point| point.0).fold(8.0, f64::max);
        let root = SVGBackend::new(file, (760, 440)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("simulated swarms: time until a peer has everything, by the fluid bound", ("sans-serif", 18))
            .margin(20)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d((4.0..most).log_scale(), 1.0..(highest + 0.01))?;
        chart
            .configure_mesh()
            .x_desc("downloaders")
            .y_desc("times the bound")
            .x_label_formatter(&|count| format!("{count:.0}"))
            .draw()?;
        for (name, colour, points) in lines {
            let colour = *colour;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), &colour))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        root.present()?;
        Ok(())
    }
}
