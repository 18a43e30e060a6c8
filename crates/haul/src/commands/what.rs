//! What people name: a number of this terminal, a link, an id, a name, a place at a peer.

use crate::context::Context;
use crate::errors::Failure;

/// Something wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What to ask the daemon for.
    pub(crate) what: String,
    /// What to call it in front of people.
    pub(crate) label: String,
    /// The name that it had in the list, when it was a number.
    pub(crate) name: Option<String>,
}

/// Understands `text`.
pub(crate) fn wanted(context: &Context, text: &str) -> Result<Wanted, Failure> {
    if let Some(hit) = context.numbers.hit(text)? {
        let what = hit.what();
        return Ok(Wanted { label: hit.name.clone().unwrap_or_else(|| what.clone()), what, name: hit.name });
    }
    let what = text.strip_prefix("haul:").filter(|id| is_id(id)).unwrap_or(text);
    Ok(Wanted { what: what.to_owned(), label: what.to_owned(), name: None })
}

/// Whether it is a blob's or a directory's id.
pub(crate) fn is_id(text: &str) -> bool {
    text.split_once(':').is_some_and(|(prefix, digits)| {
        matches!(prefix, "b3" | "d3") && digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// A peer as the daemon understands it: the provider with this number, or the name or key as given.
pub(crate) fn peer(context: &Context, text: &str) -> Result<String, Failure> {
    Ok(context.numbers.provider(text)?.map_or_else(|| text.to_owned(), |provider| provider.peer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Global;

    #[test]
    fn links_and_names() {
        let context = Context::new(Global::default());
        let id = format!("b3:{}", "0a".repeat(32));
        assert_eq!(wanted(&context, &format!("haul:{id}")).map(|wanted| wanted.what), Ok(id.clone()));
        assert_eq!(wanted(&context, &id).map(|wanted| wanted.what), Ok(id));
        // A file may have such a name; only real links lose their prefix.
        assert_eq!(wanted(&context, "haul:notes.txt").map(|wanted| wanted.what), Ok("haul:notes.txt".into()));
    }
}
