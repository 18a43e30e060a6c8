//! Configuration: where files live, and the settings with the layer that each comes from.
//!
//! A flag wins over the environment, that over the user's file, that over the system's file, that over the default.
//! The files are TOML and never written by haul. An unknown key is an error that says which key may have been meant.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use haul_core::bandwidth::{Direction, Rule, parse_rate};
use haul_core::planner::Dealing;
use haul_core::wire::Label;

use crate::bandwidth::{Configured, Place, group_rule};

/// The system's configuration file.
pub const SYSTEM_FILE: &str = "/etc/haul/config.toml";

/// Where this user's haul keeps its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// What people would call it: `HAUL_HOME`, or the state folder.
    pub root: PathBuf,
    /// The user's configuration file.
    pub config_file: PathBuf,
    /// What must not be lost: key, certificate, shares, transfers.
    pub state: PathBuf,
    /// What can be computed again: hashes, outlines.
    pub cache: PathBuf,
    /// The socket.
    pub run: PathBuf,
}

impl Home {
    /// All under one folder, as `HAUL_HOME` asks for.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            config_file: root.join("config.toml"),
            state: root.join("state"),
            cache: root.join("cache"),
            run: root.join("run"),
            root,
        }
    }

    /// `HAUL_HOME`, else the XDG folders; `variable` reads the environment.
    pub fn resolve(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(root) = folder("HAUL_HOME") {
            let root = std::path::absolute(&root).unwrap_or(root);
            return Ok(Self::at(root));
        }
        let user = folder("HOME").ok_or(ConfigError::NoHome)?;
        let under = |name: &str, fallback: &str| folder(name).unwrap_or_else(|| user.join(fallback)).join("haul");
        let state = under("XDG_STATE_HOME", ".local/state");
        Ok(Self {
            config_file: under("XDG_CONFIG_HOME", ".config").join("config.toml"),
            cache: under("XDG_CACHE_HOME", ".cache"),
            run: folder("XDG_RUNTIME_DIR").map_or_else(|| state.join("run"), |run| run.join("haul")),
            root: state.clone(),
            state,
        })
    }

    /// The socket of the daemon's interface.
    pub fn socket(&self) -> PathBuf {
        self.run.join("haul.sock")
    }
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither `HAUL_HOME` nor `HOME`.
    #[error("neither HAUL_HOME nor HOME is set, so there is no place for haul's files; set HAUL_HOME to a folder")]
    NoHome,
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {reason}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// No setting has this name.
    #[error("{origin} sets '{key}', which haul does not know{}", suggestion.map(|s| format!("; did you mean '{s}'?")).unwrap_or_default())]
    UnknownKey {
        /// Who sets it.
        origin: Origin,
        /// The unknown name.
        key: String,
        /// The nearest one, if one is near.
        suggestion: Option<&'static str>,
    },
    /// The value does not fit.
    #[error("{origin} sets '{key}' to {value}, but it takes {wanted}")]
    Value {
        /// Who sets it.
        origin: Origin,
        /// The setting.
        key: &'static str,
        /// The value as it stands.
        value: String,
        /// What would fit.
        wanted: &'static str,
    },
}

/// The layer that a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// haul's own.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// A flag on the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not set.
    None,
    /// One text.
    Text(String),
    /// Any number of texts.
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("(none)"),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::List(texts) => {
                let quoted: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
                write!(f, "[{}]", quoted.join(", "))
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    Address,
    Addresses,
    Name,
    Text,
    Texts,
    Rate,
    Rules,
    GroupRules,
    Plans,
}

struct Setting {
    key: &'static str,
    form: Form,
    default: &'static str,
    /// Kept out of `haul config show`.
    secret: bool,
}

