//! The mesh's own messages.
//!
//! Every stream opens with eight bytes: version, type, kind (2), length (4), all big endian, then a body of that length.
//! An answer opens with seven: status, code (2), length (4). A heartbeat is a datagram of two bytes: version, flags.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::class::Class;
use crate::epoch::{EpochProof, MAX_PROOF};
use crate::frame::{FrameError, read_bytes};
use crate::handler::RemoteError;

/// First byte of everything.
const VERSION: u8 = 1;
/// Bodies of requests, answers and stream headers, bytes. A Raft snapshot travels in pieces or on a stream.
pub const MAX_BODY: usize = 16 << 20;
/// Text of a refusal, bytes.
const MAX_MESSAGE: usize = 4 << 10;
/// A hello: 23 bytes and the proof of an epoch.
const MAX_HELLO: usize = 64 + MAX_PROOF;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamType {
    Hello,
    Request,
    Stream,
    Join,
    Renew,
}

/// How a stream opens.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) stream_type: StreamType,
    pub(crate) kind: u16,
    pub(crate) len: usize,
}

/// First message of a connection, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Random per process: tells a restarted peer from one that dials twice.
    pub(crate) incarnation: u64,
    pub(crate) class: Class,
    /// The epoch that the sender is in, if the swarm was ever recovered. Not verified yet.
    pub(crate) epoch: Option<EpochProof>,
    /// How often the sender's address changed in a way that cut connections. What the receiver dialled before the last
    /// of these times leads nowhere.
    pub(crate) moves: u32,
    /// The number that the dialler gives the connection: it counts up.
    pub(crate) sequence: u64,
}

/// What a heartbeat says of the connection it runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// The sender opens no more streams here: it has a better connection.
    pub(crate) draining: bool,
    /// The sender sees no stream open here.
    pub(crate) idle: bool,
}

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("unknown protocol version {0}")]
    Version(u8),
    #[error("unknown message type {0}")]
    Type(u8),
    #[error("malformed hello")]
    Hello,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("read: {0}")]
    Read(#[from] quinn::ReadExactError),
}

impl StreamType {
    fn code(self) -> u8 {
        match self {
            Self::Hello => 0,
            Self::Request => 1,
            Self::Stream => 2,
            Self::Join => 3,
            Self::Renew => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Hello, Self::Request, Self::Stream, Self::Join, Self::Renew];
        all.into_iter().find(|known| known.code() == code)
    }
}

/// The opening of a stream with its body, as parts to write at once.
pub(crate) fn opening(stream_type: StreamType, kind: u16, body: Bytes) -> [Bytes; 2] {
    let mut head = BytesMut::with_capacity(8);
    head.put_u8(VERSION);
    head.put_u8(stream_type.code());
    head.put_u16(kind);
    // Callers bound bodies by MAX_BODY.
    head.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    [head.freeze(), body]
}

pub(crate) async fn read_opening(recv: &mut quinn::RecvStream) -> Result<Opening, WireError> {
    let mut head = [0u8; 8];
    recv.read_exact(&mut head).await?;
    decode_opening(&head)
}

pub(crate) fn decode_opening(head: &[u8; 8]) -> Result<Opening, WireError> {
    if head[0] != VERSION {
        return Err(WireError::Version(head[0]));
    }
    let stream_type = StreamType::from_code(head[1]).ok_or(WireError::Type(head[1]))?;
    let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if len > MAX_BODY {
        return Err(FrameError::TooLong { len, max: MAX_BODY }.into());
    }
    Ok(Opening { stream_type, kind: u16::from_be_bytes([head[2], head[3]]), len })
}

/// An answer as parts to write at once. An answer beyond the bound becomes a refusal.
pub(crate) fn answer(result: Result<Bytes, RemoteError>) -> [Bytes; 2] {
    let result = result.and_then(|body| match body.len() {
        len if len > MAX_BODY => Err(RemoteError::new(
            RemoteError::ANSWER_TOO_LARGE,
            format!("the answer has {len} bytes, more than {MAX_BODY}"),
        )),
        _ => Ok(body),
    });
    let (status, code, body) = match result {
        Ok(body) => (0, 0, body),
        Err(error) => {
            let mut message = error.message;
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            (1, error.code, Bytes::from(message))
        }
    };
    let mut head = BytesMut::with_capacity(7);
    head.put_u8(status);
    head.put_u16(code);
    head.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    [head.freeze(), body]
}

