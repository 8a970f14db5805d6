//! The virtio-net header that stands in front of each frame of a TUN made with `IFF_VNET_HDR`.
//!
//! Source: linux/virtio_net.h and the virtio specification 1.2, section 5.1.6. The numbers are in the host's byte order,
//! as the kernel does it unless `TUNSETVNETLE` or `TUNSETVNETBE` was asked for.

use crate::counters::DropReason;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the transport checksum holds the pseudo-header's sum only.
pub const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`.
pub const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: many UDP datagrams of one size ("USO").
pub const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`: a bit on top of the TCP types; CWR is set on the first segment.
pub const GSO_ECN: u8 = 0x80;

/// Bytes of the longest layout.
pub(crate) const MAX_LEN: usize = 12;

/// How long the header is (`TUNSETVNETHDRSZ`). The caller must set the device to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VnetLayout {
    /// 10 bytes, the kernel's default.
    #[default]
    Ten,
    /// 12 bytes: with `num_buffers`, which a TUN does not use.
    Twelve,
}

impl VnetLayout {
    /// The header's length in bytes.
    pub const fn len(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Twelve => MAX_LEN,
        }
    }

    /// Never: a header has bytes.
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// The header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] or 0; other bits are hints that nothing here depends on.
    pub flags: u8,
    /// One of the `GSO_` values, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers together; a hint, never trusted.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the summed bytes begin, from the packet's start.
    pub csum_start: u16,
    /// Where the checksum stands, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Splits a TUN frame into its header and its packet.
    ///
    /// # Errors
    /// [`DropReason::BadVnetHeader`] when the frame is shorter than the header.
    pub fn parse(layout: VnetLayout, frame: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let (head, packet) = frame.split_at_checked(layout.len()).ok_or(DropReason::BadVnetHeader)?;
        let number = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        Ok((
            Self {
                flags: head[0],
                gso_type: head[1],
                hdr_len: number(2),
                gso_size: number(4),
                csum_start: number(6),
                csum_offset: number(8),
            },
            packet,
        ))
    }

    /// Writes the header to the start of a frame.
    ///
    /// # Panics
    /// When `frame` is shorter than the layout: frames are always made with room for it.
    pub fn write(&self, layout: VnetLayout, frame: &mut [u8]) {
        let head = &mut frame[..layout.len()];
        head.fill(0);
        head[0] = self.flags;
        head[1] = self.gso_type;
        head[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        head[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        head[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        head[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 20,
            csum_offset: 16,
        };
        for layout in [VnetLayout::Ten, VnetLayout::Twelve] {
            let mut frame = vec![0xff; layout.len() + 3];
            header.write(layout, &mut frame);
            assert_eq!(VnetHeader::parse(layout, &frame), Ok((header, &[0xff, 0xff, 0xff][..])));
            assert_eq!(VnetHeader::parse(layout, &frame[..layout.len() - 1]), Err(DropReason::BadVnetHeader));
        }
    }
}
