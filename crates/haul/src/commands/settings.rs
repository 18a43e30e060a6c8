//! `haul explain|config|version`: what haul knows without asking anybody.

use haul_peer::api::codes::ErrorCode;
use haul_peer::config::{Config, Home, SYSTEM_FILE};

use crate::args::{ConfigCommand, ConfigShowArgs, ExplainArgs};
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::explain;
use crate::output::Format;
use crate::output::text::{Align, Table, escape};

/// Runs `haul explain`.
pub(crate) fn explain(context: &Context, args: &ExplainArgs) -> Result<Exit, Failure> {
    let Some(code) = &args.code else { return list(context) };
    let code = code.trim_matches(['[', ']']);
    let Ok(code) = code.parse::<ErrorCode>() else {
        return Err(Failure::new(ErrorCode::NoSuch, format!("no error has the code {}", escape(code)))
            .next("all codes: haul explain"));
    };
    match context.output.format {
        Format::Json => context.output.line(record(code).to_string())?,
        Format::Plain => context.output.fields(&[code.as_str(), &code.exit().to_string(), code.explain()])?,
        Format::Human => context.output.line(explain::page(code, context.output.columns().unwrap_or(80)))?,
    }
    Ok(Exit::DONE)
}

fn list(context: &Context) -> Result<Exit, Failure> {
    let mut table = Table::new(&[("CODE", Align::Left), ("EXIT", Align::Right), ("MEANING", Align::Left)], 2);
    for code in ErrorCode::ALL {
        match context.output.format {
            Format::Json => context.output.line(record(*code).to_string())?,
            Format::Plain => context.output.fields(&[code.as_str(), &code.exit().to_string(), code.explain()])?,
            Format::Human => {
                table.row([code.to_string(), code.exit().to_string(), explain::first_sentence(*code).to_owned()]);
            }
        }
    }
    if context.output.is_human() {
        context.output.table(&table)?;
    }
    Ok(Exit::DONE)
}

fn record(code: ErrorCode) -> serde_json::Value {
    serde_json::json!({"v": 1, "type": "explanation", "code": code, "exit": code.exit(), "text": code.explain()})
}

/// Runs `haul config …`.
pub(crate) fn config(context: &Context, command: &ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Path => {
            context.output.line(context.home()?.config_file.display().to_string())?;
            Ok(Exit::DONE)
        }
        ConfigCommand::Show(args) => show(context, args),
    }
}

fn show(context: &Context, args: &ConfigShowArgs) -> Result<Exit, Failure> {
    let home = context.home()?;
    let config = load(context, &[])?;
    let places = [
        ("home", home.root.display().to_string()),
        ("state", home.state.display().to_string()),
        ("cache", home.cache.display().to_string()),
        ("socket", home.socket().display().to_string()),
    ];
    for (key, value, origin) in config.rows() {
        match (context.output.format, args.origin) {
            (Format::Json, _) => {
                let record =
                    serde_json::json!({"v": 1, "type": "setting", "key": key, "value": value, "origin": origin});
                context.output.line(record.to_string())?;
            }
            (Format::Plain, _) => context.output.fields(&[key, &value, &origin])?,
            (Format::Human, true) => context.output.line(format!("{key:<15} = {:<28} # {origin}", escape(&value)))?,
            (Format::Human, false) => context.output.line(format!("{key:<15} = {}", escape(&value)))?,
        }
    }
    for (name, place) in places {
        context.output.remark(format!("# {name:<10} = {}", escape(&place)))?;
    }
    Ok(Exit::DONE)
}

/// The configuration in force: flags, environment, the user's file, the system's file, defaults.
pub(crate) fn load(context: &Context, flags: &[(&str, haul_peer::config::Value)]) -> Result<Config, Failure> {
    load_of(&context.home()?, flags)
}

/// The same for this home.
pub(crate) fn load_of(home: &Home, flags: &[(&str, haul_peer::config::Value)]) -> Result<Config, Failure> {
    let files = [SYSTEM_FILE.into(), home.config_file.clone()];
    Config::load(flags, |name| std::env::var_os(name), &files).map_err(|error| {
        Failure::new(ErrorCode::Config, "the configuration cannot be used")
            .because(error)
            .next("see what is in force: haul config show --origin")
    })
}

/// Runs `haul version`.
pub(crate) fn version(context: &Context) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    match context.output.format {
        Format::Json => {
            let record = serde_json::json!({"v": 1, "type": "version", "version": version, "target": target});
            context.output.line(record.to_string())?;
        }
        Format::Plain => context.output.line(version)?,
        Format::Human => {
            context.output.line(format!("haul {version}"))?;
            context.output.remark(format!("  {target}, protocols haul-index/1 and haul-peer/1, records v1"))?;
        }
    }
    Ok(Exit::DONE)
}
