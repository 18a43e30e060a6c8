//! What may be typed. Help texts, completions and man pages all come from these types; nothing here does anything.

#![expect(clippy::doc_markdown, reason = "these comments are shown on terminals as they stand")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::commands::bench;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 nothing found or nobody has it, 2 wrong use, 3 index or daemon \
    unreachable, 4 transfer incomplete (it can go on), 5 content did not match its hash, 6 not allowed, 7 local disk, \
    8 --timeout passed, 130/143 interrupted";

/// Share folders, find any file by name, fetch it verified from everyone who has it.
#[derive(Debug, Parser)]
#[command(name = "haul", version, max_term_width = 100, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Without a verb haul prints where to start.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options that every verb takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print JSON Lines: one record per line, the last one a summary or a result
    #[arg(long, global = true, conflicts_with = "plain")]
    pub(crate) json: bool,
    /// Print tab-separated lines with full ids, uncut and without colour
    #[arg(long, global = true)]
    pub(crate) plain: bool,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say more; twice for the daemon's debug log
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colour; auto = on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: Color,
    /// Give up after this time (500ms, 10s, 5m, 1h); exit code 8
    #[arg(long, global = true, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// Ask this network without a running daemon: a ticket, @FILE, or - for standard input
    #[arg(long, global = true, env = "HAUL_INDEX", hide_env_values = true, value_name = "TICKET")]
    pub(crate) index: Option<String>,
    /// Where this haul keeps its state, instead of the XDG folders
    #[arg(long, global = true, env = "HAUL_HOME", hide_env_values = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) home: Option<PathBuf>,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    // Comments in two slashes keep the help short: it lists the values in one line.
    // On a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    Always,
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a peer, and an index of its own unless it joins one: the one command to start with
    Up(UpArgs),
    /// Run the index alone: who is online, what they share
    Index(IndexArgs),
    /// Run the peer alone: shares, downloads, the local API
    Peer(PeerArgs),
    /// Find files by words of their names
    Search(SearchArgs),
    /// Tell of new names that fit, as they appear; run a command for each, or fetch them
    Watch(WatchArgs),
    /// Who has exactly this, and how to reach them
    Lookup(LookupArgs),
    /// Fetch a file or folder from everyone who has it, verified
    Get(GetArgs),
    /// List what a peer shares
    Browse(BrowseArgs),
    /// Write a file's bytes to standard output, verified
    Cat(CatArgs),
    /// What this peer shares
    Share {
        #[command(subcommand)]
        command: Option<ShareCommand>,
    },
    /// One look at the index, this peer and its transfers
    Status,
    /// Who is in the network
    Peers(PeersArgs),
    /// Downloads under way, waiting and done
    Transfers(TransfersArgs),
    /// Transfers, peers and rates on one screen, as they change
    #[command(after_help = "Keys: p pause or go on, r try again, c cancel (asked once), Enter explain, / filter,\n\
        arrows or j k select, q leave")]
    Top,
    /// Limits of bandwidth: show them, set them while haul runs
    Limit(LimitArgs),
    /// Make a ticket that lets others join
    Invite(InviteArgs),
    /// Join a network with a ticket
    Join(JoinArgs),
    /// Leave the network: this peer's names are deleted at the index
    Leave,
    /// The network's members and keys
    Network {
        #[command(subcommand)]
        command: Option<NetworkCommand>,
    },
    /// Print the link that names exactly this content
    Link(LinkArgs),
    /// The same verbs interactively, or from a script on standard input
    Shell,
    /// Measure haul on this machine
    Bench(bench::BenchArgs),
    /// Say more about an error code
    Explain(ExplainArgs),
    /// Show the configuration and where each value comes from
    Config {
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print a manual page, or write all of them
    Man(ManArgs),
    /// Print the version and what this build contains
    Version,
}

