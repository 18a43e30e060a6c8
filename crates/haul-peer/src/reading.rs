//! Reading parts of files for those who serve, hash and verify them.

use std::fs::File;
use std::io;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// Reads so many bytes, into memory that nobody has to clear before.
pub(crate) fn read_at(file: &File, mut at: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(bytes);
    while buffer.len() < bytes {
        match rustix::io::pread(file, spare_capacity(&mut buffer), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => at += read as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    buffer.truncate(bytes);
    Ok(buffer)
}
