//! Where this haul keeps its things: `HAUL_HOME`, or the XDG folders.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

/// The folders of one haul.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// Keys, databases.
    pub(crate) state: PathBuf,
    /// The hash cache: safe to delete.
    pub(crate) cache: PathBuf,
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
}

impl Home {
    /// Everything below `root`.
    pub(crate) fn below(root: &Path) -> Self {
        Self {
            config: root.join("config.toml"),
            state: root.join("state"),
            cache: root.join("cache"),
            socket: root.join("run").join("haul.sock"),
        }
    }

    /// `root`, which came from `--home` or `HAUL_HOME`, else the XDG folders. None if there is no home folder at all.
    pub(crate) fn find(root: Option<&Path>) -> Option<Self> {
        if let Some(root) = root {
            return Some(Self::below(&std::path::absolute(root).ok()?));
        }
        let base = etcetera::base_strategy::Xdg::new().ok()?;
        let state = base.state_dir()?.join("haul");
        Some(Self {
            config: base.config_dir().join("haul").join("config.toml"),
            cache: base.cache_dir().join("haul"),
            socket: base.runtime_dir().unwrap_or_else(|| state.join("run")).join("haul.sock"),
            state,
        })
    }
}
