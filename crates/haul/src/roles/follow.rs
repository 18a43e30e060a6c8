//! After the announcement, for people: how far the shares are, until all of them are ready.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use haul_peer::api::records::{Record, ShareActivity, ShareRecord};

use crate::commands::shares::sentence;
use crate::context::Context;
use crate::errors::Failure;
use crate::output::Style;
use crate::output::progress::{Amount, Progress, Step};
use crate::output::text::took;

/// How often they are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Shows the progress of all shares. Returns when there is nothing more to show.
pub(super) async fn shares(context: &Context) -> Result<(), Failure> {
    if !context.output.is_human() || context.output.quiet {
        return Ok(());
    }
    let began = Instant::now();
    let mut shown: BTreeMap<String, Progress> = BTreeMap::new();
    let mut done: Vec<String> = Vec::new();
    loop {
        let mut waiting = false;
        for share in list(context).await? {
            if done.contains(&share.name) {
                continue;
            }
            match share.state {
                ShareActivity::Ready | ShareActivity::Away => {
                    if let Some(progress) = shown.remove(&share.name) {
                        progress.finish();
                    }
                    say_done(context, &share, began.elapsed())?;
                    done.push(share.name);
                }
                ShareActivity::Scanning | ShareActivity::Hashing => {
                    waiting = true;
                    let label = share.name.clone();
                    let progress = shown.entry(label.clone()).or_insert_with(|| Progress::new(&context.output, &label));
                    progress.step(step(&share));
                }
            }
        }
        if !waiting {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn list(context: &Context) -> Result<Vec<ShareRecord>, Failure> {
    let lines = context.daemon().await?.get("/v1/shares").await?.all().await?;
    let shares = lines.into_iter().filter_map(|line| match line.record {
        Some(Record::Share(share)) => Some(share),
        _ => None,
    });
    Ok(shares.collect())
}

fn step(share: &ShareRecord) -> Step<'static> {
    let (done, total, remark) = match share.state {
        ShareActivity::Scanning => (share.files, 0, "found so far"),
        _ if share.hashed < share.files => (share.hashed, share.files, "hashed"),
        _ => (share.registered, share.files, "registered"),
    };
    Step { done, total, bps: None, remark, amount: Amount::Files }
}

fn say_done(context: &Context, share: &ShareRecord, after: Duration) -> Result<(), Failure> {
    let output = &context.output;
    if share.state == ShareActivity::Away {
        let reason = share.reason.as_deref().unwrap_or("its folder is not there");
        return output.line(output.paint(Style::Warning, &format!("! {} is away: {reason}", share.name)));
    }
    let took = if after < Duration::from_secs(1) { String::new() } else { format!(", ready after {}", took(after)) };
    output.line(format!("{} {}{took}", output.paint(Style::Good, "✓"), sentence(share)))
}