/// Arguments of `haul up`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct UpArgs {
    /// Share this folder or file; may be given several times
    #[arg(short, long = "share", value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub(crate) shares: Vec<PathBuf>,
    /// Join a network instead of running an index: a ticket, @FILE, - for standard input; alone: HAUL_TICKET
    #[arg(long, value_name = "TICKET", num_args = 0..=1, default_missing_value = "")]
    pub(crate) join: Option<String>,
    /// The name that others see; default: the machine's
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Listen here for other peers; port 0 = any free one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The embedded index listens here
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) index_listen: Option<SocketAddr>,
    /// This peer's own pages listen here; keep it on loopback
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) web_listen: Option<SocketAddr>,
    /// Share a home folder or the whole disk without asking
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
}

/// Arguments of `haul index`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct IndexArgs {
    /// Listen here; port 0 = any free one
    #[arg(long = "index-listen", visible_alias = "listen", value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
}

/// Arguments of `haul peer`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PeerArgs {
    /// Share this folder or file; may be given several times
    #[arg(short, long = "share", value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub(crate) shares: Vec<PathBuf>,
    /// Join this network: a ticket, @FILE, - for standard input; alone: HAUL_TICKET
    #[arg(long, value_name = "TICKET", num_args = 0..=1, default_missing_value = "")]
    pub(crate) join: Option<String>,
    /// The name that others see; default: the machine's
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Listen here for other peers; port 0 = any free one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// This peer's own pages listen here; keep it on loopback
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) web_listen: Option<SocketAddr>,
    /// Share a home folder or the whole disk without asking
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
}

/// Arguments of `haul search`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "Words are parts of names, in any order, case and accents ignored; all must fit.\n  \
    \"exact phrase\"  -not  size:>1G  type:video  ext:iso  peer:lab-3  path:/models  age:<7d  hash:7f4e\n\
    Folders are found by their names, too; their size is that of all files below. Only folders: type:folder;\n\
    only files: type:file. ALSO tells how many other contents have the same name, and how many other names\n\
    the same content; list them: haul lookup NAME, haul lookup ID.\n\
    A query that starts with - goes behind --:  haul search -- -draft report")]
pub(crate) struct SearchArgs {
    /// Words and filters
    #[arg(required = true, value_name = "WORDS")]
    pub(crate) query: Vec<String>,
    /// At most this many hits
    #[arg(short = 'n', long, default_value_t = 50, value_name = "N")]
    pub(crate) limit: u32,
    /// All hits, page by page
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Also what only absent peers have
    #[arg(long)]
    pub(crate) away: bool,
    /// Count every hit, however many there are
    #[arg(long)]
    pub(crate) count: bool,
}

/// Arguments of `haul watch`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "A search that stands until ^C: it tells what others share from now on, and what comes back\n\
    with a peer that was away. Words count in names only, folders by path:/folder; else as in search.\n\n\
    --exec comes last and takes the rest of the line. The command runs once per name and content,\n\
    one at a time, never through a shell. It gets one more argument: the name, with ./ in front if\n\
    it starts with -, or, with --get, the path of the file. HAUL_HIT_NAME, HAUL_HIT_ID,\n\
    HAUL_HIT_SIZE, HAUL_HIT_PEER, HAUL_HIT_PATH and HAUL_HIT_FILE say more.\n\n\
    Example:  haul watch llama ext:gguf --get -o models --exec notify-send \"new model\"")]
pub(crate) struct WatchArgs {
    /// Words and filters
    #[arg(required = true, value_name = "WORDS")]
    pub(crate) query: Vec<String>,
    /// Fetch each match, verified; what is there is never replaced
    #[arg(long)]
    pub(crate) get: bool,
    /// Fetch into this folder; default: the current one
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "get")]
    pub(crate) output: Option<PathBuf>,
    /// End after this many matches
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Run this command for each match
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true, value_hint = ValueHint::CommandName)]
    pub(crate) exec: Vec<String>,
}

