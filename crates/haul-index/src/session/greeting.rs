//! The part of a session before membership is shown: Introduce and Hello, one after the other, and nothing else.

use std::sync::{Arc, Mutex, PoisonError};

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::registry::session::{SessionState, Verdict};
use haul_core::trust::Role;
use haul_core::wire::index::{Hello, IndexAnswer, IndexRequest, Membership, Refusal, Welcome};
use haul_core::wire::{self, ByteString};
use haul_net::clock;
use haul_net::connection::{Inbound, InboundRequest};
use tokio::time::{Instant, timeout_at};

use super::registration::Registration;
use super::swarming::Swarming;
use super::watching::Watching;
use super::{Caller, OpenedAs, Session, Visitor, answers};
use crate::members::{self, Member};
use crate::presence::Arrival;
use crate::state::{IndexState, blocking, refusal};
use crate::store::{Asker, IndexStore};

/// Serves a stranger until its Hello is accepted. An error is the reason for closing.
pub(super) async fn greet<S: IndexStore>(
    state: &Arc<IndexState<S>>,
    caller: &mut Caller,
    opened_as: &OpenedAs,
) -> Result<(SessionState, Session<S>), String> {
    let deadline = Instant::now() + limits::FIRST_REQUEST_DEADLINE;
    let mut machine = SessionState::Stranger;
    loop {
        let inbound = timeout_at(deadline, caller.inbox.next()).await;
        let inbound = inbound.map_err(|_| "no Hello came in time".to_owned())?;
        let Inbound::Request(inbound) = inbound.ok_or("the connection ended")? else {
            return Err("a push before Hello".to_owned());
        };
        let request = inbound.decode().map_err(|error| format!("a request is not understood: {error}"))?;
        match machine.handle_request(state.authority.network(), &request) {
            Verdict::Introduce => {
                let certificate = ByteString::from(&*state.authority.index_certificate());
                answer(inbound, &IndexAnswer::Introduced { certificate }).await?;
            }
            Verdict::CheckHello => {
                let IndexRequest::Hello(hello) = request else { return Err("not a Hello".to_owned()) };
                return hear(state, caller, machine, inbound, hello, opened_as).await;
            }
            Verdict::Refuse(refusal) | Verdict::Close(refusal) => return Err(refuse(inbound, refusal).await),
            Verdict::Serve => return Err("nothing is served before Hello".to_owned()),
        }
    }
}

async fn hear<S: IndexStore>(
    state: &Arc<IndexState<S>>,
    caller: &mut Caller,
    mut machine: SessionState,
    inbound: InboundRequest,
    hello: Hello,
    opened_as: &OpenedAs,
) -> Result<(SessionState, Session<S>), String> {
    let opened = open(state, caller, hello, opened_as).await;
    machine.handle_hello(opened.as_ref().map(|(session, _)| session.1).map_err(|_| ()));
    match opened {
        Ok(((session, _), welcome)) => {
            // Before the answer: the member may use it at once.
            caller.connection.set_frame_limit(limits::FRAME_BYTES);
            answer(inbound, &IndexAnswer::Welcome(welcome)).await?;
            Ok((machine, session))
        }
        Err(refusal) => Err(refuse(inbound, refusal).await),
    }
}

async fn open<S: IndexStore>(
    state: &Arc<IndexState<S>>,
    caller: &Caller,
    hello: Hello,
    opened_as: &OpenedAs,
) -> Result<((Session<S>, Role), Welcome), Refusal> {
    if hello.version != wire::VERSION {
        return Err(Refusal::Version { speaks: wire::VERSION });
    }
    let peer = caller.connection.remote();
    let arrival = Arrival {
        origin: caller.origin,
        port: hello.peer_port,
        claims: hello.addresses.iter().filter(|claim| claim.len() <= limits::ADDRESS_BYTES).cloned().collect(),
    };
    let member = admit(state, peer, hello).await?;
    let was_present = state.presence.is_present(&peer);
    let id = if member.role == Role::Guest {
        state.connect_guest(&caller.connection, arrival)
    } else {
        state.connect(&caller.connection, &member.name, arrival).await.map_err(refusal)?
    };
    *opened_as.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    // Removed while it came in: whoever removed it then found no connection to close.
    if state.members.find(&peer).is_none() {
        return Err(Refusal::Revoked);
    }
    let now = clock::wall_now();
    let welcome = Welcome {
        network: state.authority.network(),
        certificate: ByteString(state.members.certificate(peer, &member)),
        grant: ByteString(grant(state, peer, &member)),
        index_certificate: ByteString::from(&*state.authority.index_certificate()),
        time: now,
        lease_ms: limits::LEASE.as_millis() as u64,
        revoked: state.members.revoked(now),
        observed: caller.connection.remote_addr().map(|addr| addr.to_string()).unwrap_or_default(),
    };
    let visitor = Visitor {
        state: Arc::clone(state),
        id,
        peer,
        asker: Asker { peer, groups: member.groups },
        origin: caller.origin,
        reached: caller.reached,
        until: member.until,
        granted: Mutex::new(now),
        allowance: state.admission.enter(clock::boot_now(), peer),
    };
    let session = Session {
        visitor: Arc::new(visitor),
        connection: caller.connection.clone(),
        registration: Registration::new(was_present),
        watching: Watching::new(Arc::clone(&state.watches), id),
        swarming: Swarming::new(Arc::clone(&state.swarms), id, peer),
        large_answers: tokio::sync::Semaphore::new(answers::LARGE_ANSWERS),
    };
    Ok(((session, member.role), welcome))
}

async fn admit<S: IndexStore>(state: &Arc<IndexState<S>>, peer: PeerId, hello: Hello) -> Result<Member, Refusal> {
    let state = Arc::clone(state);
    let now = clock::wall_now();
    blocking(move || match hello.membership {
        Membership::Certificate(bytes) => state.members.admit_certificate(now, peer, &bytes, &hello.name),
        Membership::Ticket(secret) => state.members.admit_ticket(now, peer, &secret, &hello.name),
    })
    .await
}

/// A grant for this member, from now on.
pub(super) fn grant<S: IndexStore>(state: &IndexState<S>, peer: PeerId, member: &Member) -> Vec<u8> {
    let groups = members::texts(&member.groups);
    state.authority.grant(clock::wall_now(), peer, member.serial, member.user_of(&peer), groups, member.until)
}

async fn answer(inbound: InboundRequest, answer: &IndexAnswer) -> Result<(), String> {
    inbound.answer(answer).await.map_err(|error| error.to_string())
}

async fn refuse(inbound: InboundRequest, refusal: Refusal) -> String {
    let reason = format!("refused: {refusal:?}");
    let _ = inbound.answer(&IndexAnswer::Refused(refusal)).await;
    reason
}
