//! The network: who is in it, inviting, joining, leaving, removing; and how this peer is.

use std::time::Duration;

use haul_core::limits;
use haul_core::trust::{Role, Ticket};
use haul_core::wire::List;
use haul_core::wire::index::{IndexAnswer, IndexRequest, PeerCard};
use haul_net::clock;

use super::codes::ErrorCode;
use super::context::Context;
use super::find::presence;
use super::problem::Problem;
use super::records::{
    ChangedRecord, NetworkRecord, Notice, PeerRecord, Record, ShareActivity, StatusRecord, TicketRecord,
};
use super::requests::{InviteRequest, JoinRequest, RemoveRequest};
use super::shares;
use super::stream::Records;
use crate::link::LinkError;
use crate::text::rfc3339;

/// Lists the members.
pub async fn peers(context: &Context, records: &Records) -> Result<(), Problem> {
    for card in context.members().await? {
        records.send(Record::Peer(peer_record(context, card))).await?;
    }
    Ok(())
}

fn peer_record(context: &Context, card: PeerCard) -> PeerRecord {
    PeerRecord {
        peer: card.id.to_string(),
        name: card.name.to_string(),
        state: presence(&card),
        addr: card.addresses.first().cloned(),
        seen: Some(rfc3339(card.seen)),
        files: card.files,
        bytes: card.bytes,
        you: card.id == context.link.me(),
        addrs: card.addresses,
    }
}

/// Tells about the network and this peer's place in it.
pub async fn network(context: &Context, records: &Records) -> Result<(), Problem> {
    let membership = context.link.membership();
    let certificate = membership.as_ref().map(|known| &known.certificate);
    let totals = context.totals().await;
    let record = NetworkRecord {
        network: membership.as_ref().map(|known| known.network.to_string()),
        peer: context.link.me().to_string(),
        name: certificate.map_or_else(String::new, |certificate| certificate.name.clone()),
        role: certificate.map(|certificate| role_word(certificate.role).to_owned()),
        groups: certificate.map(|certificate| certificate.groups.clone()).unwrap_or_default(),
        serial: certificate.map(|certificate| certificate.serial),
        index: context.index_state(),
        addresses: context.link.index_addresses(),
        peers: totals.as_ref().map(|stats| stats.peers),
        peers_online: totals.as_ref().map(|stats| stats.peers_online),
        shares: totals.as_ref().map(|stats| stats.shares),
        files: totals.as_ref().map(|stats| stats.files),
        bytes: totals.as_ref().map(|stats| stats.bytes),
        blobs: totals.as_ref().and_then(|stats| stats.blobs),
    };
    records.send(Record::Network(Box::new(record))).await?;
    Ok(())
}

/// Tells how this peer is.
pub async fn status(context: &Context, records: &Records) -> Result<(), Problem> {
    let mut status = status_record(context).await;
    status.web = context.facts.logins.as_ref().and_then(|logins| logins.link());
    records.send(Record::Status(Box::new(status))).await?;
    Ok(())
}

/// Tells how this peer is, and its transfers: for those who ask again and again. They would use up the links to its pages,
/// so there is none.
pub async fn activity(context: &Context, records: &Records) -> Result<(), Problem> {
    records.send(Record::Status(Box::new(status_record(context).await))).await?;
    for transfer in context.transfers.list() {
        records.send(Record::Transfer(transfer)).await?;
    }
    Ok(())
}

/// How this peer is, without a link to its pages.
pub async fn status_record(context: &Context) -> StatusRecord {
    let membership = context.link.membership();
    let mut index = context.index_state();
    if let Some(totals) = context.totals().await {
        index.files = Some(totals.files);
        index.peers = Some(totals.peers);
        index.peers_online = Some(totals.peers_online);
        index.answer_us = context.answered_in().await.map(|took| took.as_micros() as u64);
    }
    let listed = context.shares.as_ref().map(|shares| shares.list()).unwrap_or_default();
    let away = listed.iter().map(shares::record).filter(|share| share.state == ShareActivity::Away);
    let mut problems: Vec<Notice> = away
        .map(|share| Notice {
            message: format!("{} is away: {}", share.path, share.reason.unwrap_or_default()),
            next: share.next,
        })
        .collect();
    if matches!(index.state.as_str(), "waiting" | "refused") {
        let message = format!("no session with the index: {}", index.reason.clone().unwrap_or_default());
        problems.push(Notice { message, next: index.next.clone() });
    }
    let (downloads, waiting) = context.transfers.counts();
    let (uploads, up_bytes) = context.uploads.totals();
    StatusRecord {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        home: context.facts.home.display().to_string(),
        uptime_s: clock::boot_now().since(context.facts.started).as_secs(),
        peer: context.link.me().to_string(),
        name: membership.as_ref().map_or_else(String::new, |known| known.certificate.name.clone()),
        peer_addr: context.facts.peer_addr.clone(),
        web: None,
        network: membership.map(|known| known.network.to_string()),
        index,
        shares: listed.len() as u64,
        files: listed.iter().map(|share| share.files).sum(),
        bytes: listed.iter().map(|share| share.bytes).sum(),
        hashed: listed.iter().map(|share| share.hashed).sum(),
        downloads,
        waiting,
        uploads,
        down_bytes: context.transfers.received(),
        up_bytes,
        problems,
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Guest => "guest",
        Role::Member => "member",
        Role::Admin => "admin",
    }
}

