//! What every operation of the interface works with, and small things that several of them need.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::PeerId;
use haul_core::time::Moment;
use haul_core::wire::index::{IndexAnswer, IndexRequest, PeerCard, Stats};
use haul_net::clock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::codes::ErrorCode;
use super::known::Known;
use super::logins::Logins;
use super::problem::Problem;
use super::records::{Cause, IndexState, Notice, Record};
use super::stream::Records;
use super::uploads::Uploads;
use crate::bandwidth::Bandwidth;
use crate::fetch::Downloader;
use crate::link::{AttemptError, IndexLink, LinkError, LinkState};
use crate::share::Shares;
use crate::transfers::Transfers;

/// Totals of the index are asked for at most this often.
const TOTALS_LIFE: Duration = Duration::from_secs(10);
/// Courtesy figures wait no longer than this.
const TOTALS_DEADLINE: Duration = Duration::from_millis(500);

/// Facts about the process.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `HAUL_HOME`, or the state folder.
    pub home: PathBuf,
    /// When it started.
    pub started: Moment,
    /// Where it serves.
    pub peer_addr: Option<String>,
    /// Its own pages.
    pub logins: Option<Arc<Logins>>,
}

/// What the index said of itself.
struct Totals {
    asked: Instant,
    took: Duration,
    stats: Stats,
}

/// The parts of a running peer.
pub struct Context {
    /// The index.
    pub link: IndexLink,
    /// The shares; none in a single command without a daemon.
    pub shares: Option<Arc<Shares>>,
    /// Downloads.
    pub downloader: Downloader,
    /// The list of downloads.
    pub transfers: Arc<Transfers>,
    /// Limits of bandwidth.
    pub bandwidth: Arc<Bandwidth>,
    /// What was heard before.
    pub known: Arc<Known>,
    /// Connections from other peers, now.
    pub uploads: Arc<Uploads>,
    /// Facts about the process.
    pub facts: Facts,
    /// Ends everything.
    pub shutdown: CancellationToken,
    totals: tokio::sync::Mutex<Option<Totals>>,
}

