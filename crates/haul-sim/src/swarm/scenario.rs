//! What a run is made of.

use core::time::Duration;

/// Who decides what to fetch from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The planner, and each peer alone when its plan has lapsed.
    Planned,
    /// Each peer alone: the rarest piece among what its neighbours hold.
    Alone,
    /// A planner that deals any piece to anybody who holds it.
    Random,
}

/// How peers fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sinks {
    /// With the download machine of haul-core, leaf by leaf.
    Machine,
    /// They do what plans say and nothing else. For swarms that are too large for machines.
    Simple,
}

/// One peer. Rates are bytes per second.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Uplink.
    pub up: u64,
    /// Downlink.
    pub down: u64,
    /// Holds everything from the start.
    pub seed: bool,
    /// When it comes.
    pub joins: Duration,
    /// When it breaks: others notice only after [`Scenario::notice`].
    pub breaks: Option<Duration>,
    /// Leaves in good order when it holds this many hundredths of the pieces.
    pub leaves_at: Option<u32>,
    /// Leaves in good order when it has sent so many hundredths of the blob.
    pub leaves_after: Option<u32>,
    /// Every leaf that it sends is wrong.
    pub lies: bool,
    /// It knows its uplink, from a limit or from earlier transfers, and says so when it joins.
    pub told: bool,
    /// As in the planner's hints.
    pub site: u32,
}

impl PeerSpec {
    /// A peer that is there from the start, stays and keeps its word.
    pub fn new(up: u64, down: u64) -> Self {
        Self {
            up,
            down,
            seed: false,
            joins: Duration::ZERO,
            breaks: None,
            leaves_at: None,
            leaves_after: None,
            lies: false,
            told: false,
            site: 0,
        }
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Bytes of the blob; whole pieces are sent.
    pub size: u64,
    /// The peers; the first is the seed whose bytes are counted.
    pub peers: Vec<PeerSpec>,
    /// Who decides.
    pub mode: Mode,
    /// How they fetch.
    pub sinks: Sinks,
    /// From one peer to another, one way.
    pub latency: Duration,
    /// From a peer to the index, one way, with what both need for it.
    pub control: Duration,
    /// Bytes that wait in front of each uplink, if that is to count: acknowledgements wait behind them, so that peers with slow
    /// uplinks get less of links that they share with others.
    pub queue: Option<u64>,
    /// How long a broken peer goes unnoticed.
    pub notice: Duration,
    /// How often a simple sink reports. The machine's driver tells what is new when the index has taken the last report.
    pub report: Duration,
    /// Leaves that are sent, delivered and forwarded in one event; with machines it is always one.
    pub quantum: u64,
    /// When the planner dies.
    pub planner_dies: Option<Duration>,
    /// For everything that is left to chance.
    pub random: u64,
}

impl Scenario {
    /// A planned run with 20 ms between peers and 150 ms to the index.
    pub fn new(size: u64, peers: Vec<PeerSpec>) -> Self {
        Self {
            size,
            peers,
            mode: Mode::Planned,
            sinks: Sinks::Machine,
            latency: Duration::from_millis(20),
            control: Duration::from_millis(150),
            queue: None,
            notice: Duration::from_secs(1),
            report: Duration::from_millis(500),
            quantum: 1,
            planner_dies: None,
            random: 1,
        }
    }

    /// One seed and `sinks` downloaders, all with the same links (bytes per second) and there from the start.
    pub fn equal(size: u64, sinks: usize, up: u64, down: u64) -> Self {
        let mut peers = vec![PeerSpec::new(up, down); sinks + 1];
        peers[0].seed = true;
        Self::new(size, peers)
    }
}

/// Bytes per second of a rate in Mbit/s.
pub fn rate(megabits: u64) -> u64 {
    megabits * 125_000
}
