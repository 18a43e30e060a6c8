//! A standing search, told line by line until the one who asked goes away.
//!
//! ```text
//! {"type":"changed","what":"watching",…}   the index tells of matches from now on
//! {"type":"hit",…}                         a match; a file that is still hashed comes again with its id
//! {"type":"warning",…}                     matches were not told
//! {"type":"waiting",…}                     the index is away
//! ```

use haul_core::path::check_name;
use tokio::sync::watch::Receiver;

use super::codes::ErrorCode;
use super::context::Context;
use super::find::hit_record;
use super::problem::Problem;
use super::records::{ChangedRecord, Notice, Record};
use super::requests::WatchRequest;
use super::stream::Records;
use crate::link::{LinkState, News};

/// Tells of matches until the reader goes away.
pub async fn watch(context: &Context, request: WatchRequest, records: &Records) -> Result<(), Problem> {
    let query = request.query;
    if query.trim().is_empty() {
        return Err(
            Problem::new(ErrorCode::BadQuery, "the query is empty").next("watch for part of a name: haul watch WORD")
        );
    }
    let mut link = context.link.watch();
    let mut stream = context.link.start_watch(query.clone()).await?;
    let mut hits = 0;
    // A loss is told once, and not again with every attempt to come back.
    let mut away = false;
    loop {
        let news = tokio::select! {
            biased;
            news = stream.next() => news?,
            reason = lost(&mut link), if !away => {
                away = true;
                let message = format!("the index is away ({reason}); watching goes on when it is back");
                records.send(Record::Waiting(Notice { message, next: Some("haul status".into()) })).await?;
                continue;
            }
        };
        let record = match news {
            News::Placed => {
                let message = "watching: new names that fit are shown as they come".to_owned();
                let next = Some(format!("what is there already: haul search {query}"));
                Record::Changed(ChangedRecord { what: "watching".into(), subject: query.clone(), message, next })
            }
            News::PlacedAgain => {
                away = false;
                missed("the session with the index was lost; what came meanwhile is not shown", &query)
            }
            News::Missed => missed("more names fitted than could be kept; some are not shown", &query),
            // A name that cannot be one is an index's mistake or trick, and of no use to anybody.
            News::Hit(hit) if check_name(&hit.name).is_err() => continue,
            News::Hit(hit) => {
                hits += 1;
                Record::Hit(hit_record(hits, &hit))
            }
        };
        records.send(record).await?;
    }
}

fn missed(what: &str, query: &str) -> Record {
    Record::Warning(Notice { message: what.to_owned(), next: Some(format!("find them: haul search {query}")) })
}

/// Waits until the session with the index is lost; returns why.
async fn lost(link: &mut Receiver<LinkState>) -> String {
    loop {
        if link.changed().await.is_err() {
            // The stream says that it is over.
            return std::future::pending().await;
        }
        match &*link.borrow_and_update() {
            LinkState::Waiting { error, .. } => return error.to_string(),
            LinkState::NotJoined => return "this peer left the network".to_owned(),
            _ => {}
        }
    }
}
