//! One level of the benchmark: so many peers at the same time, each with so many requests in flight.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use futures_util::future::try_join_all;
use haul_core::ids::PeerId;
use haul_core::wire::index::{IndexAnswer, IndexRequest};
use haul_net::connection::Connection;
use tokio::task::JoinSet;

use super::cases::{self, Expect, GrowingShare, Operation};
use super::cpu::CpuReading;
use super::mix::Mix;
use super::results::{Cell, Row, Samples, Summary, rounded};
use super::session::Session;

/// Bulk commits of each peer.
const BULK_COMMITS: u64 = 20;

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    /// `haul` or `null`.
    pub(crate) program: &'static str,
    /// Names and questions.
    pub(crate) mix: Mix,
    /// Unanswered requests of each peer.
    pub(crate) in_flight: usize,
    /// Counted from 0.
    pub(crate) round: usize,
    /// Whose CPU time is read, if it runs on this machine.
    pub(crate) server: Option<u32>,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// A row for each kind of operation.
    pub(crate) rows: Vec<Row>,
    /// The samples behind them.
    pub(crate) samples: Vec<Samples>,
}

impl Level {
    /// Registrations, searches, lookups and bulk registrations of all peers; the first failed request ends it.
    pub(crate) async fn run(&self, sessions: &[Session]) -> anyhow::Result<Measured> {
        let ids: Vec<PeerId> = sessions.iter().map(Session::peer).collect();
        let mut measured = Measured::default();
        let mut shares: Vec<Vec<GrowingShare>> = ids.iter().map(|id| self.shares(*id)).collect();
        for (session, shares) in sessions.iter().zip(&shares) {
            send_all(session.connection(), shares.iter().map(GrowingShare::open)).await.context("opening shares")?;
        }
        let peers = shares.iter_mut().enumerate();
        let work = peers.map(|(peer, shares)| cases::registrations(&self.mix, peer, shares)).collect();
        self.phase("register", sessions, work, &mut measured).await?;
        let work = (0..ids.len()).map(|peer| cases::deal(cases::searches(&self.mix, peer), self.in_flight)).collect();
        self.phase("search", sessions, work, &mut measured).await?;
        let work =
            (0..ids.len()).map(|peer| cases::deal(cases::lookups(&self.mix, peer, &ids), self.in_flight)).collect();
        self.phase("lookup", sessions, work, &mut measured).await?;
        for (session, shares) in sessions.iter().zip(&shares) {
            send_all(session.connection(), shares.iter().map(GrowingShare::forget)).await.context("closing shares")?;
        }
        if self.in_flight == 1 {
            let peers = ids.iter().enumerate();
            let work = peers.map(|(peer, id)| vec![self.bulk(peer, *id)]).collect();
            self.phase("register-bulk", sessions, work, &mut measured).await?;
        }
        Ok(measured)
    }

    /// Each worker has a share of its own: changes of one share follow one another.
    fn shares(&self, peer: PeerId) -> Vec<GrowingShare> {
        (0..self.in_flight as u64).map(|worker| GrowingShare::new(peer, self.first_share() + worker)).collect()
    }

    fn bulk(&self, peer: usize, id: PeerId) -> Vec<Operation> {
        let first = self.first_share() + self.in_flight as u64;
        cases::bulk_registrations(&self.mix, peer, id, first, BULK_COMMITS)
    }

    /// Shares of different levels and rounds have different numbers, for an index that outlives them.
    fn first_share(&self) -> u64 {
        ((self.round as u64 * 1_000 + self.mix.peers as u64) * 1_000 + self.in_flight as u64) * 1_000
    }

    /// All peers do their operations, each worker of a peer one after the other.
    async fn phase(
        &self,
        operation: &str,
        sessions: &[Session],
        work: Vec<Vec<Vec<Operation>>>,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        let cell = Cell {
            program: self.program.to_owned(),
            operation: operation.to_owned(),
            peers: sessions.len(),
            in_flight: self.in_flight,
        };
        let files: usize = work.iter().flatten().flatten().map(|operation| operation.files).sum();
        let strict = self.program == "haul";
        let before = self.server.and_then(CpuReading::take);
        let started = Instant::now();
        let mut peers = JoinSet::new();
        for (peer, (session, workers)) in sessions.iter().zip(work).enumerate() {
            let connection = session.connection().clone();
            peers.spawn(async move { (peer, drive(&connection, workers, strict).await) });
        }
        let mut of_peers = Vec::new();
        while let Some(joined) = peers.join_next().await {
            let (peer, micros) = joined.context("a peer of the benchmark ended unexpectedly")?;
            let place = || format!("{operation} of peer {} of {} (round {})", peer + 1, sessions.len(), self.round);
            of_peers.push((peer, micros.with_context(place)?));
        }
        let wall = started.elapsed();
        let cpu = before.zip(self.server.and_then(CpuReading::take)).map(|(before, after)| after.since(&before));
        of_peers.sort_by_key(|(peer, _)| *peer);
        let all: Vec<f64> = of_peers.iter().flat_map(|(_, micros)| micros.iter().copied()).collect();
        measured.rows.push(Row {
            cell: cell.clone(),
            round: self.round,
            times: Summary::of(&all),
            ops_per_s: (files as f64 / wall.as_secs_f64()).round(),
            server_cpu_us: cpu.map(|cpu| rounded(micros(cpu) / files as f64)),
        });
        let samples = of_peers.into_iter();
        measured.samples.extend(samples.map(|(peer, micros)| Samples {
            cell: cell.clone(),
            round: self.round,
            peer: peer + 1,
            micros,
        }));
        Ok(())
    }
}

