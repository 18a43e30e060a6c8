//! Files that pages refer to. They come from this table and never from a disk.

/// One embedded file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Path in the address, from the root.
    pub path: &'static str,
    /// Media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// The style sheet.
pub const STYLE: Asset = Asset {
    path: "/assets/haul.css",
    media_type: "text/css; charset=utf-8",
    bytes: include_bytes!("../assets/haul.css"),
};

/// What only the pages of a peer need.
pub const PEER_STYLE: Asset = Asset {
    path: "/assets/peer.css",
    media_type: "text/css; charset=utf-8",
    bytes: include_bytes!("../assets/peer.css"),
};

/// The picture in the browser's tab.
pub const ICON: Asset =
    Asset { path: "/assets/haul.svg", media_type: "image/svg+xml", bytes: include_bytes!("../assets/haul.svg") };

/// All of them.
pub const ALL: [Asset; 3] = [STYLE, PEER_STYLE, ICON];
