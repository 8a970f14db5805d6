//! The format of a datagram between two nodes.
//!
//! The first byte is the version (high half, now 1) and the kind (low half). Numbers are big-endian.
//!
//! ```text
//!  0x10 PACKET    one IP packet, to the datagram's end; its length must be the one in its IP header
//!
//!  0x11 FRAGMENT  a piece of one IP packet, for a path whose datagrams are shorter than the packet
//!       1..5      id     the same in all pieces of a packet; counts up at the sender
//!       5..7      total  bytes of the packet
//!       7..9      chunk  bytes in each piece but the last, which has the rest
//!       9         index  which piece: its bytes begin at index * chunk
//! ```
//!
//! `total` and `chunk` together give the number of pieces and the length of each, so nothing in a fragment is taken on
//! trust: a piece of another length is refused. The fragmentation is ours and not IP's, because inner packets mostly
//! forbid IP's, and because a path that shrinks must slow a flow down, never swallow it.

use crate::counters::DropReason;

/// First byte of a whole packet.
pub const PACKET: u8 = 0x10;
/// First byte of a fragment.
pub const FRAGMENT: u8 = 0x11;
/// Bytes before a whole packet.
pub const PACKET_HEADER: usize = 1;
/// Bytes before a fragment's piece.
pub const FRAGMENT_HEADER: usize = 10;
/// Pieces of one packet. 128 fit one machine word of the reassembler; with [`MIN_DATAGRAM`] they carry 64 KB.
pub const MAX_FRAGMENTS: usize = 128;
/// The shortest datagram limit that is used. QUIC's own minimum gives more than 1,100 bytes; a lower limit than this one
/// means a broken path.
pub const MIN_DATAGRAM: usize = 576;

const _: () = assert!((MIN_DATAGRAM - FRAGMENT_HEADER) * MAX_FRAGMENTS >= 65_535);

/// A datagram to send: two pieces, to be put behind each other. The second borrows from the TUN frame, so that a
/// payload is copied once only, by the caller, into memory that the connection can own.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// First bytes: our header and rewritten packet headers.
    pub head: &'a [u8],
    /// The bytes after them. May be empty.
    pub body: &'a [u8],
}

impl Datagram<'_> {
    /// Bytes of both pieces.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Never: there is always a first byte.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// Appends both pieces to a buffer.
    pub fn append_to(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.head);
        buffer.extend_from_slice(self.body);
    }
}

/// The piece of a packet that a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The same in all pieces of a packet.
    pub id: u32,
    /// Bytes of the packet.
    pub total: u16,
    /// Bytes of each piece but the last.
    pub chunk: u16,
    /// Which piece.
    pub index: u8,
    /// Its bytes.
    pub piece: &'a [u8],
}

/// A datagram that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// One whole packet.
    Packet(&'a [u8]),
    /// A piece of one.
    Fragment(Fragment<'a>),
}

impl<'a> Message<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`DropReason::BadDatagram`] for another version or kind; [`DropReason::BadFragment`] for a fragment whose
    /// numbers contradict each other or its length.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, DropReason> {
        let (first, rest) = datagram.split_first().ok_or(DropReason::BadDatagram)?;
        match *first {
            PACKET => Ok(Message::Packet(rest)),
            FRAGMENT => {
                let (header, piece) = rest.split_first_chunk::<9>().ok_or(DropReason::BadDatagram)?;
                let fragment = Fragment {
                    id: u32::from_be_bytes([header[0], header[1], header[2], header[3]]),
                    total: u16::from_be_bytes([header[4], header[5]]),
                    chunk: u16::from_be_bytes([header[6], header[7]]),
                    index: header[8],
                    piece,
                };
                fragment.is_consistent().then_some(Message::Fragment(fragment)).ok_or(DropReason::BadFragment)
            }
            _ => Err(DropReason::BadDatagram),
        }
    }
}