/// Makes a ticket.
pub async fn invite(context: &Context, request: InviteRequest, records: &Records) -> Result<(), Problem> {
    records.send(Record::Ticket(ticket(context, request).await?)).await?;
    Ok(())
}

/// Asks the index for a ticket and adds the addresses that this peer knows.
pub async fn ticket(context: &Context, request: InviteRequest) -> Result<TicketRecord, Problem> {
    let role = match request.role.as_deref() {
        None | Some("member") => Role::Member,
        Some("guest") => Role::Guest,
        Some("admin") => Role::Admin,
        Some(other) => {
            return Err(Problem::new(ErrorCode::Usage, format!("{other} is not a role: guest, member or admin")));
        }
    };
    let uses = request.uses.unwrap_or(limits::TICKET_USES);
    let life = request.ttl_s.map_or(limits::TICKET_LIFE, Duration::from_secs);
    if uses == 0 || life.is_zero() {
        return Err(Problem::new(ErrorCode::Usage, "a ticket needs at least one use and some time"));
    }
    let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    let ask = IndexRequest::Invite { uses, life_ms, role, groups: List::default(), one_user: request.one_user };
    let IndexAnswer::Invited { secret, expires } = context.link.ask(&ask).await? else {
        return Err(LinkError::Unexpected.into());
    };
    let network = context.link.membership().ok_or(LinkError::NotJoined)?.network;
    let addresses = context.link.index_addresses();
    let ticket = Ticket { network, secret, expires, role, addresses: addresses.clone() };
    Ok(TicketRecord {
        ticket: ticket.to_string(),
        network: network.to_string(),
        expires: rfc3339(expires),
        uses,
        role: role_word(role).into(),
        addresses,
    })
}

/// Joins a network.
pub async fn join(context: &Context, request: JoinRequest, records: &Records) -> Result<(), Problem> {
    let ticket: Ticket = request.ticket.trim().parse().map_err(|error| {
        Problem::new(ErrorCode::BadTicket, format!("this is not a ticket: {error}"))
            .next("copy it again, or make a new one: haul invite")
    })?;
    let network = ticket.network;
    context.link.join(ticket).await?;
    let name = context.link.membership().map_or_else(String::new, |known| known.certificate.name);
    let record = ChangedRecord {
        what: "joined".into(),
        subject: network.to_string(),
        message: format!("this peer is {name} in the network {}", network.short()),
        next: Some("haul search WORD".into()),
    };
    records.send(Record::Changed(record)).await?;
    Ok(())
}

/// Leaves the network.
pub async fn leave(context: &Context, records: &Records) -> Result<(), Problem> {
    let network = context.link.membership().map(|known| known.network);
    context.link.leave().await?;
    let subject = network.map_or_else(String::new, |network| network.to_string());
    let message = "this peer has left the network; its entries are hidden and its certificate is thrown away".into();
    shares::changed(records, "left", subject, message).await
}

/// Takes a member out of the network.
pub async fn remove(context: &Context, request: RemoveRequest, records: &Records) -> Result<(), Problem> {
    let card = context.member(&request.peer).await?;
    match context.link.ask(&IndexRequest::Remove { peer: card.id }).await? {
        IndexAnswer::Removed => {
            let minutes = limits::GRANT.as_secs() / 60;
            let message = format!("{} is out; what it still fetches ends within {minutes} minutes", card.name);
            shares::changed(records, "member-removed", card.id.to_string(), message).await
        }
        _ => Err(LinkError::Unexpected.into()),
    }
}
