//! Length-prefixed frames on a stream: four bytes of length (big endian), then that many bytes.

use bytes::{Bytes, BytesMut};

/// Memory set aside for a frame before its bytes have come: a length alone buys no more than this.
const EAGER_ALLOCATION: usize = 64 * 1024;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is longer than the reader allows.
    #[error("a frame of {len} bytes, more than {max}")]
    TooLong {
        /// Its length, bytes.
        len: usize,
        /// The bound, bytes.
        max: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// The stream could not be read.
    #[error("read: {0}")]
    Read(#[from] quinn::ReadError),
    /// The stream could not be written.
    #[error("write: {0}")]
    Write(#[from] quinn::WriteError),
}

/// The next frame, or nothing at the stream's end. `max` bounds its length.
pub async fn read_frame(recv: &mut quinn::RecvStream, max: usize) -> Result<Option<Bytes>, FrameError> {
    let mut len = [0u8; 4];
    let mut have = 0;
    while have < len.len() {
        match recv.read(&mut len[have..]).await? {
            Some(read) => have += read,
            None if have == 0 => return Ok(None),
            None => return Err(FrameError::Truncated),
        }
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    read_bytes(recv, len).await.map(Some)
}

/// Writes one frame; the reader must allow its length.
pub async fn write_frame(send: &mut quinn::SendStream, frame: impl Into<Bytes>) -> Result<(), FrameError> {
    let frame = frame.into();
    let len = u32::try_from(frame.len())
        .map_err(|_| FrameError::TooLong { len: frame.len(), max: u32::MAX as usize })?;
    let mut parts = [Bytes::copy_from_slice(&len.to_be_bytes()), frame];
    send.write_all_chunks(&mut parts).await?;
    Ok(())
}

/// Exactly `len` bytes. Memory grows with what has come, not with what was announced.
pub(crate) async fn read_bytes(recv: &mut quinn::RecvStream, len: usize) -> Result<Bytes, FrameError> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    let first = recv.read_chunk(len, true).await?.ok_or(FrameError::Truncated)?.bytes;
    if first.len() == len {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(len.min(EAGER_ALLOCATION.max(first.len())));
    all.extend_from_slice(&first);
    while all.len() < len {
        let chunk = recv.read_chunk(len - all.len(), true).await?.ok_or(FrameError::Truncated)?;
        all.extend_from_slice(&chunk.bytes);
    }
    Ok(all.freeze())
}
