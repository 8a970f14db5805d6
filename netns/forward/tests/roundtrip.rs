//! Split at one node, joined at the other: the same bytes, and nothing on the way that a wire would not carry.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use proptest::prelude::*;
use support::*;

const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

fn payload(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

proptest! {
    #[test]
    fn tcp_super_segments(
        v6: bool, timestamps: bool, df: bool, len in 1usize..64_000, size in 88u16..9000, limit in 576usize..9000,
        sequence: u32, id: u16, seed: u8, end in prop::sample::select(vec![0, PSH, FIN, FIN | PSH]), cwr: bool,
    ) {
        let (mut a, mut b) = pair();
        let mut spec = Spec::new(v6, false, payload(len, seed));
        spec.sequence = sequence;
        spec.id = id;
        spec.df = df;
        spec.flags |= end | if cwr { CWR } else { 0 };
        if timestamps {
            spec.options = TIMESTAMPS.to_vec();
        }
        let datagrams = send(&mut a, &spec.frame(size), limit);
        let headers = headers_len(&spec.build());
        let step = usize::from(size).min(limit - 1 - headers);
        let count = len.div_ceil(step);
        prop_assert_eq!(datagrams.len(), count);
        for (index, datagram) in datagrams.iter().enumerate() {
            prop_assert_eq!(datagram[0], 0x10);
            let mut expected = spec.clone();
            expected.payload = spec.payload[index * step..len.min((index + 1) * step)].to_vec();
            expected.sequence = sequence.wrapping_add((index * step) as u32);
            expected.id = id.wrapping_add(index as u16);
            expected.flags = ACK
                | if index + 1 == count { end } else { 0 }
                | if index == 0 && cwr { CWR } else { 0 };
            check(&datagram[1..]);
            prop_assert_eq!(&datagram[1..], &expected.build()[..]);
        }
        let frames = receive(&mut b, A, &datagrams);
        let packets: Vec<Vec<u8>> = frames.iter().flat_map(|frame| expand(frame)).collect();
        let sent: Vec<Vec<u8>> = datagrams.iter().map(|datagram| datagram[1..].to_vec()).collect();
        prop_assert_eq!(packets, sent);
        // One frame, and one more for a first segment with CWR and a last one with FIN: those travel alone.
        prop_assert!(frames.len() <= 1 + usize::from(cwr) + usize::from(end & FIN != 0));
        prop_assert_eq!(a.counters().dropped_total() + b.counters().dropped_total(), 0);
    }

    #[test]
    fn udp_bursts(
        v6: bool, df: bool, count in 1usize..60, size in 1u16..3000, short in 0u16..3000, limit in 576usize..4000, id: u16,
    ) {
        let (mut a, mut b) = pair();
        let count = count.min(60_000 / usize::from(size)).max(1);
        let len = count * usize::from(size) - usize::from(short % size);
        let mut spec = Spec::new(v6, true, payload(len, 9));
        (spec.id, spec.df) = (id, df);
        let datagrams = send(&mut a, &spec.frame(size), limit);
        let frames = receive(&mut b, A, &datagrams);
        let packets: Vec<Vec<u8>> = frames.iter().flat_map(|frame| expand(frame)).collect();
        prop_assert_eq!(packets.len(), count);
        for (index, packet) in packets.iter().enumerate() {
            let mut expected = spec.clone();
            let step = usize::from(size);
            expected.payload = spec.payload[index * step..len.min((index + 1) * step)].to_vec();
            expected.id = id.wrapping_add(index as u16);
            prop_assert_eq!(packet, &expected.build());
            check(packet);
        }
        prop_assert_eq!(frames.len(), 1);
        prop_assert_eq!(a.counters().fragments_out > 0, datagrams.len() > count);
    }

    /// A single packet, whatever it is, arrives as it was with its checksum filled in.
    #[test]
    fn single_packets(v6: bool, udp: bool, len in 0usize..9000, limit in 576usize..9100, flags: u8, partial: bool) {
        let (mut a, mut b) = pair();
        let mut spec = Spec::new(v6, udp, payload(len, 3));
        spec.flags = flags;
        let frame = if partial { spec.frame(0) } else { [vec![0; VNET], spec.build()].concat() };
        let datagrams = send(&mut a, &frame, limit);
        let frames = receive(&mut b, A, &datagrams);
        let packets: Vec<Vec<u8>> = frames.iter().flat_map(|frame| expand(frame)).collect();
        if packets.len() == 1 {
            prop_assert_eq!(&packets[0], &spec.build());
        }
        // Plain TCP that did not fit was split: the same stream, in packets that fit.
        let mut stream = Vec::new();
        for packet in &packets {
            check(packet);
            if packets.len() > 1 {
                prop_assert!(!udp && packet.len() < limit && flags & (SYN | 4 | URG) == 0);
                prop_assert_eq!(sequence(packet), spec.sequence + stream.len() as u32);
            }
            stream.extend_from_slice(&packet[headers_len(packet)..]);
        }
        prop_assert_eq!(stream, spec.payload);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let (mut a, mut b) = pair();
    let mut packet = Spec::new(false, false, payload(1400, 1)).build();
    packet[100] ^= 1;
    for limit in [1500, 1200] {
        let datagrams = send(&mut a, &[&[0; VNET], &packet[..]].concat(), limit);
        let frames = receive(&mut b, A, &datagrams);
        assert_eq!(frames, [[&[0; VNET], &packet[..]].concat()]);
    }
}

#[test]
fn signed_tcp_is_fragmented_and_not_resegmented() {
    let (mut a, mut b) = pair();
    let mut spec = Spec::new(false, false, payload(1400, 1));
    spec.options = [&[19, 18][..], &[7; 16], &[1, 1]].concat();
    let datagrams = send(&mut a, &spec.frame(0), 1200);
    assert!(datagrams.iter().all(|datagram| datagram[0] == 0x11));
    let frames = receive(&mut b, A, &datagrams);
    assert_eq!(frames.iter().flat_map(|frame| expand(frame)).collect::<Vec<_>>(), [spec.build()]);
}

#[test]
fn a_split_packet_is_split_evenly_and_joined_again() {
    let (mut a, mut b) = pair();
    let spec = Spec::new(false, false, payload(1460, 1));
    let datagrams = send(&mut a, &spec.frame(0), 1400);
    assert_eq!(datagrams.iter().map(Vec::len).collect::<Vec<_>>(), [771, 771]);
    assert_eq!(receive(&mut b, A, &datagrams).len(), 1);
}