pub(crate) async fn read_answer(
    recv: &mut quinn::RecvStream,
) -> Result<Result<Bytes, RemoteError>, WireError> {
    let mut head = [0u8; 7];
    recv.read_exact(&mut head).await?;
    let code = u16::from_be_bytes([head[1], head[2]]);
    let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let max = if head[0] == 0 { MAX_BODY } else { MAX_MESSAGE };
    if len > max {
        return Err(FrameError::TooLong { len, max }.into());
    }
    let body = read_bytes(recv, len).await?;
    Ok(match head[0] {
        0 => Ok(body),
        _ => Err(RemoteError::new(code, String::from_utf8_lossy(&body))),
    })
}

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        let proof = self.epoch.as_ref().map(EpochProof::encode).unwrap_or_default();
        let mut body = BytesMut::with_capacity(23 + proof.len());
        body.put_u8(self.class.mark());
        body.put_u64(self.incarnation);
        // Bounded by MAX_PROOF when it was made.
        body.put_u16(u16::try_from(proof.len()).unwrap_or(0));
        body.put_slice(&proof);
        body.put_u32(self.moves);
        body.put_u64(self.sequence);
        body.freeze()
    }

    pub(crate) fn epoch_number(&self) -> u64 {
        self.epoch.as_ref().map_or(0, EpochProof::number)
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let (mark, rest) = body.split_first()?;
        let (incarnation, rest) = rest.split_first_chunk::<8>()?;
        let (epoch, rest) = match rest.split_first_chunk::<2>() {
            None => (None, rest),
            Some((len, rest)) => match usize::from(u16::from_be_bytes(*len)) {
                0 => (None, rest),
                len => {
                    let (proof, rest) = rest.split_at_checked(len)?;
                    (Some(EpochProof::decode(proof)?), rest)
                }
            },
        };
        // Bytes that a later version appends are ignored.
        let (moves, rest) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], rest));
        let (sequence, _) = rest.split_first_chunk::<8>().unwrap_or((&[0; 8], rest));
        let (moves, sequence) = (u32::from_be_bytes(*moves), u64::from_be_bytes(*sequence));
        let incarnation = u64::from_be_bytes(*incarnation);
        Some(Self { class: Class::from_mark(*mark)?, incarnation, epoch, moves, sequence })
    }

    pub(crate) async fn read(recv: &mut quinn::RecvStream) -> Result<Self, WireError> {
        let opening = read_opening(recv).await?;
        if opening.stream_type != StreamType::Hello || opening.len > MAX_HELLO {
            return Err(WireError::Hello);
        }
        let body = read_bytes(recv, opening.len).await?;
        Self::decode(&body).ok_or(WireError::Hello)
    }
}

impl Heartbeat {
    pub(crate) fn encode(self) -> Bytes {
        let flags = u8::from(self.draining) | u8::from(self.idle) << 1;
        Bytes::copy_from_slice(&[VERSION, flags])
    }

    pub(crate) fn decode(datagram: &[u8]) -> Option<Self> {
        match *datagram {
            [VERSION, flags, ..] => Some(Self { draining: flags & 1 != 0, idle: flags & 2 != 0 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hellos_with_and_without_an_epoch() {
        let bare = Hello { incarnation: 7, class: Class::Bulk, epoch: None, moves: 0, sequence: 0 };
        assert_eq!(Hello::decode(&bare.encode()), Some(bare.clone()));
        // As written before there were epochs.
        assert_eq!(Hello::decode(&bare.encode()[..9]), Some(bare.clone()));
        let proof = [&5u64.to_be_bytes()[..], &[0, 1, 0xaa], &[0, 2, 0xbb, 0xcc]].concat();
        let epoch = Hello { epoch: EpochProof::decode(&proof), moves: 3, sequence: 4, ..bare };
        assert_eq!(epoch.epoch_number(), 5);
        let mut bytes = epoch.encode().to_vec();
        assert!(Hello::decode(&bytes[..bytes.len() - 13]).is_none());
        bytes.extend(b"a later version");
        assert_eq!(Hello::decode(&bytes), Some(epoch));
        assert_eq!(Hello::decode(&bytes[..8]), None);
    }

    proptest! {
        #[test]
        fn garbage_makes_no_hello_that_differs(body: Vec<u8>) {
            if let Some(hello) = Hello::decode(&body) {
                prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
            }
        }
    }
}
