//! `haul lookup`: who has exactly this. `haul link`: the text that names it for others.

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{Presence, ProviderRecord, Record};
use haul_peer::api::requests::LookupRequest;

use super::pass_on;
use super::what::{is_id, wanted};
use crate::args::{LinkArgs, LookupArgs};
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::numbers::Numbered;
use crate::output::text::{Align, Table, escape, plural, short_id, size};
use crate::output::{Format, Style, times};

/// Runs it. Exit code 1 when nobody has it.
pub(crate) async fn run(context: &Context, args: &LookupArgs) -> Result<Exit, Failure> {
    let what = wanted(context, &args.what)?;
    let request = LookupRequest { what: what.what, away: args.away, max: args.max };
    let providers = ask(context, &request).await?;
    show(context, &providers)?;
    if providers.is_empty() {
        if context.output.is_human() && !context.output.quiet {
            let away = if args.away { "" } else { "        also absent peers: --away" };
            context.output.note(format!("nobody has {}{away}", escape(&what.label)));
        }
        return Ok(Exit::NOTHING);
    }
    if context.numbers.are_on() {
        context.output.remark(context.output.paint(Style::Dim, &format!("get it: haul get {}", quoted(&args.what))))?;
    }
    Ok(Exit::DONE)
}

/// Asks for the providers; with `--json` the lines are passed on.
pub(crate) async fn ask(context: &Context, request: &LookupRequest) -> Result<Vec<ProviderRecord>, Failure> {
    let mut answer = context.daemon().await?.post("/v1/lookup", request).await?;
    let mut providers = Vec::new();
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        if let Some(Record::Provider(provider)) = line.record {
            providers.push(provider);
        }
    }
    // One content's providers stand together, in the order in which the contents came.
    let mut ids: Vec<Option<String>> = Vec::new();
    for provider in &providers {
        if !ids.contains(&provider.id) {
            ids.push(provider.id.clone());
        }
    }
    providers.sort_by_key(|provider| ids.iter().position(|id| *id == provider.id));
    Ok(providers)
}

/// Shows providers, for people numbered through, one table for each content.
pub(crate) fn show(context: &Context, providers: &[ProviderRecord]) -> Result<(), Failure> {
    let output = &context.output;
    match output.format {
        Format::Json => return Ok(()),
        Format::Plain => return providers.iter().try_for_each(|provider| plain(context, provider)),
        Format::Human => {}
    }
    context.numbers.remember_providers(providers.iter().map(Numbered::from).collect());
    let mut number = 0;
    let mut contents = 0;
    for group in providers.chunk_by(|a, b| a.id == b.id) {
        contents += 1;
        heading(context, group)?;
        let mut columns =
            vec![("PEER", Align::Left), ("PATH", Align::Left), ("ROUTE", Align::Left), ("ADDRESS", Align::Left)];
        columns.push(("SEEN", Align::Left));
        columns.insert(0, if context.numbers.are_on() { ("#", Align::Right) } else { ("", Align::Left) });
        let mut table = Table::new(&columns, 2);
        for provider in group {
            number += 1;
            table.row(row(context, provider, number));
        }
        output.table(&table)?;
    }
    if contents > 1 {
        let warning = format!("! {contents} different contents have this name. Use the id to be sure.");
        output.remark(output.paint(Style::Warning, &warning))?;
    }
    Ok(())
}

fn heading(context: &Context, group: &[ProviderRecord]) -> Result<(), Failure> {
    let Some(first) = group.first() else { return Ok(()) };
    let online = group.iter().filter(|provider| provider.state == Presence::Online).count();
    let id = first.id.as_deref().map_or("still being hashed".into(), short_id);
    context.output.line(format!(
        "{}  {}  {}, {online} reachable",
        context.output.paint(Style::Bold, &id),
        size(first.size),
        plural(group.len() as u64, "copy", "copies"),
    ))
}

fn row(context: &Context, provider: &ProviderRecord, number: usize) -> Vec<String> {
    let route = match (provider.state, &provider.route) {
        (Presence::Away, _) => "away",
        (Presence::Online, Some(route)) => route,
        (Presence::Online, None) => "",
    };
    let partly = if provider.complete { "" } else { " (a part)" };
    vec![
        if context.numbers.are_on() { number.to_string() } else { String::new() },
        format!("{}{partly}", escape(&provider.name)),
        escape(&provider.path).into_owned(),
        route.to_owned(),
        provider.addr.clone().unwrap_or_default(),
        times::ago(provider.seen.as_deref()),
    ]
}

/// id, size, state, peer's name, peer's key, path, route, address, seen.
fn plain(context: &Context, provider: &ProviderRecord) -> Result<(), Failure> {
    context.output.fields(&[
        provider.id.as_deref().unwrap_or_default(),
        &provider.size.to_string(),
        if provider.state == Presence::Online { "online" } else { "away" },
        &provider.name,
        &provider.peer,
        &provider.path,
        provider.route.as_deref().unwrap_or_default(),
        provider.addr.as_deref().unwrap_or_default(),
        provider.seen.as_deref().unwrap_or_default(),
    ])
}

/// `haul link`.
pub(crate) async fn link(context: &Context, args: &LinkArgs) -> Result<Exit, Failure> {
    let what = wanted(context, &args.what)?;
    let id = if is_id(&what.what) { what.what } else { only_content(context, &what.what).await? };
    if context.output.is_json() {
        context
            .output
            .line(serde_json::json!({"v": 1, "type": "link", "id": id, "link": format!("haul:{id}")}).to_string())?;
    } else {
        context.output.line(format!("haul:{id}"))?;
    }
    Ok(Exit::DONE)
}

/// The id of the one content that has this name.
async fn only_content(context: &Context, name: &str) -> Result<String, Failure> {
    let request = LookupRequest { what: name.to_owned(), away: true, max: None };
    let mut ids = Vec::new();
    let mut is_hashing = false;
    for line in context.daemon().await?.post("/v1/lookup", &request).await?.all().await? {
        match line.record {
            Some(Record::Provider(ProviderRecord { id: Some(id), .. })) if !ids.contains(&id) => ids.push(id),
            Some(Record::Provider(ProviderRecord { id: None, .. })) => is_hashing = true,
            _ => {}
        }
    }
    match ids.as_slice() {
        [id] => Ok(id.clone()),
        [] if is_hashing => Err(Failure::new(ErrorCode::Hashing, format!("{name} is still being hashed"))),
        [] => {
            Err(Failure::new(ErrorCode::NotFound, format!("nobody has {name}"))
                .next("parts of names: haul search WORDS"))
        }
        several => {
            let failure =
                Failure::new(ErrorCode::Ambiguous, format!("{} different contents are named {name}", several.len()));
            Err(several.iter().fold(failure, Failure::because).next("take one of the ids: haul link ID"))
        }
    }
}

/// As it must be typed in a shell.
pub(crate) fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_can_be_pasted() {
        assert_eq!(quoted("b3:7f4e"), "b3:7f4e");
        assert_eq!(quoted("my report (1).pdf"), "'my report (1).pdf'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$(reboot)"), "'$(reboot)'");
    }
}
