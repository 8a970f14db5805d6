//! What runs on relay connections: one QUIC packet, or half of one, with a name on it.
//!
//! ```text
//!  0        version (high half, now 1), direction (bit 3), part (bits 0 and 1)
//!  1        the mark of the packet's class
//!  2        n, the length of a node id
//!  3..3+n   the node id: whom it is for on the way to the relay, whom it is from on the way from the relay
//!  +2       halves only: a number that both have, big endian
//!  rest     the packet, or the half of it
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::class::Class;

const VERSION: u8 = 1 << 4;
const FROM_RELAY: u8 = 1 << 3;
/// Node ids on the wire, bytes; real ones have 25.
const MAX_ID: usize = 64;
/// Packets up to this length are carried over every path, in two halves where they do not fit in one: QUIC's own
/// smallest packets (RFC 9000, 14.1). Longer ones are the endpoint's probes for more, and lost where they do not fit.
pub(crate) const ALWAYS_CARRIED: usize = 1200;

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The sender asks the receiver to relay it.
    ToRelay,
    /// The receiver is the peer that it is for.
    FromRelay,
}

/// How much of a packet a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First(u16),
    Second(u16),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) direction: Direction,
    pub(crate) class: Class,
    pub(crate) node_id: String,
    pub(crate) part: Part,
    pub(crate) packet: Bytes,
}

impl Frame {
    pub(crate) fn encode(&self) -> Bytes {
        let (part, number) = match self.part {
            Part::Whole => (0, None),
            Part::First(number) => (1, Some(number)),
            Part::Second(number) => (2, Some(number)),
        };
        let direction = if self.direction == Direction::FromRelay { FROM_RELAY } else { 0 };
        let mut bytes = BytesMut::with_capacity(self.head_len() + self.packet.len());
        bytes.put_u8(VERSION | direction | part);
        bytes.put_u8(self.class.mark());
        // Node ids are ours or come from certificates that we have verified: far shorter.
        bytes.put_u8(u8::try_from(self.node_id.len()).unwrap_or(u8::MAX));
        bytes.put_slice(self.node_id.as_bytes());
        if let Some(number) = number {
            bytes.put_u16(number);
        }
        bytes.put_slice(&self.packet);
        bytes.freeze()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let [first, mark, len, rest @ ..] = &bytes[..] else { return None };
        let len = usize::from(*len);
        if first & 0xf0 != VERSION || first & 0b100 != 0 || len == 0 || len > MAX_ID {
            return None;
        }
        let (node_id, rest) = rest.split_at_checked(len)?;
        let (part, rest) = match first & 0b11 {
            0 => (Part::Whole, rest),
            part => {
                let (number, rest) = rest.split_first_chunk::<2>()?;
                let number = u16::from_be_bytes(*number);
                match part {
                    1 => (Part::First(number), rest),
                    2 => (Part::Second(number), rest),
                    _ => return None,
                }
            }
        };
        Some(Self {
            direction: if first & FROM_RELAY == 0 { Direction::ToRelay } else { Direction::FromRelay },
            class: Class::from_mark(*mark).filter(|class| *class != Class::Relay)?,
            node_id: std::str::from_utf8(node_id).ok()?.to_owned(),
            part,
            packet: bytes.slice_ref(rest),
        })
    }

    /// The frame as it fits into datagrams of `limit` bytes: in one piece, in two halves, or not at all.
    pub(crate) fn fitted(self, limit: usize, number: u16) -> Vec<Bytes> {
        let whole = self.head_len() + self.packet.len();
        if whole <= limit {
            return vec![self.encode()];
        }
        if self.part != Part::Whole || self.packet.len() > ALWAYS_CARRIED {
            return Vec::new();
        }
        let middle = self.packet.len() / 2;
        let (first, second) = (self.packet.slice(..middle), self.packet.slice(middle..));
        let half = |part, packet| Self { part, packet, ..self.clone() }.encode();
        vec![half(Part::First(number), first), half(Part::Second(number), second)]
    }

    fn head_len(&self) -> usize {
        let number = if self.part == Part::Whole { 0 } else { 2 };
        3 + self.node_id.len() + number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(packet: &[u8]) -> Frame {
        Frame {
            direction: Direction::ToRelay,
            class: Class::Bulk,
            node_id: "a-node-with-a-name".to_owned(),
            part: Part::Whole,
            packet: Bytes::copy_from_slice(packet),
        }
    }

    #[test]
    fn survives_the_wire() {
        for part in [Part::Whole, Part::First(0x1234), Part::Second(u16::MAX)] {
            for direction in [Direction::ToRelay, Direction::FromRelay] {
                let frame = Frame { part, direction, ..frame(b"packet") };
                assert_eq!(Frame::decode(&frame.encode()), Some(frame));
            }
        }
        let relay = Frame { class: Class::Relay, ..frame(b"a relay in a relay") };
        assert_eq!(Frame::decode(&relay.encode()), None);
    }

    #[test]
    fn fits_or_is_halved_or_is_lost() {
        let fitted = |len: usize, limit| frame(&vec![7; len]).fitted(limit, 9);
        assert_eq!(fitted(1200, 1221).len(), 1);
        let halves = fitted(1200, 1220);
        assert_eq!(halves.len(), 2);
        assert!(halves.iter().all(|half| half.len() < 700));
        assert_eq!(fitted(1201, 1221).len(), 0, "a probe for more than the path has");
        let half = Frame { part: Part::First(1), ..frame(&[7; 600]) };
        assert_eq!(half.fitted(500, 9).len(), 0, "a half is not halved again");
    }

    proptest! {
        #[test]
        fn garbage_makes_no_frame_that_differs(bytes: Vec<u8>) {
            if let Some(frame) = Frame::decode(&Bytes::from(bytes)) {
                prop_assert_eq!(Frame::decode(&frame.encode()), Some(frame));
            }
        }
    }
}
