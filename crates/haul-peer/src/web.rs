//! This peer's own pages, on loopback: search, shares, transfers. Rendered by the server, usable without scripts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::Context;
use crate::api::logins::Logins;

/// Pages that wait to be served.
pub struct Pages {
    listener: TcpListener,
    logins: Arc<Logins>,
}

/// Opens the port of the pages.
pub async fn bind(address: SocketAddr) -> io::Result<Pages> {
    let listener = TcpListener::bind(address).await?;
    let logins = Arc::new(Logins::new(listener.local_addr()?));
    Ok(Pages { listener, logins })
}

impl Pages {
    /// Makes links to them.
    pub fn logins(&self) -> Arc<Logins> {
        self.logins.clone()
    }

    /// Serves until shutdown.
    pub async fn serve(self, _context: Arc<Context>, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }
}
