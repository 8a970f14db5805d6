//! Whatever comes in, what the kernel makes of the frames is what came in: each flow's packets, in order, bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::HashMap;

use proptest::prelude::*;
use support::*;

#[derive(Debug, Clone)]
struct Step {
    flow: u8,
    len: usize,
    what: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![6 => Just(1000usize), 2 => 1usize..1000, 1 => Just(0usize), 1 => Just(1400usize)];
    (0u8..12, len, 0u8..24).prop_map(|(flow, len, what)| Step { flow, len, what })
}

proptest! {
    #[test]
    fn frames_expand_to_what_came_in(steps in proptest::collection::vec(step(), 1..300), flows in 1u8..12) {
        let (_, mut b) = pair();
        let mut next: HashMap<u8, (u32, u16)> = HashMap::new();
        let mut datagrams = Vec::new();
        for Step { flow, len, what } in steps {
            let flow = flow % flows;
            let mut spec = Spec::new(flow % 3 == 0, flow % 4 == 3, vec![flow; len]);
            let (sequence, id) = next.entry(flow).or_insert((u32::MAX - 5000, u16::MAX - 3));
            spec.ports.0 = 1000 + u16::from(flow);
            // Ids of unfragmentable packets may be anything and are numbered anew; those of others must come out as
            // they went in.
            spec.df = flow % 2 == 0;
            match what {
                0 => spec.flags |= PSH,
                1 => spec.flags |= FIN,
                2 => spec.flags |= URG,
                3 => spec.ack += 1,
                4 => *sequence = sequence.wrapping_add(500),
                5 | 14 | 15 => spec.options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
                6 if flow % 2 == 1 => *id = id.wrapping_add(5),
                7 => *sequence = sequence.wrapping_sub(1000),
                _ => {}
            }
            (spec.sequence, spec.id) = (*sequence, *id);
            let mut packet = spec.build();
            match what {
                8 => {
                    let at = ip_len(&packet) + 8 - 2;
                    packet[at] ^= 1;
                }
                9 if packet[0] >> 4 == 4 => {
                    packet[8] -= 1;
                    packet[10..12].fill(0);
                    let sum = !plain_sum(&[&packet[..20]]);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                }
                10 if packet[0] >> 4 == 6 => packet[7] -= 1,
                11 if packet[0] >> 4 == 6 => packet[3] ^= 1,
                // Another window; timestamps that are one later.
                12 if !spec.udp => {
                    let at = ip_len(&packet) + 15;
                    packet[at] = 9;
                    complete(&mut packet);
                }
                13 => {
                    spec.options = vec![1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 2];
                    packet = spec.build();
                }
                _ => {}
            }
            *sequence = sequence.wrapping_add(len as u32);
            *id = id.wrapping_add(1);
            datagrams.push(wrap(&packet));
        }
        let frames = receive(&mut b, A, &datagrams);
        let by_flow = |packets: Vec<Vec<u8>>| {
            let mut map: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
            for mut packet in packets {
                let ip = ip_len(&packet);
                let key = packet[ip..ip + 4].to_vec();
                if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
                    packet[4..6].fill(0);
                    packet[10..12].fill(0);
                }
                map.entry(key).or_default().push(packet);
            }
            map
        };
        let went_in = by_flow(datagrams.iter().map(|datagram| datagram[1..].to_vec()).collect());
        let came_out = by_flow(frames.iter().flat_map(|frame| expand(frame)).collect());
        prop_assert_eq!(came_out, went_in);
        prop_assert!(frames.iter().all(|frame| frame.len() <= VNET + 65_535));
        let counters = b.counters();
        prop_assert_eq!(counters.frames_out + counters.coalesced, datagrams.len() as u64);
        prop_assert_eq!(counters.dropped_total(), 0);
    }
}

#[test]
fn a_long_run_fills_frames_to_the_brim() {
    let (_, mut b) = pair();
    let datagrams: Vec<Vec<u8>> = (0..100u32)
        .map(|index| {
            let mut spec = Spec::new(false, false, vec![1; 1400]);
            spec.sequence += index * 1400;
            wrap(&spec.build())
        })
        .collect();
    let lens: Vec<usize> = receive(&mut b, A, &datagrams).iter().map(Vec::len).collect();
    assert_eq!(lens, [VNET + 40 + 46 * 1400, VNET + 40 + 46 * 1400, VNET + 40 + 8 * 1400]);
}

#[test]
fn another_flow_between_the_same_hosts_does_not_break_a_run() {
    let (_, mut b) = pair();
    let mut datagrams = Vec::new();
    for index in 0..10u32 {
        let mut data = Spec::new(false, false, vec![1; 1400]);
        data.sequence += index * 1400;
        let mut ack = Spec::new(false, false, vec![]);
        ack.ports = (80, 4000);
        ack.ack += index;
        datagrams.push(wrap(&data.build()));
        datagrams.push(wrap(&ack.build()));
    }
    assert_eq!(receive(&mut b, A, &datagrams).len(), 11);
}
