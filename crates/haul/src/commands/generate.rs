//! `haul completions|man`: made from the arguments, so that they are never out of date.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;
use haul_peer::api::codes::ErrorCode;

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;

/// Runs `haul completions`.
pub(crate) fn completions(context: &Context, args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "haul", &mut script);
    context.output.bytes(&script)?;
    Ok(Exit::DONE)
}

/// Runs `haul man`.
pub(crate) fn man(context: &Context, args: &ManArgs) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    command.build();
    if let Some(folder) = &args.out {
        let pages = write_pages(&command, "haul", folder)?;
        context.output.remark(format!("{pages} pages in {}", folder.display()))?;
        return Ok(Exit::DONE);
    }
    let command = match &args.verb {
        None => command,
        Some(verb) => command.find_subcommand(verb).cloned().ok_or_else(|| {
            Failure::new(ErrorCode::NoSuch, format!("haul has no verb {verb}")).next("all verbs: haul --help")
        })?,
    };
    context.output.bytes(&page(&command)?)?;
    Ok(Exit::DONE)
}

fn page(command: &clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

/// Writes `name.1` and, below it, a page for each verb; gives their number.
fn write_pages(command: &clap::Command, name: &str, folder: &Path) -> Result<usize, Failure> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{name}.1")), page(command)?)?;
    let mut pages = 1;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages += write_pages(verb, &format!("{name}-{}", verb.get_name()), folder)?;
    }
    Ok(pages)
}
