//! `--exec`: a command for a match. Names are made by strangers, so they travel as one argument and as variables, never
//! through a shell, and never as what a program takes for an option.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Stdio;

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::HitRecord;
use haul_peer::text::unhex;
use tokio::process::Command;

use super::Stop;
use crate::context::Context;
use crate::errors::Failure;

/// Runs the command and waits for its end. What it prints goes where haul prints, with `--json` to standard error.
pub(super) async fn run(
    context: &Context,
    command: &[String],
    hit: &HitRecord,
    file: Option<&Path>,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let mut child = Command::new(program);
    child.args(arguments).arg(last_argument(hit, file)).envs(variables(hit, file)).stdin(Stdio::null());
    if !context.output.is_human() {
        child.stdout(std::io::stderr());
    }
    let failed = |why: String| Failure::new(ErrorCode::Internal, format!("{program} {why}, for {}", hit.name));
    let mut child = child.spawn().map_err(|error| failed(format!("does not start: {error}")))?;
    let status = tokio::select! {
        status = child.wait() => status?,
        // ^C reaches the command too; it ends in its own time.
        exit = stop.asked() => return Err(Failure::new(ErrorCode::Interrupted, "interrupted").exit(exit).told()),
    };
    match (status.success(), status.code()) {
        (true, _) => Ok(()),
        (false, Some(code)) => Err(failed(format!("ended with exit code {code}"))),
        (false, None) => Err(failed(format!("ended early: {status}"))),
    }
}

/// The fetched file, or the name.
fn last_argument(hit: &HitRecord, file: Option<&Path>) -> OsString {
    // The path of a file is absolute.
    let argument = file.map_or_else(|| exact(hit).1, |file| file.as_os_str().to_owned());
    if argument.as_bytes().starts_with(b"-") {
        let mut safe = OsString::from("./");
        safe.push(argument);
        return safe;
    }
    argument
}

/// Share and path, and the base name, byte for byte.
fn exact(hit: &HitRecord) -> (OsString, OsString) {
    let raw = hit.raw.as_deref().and_then(unhex);
    match raw {
        Some(path) => {
            let name_at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let name = OsStr::from_bytes(&path[name_at..]).to_owned();
            (OsString::from_vec(path), name)
        }
        None => (OsString::from(&hit.path), OsString::from(&hit.name)),
    }
}

/// Empty where nothing is known, so that an outer watch's values do not shine through.
fn variables(hit: &HitRecord, file: Option<&Path>) -> [(&'static str, OsString); 6] {
    let (path, name) = exact(hit);
    [
        ("HAUL_HIT_NAME", name),
        ("HAUL_HIT_ID", hit.id.clone().unwrap_or_default().into()),
        ("HAUL_HIT_SIZE", hit.size.map(|size| size.to_string()).unwrap_or_default().into()),
        ("HAUL_HIT_PEER", (&hit.peer).into()),
        ("HAUL_HIT_PATH", path),
        ("HAUL_HIT_FILE", file.map(|file| file.as_os_str().to_owned()).unwrap_or_default()),
    ]
}
