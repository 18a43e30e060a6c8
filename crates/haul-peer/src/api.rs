//! The daemon's own interface: HTTP on a unix socket, JSON in, JSON lines out. The command line, the shell and the
//! pages are its only users; scripts rely on the records.

pub mod codes;
pub mod frames;
pub mod records;
pub mod requests;
