//! The Internet checksum (RFC 1071).
//!
//! Sums are kept as `u64` over 32-bit words in the host's byte order: the one's complement sum does not depend on the
//! order until the end, and this form is what compilers turn into vector code.

use std::net::IpAddr;

/// A running one's complement sum.
///
/// Every slice but the last one added must be of even length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, data: &[u8]) -> Self {
        // At most 64 KB a call: 16,384 words of 32 bits can not overflow 64 bits, for billions of calls.
        let mut chunks = data.chunks_exact(4);
        let mut sum = 0u64;
        for chunk in &mut chunks {
            sum += u64::from(u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
        }
        let mut last = [0u8; 4];
        let rest = chunks.remainder();
        last[..rest.len()].copy_from_slice(rest);
        self.0 += sum + u64::from(u32::from_ne_bytes(last));
        self
    }

    /// Adds one number of the packet, given in the host's order.
    #[must_use]
    pub fn number(mut self, value: u16) -> Self {
        self.0 += u64::from(value.to_be());
        self
    }

    /// Adds the pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1).
    #[must_use]
    pub fn pseudo(self, source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Self {
        let sum = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.bytes(&source.octets()).bytes(&destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.bytes(&source.octets()).bytes(&destination.octets())
            }
            _ => self,
        };
        // A packet is at most 64 KB and its transport part shorter, so the upper half of the length is always zero.
        sum.number(u16::from(protocol)).number(len as u16)
    }

    /// The folded sum, not complemented: what a partial checksum field holds.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum: the complement of the folded sum.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.finish(), !0xddf2);
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_loop(data in proptest::collection::vec(any::<u8>(), 0..3000), cut in 0usize..1500) {
            let cut = (cut * 2).min(data.len() & !1);
            let mut plain = 0u32;
            for pair in data.chunks(2) {
                plain += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
                plain = (plain & 0xffff) + (plain >> 16);
            }
            prop_assert_eq!(u32::from(Sum::new().bytes(&data[..cut]).bytes(&data[cut..]).fold()), plain);
        }
    }
}
