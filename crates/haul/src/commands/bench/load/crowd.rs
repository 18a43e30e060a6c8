//! Many peers in one process, each with its own key and connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use haul_core::ids::PublicKey;
use haul_core::limits;
use haul_core::registry::leases::renew_after;
use haul_core::trust::Ticket;
use haul_core::wire::ByteString;
use haul_core::wire::index::{IndexAnswer, IndexRequest};
use haul_net::clock;
use haul_net::connection::Connection;
use haul_net::identity::SecretKey;
use tokio::task::{JoinHandle, JoinSet};

use super::super::session::Session;
use super::population::Population;

/// Handshakes at a time: enough to keep both cores busy.
const CONNECTING: usize = 32;

/// A peer of a crowd.
#[derive(Debug)]
pub(crate) struct Member {
    number: u32,
    key: SecretKey,
    certificate: ByteString,
    session: Session,
}

impl Member {
    /// Which peer of the population it is.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The session alone.
    pub(crate) fn into_session(self) -> Session {
        self.session
    }

    /// Its open session.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

/// How to reach the index, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    ticket: Ticket,
    population: Arc<Population>,
    crowd: &'static str,
}

impl Door {
    /// Peers of this crowd have other keys than those of another one.
    pub(crate) fn new(ticket: Ticket, population: Arc<Population>, crowd: &'static str) -> Self {
        Self { ticket, population, crowd }
    }

    /// The ticket that all join with.
    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The key of a peer.
    pub(crate) fn key(&self, number: u32) -> anyhow::Result<SecretKey> {
        SecretKey::from_seed(self.population.key_seed(self.crowd, number)).context("a seed that makes no key")
    }

    /// A peer's name in the network.
    fn name(&self, number: u32) -> String {
        format!("{}-{number}", self.crowd)
    }

    /// Joins with the ticket.
    pub(crate) async fn enter(&self, number: u32) -> anyhow::Result<Member> {
        let key = self.key(number)?;
        let session = Session::join(&self.ticket, &key, &self.name(number)).await?;
        let certificate = session.certificate().cloned().context("a member without a certificate")?;
        Ok(Member { number, key, certificate, session })
    }

    /// Comes back after its connection ended.
    pub(crate) async fn enter_again(&self, gone: Gone) -> anyhow::Result<Member> {
        let Gone { number, key, certificate, index } = gone;
        let address = self.ticket.addresses.first().context("the ticket names no address")?;
        let session = Session::back(address, index, &key, &self.name(number), certificate).await?;
        let certificate = session.certificate().cloned().context("a member without a certificate")?;
        Ok(Member { number, key, certificate, session })
    }

    /// Joins with `count` peers, the first of them being `first`.
    pub(crate) async fn enter_all(&self, first: u32, count: u32) -> anyhow::Result<Vec<Member>> {
        allow_connections(u64::from(count))?;
        let mut members = Vec::with_capacity(count as usize);
        let mut entering = stream::iter((first..first + count).map(|number| self.enter(number))).buffered(CONNECTING);
        while let Some(member) = entering.next().await {
            members.push(member.with_context(|| format!("peer {}", first as usize + members.len()))?);
        }
        Ok(members)
    }
}

/// What is needed to come back.
#[derive(Debug)]
pub(crate) struct Gone {
    number: u32,
    key: SecretKey,
    certificate: ByteString,
    index: PublicKey,
}

impl Member {
    /// Closes the connection without a word, as a crash does, and waits until it is closed on this side.
    pub(crate) async fn vanish(self) -> Gone {
        let Self { number, key, certificate, session } = self;
        let connection = session.connection().clone();
        let index = connection.remote();
        connection.close("");
        connection.closed().await;
        Gone { number, key, certificate, index }
    }
}

/// Renews the leases of a crowd, each when a real peer would, until it is dropped.
#[derive(Debug)]
pub(crate) struct Renewals(JoinHandle<()>);

impl Renewals {
    /// Of these members, as long as they are connected.
    pub(crate) fn start(members: &[Member]) -> Self {
        let mut renewing = JoinSet::new();
        for (number, member) in members.iter().enumerate() {
            let part = number as f64 / members.len() as f64;
            renewing.spawn(renew(member.session.connection().clone(), part));
        }
        Self(tokio::spawn(async move { while renewing.join_next().await.is_some() {} }))
    }
}

/// Until the connection ends, which is noticed by whoever asks something on it. `part` spreads the crowd over the interval:
/// the first renewal comes after this part of it, by this tool's clock, and later ones have their jitter from it.
async fn renew(connection: Connection, part: f64) {
    let elapsed = limits::LEASE_RENEWAL.mul_f64(1.0 - part).as_secs();
    let mut wait = renew_after(clock::wall_now(), 0.5).saturating_sub(Duration::from_secs(elapsed));
    loop {
        tokio::time::sleep(wait).await;
        let Ok(IndexAnswer::Renewed(renewed)) = connection.request(&IndexRequest::Renew).await else { return };
        wait = renew_after(renewed.time, part);
    }
}

impl Drop for Renewals {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Raises the number of files that this process may have open.
fn allow_connections(count: u64) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = count + 256;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        now.maximum.is_none_or(|maximum| maximum >= wanted),
        "{count} connections need {wanted} open files; allow them (ulimit -n)"
    );
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum })?)
}
