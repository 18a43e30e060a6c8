//! The daemon's own interface: HTTP on a unix socket, JSON in, JSON lines out. The command line, the shell and the
//! pages are its only users; scripts rely on the records.

pub mod browse;
pub mod codes;
pub mod context;
pub mod find;
pub mod frames;
pub mod get;
pub mod known;
mod limits;
pub mod logins;
pub mod network;
pub mod problem;
pub mod records;
pub mod requests;
pub mod router;
pub mod server;
pub mod shares;
pub mod stream;
pub mod uploads;
pub mod watch;

pub use context::{Context, Facts};
pub use problem::Problem;
