//! One blob from the request to the final name.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Downloader, FetchDone, FetchError, FetchProgress, FetchRequest, StreamRequest};

pub(super) async fn fetch(
    _downloader: &Downloader,
    _request: FetchRequest,
    _progress: &watch::Sender<FetchProgress>,
    _cancel: &CancellationToken,
) -> Result<FetchDone, FetchError> {
    Err(FetchError::Cancelled)
}

pub(super) async fn stream(
    _downloader: &Downloader,
    _request: StreamRequest,
    _to: mpsc::Sender<Bytes>,
    _progress: &watch::Sender<FetchProgress>,
    _cancel: &CancellationToken,
) -> Result<FetchDone, FetchError> {
    Err(FetchError::Cancelled)
}