/// Arguments of `haul lookup`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LookupArgs {
    /// A file's exact name, an id (b3:…, d3:…), a link, or the number of a hit
    #[arg(value_name = "NAME|ID|N")]
    pub(crate) what: String,
    /// Also absent peers
    #[arg(long)]
    pub(crate) away: bool,
    /// At most this many providers
    #[arg(long, value_name = "N")]
    pub(crate) max: Option<u32>,
}

/// Arguments of `haul get`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "Several peers that have the file are used at once. What was fetched is kept and verified:\n\
    the same command goes on where it stopped.")]
pub(crate) struct GetArgs {
    /// A file's exact name, an id, a link, PEER:SHARE/PATH, or numbers of hits (1 3-5)
    #[arg(required = true, value_name = "NAME|ID|PEER:PATH|N")]
    pub(crate) what: Vec<String>,
    /// Write to this file or folder; - streams to standard output
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,
    /// Only from this peer; may be given several times
    #[arg(long, value_name = "PEER")]
    pub(crate) from: Vec<String>,
    /// Show who has it and ask which peer to use
    #[arg(long, conflicts_with = "from")]
    pub(crate) pick: bool,
    /// Replace what is there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// In a folder, recreate links that lead outside of it, too
    #[arg(long)]
    pub(crate) outside_links: bool,
    /// If nobody can be reached now, wait until somebody can
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Bytes per second at most (20M, 512k, 100Mbit), for each thing; change it: haul limit down RATE --transfer ID
    #[arg(long, value_name = "RATE")]
    pub(crate) limit: Option<String>,
}

/// Arguments of `haul browse`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BrowseArgs {
    /// A peer's name or key, and a path that starts with the share's name
    #[arg(value_name = "PEER[:PATH]")]
    pub(crate) place: String,
    /// Folders within folders, too
    #[arg(short, long)]
    pub(crate) recursive: bool,
}

/// Arguments of `haul cat`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CatArgs {
    /// A file's exact name, an id, a link, PEER:SHARE/PATH or the number of a hit
    #[arg(value_name = "NAME|ID|N")]
    pub(crate) what: String,
    /// Only the bytes from A to B, both counted from 0 and included; A- goes to the end
    #[arg(long, value_parser = byte_range, value_name = "A-B")]
    pub(crate) range: Option<(u64, Option<u64>)>,
}

/// `haul share …`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ShareCommand {
    /// Share a folder or one file
    Add(ShareAddArgs),
    /// List the shares and their progress (the default)
    #[command(visible_alias = "list")]
    Ls,
    /// Stop sharing; files stay where they are
    #[command(visible_alias = "remove")]
    Rm(ShareRef),
    /// Look at a share's folder again, now
    Rescan(ShareRef),
}

/// Arguments of `haul share add`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ShareAddArgs {
    /// Folders or files
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// The share's name; default: the folder's
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only members of this group see it; may be given several times; default: everyone in the network
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// Share a home folder or the whole disk without asking
    #[arg(short = 'y', long, alias = "force")]
    pub(crate) yes: bool,
}

/// One share.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ShareRef {
    /// The share's name, or the path of its folder
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Arguments of `haul peers`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PeersArgs {
    /// Only those that are online now
    #[arg(long)]
    pub(crate) online: bool,
}

/// Arguments of `haul transfers`.
#[derive(Clone, Debug, Default, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TransfersArgs {
    /// The same as the verb explain
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "")]
    pub(crate) explain: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<TransferCommand>,
}

/// `haul transfers …`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TransferCommand {
    /// List them (the default)
    #[command(visible_alias = "ls")]
    List,
    /// Stop for now and keep what is there
    Pause(TransferRef),
    /// Go on
    Resume(TransferRef),
    /// Give it up; what arrived stays beside the target, for a retry
    Cancel(TransferRef),
    /// Run one again that failed or was given up; what arrived counts
    Retry(TransferRef),
    /// What happened: who was tried, what each gave, what went wrong, what it waits for
    Explain(TransferExplainArgs),
}

