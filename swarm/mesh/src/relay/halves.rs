//! Puts the two halves of a packet together again.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use super::frame::{ALWAYS_CARRIED, Part};

/// Addresses of which a half is kept at a time; beyond it the ones there are given up.
const MAX_WAITING: usize = 256;

/// Halves that wait for their other one, one for each address: whatever comes after it makes it stale.
#[derive(Default)]
pub(super) struct Halves {
    waiting: HashMap<SocketAddr, (Part, Bytes)>,
}

impl Halves {
    /// The packet, if this completes it.
    pub(super) fn join(&mut self, from: SocketAddr, part: Part, piece: Bytes) -> Option<Bytes> {
        let wanted = match part {
            Part::Whole => return Some(piece),
            Part::First(number) => Part::Second(number),
            Part::Second(number) => Part::First(number),
        };
        if piece.len() > ALWAYS_CARRIED {
            return None;
        }
        if self.waiting.get(&from).is_some_and(|(part, _)| *part == wanted) {
            let (_, other) = self.waiting.remove(&from)?;
            let pieces = if matches!(part, Part::First(_)) { [piece, other] } else { [other, piece] };
            let mut packet = BytesMut::with_capacity(pieces[0].len() + pieces[1].len());
            pieces.iter().for_each(|piece| packet.extend_from_slice(piece));
            return Some(packet.freeze());
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.clear();
        }
        self.waiting.insert(from, (part, piece));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_any_order_and_only_with_its_own() {
        let mut halves = Halves::default();
        let here = SocketAddr::from(([0, 0, 0, 1], 1));
        let there = SocketAddr::from(([0, 0, 0, 2], 1));
        let [a, b] = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let ab = Some(Bytes::from_static(b"ab"));
        assert_eq!(halves.join(here, Part::Whole, a.clone()), Some(a.clone()));
        assert_eq!(halves.join(here, Part::First(1), a.clone()), None);
        assert_eq!(halves.join(there, Part::Second(1), b.clone()), None, "of somebody else");
        assert_eq!(halves.join(here, Part::Second(1), b.clone()), ab);
        assert_eq!(halves.join(there, Part::First(1), a.clone()), ab);
        assert_eq!(halves.join(here, Part::First(2), a.clone()), None);
        assert_eq!(halves.join(here, Part::Second(3), b.clone()), None, "of another packet");
        assert_eq!(halves.join(here, Part::Second(2), b), None, "given up meanwhile");
        assert_eq!(halves.join(here, Part::First(2), a), ab);
    }

    #[test]
    fn memory_is_bounded() {
        let mut halves = Halves::default();
        for number in 0..10_000u32 {
            let from = SocketAddr::from((number.to_be_bytes(), 1));
            assert_eq!(halves.join(from, Part::First(1), Bytes::from_static(b"a")), None);
            assert!(halves.waiting.len() <= MAX_WAITING);
        }
        let long = Bytes::from(vec![0; ALWAYS_CARRIED + 1]);
        assert_eq!(Halves::default().join(SocketAddr::from(([0, 0, 0, 1], 1)), Part::First(1), long), None);
    }
}
