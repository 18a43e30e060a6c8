//! One function per page.

use maud::html;

use crate::layout;

/// What an index shows to a browser that belongs to nobody: that it is one, and how people join.
pub fn welcome() -> String {
    layout::page(
        "Index",
        &html! {
            p.eyebrow { "You reached an index" }
            h1 { "Find any file that your people share" }
            p.lead {
                "This server knows who is online and what they share, under which names. The files themselves go "
                "straight from one machine to another, encrypted and checked, and never pass through here."
            }
            section aria-labelledby="join" {
                h2 #join { "Join with a ticket" }
                ol.steps {
                    li {
                        h3 { "Ask for a ticket" }
                        p { "Anyone who runs this network can make one:" }
                        pre tabindex="0" { code { "haul invite" } }
                    }
                    li {
                        h3 { "Join with it" }
                        p { "A ticket is one word that begins with " code { "haul1" } ". It names this server and lets you in; add " code { "--share DIR" } " to share a folder." }
                        pre tabindex="0" { code { "haul up --join TICKET" } }
                    }
                    li {
                        h3 { "Find something" }
                        p { "Search covers every member's shares. " code { "haul get" } " fetches from all who have it." }
                        pre tabindex="0" { code { "haul search holiday\nhaul get holiday.mp4" } }
                    }
                }
            }
            section.note aria-labelledby="private" {
                h2 #private { "Members only" }
                p { "Names, files and members are shown to members of the network, and to nobody else." }
            }
        },
    )
}

/// For every address that does not exist.
pub fn not_found() -> String {
    layout::page(
        "Not found",
        &html! {
            p.eyebrow { "404" }
            h1 { "There is no such page" }
            p.lead { "Nothing is served here under this address. " a href="/" { "Go to the start page" } "." }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::ALL;

    fn check(page: &str) {
        assert!(page.starts_with("<!DOCTYPE html>"));
        assert!(page.contains("<html lang=\"en\">") && page.contains("<main id=\"content\">"));
        assert_eq!(page.matches("<h1>").count(), 1);
        for forbidden in ["<script", "<style", " style=", " onclick", "javascript:", "http://", "https://"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        let referred = page.split("=\"/assets/").skip(1).filter_map(|rest| rest.split('"').next());
        for name in referred {
            assert!(ALL.iter().any(|asset| asset.path == format!("/assets/{name}")), "{name}");
        }
    }

    #[test]
    fn pages_hold_to_the_policy_and_refer_to_what_exists() {
        check(&welcome());
        check(&not_found());
    }

    #[test]
    fn a_first_visit_is_small() {
        let assets: usize = ALL.iter().map(|asset| asset.bytes.len()).sum();
        assert!(welcome().len() + assets < 20_000);
    }
}
