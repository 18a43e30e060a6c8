//! What all pages have around them: head, header, footer, and a link to skip to the content.

use maud::{DOCTYPE, Markup, html};

use crate::assets;

/// A whole page. `title` stands in the tab, behind the content's own heading.
pub fn page(title: &str, content: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · haul" }
                link rel="icon" type="image/svg+xml" href=(assets::ICON.path);
                link rel="stylesheet" href=(assets::STYLE.path);
            }
            body {
                a.skip href="#content" { "Skip to content" }
                header.bar {
                    span.mark {
                        img src=(assets::ICON.path) alt="" width="24" height="24";
                        "haul"
                    }
                }
                main #content { (content) }
                footer { p { "haul finds files by name and fetches them, verified, from everyone who has them." } }
            }
        }
    }
    .into_string()
}