impl Fragment<'_> {
    /// How many pieces the packet has.
    pub fn count(&self) -> usize {
        usize::from(self.total).div_ceil(usize::from(self.chunk).max(1))
    }

    /// Where the piece's bytes begin in the packet.
    pub fn offset(&self) -> usize {
        usize::from(self.index) * usize::from(self.chunk)
    }

    fn is_consistent(&self) -> bool {
        let (total, chunk, index) =
            (usize::from(self.total), usize::from(self.chunk), usize::from(self.index));
        let count = self.count();
        chunk > 0
            && (2..=MAX_FRAGMENTS).contains(&count)
            && index < count
            && self.piece.len() == chunk.min(total - index * chunk)
    }
}

/// Writes datagrams into one reused buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    next_id: u32,
    head: Vec<u8>,
}

/// What [`Writer::send`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Written {
    pub(crate) datagrams: u32,
    pub(crate) bytes: u64,
    pub(crate) fragments: u32,
}

impl Writer {
    /// Emits one packet, given as rewritten headers and the rest, as one datagram or as fragments.
    /// `limit` is the longest datagram, at least [`MIN_DATAGRAM`]; the packet is at most 65,535 bytes.
    pub(crate) fn send(
        &mut self,
        head: &[u8],
        body: &[u8],
        limit: usize,
        emit: &mut dyn FnMut(Datagram<'_>),
    ) -> Written {
        let total = head.len() + body.len();
        let mut written = Written::default();
        self.head.clear();
        if total + PACKET_HEADER <= limit {
            self.head.push(PACKET);
            self.head.extend_from_slice(head);
            written.add(Datagram { head: &self.head, body }, emit);
            return written;
        }
        // Pieces of equal length: no runt at the end that costs a datagram of its own header for a few bytes' sake.
        let count = total.div_ceil(limit - FRAGMENT_HEADER);
        let chunk = total.div_ceil(count);
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        for (index, start) in (0..total).step_by(chunk).enumerate() {
            let end = (start + chunk).min(total);
            self.head.clear();
            self.head.push(FRAGMENT);
            self.head.extend_from_slice(&id.to_be_bytes());
            self.head.extend_from_slice(&(total as u16).to_be_bytes());
            self.head.extend_from_slice(&(chunk as u16).to_be_bytes());
            self.head.push(index as u8);
            self.head.extend_from_slice(&head[start.min(head.len())..end.min(head.len())]);
            let body = &body[start.saturating_sub(head.len())..end.saturating_sub(head.len())];
            written.fragments += 1;
            written.add(Datagram { head: &self.head, body }, emit);
        }
        written
    }
}

impl Written {
    fn add(&mut self, datagram: Datagram<'_>, emit: &mut dyn FnMut(Datagram<'_>)) {
        self.datagrams += 1;
        self.bytes += datagram.len() as u64;
        emit(datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fragments_cover_the_packet_once(
            len in 1usize..65_535, head in 0usize..200, limit in MIN_DATAGRAM..9000,
        ) {
            let packet: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let (head, body) = packet.split_at(head.min(len));
            let mut writer = Writer::default();
            let mut joined = Vec::new();
            let mut fit = true;
            let written = writer.send(head, body, limit, &mut |datagram| {
                fit &= datagram.len() <= limit;
                let mut bytes = Vec::new();
                datagram.append_to(&mut bytes);
                match Message::parse(&bytes) {
                    Ok(Message::Packet(packet)) => joined.extend_from_slice(packet),
                    Ok(Message::Fragment(fragment)) => {
                        assert_eq!(fragment.offset(), joined.len());
                        joined.extend_from_slice(fragment.piece);
                    }
                    Err(reason) => panic!("{reason}"),
                }
            });
            prop_assert!(fit);
            prop_assert_eq!(joined, packet);
            prop_assert_eq!(written.fragments > 0, len + 1 > limit);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            let _ = Message::parse(&bytes);
            bytes.insert(0, FRAGMENT);
            let _ = Message::parse(&bytes);
        }
    }
}