const SETTINGS: &[Setting] = &[
    Setting { key: "name", form: Form::Name, default: "", secret: false },
    Setting { key: "listen", form: Form::Address, default: "[::]:4478", secret: false },
    Setting { key: "index_listen", form: Form::Address, default: "[::]:4477", secret: false },
    Setting { key: "web_listen", form: Form::Address, default: "127.0.0.1:4479", secret: false },
    Setting { key: "advertise", form: Form::Addresses, default: "", secret: false },
    Setting { key: "swarm_plans", form: Form::Plans, default: "on", secret: false },
    Setting { key: "shares", form: Form::Texts, default: "", secret: false },
    Setting { key: "limits.up", form: Form::Rate, default: "off", secret: false },
    Setting { key: "limits.down", form: Form::Rate, default: "off", secret: false },
    Setting { key: "limits.schedule", form: Form::Rules, default: "", secret: false },
    Setting { key: "limits.groups", form: Form::GroupRules, default: "", secret: false },
    Setting { key: "ticket", form: Form::Text, default: "", secret: true },
];

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Config {
    /// Merges the layers. `flags` are pairs of setting and value, as given on the command line; `files` come from the
    /// least to the most important, and those that do not exist are left out.
    pub fn load(
        flags: &[(&str, Value)],
        variable: impl Fn(&str) -> Option<OsString>,
        files: &[PathBuf],
    ) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let default = if setting.default.is_empty() { Value::None } else { Value::Text(setting.default.into()) };
            values.insert(setting.key, (default, Origin::Default));
        }
        let mut config = Self { values };
        for path in files {
            config.add_file(path)?;
        }
        for setting in SETTINGS {
            let name = format!("HAUL_{}", setting.key.to_uppercase().replace('.', "_"));
            if let Some(text) = variable(&name).filter(|text| !text.is_empty()) {
                let text = text.to_string_lossy().into_owned();
                let value = match setting.form {
                    Form::Addresses | Form::Texts => Value::List(text.split(',').map(str::to_owned).collect()),
                    // Days have commas in them.
                    Form::Rules | Form::GroupRules => Value::List(text.split(';').map(str::to_owned).collect()),
                    _ => Value::Text(text),
                };
                config.set(setting.key, value, Origin::Environment(name))?;
            }
        }
        for (key, value) in flags {
            config.set(key, value.clone(), Origin::Flag(key.replace('_', "-")))?;
        }
        Ok(config)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ConfigError::Read { path: path.into(), reason: error.to_string() }),
        };
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::Form { path: path.into(), reason: error.to_string() })?;
        for (key, value) in flat(table) {
            let origin = Origin::File(path.into());
            let text = value.to_string();
            let value = match value {
                toml::Value::String(text) => Value::Text(text),
                toml::Value::Array(list) => Value::List(
                    list.into_iter()
                        .map(|text| text.as_str().map_or_else(|| text.to_string(), str::to_owned))
                        .collect(),
                ),
                // Numbers, tables and the like fit no setting; the check says so in words.
                _ => Value::List(vec![text]),
            };
            self.set(&key, value, origin)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key.replace('-', "_")) else {
            return Err(ConfigError::UnknownKey { origin, key: key.into(), suggestion: nearest(key) });
        };
        if let Some(wanted) = misfit(setting.form, &value) {
            let value = if setting.secret { "(hidden)".into() } else { value.to_string() };
            return Err(ConfigError::Value { origin, key: setting.key, value, wanted });
        }
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    /// The text of a setting, if it has one.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            (Value::Text(text), _) => Some(text),
            _ => None,
        }
    }

    /// The texts of a setting.
    pub fn list(&self, key: &str) -> &[String] {
        match self.values.get(key) {
            Some((Value::List(texts), _)) => texts,
            _ => &[],
        }
    }

    /// The address of a setting.
    pub fn address(&self, key: &str) -> Option<SocketAddr> {
        self.text(key)?.parse().ok()
    }

    /// The limits of bandwidth.
    pub fn limits(&self) -> Configured {
        let mut rules = Vec::new();
        for (key, direction) in [("limits.up", Direction::Up), ("limits.down", Direction::Down)] {
            if let Some(rate) = self.text(key).and_then(|text| parse_rate(text).ok().flatten()) {
                rules.push((Place::All, Rule { direction: Some(direction), when: None, rate: Some(rate) }));
            }
        }
        // What is written was checked when it was read.
        rules.extend(self.texts("limits.schedule").filter_map(|text| Some((Place::All, text.parse().ok()?))));
        rules.extend(self.texts("limits.groups").filter_map(|text| group_rule(text).ok()));
        Configured { rules }
    }

    /// How an index deals pieces in swarms; none: it does not.
    pub fn swarm_plans(&self) -> Option<Dealing> {
        // What is written was checked when it was read.
        let chosen = PLAN_WORDS.iter().find(|(word, _)| self.text("swarm_plans") == Some(word));
        chosen.map_or(Some(Dealing::default()), |(_, dealing)| *dealing)
    }

    /// The texts of a setting that may be one or several.
    fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.text(key).into_iter().chain(self.list(key).iter().map(String::as_str))
    }

    /// Setting, value and origin of everything, for people; secrets are hidden.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, String, String)> {
        SETTINGS.iter().filter_map(|setting| {
            let (value, origin) = self.values.get(setting.key)?;
            let hide = setting.secret && *value != Value::None;
            let value = if hide { "(hidden)".to_owned() } else { value.to_string() };
            Some((setting.key, value, origin.to_string()))
        })
    }
}