/// All workers of a peer side by side; the times of its operations.
async fn drive(connection: &Connection, workers: Vec<Vec<Operation>>, strict: bool) -> anyhow::Result<Vec<f64>> {
    let loops = workers.into_iter().map(|operations| async move {
        let mut times = Vec::with_capacity(operations.len());
        for (number, operation) in operations.into_iter().enumerate() {
            let time = perform(connection, operation, strict).await.with_context(|| format!("request {number}"))?;
            times.push(time);
        }
        Ok::<_, anyhow::Error>(times)
    });
    Ok(try_join_all(loops).await?.concat())
}

/// Does one operation and checks its answer; microseconds per file.
async fn perform(connection: &Connection, operation: Operation, strict: bool) -> anyhow::Result<f64> {
    send_all(connection, operation.before).await?;
    let started = Instant::now();
    // Changes of a share keep their order at the index, so a commit need not wait for the answer to its page.
    let requests = operation.timed.iter().map(|request| connection.request::<_, IndexAnswer>(request));
    let mut answers = try_join_all(requests).await?;
    let time = started.elapsed();
    let last = answers.pop().ok_or_else(|| anyhow!("an operation without requests"))?;
    for answer in answers {
        // A refusal must not hide behind the last answer.
        Expect::Anything.check(answer)?;
    }
    let expect = if strict { operation.expect } else { Expect::Anything };
    expect.check(last)?;
    send_all(connection, operation.after).await?;
    Ok(micros(time) / operation.files.max(1) as f64)
}

async fn send_all(connection: &Connection, requests: impl IntoIterator<Item = IndexRequest>) -> anyhow::Result<()> {
    for request in requests {
        Expect::Anything.check(connection.request::<_, IndexAnswer>(&request).await?)?;
    }
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{Ipv4Addr, SocketAddr};

    use haul_index::{Index, IndexConfig, Invitation};
    use haul_net::identity::SecretKey;
    use tokio_util::sync::CancellationToken;

    use super::super::null_server::NullServer;
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_index_gives_every_answer_of_the_mix() {
        let state = tempfile::tempdir().unwrap();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = IndexConfig::new(state.path().join("index"), vec![loopback]);
        let index = Index::start(config, CancellationToken::new()).await.unwrap();
        let ticket = index.invite(Invitation::default()).await.unwrap();
        let mut sessions = Vec::new();
        for name in ["bench-1", "bench-2", "bench-3"] {
            sessions.push(Session::join(&ticket, &SecretKey::generate().unwrap(), name).await.unwrap());
        }
        // The second time everything is there again: the first one deleted what it had registered.
        for round in 0..2 {
            let mix = Mix { run: "r0".to_owned(), peers: 3 };
            let server = Some(std::process::id());
            let measured = Level { program: "haul", mix, in_flight: 4, round, server }.run(&sessions).await.unwrap();
            let counts: Vec<_> = measured.rows.iter().map(|row| row.times.count).collect();
            assert_eq!(counts, [600, 3_000, 2_400]);
            assert!(measured.rows.iter().all(|row| row.server_cpu_us > Some(0.0)));
        }
        for session in sessions {
            session.leave().await.unwrap();
        }
        index.join().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_level_over_tls_counts_everything_and_stops_at_a_wrong_answer() {
        let shutdown = CancellationToken::new();
        let server = NullServer::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let (address, key) = (server.address().unwrap().to_string(), server.key());
        let running = tokio::spawn(server.run(shutdown.clone()));
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let peer = SecretKey::generate().unwrap();
            sessions.push(Session::connect(&address, &peer, Some(key)).await.unwrap());
        }
        let mix = Mix { run: "r0".to_owned(), peers: 2 };
        let level = |program, in_flight| Level { program, mix: mix.clone(), in_flight, round: 0, server: None };
        let measured = level("null", 1).run(&sessions).await.unwrap();
        let counts: Vec<_> = measured.rows.iter().map(|row| (row.cell.operation.as_str(), row.times.count)).collect();
        assert_eq!(counts, [("register", 400), ("search", 2_000), ("lookup", 1_600), ("register-bulk", 40)]);
        assert_eq!(measured.samples.len(), 8);
        assert!(measured.rows.iter().all(|row| row.times.mean_us > 0.0 && row.ops_per_s > 0.0));
        let several = level("null", 16).run(&sessions).await.unwrap();
        assert_eq!(several.rows.len(), 3);
        // The null server commits nothing, which haul itself would never get away with.
        let error = level("haul", 1).run(&sessions).await.unwrap_err();
        assert!(format!("{error:#}").contains("register of peer"), "{error:#}");
        drop(sessions);
        shutdown.cancel();
        running.await.unwrap();
    }
}
