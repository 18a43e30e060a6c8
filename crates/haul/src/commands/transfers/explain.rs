//! `haul transfers explain`: what happened in one transfer.

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{NoteRecord, Record, TallyRecord, TimelineRecord, TransferRecord};

use super::super::pass_on;
use super::{reason, state};
use crate::client::encode;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::text::escape;
use crate::output::timeline;
use crate::output::{Format, Style};

/// Explains this transfer; without an id, the newest.
pub(super) async fn run(context: &Context, id: Option<&str>) -> Result<Exit, Failure> {
    let id = match id {
        Some(id) => id.to_owned(),
        None => newest(context).await?,
    };
    let path = format!("/v1/transfers/{}/timeline", encode(&id));
    let mut answer = context.daemon().await?.get(&path).await?;
    let mut page = Page::default();
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        match line.record {
            Some(Record::Transfer(transfer)) => page.transfer = Some(transfer),
            Some(Record::Note(note)) => page.notes.push(note),
            Some(Record::Tally(tally)) => page.tallies.push(*tally),
            Some(Record::Timeline(sums)) => page.sums = sums,
            _ => {}
        }
    }
    match context.output.format {
        Format::Json => {}
        Format::Plain => page.plain(context)?,
        Format::Human => page.human(context)?,
    }
    Ok(Exit::DONE)
}

async fn newest(context: &Context) -> Result<String, Failure> {
    let lines = context.daemon().await?.get("/v1/transfers").await?.all().await?;
    let ids = lines.iter().filter_map(|line| match &line.record {
        Some(Record::Transfer(transfer)) => Some(transfer.transfer),
        _ => None,
    });
    ids.max()
        .map(|id| id.to_string())
        .ok_or_else(|| Failure::new(ErrorCode::NoSuch, "there are no transfers").next("fetch something: haul get NAME"))
}

#[derive(Default)]
struct Page {
    transfer: Option<TransferRecord>,
    notes: Vec<NoteRecord>,
    tallies: Vec<TallyRecord>,
    sums: TimelineRecord,
}

impl Page {
    fn human(&self, context: &Context) -> Result<(), Failure> {
        let output = &context.output;
        if let Some(transfer) = &self.transfer {
            let (path, state) = (escape(&transfer.path), state(transfer.state));
            output.line(format!("transfer {}  {path}  {state}", transfer.transfer))?;
        }
        let lines: Vec<timeline::Line> = self.notes.iter().map(timeline::line).collect();
        let wide = lines.iter().map(|line| line.time.len()).max().unwrap_or_default();
        for timeline::Line { style, time, text } in lines {
            let text = style.map_or_else(|| text.clone(), |style| output.paint(style, &text));
            output.line(format!("  {time:>wide$}  {text}"))?;
        }
        if !self.tallies.is_empty() {
            output.line("")?;
            output.table(&timeline::providers(&self.tallies, output.columns()))?;
            for fault in timeline::faults(&self.tallies) {
                output.line(output.paint(Style::Warning, &fault))?;
            }
        }
        output.remark(timeline::sums(&self.sums))?;
        match self.transfer.as_ref().and_then(reason) {
            Some(reason) => output.remark(output.paint(Style::Warning, &reason)),
            None => Ok(()),
        }
    }

    /// Lines that begin with `note`: ms, times, last ms, key, name, words. Then `tally`: key, name, bytes, leaves,
    /// wasted bytes, rate, fault.
    fn plain(&self, context: &Context) -> Result<(), Failure> {
        for note in &self.notes {
            context.output.fields(&[
                "note",
                &note.after_ms.to_string(),
                &note.times.to_string(),
                &note.last_ms.to_string(),
                note.peer.as_deref().unwrap_or_default(),
                note.name.as_deref().unwrap_or_default(),
                &timeline::line(note).text,
            ])?;
        }
        for tally in &self.tallies {
            context.output.fields(&[
                "tally",
                &tally.peer,
                &tally.name,
                &tally.bytes.to_string(),
                &tally.leaves.to_string(),
                &tally.wasted.to_string(),
                &tally.bps.to_string(),
                timeline::fault(tally),
            ])?;
        }
        Ok(())
    }
}