/// The keys of tables that have settings, as `table.key`.
fn flat(table: toml::Table) -> Vec<(String, toml::Value)> {
    let mut keys = Vec::new();
    for (key, value) in table {
        let has_settings = SETTINGS.iter().any(|setting| setting.key.split_once('.').is_some_and(|(t, _)| t == key));
        match value {
            toml::Value::Table(below) if has_settings => {
                keys.extend(below.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            value => keys.push((key, value)),
        }
    }
    keys
}

const A_RATE: &str = "bytes per second in quotes, for example \"20M\", \"100Mbit\" or \"off\"; a part of the line, \
    such as 80%, would need its rate, which haul does not measure";
const RULES: &str = "a list of rules in quotes, for example [\"mon-fri 08:00-18:00 50M\", \"up 22:00-06:00 off\"]";
const PLANS: &str = "\"on\", \"off\" (downloaders choose for themselves) or \"random\" (for comparisons)";
const GROUP_RULES: &str = "a list of groups with rules in quotes, for example [\"lab up 20M\", \"guests 1M\"]";

fn misfit(form: Form, value: &Value) -> Option<&'static str> {
    let host_port =
        |text: &str| text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let (fits, wanted) = match (form, value) {
        (Form::Address, Value::Text(text)) => (text.parse::<SocketAddr>().is_ok(), "IP:PORT in quotes, port 0 for any"),
        (Form::Address, _) => (false, "IP:PORT in quotes, port 0 for any"),
        (Form::Addresses, Value::List(texts)) => {
            (texts.iter().all(|text| host_port(text)), "a list of HOST:PORT in quotes")
        }
        (Form::Addresses, _) => (false, "a list of HOST:PORT in quotes"),
        (Form::Name, Value::Text(text)) => {
            (Label::new(text.as_str()).is_ok(), "a name of 1 to 64 bytes without / and :")
        }
        (Form::Name, _) => (false, "a name of 1 to 64 bytes without / and :"),
        (Form::Rate, Value::Text(text)) => (parse_rate(text).is_ok(), A_RATE),
        (Form::Rate, _) => (false, A_RATE),
        (Form::Rules, Value::Text(text)) => (text.parse::<Rule>().is_ok_and(|rule| rule.when.is_some()), RULES),
        (Form::Rules, Value::List(texts)) => {
            (texts.iter().all(|text| text.parse::<Rule>().is_ok_and(|rule| rule.when.is_some())), RULES)
        }
        (Form::Rules, _) => (false, RULES),
        (Form::GroupRules, Value::Text(text)) => (is_group_rule(text), GROUP_RULES),
        (Form::GroupRules, Value::List(texts)) => (texts.iter().all(|text| is_group_rule(text)), GROUP_RULES),
        (Form::GroupRules, _) => (false, GROUP_RULES),
        (Form::Plans, Value::Text(text)) => (PLAN_WORDS.iter().any(|(word, _)| word == text), PLANS),
        (Form::Plans, _) => (false, PLANS),
        (Form::Text, Value::Text(_)) | (Form::Texts, Value::List(_)) => (true, ""),
        (Form::Text, _) => (false, "a text in quotes"),
        (Form::Texts, _) => (false, "a list of texts in quotes"),
    };
    (!fits).then_some(wanted)
}

/// What each word stands for.
const PLAN_WORDS: [(&str, Option<Dealing>); 3] =
    [("on", Some(Dealing::Planned)), ("off", None), ("random", Some(Dealing::Random))];

/// The group everyone is everything, and has its settings.
fn is_group_rule(text: &str) -> bool {
    group_rule(text).is_ok_and(|(place, _)| place.to_string() != "group:everyone")
}

/// The setting whose name is at most two edits away, or a third of its length.
fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_lowercase().replace('-', "_");
    SETTINGS
        .iter()
        .map(|setting| (edits(&key, setting.key), setting.key))
        .filter(|(edits, name)| *edits <= (name.len() / 3).max(2))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = i;
        for (j, y) in b.chars().enumerate() {
            let (Some(&up), Some(&left)) = (row.get(j + 1), row.get(j)) else { break };
            let left = if j == 0 { i + 1 } else { left };
            let here = (before + usize::from(x != y)).min(up + 1).min(left + 1);
            before = up;
            if j == 0
                && let Some(first) = row.first_mut()
            {
                *first = i + 1;
            }
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = here;
            }
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn none(_: &str) -> Option<OsString> {
        None
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("listen", "listen"), 0);
        assert_eq!(edits("lisen", "listen"), 1);
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let (_folder, path) = file("name = \"from-file\"\nlisten = \"127.0.0.1:1\"\nweb-listen = \"127.0.0.1:2\"\n");
        let environment = |name: &str| (name == "HAUL_LISTEN").then(|| OsString::from("127.0.0.1:3"));
        let flags = [("web_listen", Value::Text("127.0.0.1:0".into()))];
        let config = Config::load(&flags, environment, &["/does/not/exist".into(), path.clone()]).unwrap();
        let origins: Vec<(&str, String)> = config.rows().map(|(key, _, origin)| (key, origin)).collect();
        assert_eq!(config.text("name"), Some("from-file"));
        assert_eq!(config.address("listen"), Some("127.0.0.1:3".parse().unwrap()));
        assert_eq!(config.address("web_listen"), Some("127.0.0.1:0".parse().unwrap()));
        assert!(origins.contains(&("name", path.display().to_string())));
        assert!(origins.contains(&("listen", "HAUL_LISTEN".into())));
        assert!(origins.contains(&("web_listen", "--web-listen".into())));
        assert!(origins.contains(&("index_listen", "default".into())));
    }

    #[test]
    fn limits_of_bandwidth() {
        let text = "[limits]\nup = \"200M\"\nschedule = \"08:00-18:00 50M\"\ngroups = [\"lab up 5M\"]\n";
        let (_folder, path) = file(text);
        let environment =
            |name: &str| (name == "HAUL_LIMITS_SCHEDULE").then(|| OsString::from("sat,sun 08:00-18:00 1M;mon down 2M"));
        let files = [path.clone()];
        let rules = |config: &Config| -> Vec<String> {
            config.limits().rules.iter().map(|(place, rule)| format!("{place} {rule}")).collect()
        };
        let config = Config::load(&[], none, &files).unwrap();
        assert_eq!(rules(&config), ["all up 200M", "all 08:00-18:00 50M", "group:lab up 5M"]);
        let row = config.rows().find(|(key, ..)| *key == "limits.up").unwrap();
        assert_eq!(row, ("limits.up", "\"200M\"".into(), path.display().to_string()));
        let config = Config::load(&[], environment, &files).unwrap();
        assert_eq!(rules(&config)[1..3], ["all sat-sun 08:00-18:00 1M", "all down mon 00:00-24:00 2M"]);
        for (bad, example) in [
            ("up = \"80%\"", "does not measure"),
            ("up = 20", "\"20M\""),
            ("down = \"fast\"", "\"20M\""),
            ("schedule = \"50M\"", "mon-fri"),
            ("groups = \"everyone 1M\"", "lab up 20M"),
            ("upp = \"1M\"", "did you mean 'limits.up'"),
        ] {
            let (_folder, path) = file(&format!("[limits]\n{bad}\n"));
            let error = Config::load(&[], none, &[path]).unwrap_err().to_string();
            assert!(error.contains(example), "{bad}: {error}");
        }
    }

    #[test]
    fn plans_of_swarms() {
        let with = |word: &str| {
            let (_folder, path) = file(&format!("swarm_plans = \"{word}\""));
            Config::load(&[], none, &[path]).map(|config| config.swarm_plans())
        };
        assert_eq!(Config::load(&[], none, &[]).unwrap().swarm_plans(), Some(Dealing::Planned));
        assert_eq!(with("on"), Ok(Some(Dealing::Planned)));
        assert_eq!(with("random"), Ok(Some(Dealing::Random)));
        assert_eq!(with("off"), Ok(None));
        assert!(with("no").unwrap_err().to_string().ends_with(PLANS));
    }

    #[test]
    fn mistakes_are_explained() {
        let (_folder, path) = file("lisen = \"127.0.0.1:1\"");
        let error = Config::load(&[], none, &[path]).unwrap_err().to_string();
        assert!(error.ends_with("sets 'lisen', which haul does not know; did you mean 'listen'?"), "{error}");
        let (_folder, path) = file("completely_different = 1");
        let error = Config::load(&[], none, &[path]).unwrap_err().to_string();
        assert!(error.ends_with("which haul does not know"), "{error}");
        let (_folder, path) = file("listen = 4478");
        let error = Config::load(&[], none, &[path]).unwrap_err().to_string();
        assert!(error.contains("takes IP:PORT"), "{error}");
        let (_folder, path) = file("listen = ");
        assert!(matches!(Config::load(&[], none, &[path]), Err(ConfigError::Form { .. })));
        let secret = |name: &str| (name == "HAUL_TICKET").then(|| OsString::from("haul1secret"));
        let config = Config::load(&[], secret, &[]).unwrap();
        assert!(config.rows().all(|(_, value, _)| !value.contains("secret")));
        assert_eq!(config.text("ticket"), Some("haul1secret"));
    }

    #[test]
    fn homes() {
        let variable = |name: &str| (name == "HAUL_HOME").then(|| OsString::from("/h"));
        assert_eq!(Home::resolve(variable).unwrap().socket(), PathBuf::from("/h/run/haul.sock"));
        let variable = |name: &str| (name == "HOME").then(|| OsString::from("/home/ana"));
        let home = Home::resolve(variable).unwrap();
        assert_eq!(home.state, PathBuf::from("/home/ana/.local/state/haul"));
        assert_eq!(home.config_file, PathBuf::from("/home/ana/.config/haul/config.toml"));
        assert_eq!(Home::resolve(none), Err(ConfigError::NoHome));
    }
}