/// Arguments of `haul transfers explain`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TransferExplainArgs {
    /// Its id in the list; default: the newest
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// One transfer.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TransferRef {
    /// Its id in the list
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Arguments of `haul limit`.
#[derive(Clone, Debug, Default, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    override_usage = "haul limit [RATE|up RATE|down RATE|clear|show] [OPTIONS]",
    after_help = "A rate is bytes per second: 20M = 20,000,000, 20Mi = 20,971,520, 512k; or bits: 100Mbit; off = no limit,\n\
    0 = nothing moves. It counts what files have, not what encryption adds (about a thousandth).\n\
    A rate with --when holds in those hours, one without at all other times.\n\n\
    Example:  haul limit up 5M --when 'mon-fri 08:00-18:00'\n\n\
    What is set here stays after a restart and wins over the configuration until: haul limit clear"
)]
pub(crate) struct LimitArgs {
    #[command(subcommand)]
    pub(crate) command: Option<LimitCommand>,
    /// Both ways; without it: show what is in force
    #[arg(value_name = "RATE")]
    pub(crate) rate: Option<String>,
    #[command(flatten)]
    pub(crate) of: LimitOf,
}

/// `haul limit …`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// What is in force, and where it comes from (the default)
    Show,
    /// What this peer sends to others
    Up(LimitSetArgs),
    /// What it fetches from others
    Down(LimitSetArgs),
    /// Forget what was set here; the configuration holds again
    Clear(LimitClearArgs),
}

/// A rate to set one way.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitSetArgs {
    /// Bytes per second (20M, 512k, 100Mbit), or off
    #[arg(value_name = "RATE")]
    pub(crate) rate: String,
    #[command(flatten)]
    pub(crate) of: LimitOf,
}

/// What a rate is for.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitOf {
    /// Only in these hours, by this machine's clock: 'mon-fri 08:00-18:00', 22:00-06:00, sat,sun
    #[arg(long, value_name = "HOURS")]
    pub(crate) when: Option<String>,
    /// Only for this group: what goes to its members, what was found through it
    #[arg(long, value_name = "GROUP", conflicts_with = "transfer")]
    pub(crate) group: Option<String>,
    /// Only for this transfer: what it fetches, and what is sent of the same content
    #[arg(long, value_name = "ID")]
    pub(crate) transfer: Option<u64>,
}

/// Arguments of `haul limit clear`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitClearArgs {
    /// Only this way
    #[arg(value_enum, value_name = "up|down")]
    pub(crate) way: Option<Way>,
    /// Only for this group
    #[arg(long, value_name = "GROUP", conflicts_with = "transfer")]
    pub(crate) group: Option<String>,
    /// Only for this transfer
    #[arg(long, value_name = "ID")]
    pub(crate) transfer: Option<u64>,
}

/// A direction, seen from this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    // To others.
    Up,
    // From others.
    Down,
}

/// Arguments of `haul invite`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct InviteArgs {
    /// How many keys may join with it; default 50
    #[arg(long, value_name = "N")]
    pub(crate) uses: Option<u32>,
    /// How long it is good (30m, 12h, 7d); default 24h
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) ttl: Option<Duration>,
    /// What the newcomer may do
    #[arg(long, value_enum, default_value_t)]
    pub(crate) role: Role,
    /// For the machines of one person: they get one person's turns where others wait, too
    #[arg(long)]
    pub(crate) one_user: bool,
}

/// What a ticket makes of its bearer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Shares, searches, fetches
    #[default]
    Member,
    /// Searches and fetches until the ticket ends; shares nothing and is not listed
    Guest,
    /// Also invites and removes
    Admin,
}

/// Arguments of `haul join`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct JoinArgs {
    /// The ticket, @FILE, or - for standard input; default: HAUL_TICKET, else a question
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: Option<String>,
}

/// `haul network …`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// The network's key, its index and this peer's membership (the default)
    Show,
    /// Write the network's key to a new file that only you can read: a backup, or to move the index
    Export(NetworkExportArgs),
    /// Remove a member: it is out within five minutes
    Remove(NetworkRemoveArgs),
}

