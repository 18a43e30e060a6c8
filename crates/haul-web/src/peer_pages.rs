//! The pages of a peer for its owner: search, shares, transfers. Plain tables and forms; no script is needed.

use haul_core::text::escape;
use maud::{Markup, html};

use crate::assets;
use crate::layout::{brand, document};

/// The pages in the bar, in order: address and name.
const PAGES: [(&str, &str); 3] = [("/", "Search"), ("/shares", "Shares"), ("/transfers", "Transfers")];

/// A file or folder that was found.
pub struct FoundRow {
    /// Base name, of a folder with a slash behind it.
    pub name: String,
    /// Size for people, of a folder with the number of its files.
    pub size: String,
    /// Copies that are online, and in all.
    pub copies: String,
    /// Peer and path.
    pub place: String,
    /// Other contents of this name, and other names of this content; empty if there are none.
    pub also: String,
    /// What to type to get it.
    pub command: String,
    /// It only comes near to the query.
    pub near: bool,
}

/// A share of this peer.
pub struct ShareRow {
    /// Name.
    pub name: String,
    /// Folder.
    pub path: String,
    /// Files for people.
    pub files: String,
    /// Bytes for people.
    pub size: String,
    /// State in words.
    pub state: String,
}

/// A download.
pub struct TransferRow {
    /// Number.
    pub transfer: u64,
    /// Name of the file or folder.
    pub name: String,
    /// Verified bytes, 0 to 100.
    pub percent: u8,
    /// How far, for people.
    pub progress: String,
    /// State and reason in words.
    pub state: String,
    /// What can be done with it: word of the action, and its label.
    pub actions: Vec<(&'static str, &'static str)>,
}

/// The search page. `status` says what was found, or why nothing could be.
pub fn search(query: &str, status: Option<&str>, found: &[FoundRow]) -> String {
    let content = html! {
        h1 { "Search" }
        form.search action="/" method="get" role="search" {
            label for="q" { "Words in the name" }
            input #q type="search" name="q" value=(query) autocomplete="off" autofocus[query.is_empty()];
            button type="submit" { "Search" }
        }
        @if let Some(status) = status {
            p role="status" { (status) }
        }
        @if !found.is_empty() {
            div.table tabindex="0" role="region" aria-label="Results" {
                table {
                    thead { tr {
                        th scope="col" { "Name" }
                        th scope="col" { "Size" }
                        th scope="col" { "Copies" }
                        th scope="col" { "Where" }
                        th scope="col" { "Get it" }
                    } }
                    tbody {
                        @for row in found {
                            tr {
                                th scope="row" {
                                    bdi { (escape(&row.name)) } @if row.near { " (near)" }
                                    @if !row.also.is_empty() { br; small { (row.also) } }
                                }
                                td { (row.size) }
                                td { (row.copies) }
                                td { bdi { (escape(&row.place)) } }
                                td { code { (escape(&row.command)) } }
                            }
                        }
                    }
                }
            }
        }
    };
    page("Search", "/", &content)
}

/// The shares of this peer.
pub fn shares(rows: &[ShareRow]) -> String {
    let content = html! {
        h1 { "Shares" }
        @if rows.is_empty() {
            p { "Nothing is shared yet. Share a folder:" }
            pre tabindex="0" { code { "haul share add FOLDER" } }
        } @else {
            div.table tabindex="0" role="region" aria-label="Shares" {
                table {
                    thead { tr {
                        th scope="col" { "Name" }
                        th scope="col" { "Folder" }
                        th scope="col" { "Files" }
                        th scope="col" { "Size" }
                        th scope="col" { "State" }
                    } }
                    tbody {
                        @for row in rows {
                            tr {
                                th scope="row" { bdi { (escape(&row.name)) } }
                                td { bdi { (escape(&row.path)) } }
                                td { (row.files) }
                                td { (row.size) }
                                td { (row.state) }
                            }
                        }
                    }
                }
            }
        }
    };
    page("Shares", "/shares", &content)
}

/// The downloads of this peer.
pub fn transfers(rows: &[TransferRow]) -> String {
    let content = html! {
        h1 { "Transfers" }
        @if rows.is_empty() {
            p { "No transfers. Fetch something:" }
            pre tabindex="0" { code { "haul get NAME" } }
        } @else {
            div.table tabindex="0" role="region" aria-label="Transfers" {
                table {
                    thead { tr {
                        th scope="col" { "Name" }
                        th scope="col" { "Progress" }
                        th scope="col" { "State" }
                        th scope="col" { "Actions" }
                    } }
                    tbody {
                        @for row in rows {
                            tr {
                                th scope="row" { bdi { (escape(&row.name)) } }
                                td {
                                    progress max="100" value=(row.percent) aria-label={ "Progress of " (escape(&row.name)) } {}
                                    " " (row.progress)
                                }
                                td { (row.state) }
                                td {
                                    @for (action, label) in &row.actions {
                                        form.inline action={ "/transfers/" (row.transfer) "/" (action) } method="post" {
                                            button type="submit" { (label) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    page("Transfers", "/transfers", &content)
}

/// Something that the owner should know instead of a page.
pub fn notice(title: &str, text: &str, command: Option<&str>) -> String {
    let content = html! {
        h1 { (title) }
        p.lead { (text) }
        @if let Some(command) = command {
            pre tabindex="0" { code { (command) } }
        }
    };
    page(title, "", &content)
}

fn page(title: &str, here: &str, content: &Markup) -> String {
    let bar = html! {
        div.mark {
            (brand())
            nav aria-label="Pages" {
                @for (address, name) in PAGES {
                    @if address == here {
                        a href=(address) aria-current="page" { (name) }
                    } @else {
                        a href=(address) { (name) }
                    }
                }
            }
        }
    };
    let styles = [assets::STYLE.path, assets::PEER_STYLE.path];
    document(title, &styles, &bar, &html! { main #content { (content) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_and_never_markup() {
        let row = FoundRow {
            name: "<script>\u{202e}fdp.exe".into(),
            size: String::new(),
            copies: "1".into(),
            place: "nas:\"docs\"".into(),
            also: "1 other name of this content".into(),
            command: "haul get x".into(),
            near: false,
        };
        let page = search("\"><b>", Some("1 result"), &[row]);
        assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains('\u{202e}'));
        assert!(page.contains("&lt;script&gt;\\u{202e}fdp.exe"));
        for forbidden in ["<style", " style=", " onclick", "javascript:", "http://", "https://"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn empty_pages_say_what_to_do() {
        assert!(shares(&[]).contains("haul share add"));
        assert!(transfers(&[]).contains("haul get"));
        assert!(search("", None, &[]).contains("autofocus"));
        assert_eq!(search("x", None, &[]).matches("aria-current").count(), 1);
    }
}
