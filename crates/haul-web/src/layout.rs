//! What all pages have around them: head, header, footer, and a link to skip to the content.

use maud::{DOCTYPE, Markup, html};

use crate::assets;

/// A whole page of an index. `title` stands in the tab, behind the content's own heading.
pub fn page(title: &str, content: &Markup) -> String {
    let mark = html! { span.mark { (brand()) } };
    let footer = html! {
        footer { p { "haul finds files by name and fetches them, verified, from everyone who has them." } }
    };
    document(title, &[assets::STYLE.path], &mark, &html! { main #content { (content) } (footer) })
}

/// The sign and the name, for the bar at the top.
pub(crate) fn brand() -> Markup {
    html! {
        img src=(assets::ICON.path) alt="" width="24" height="24";
        "haul"
    }
}

/// What every page is: head, a way past the bar, the bar, and the rest, which has the element `#content`.
pub(crate) fn document(title: &str, styles: &[&str], bar: &Markup, rest: &Markup) -> String {
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
                @for style in styles {
                    link rel="stylesheet" href=(style);
                }
            }
            body {
                a.skip href="#content" { "Skip to content" }
                header.bar { (bar) }
                (rest)
            }
        }
    }
    .into_string()
}
