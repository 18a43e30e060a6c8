//! A directory from its listing to the renamed folder.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DirectoryRequest, Downloader, FetchDone, FetchError, FetchProgress};

pub(super) async fn fetch(
    _downloader: &Downloader,
    _request: DirectoryRequest,
    _progress: &watch::Sender<FetchProgress>,
    _cancel: &CancellationToken,
) -> Result<FetchDone, FetchError> {
    Err(FetchError::Cancelled)
}
