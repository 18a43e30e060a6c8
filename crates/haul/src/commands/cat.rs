//! `haul cat` and `haul get -o -`: a file's bytes, in order and verified, on standard output.

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::frames::FrameReader;
use haul_peer::api::records::Record;
use haul_peer::api::requests::CatRequest;

use super::what::{Wanted, wanted};
use crate::args::CatArgs;
use crate::client::Framed;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;

/// Runs it.
pub(crate) async fn run(context: &Context, args: &CatArgs) -> Result<Exit, Failure> {
    stream(context, &wanted(context, &args.what)?, args.range, Vec::new()).await
}

/// Streams one file. Only a body that ends with its `done` record is a success: a cut is never taken for the end.
pub(crate) async fn stream(
    context: &Context,
    wanted: &Wanted,
    range: Option<(u64, Option<u64>)>,
    from: Vec<String>,
) -> Result<Exit, Failure> {
    let request = CatRequest { what: wanted.what.clone(), range, from };
    let mut answer = context.daemon().await?.post("/v1/cat", &request).await?;
    let mut reader = FrameReader::default();
    let mut is_done = false;
    while let Some(frame) = answer.next_frame(&mut reader).await? {
        match frame {
            Framed::Data(bytes) => context.output.bytes(&bytes)?,
            Framed::Line(line) => is_done |= matches!(line.record, Some(Record::Done(_))),
        }
    }
    if is_done {
        return Ok(Exit::DONE);
    }
    Err(Failure::new(ErrorCode::Incomplete, "the daemon stopped before the end of the file")
        .next("give the same command again"))
}