impl Context {
    /// Runs a piece of work; whenever the index asks this peer to wait meanwhile, says so.
    pub(super) async fn telling_of_waits(
        &self,
        records: &Records,
        work: impl Future<Output = Result<(), Problem>>,
    ) -> Result<(), Problem> {
        let mut waits = self.link.waits();
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                Ok(()) = waits.changed() => {
                    let wait = *waits.borrow_and_update();
                    let message = format!("the index is busy; asking again in {:.1} s", wait.as_secs_f64());
                    records.send(Record::Warning(Notice { message, next: None })).await?;
                }
            }
        }
    }

    /// Puts the parts together.
    #[allow(clippy::too_many_arguments, reason = "each part is made elsewhere, and all are needed")]
    pub fn new(
        link: IndexLink,
        shares: Option<Arc<Shares>>,
        downloader: Downloader,
        transfers: Arc<Transfers>,
        bandwidth: Arc<Bandwidth>,
        known: Arc<Known>,
        facts: Facts,
        shutdown: CancellationToken,
    ) -> Self {
        let totals = tokio::sync::Mutex::new(None);
        Self { link, shares, downloader, transfers, bandwidth, known, uploads: Arc::default(), facts, shutdown, totals }
    }

    /// Totals of the index, not older than seconds; none if it does not answer at once.
    pub async fn totals(&self) -> Option<Stats> {
        let mut kept = self.totals.lock().await;
        if let Some(known) = kept.as_ref()
            && known.asked.elapsed() < TOTALS_LIFE
        {
            return Some(known.stats.clone());
        }
        *kept = None;
        let LinkState::Connected(session) = self.link.state() else { return None };
        let asked = Instant::now();
        let answer = session.connection.request::<_, IndexAnswer>(&IndexRequest::Stats);
        match tokio::time::timeout(TOTALS_DEADLINE, answer).await {
            Ok(Ok(IndexAnswer::Stats(stats))) => {
                *kept = Some(Totals { asked, took: asked.elapsed(), stats: stats.clone() });
                Some(stats)
            }
            _ => None,
        }
    }

    /// How long the index took to answer when it was last asked for [`Context::totals`], the way there and back included.
    pub async fn answered_in(&self) -> Option<Duration> {
        self.totals.lock().await.as_ref().map(|known| known.took)
    }

    /// The shares, or why there are none.
    pub fn shares(&self) -> Result<&Arc<Shares>, Problem> {
        self.shares.as_ref().ok_or_else(|| {
            Problem::new(ErrorCode::NeedsDaemon, "a single command has no shares").next("start a peer: haul up")
        })
    }

    /// All members that may be seen.
    pub async fn members(&self) -> Result<Vec<PeerCard>, Problem> {
        let mut members: Vec<PeerCard> = Vec::new();
        loop {
            let after = members.last().map(|card| card.id);
            match self.link.ask(&IndexRequest::Peers { after }).await? {
                IndexAnswer::Peers { peers, more } => {
                    self.known.peers(&peers);
                    // Sorted by id: a page that does not go forward would go round for ever.
                    let forward = peers.first().is_some_and(|first| after.is_none_or(|after| first.id > after));
                    members.extend(peers);
                    if !more || !forward {
                        return Ok(members);
                    }
                }
                _ => return Err(LinkError::Unexpected.into()),
            }
        }
    }

    /// The member with this name or key.
    pub async fn member(&self, text: &str) -> Result<PeerCard, Problem> {
        let unknown = || {
            Problem::new(ErrorCode::NoSuch, format!("no member of this network is called {text}"))
                .next("see the names: haul peers")
        };
        let key = match text.parse::<PeerId>() {
            Ok(key) => Some(key),
            Err(_) if text.starts_with("pk:") && text.len() < "pk:".len() + 64 => None,
            Err(error) if text.starts_with("pk:") => {
                return Err(Problem::new(ErrorCode::Usage, format!("{text} is not a key: {error}")));
            }
            Err(_) => None,
        };
        if let Some(card) = key.and_then(|key| self.known.card(&key))
            && matches!(self.link.session().await, Err(LinkError::Unreachable { .. }))
        {
            return Ok(card);
        }
        let members = self.members().await?;
        let mut found = members.into_iter().filter(|card| match key {
            Some(key) => card.id == key,
            None => card.name.as_str() == text || (text.len() >= 7 && card.id.to_string().starts_with(text)),
        });
        let first = found.next().ok_or_else(unknown)?;
        match found.next() {
            None => Ok(first),
            Some(second) => Err(Problem::new(ErrorCode::Usage, format!("{text} stands for several members"))
                .causes(vec![member_cause(&first), member_cause(&second)])
                .next("use the full key: haul peers")),
        }
    }

    /// The link for people.
    pub fn index_state(&self) -> IndexState {
        let membership = self.link.membership();
        let known = IndexState {
            key: membership.as_ref().map(|known| known.index.to_string()),
            addr: self.link.index_addresses().into_iter().next(),
            ..IndexState::default()
        };
        let said = |state: &str, since, reason: Option<String>, next: Option<&str>| IndexState {
            state: state.into(),
            since: Some(crate::text::rfc3339(since)),
            reason,
            next: next.map(str::to_owned),
            ..known.clone()
        };
        match self.link.state() {
            LinkState::NotJoined => IndexState {
                state: "none".into(),
                reason: Some("this peer is in no network yet".into()),
                next: Some("haul join TICKET".into()),
                ..IndexState::default()
            },
            LinkState::Connecting { since } => said("connecting", since, None, None),
            LinkState::Connected(session) => IndexState {
                key: Some(session.index.to_string()),
                addr: session.address.clone().or(known.addr.clone()),
                ..said("connected", session.opened, None, None)
            },
            LinkState::Waiting { since, error, .. } => {
                let words = Some(error.to_string());
                match error {
                    AttemptError::Refused(_) => {
                        said("refused", since, words, Some("ask for a new ticket, then: haul join TICKET"))
                    }
                    AttemptError::Untrusted(_) => {
                        said("refused", since, words, Some("if the network moved: haul join TICKET"))
                    }
                    _ => said("waiting", since, words, Some("nothing; it is tried again by itself")),
                }
            }
            LinkState::Stopped => said("none", clock::wall_now(), Some("the daemon is stopping".into()), None),
        }
    }
}

fn member_cause(card: &PeerCard) -> Cause {
    Cause { peer: Some(card.id.to_string()), name: card.name.to_string(), message: card.id.to_string() }
}

/// Why a peer that is away cannot help.
pub(super) fn away_cause(card: &PeerCard) -> Cause {
    let message = if card.online {
        "is online but tells no address at which you could reach it".to_owned()
    } else {
        format!("last seen {}", crate::text::rfc3339(card.seen))
    };
    Cause { peer: Some(card.id.to_string()), name: card.name.to_string(), message }
}