/// Arguments of `haul network export`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NetworkExportArgs {
    /// The file to make; - = standard output, but not a terminal
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

/// Arguments of `haul network remove`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NetworkRemoveArgs {
    /// Its name or key
    #[arg(value_name = "PEER")]
    pub(crate) peer: String,
}

/// Arguments of `haul link`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LinkArgs {
    /// A file's exact name, an id, or the number of a hit
    #[arg(value_name = "NAME|ID|N")]
    pub(crate) what: String,
}

/// Arguments of `haul explain`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ExplainArgs {
    /// The word in brackets behind an error; without it: all codes
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
}

/// `haul config …`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// All values in force (the default)
    Show(ConfigShowArgs),
    /// Where the file is looked for
    Path,
}

/// Arguments of `haul config show`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigShowArgs {
    /// Also where each value comes from
    #[arg(long)]
    pub(crate) origin: bool,
}

/// Arguments of `haul completions`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Arguments of `haul man`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ManArgs {
    /// The page of this verb; default: haul itself
    #[arg(value_name = "VERB")]
    pub(crate) verb: Option<String>,
    /// Write all pages into this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "verb")]
    pub(crate) out: Option<PathBuf>,
}

/// Reads `0-99` or `100-` as the first byte and the byte after the last.
fn byte_range(text: &str) -> Result<(u64, Option<u64>), String> {
    let wrong = || "expected A-B or A-, for example 0-99".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first = first.parse().map_err(|_| wrong())?;
    if last.is_empty() {
        return Ok((first, None));
    }
    let last: u64 = last.parse().map_err(|_| wrong())?;
    if last < first {
        return Err("ends before it begins".to_owned());
    }
    Ok((first, Some(last.saturating_add(1))))
}

/// Reads `500ms`, `10s`, `5m`, `24h`, `7d`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a number and a unit, for example 10s or 5m".to_owned())?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" | "min" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        "w" => number.checked_mul(604_800_000),
        _ => return Err(format!("unknown unit '{unit}': use ms, s, m, h, d or w")),
    };
    millis.filter(|millis| *millis > 0).map(Duration::from_millis).ok_or_else(|| "must be more than zero".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Help is read by people and quoted in documents: a change of it is seen and meant. `INSTA_UPDATE=always` accepts.
    #[test]
    fn help_stays_as_it_is() {
        let mut root = Cli::command().term_width(100).max_term_width(100);
        root.build();
        let mut text = root.render_long_help().to_string();
        for verb in root.get_subcommands_mut().filter(|verb| !["help", "bench"].contains(&verb.get_name())) {
            let help = verb.render_help().to_string();
            // The same for every verb, and shown once above.
            let help = help.split("\nGlobal options:").next().unwrap_or_default().to_owned();
            text.push_str(&format!("\n=== haul {}\n{help}", verb.get_name()));
            for below in verb.get_subcommands().filter(|below| below.get_name() != "help") {
                text.push_str(&format!("--- {}: {}\n", below.get_name(), below.get_about().unwrap_or_default()));
            }
        }
        let end = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!("help", end);
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("7d"), Ok(Duration::from_hours(168)));
        for bad in ["", "s", "0s", "1y", "-1s", "99999999999999999999s", "9999999999999999w"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn byte_ranges_include_both_ends() {
        assert_eq!(byte_range("0-99"), Ok((0, Some(100))));
        assert_eq!(byte_range("7-"), Ok((7, None)));
        for bad in ["", "-", "-5", "5", "9-3", "a-b"] {
            assert!(byte_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_typo_is_refused_with_a_suggestion() {
        let error = Cli::try_parse_from(["haul", "serach", "x"]).expect_err("not a verb");
        assert!(error.to_string().contains("search"), "{error}");
        assert_eq!(error.exit_code(), 2);
        // Prefixes are not verbs either: "haul sea" must never start to mean something else later.
        assert!(Cli::try_parse_from(["haul", "sea", "x"]).is_err());
    }
}
