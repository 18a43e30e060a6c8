//! Where tickets come from: the command line, standard input, a file, the environment, a question. Keys never come
//! this way.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use haul_core::trust::Ticket;
use haul_peer::api::codes::ErrorCode;

use crate::errors::Failure;

/// The variable for machines that nobody types at.
pub(crate) const VARIABLE: &str = "HAUL_TICKET";
/// A ticket is far shorter; a wrong file must not be read whole.
const SOURCE_BYTES: u64 = 64 * 1024;

/// The text of the ticket that `source` means: itself, `@FILE`, `-`, or, when it is empty, `HAUL_TICKET` and then a
/// question on the terminal. The text is checked.
pub(crate) fn read(source: &str) -> Result<String, Failure> {
    let text = match source.strip_prefix('@') {
        Some(path) => from_file(path)?,
        None if source == "-" => from_reader(io::stdin().lock(), "standard input")?,
        None if source.is_empty() => match std::env::var(VARIABLE) {
            Ok(text) if !text.trim().is_empty() => text,
            _ => from_question()?,
        },
        None => source.to_owned(),
    };
    check(text.trim())
}

fn from_file(path: &str) -> Result<String, Failure> {
    let file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    from_reader(file, path)
}

fn from_reader(reader: impl Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    reader.take(SOURCE_BYTES).read_to_string(&mut text).map_err(|error| unreadable(name, &error))?;
    Ok(text)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::BadTicket, "the ticket could not be read").about(name, error)
}

fn from_question() -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(ErrorCode::BadTicket, "there is no ticket").next(
            "give it as an argument, in HAUL_TICKET, as @FILE, or as - on standard input; a new one: haul invite",
        ));
    }
    let mut err = io::stderr().lock();
    write!(err, "ticket: ")?;
    err.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line)
}

fn check(text: &str) -> Result<String, Failure> {
    text.parse::<Ticket>().map(|_| text.to_owned()).map_err(|error| {
        Failure::new(ErrorCode::BadTicket, "this is not a ticket")
            .because(error)
            .next("copy it again as a whole, it starts with haul1; a new one: haul invite")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ticket_is_refused_without_repeating_it() {
        let failure = read("haul1notaticket").expect_err("not a ticket");
        assert_eq!(failure.code(), ErrorCode::BadTicket);
        assert!(!format!("{failure:?}").contains("haul1notaticket"), "a mistyped secret is a secret still");
        assert_eq!(read("@/does/not/exist").expect_err("no file").code(), ErrorCode::BadTicket);
    }
}
