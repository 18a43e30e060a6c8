//! `haul` alone: what it is, how it stands, and the verbs that are used most, each with an example.

use haul_peer::api::records::{Record, StatusRecord};

use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::Style;
use crate::output::text::{escape, plural};

const EXAMPLES: [(&str, &str); 6] = [
    ("haul up --share DIR", "run haul here and share a folder; prints a ticket for others"),
    ("haul up --join TICKET", "join a network instead"),
    ("haul search report 2024", "find files by parts of their names"),
    ("haul lookup report.pdf", "who has exactly this"),
    ("haul get report.pdf", "fetch it from everyone who has it, verified"),
    ("haul browse PEER", "look around at a peer"),
];

/// Prints the twelve lines.
pub(crate) async fn overview(context: &Context) -> Result<Exit, Failure> {
    let output = &context.output;
    output.line("haul shares folders, finds any file by name, and fetches it verified from everyone who has it.")?;
    output.line(status_line(context).await)?;
    output.line("")?;
    for (command, what) in EXAMPLES {
        output.line(format!("  {}  {what}", output.paint(Style::Bold, &format!("{command:<24}"))))?;
    }
    output.line("")?;
    output.line("more:  haul --help        one verb:  haul get --help        interactively:  haul shell")?;
    output.line("an error in brackets, [no-provider] say, is explained by:  haul explain no-provider")?;
    Ok(Exit::DONE)
}

async fn status_line(context: &Context) -> String {
    let asked = async {
        let lines = context.daemon().await?.get("/v1/status").await?.all().await?;
        Ok::<_, Failure>(lines.into_iter().find_map(|line| match line.record {
            Some(Record::Status(status)) => Some(status),
            _ => None,
        }))
    };
    match asked.await {
        Ok(Some(status)) => running(&status),
        _ => "Nothing runs here yet: start with the first line below.".to_owned(),
    }
}

fn running(status: &StatusRecord) -> String {
    let shared = format!("{} in {}", plural(status.files, "file", "files"), plural(status.shares, "share", "shares"));
    let index = match (status.index.state.as_str(), status.index.peers_online) {
        ("connected", Some(peers)) => format!("{} online", plural(peers, "peer", "peers")),
        ("connected", None) => "connected".to_owned(),
        _ => "not connected to its index: haul status".to_owned(),
    };
    format!("It runs here as {}: {shared}, {index}.", escape(&status.name))
}
