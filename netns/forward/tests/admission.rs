//! Who may send what where, and the way back to an ingress client.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;
use skep_forward::flow::{ESTABLISHED_IDLE_MS, TRANSIENT_IDLE_MS};
use skep_forward::forwarder::ASKED_PEERS;
use skep_forward::{DropReason, Forwarder, Peer, Sent};
use support::*;

/// A frame without offloads.
fn plain(packet: &[u8]) -> Vec<u8> {
    [&[0; VNET], packet].concat()
}

fn between(source: IpAddr, destination: IpAddr, udp: bool, flags: u8) -> Vec<u8> {
    let mut spec = Spec::new(source.is_ipv6(), udp, vec![1, 2, 3]);
    (spec.source, spec.destination, spec.flags) = (source, destination, flags);
    spec.build()
}

/// The same with the ports exchanged: the direction from the server.
fn reply(source: IpAddr, destination: IpAddr, udp: bool, flags: u8) -> Vec<u8> {
    let mut spec = Spec::new(source.is_ipv6(), udp, vec![1, 2, 3]);
    (spec.source, spec.destination, spec.flags, spec.ports) = (source, destination, flags, (80, 4000));
    spec.build()
}

fn outbound(forwarder: &mut Forwarder, packet: &[u8], now_ms: u64) -> Result<Peer, DropReason> {
    forwarder.outbound(&plain(packet), now_ms, |_| 1400, |_, _| {}).map(|sent| sent.peer)
}

/// How many frames came of one packet.
fn inbound(forwarder: &mut Forwarder, peer: Peer, packet: &[u8], now_ms: u64) -> Result<u32, DropReason> {
    let mut frames = 0;
    forwarder.inbound(peer, &wrap(packet), now_ms, |_| frames += 1).map(|()| frames)
}

#[test]
fn a_client_gets_its_answer_through_the_node_it_called() {
    for v6 in [false, true] {
        for udp in [false, true] {
            let (mut a, mut b) = pair();
            let (container, client) = (ends(v6).1, client(v6));
            let answer = reply(container, client, udp, ACK);
            assert_eq!(outbound(&mut b, &answer, 0), Err(DropReason::NoFlow));
            let request = between(client, container, udp, SYN);
            assert_eq!(outbound(&mut a, &request, 0), Ok(B));
            assert_eq!(inbound(&mut b, A, &request, 0), Ok(1));
            assert_eq!(outbound(&mut b, &answer, 1), Ok(A));
            assert_eq!(inbound(&mut a, B, &answer, 1), Ok(1));
            // Another port of the same client is another flow.
            let mut other = Spec::new(v6, udp, vec![]);
            (other.source, other.destination, other.ports) = (container, client, (80, 4001));
            assert_eq!(outbound(&mut b, &other.build(), 1), Err(DropReason::NoFlow));
            assert_eq!(outbound(&mut b, &answer, 2 + TRANSIENT_IDLE_MS), Err(DropReason::NoFlow));
            assert_eq!(b.counters().dropped(DropReason::NoFlow), 3);
        }
    }
}

#[test]
fn an_established_connection_may_be_idle_for_hours() {
    let (_, mut b) = pair();
    let (container, client) = (ends(false).1, client(false));
    inbound(&mut b, A, &between(client, container, false, SYN), 0).unwrap();
    outbound(&mut b, &reply(container, client, false, SYN | ACK), 0).unwrap();
    inbound(&mut b, A, &between(client, container, false, ACK), 0).unwrap();
    b.expire(ESTABLISHED_IDLE_MS);
    assert_eq!(outbound(&mut b, &reply(container, client, false, ACK), ESTABLISHED_IDLE_MS), Ok(A));
    b.forget_peer(A);
    assert_eq!(
        outbound(&mut b, &reply(container, client, false, ACK), ESTABLISHED_IDLE_MS),
        Err(DropReason::NoFlow)
    );
}

#[test]
fn a_peer_speaks_for_its_own_containers_only() {
    for v6 in [false, true] {
        let (_, mut b) = pair();
        let (at_a, at_b) = ends(v6);
        let client = client(v6);
        let nobody = if v6 { ip("fd5e::77") } else { ip("10.255.0.77") };
        let cases = [
            (A, at_a, at_b, Ok(1)),
            (A, at_a, client, Ok(1)),
            (A, client, at_b, Ok(1)),
            (3, at_a, at_b, Err(DropReason::Spoofed)),
            (3, at_a, client, Err(DropReason::Spoofed)),
            (A, at_b, at_b, Err(DropReason::Spoofed)),
            (A, nobody, at_b, Err(DropReason::Spoofed)),
            (A, at_a, nobody, Err(DropReason::NotForUs)),
            (A, client, nobody, Err(DropReason::NotForUs)),
            (A, at_a, at_a, Err(DropReason::NotForUs)),
            (A, client, client, Err(DropReason::NotForUs)),
        ];
        for (peer, source, destination, expected) in cases {
            let got = inbound(&mut b, peer, &between(source, destination, true, 0), 0);
            assert_eq!(got, expected, "{peer} {source} {destination}");
        }
    }
}

#[test]
fn addresses_that_stay_on_their_host_do_not_cross() {
    let (mut a, mut b) = pair();
    let (at_a, at_b) = ends(false);
    for bad in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0"].map(ip) {
        assert_eq!(inbound(&mut b, A, &between(bad, at_b, true, 0), 0), Err(DropReason::Martian));
        assert_eq!(inbound(&mut b, A, &between(at_a, bad, true, 0), 0), Err(DropReason::Martian));
        assert_eq!(outbound(&mut a, &between(at_a, bad, true, 0), 0), Err(DropReason::Martian));
    }
    for bad in ["::1", "ff02::1", "::", "fe80::1", "::ffff:10.255.0.10"].map(ip) {
        assert_eq!(inbound(&mut b, A, &between(bad, ends(true).1, true, 0), 0), Err(DropReason::Martian));
    }
}

#[test]
fn icmp_errors_follow_the_packet_that_they_quote() {
    let (_, mut b) = pair();
    let (container, client) = (ends(false).1, client(false));
    let request = between(client, container, true, 0);
    inbound(&mut b, A, &request, 0).unwrap();
    let error = |quoted: &[u8]| {
        let mut spec = Spec::new(false, true, vec![]);
        (spec.source, spec.destination) = (container, client);
        let mut packet = spec.build()[..20].to_vec();
        packet[9] = 1;
        packet.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        packet.extend(&quoted[..28]);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    };
    assert_eq!(outbound(&mut b, &error(&request), 0), Ok(A));
    let strange = between(ip("192.0.2.10"), container, true, 0);
    assert_eq!(outbound(&mut b, &error(&strange), 0), Err(DropReason::NoFlow));
    assert_eq!(outbound(&mut b, &error(&request)[..30], 0), Err(DropReason::Malformed));
}

#[test]
fn later_fragments_of_a_reply_follow_the_first() {
    let (_, mut b) = pair();
    let (container, client) = (ends(false).1, client(false));
    inbound(&mut b, A, &between(client, container, true, 0), 0).unwrap();
    let fragment = |id: u8, more: u8, offset: u8| {
        let mut packet = reply(container, client, true, 0);
        packet[4..8].copy_from_slice(&[0, id, more << 5, offset]);
        packet
    };
    assert_eq!(outbound(&mut b, &fragment(9, 0, 2), 0), Err(DropReason::NoFlow));
    assert_eq!(outbound(&mut b, &fragment(9, 1, 0), 0), Ok(A));
    assert_eq!(outbound(&mut b, &fragment(9, 1, 1), 0), Ok(A));
    assert_eq!(outbound(&mut b, &fragment(9, 0, 2), 0), Ok(A));
    assert_eq!(outbound(&mut b, &fragment(8, 0, 2), 0), Err(DropReason::NoFlow));
}

#[test]
fn a_frame_needs_a_route_and_a_path() {
    let (mut a, _) = pair();
    let (at_a, at_b) = ends(false);
    let packet = plain(&between(at_a, at_b, true, 0));
    let mut emitted = 0;
    assert_eq!(a.outbound(&packet, 0, |_| 0, |_, _| emitted += 1), Err(DropReason::NoPath));
    assert_eq!(a.outbound(&packet, 0, |_| 1200, |_, _| emitted += 1), Ok(Sent { peer: B, datagrams: 1 }));
    a.set_routes(HashMap::new());
    assert_eq!(a.outbound(&packet, 0, |_| 1200, |_, _| emitted += 1), Err(DropReason::NoRoute));
    assert_eq!(emitted, 1);
}

#[test]
fn headers_that_lie_are_refused() {
    let (mut a, mut b) = pair();
    let good = Spec::new(false, false, vec![1; 3000]).frame(1000);
    let mut with = |changes: &[(usize, u8)]| {
        let mut frame = good.clone();
        for (at, value) in changes {
            frame[*at] = *value;
        }
        a.outbound(&frame, 0, |_| 1200, |_, _| {}).map(|sent| sent.datagrams)
    };
    assert_eq!(with(&[]), Ok(3));
    assert_eq!(with(&[(1, 3)]), Err(DropReason::UnknownGso));
    assert_eq!(with(&[(1, 4)]), Err(DropReason::BadVnetHeader));
    assert_eq!(with(&[(1, 5)]), Err(DropReason::BadVnetHeader));
    assert_eq!(with(&[(4, 0), (5, 0)]), Err(DropReason::BadVnetHeader));
    assert_eq!(with(&[(1, 0), (6, 0xff), (7, 0xff)]), Err(DropReason::BadVnetHeader));
    assert_eq!(with(&[(VNET, 0x55)]), Err(DropReason::Malformed));
    assert_eq!(with(&[(VNET + 2, 0xff)]), Err(DropReason::Malformed));
    let packet = between(ends(false).0, ends(false).1, true, 0);
    let trailing = [&packet[..], &[0]].concat();
    assert_eq!(inbound(&mut b, A, &trailing, 0), Err(DropReason::Malformed));
    assert_eq!(b.inbound(A, &[&[0x20], &packet[..]].concat(), 0, |_| {}), Err(DropReason::BadDatagram));
    assert_eq!(b.inbound(A, &[], 0, |_| {}), Err(DropReason::BadDatagram));
}

/// Bytes that are nearly right: a good packet or fragment, cut and with some bytes changed.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (any::<(bool, bool, bool)>(), 0usize..3000, changes, any::<prop::sample::Index>(), 0u8..4).prop_map(
        |((v6, udp, from_client), len, changes, cut, how)| {
            let mut spec = Spec::new(v6, udp, vec![7; len]);
            if from_client {
                spec.source = client(v6);
            }
            let mut bytes = spec.build();
            match how {
                0 => bytes.truncate(cut.index(bytes.len())),
                1 => bytes.splice(ip_len(&bytes)..ip_len(&bytes), [60, 0, 0, 0, 0, 0, 0, 0]).for_each(drop),
                _ => {}
            }
            for (at, value) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len().min(80));
                    bytes[at] = value;
                }
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn no_datagram_makes_it_panic(
        batch in proptest::collection::vec((0u32..3, 0u8..4, nearly(), 0u64..5000), 1..30),
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..10),
    ) {
        let (_, mut b) = pair();
        let mut now_ms = 0;
        let mut given = 0;
        let mut written = 0;
        for (peer, first, bytes, later) in batch {
            now_ms += later;
            let mut datagrams = vec![[&[[0x10, 0x10, 0x11, 0x12][usize::from(first)]], &bytes[..]].concat()];
            datagrams.extend(noise.iter().cloned());
            datagrams.push(datagrams[0].clone());
            given += datagrams.len() as u64;
            let items = datagrams.iter().map(|datagram| (peer, datagram.as_slice()));
            b.inbound_batch(items, now_ms, |frame| {
                written += 1;
                assert!(frame.len() > VNET && frame.len() <= VNET + 65_535);
            });
        }
        b.expire(u64::MAX);
        let counters = b.counters();
        prop_assert_eq!((counters.datagrams_in, counters.frames_out), (given, written));
        prop_assert!(counters.frames_out + counters.coalesced + counters.dropped_total() >= given);
    }

    #[test]
    fn no_frame_makes_it_panic(
        frames in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 10), nearly()), 1..30),
        limit in 0usize..3000,
    ) {
        let (mut a, mut b) = pair();
        for (header, bytes) in frames {
            // Kinds and sizes near the real ones, or nothing but refusals is tested.
            let mut header = header;
            header[0] %= 2;
            header[1] %= 6;
            header[5] %= 8;
            header[6] %= 64;
            header[7] = 0;
            header[9] = 0;
            let mut datagrams = Vec::new();
            let result = a.outbound(&[header, bytes].concat(), 0, |_| limit, |_, datagram| {
                datagrams.push(bytes_of(datagram));
            });
            prop_assert_eq!(result.map_or(0, |sent| sent.datagrams as usize), datagrams.len());
            prop_assert!(datagrams.iter().all(|datagram| datagram.len() <= limit));
            receive(&mut b, A, &datagrams);
        }
        prop_assert_eq!(b.counters().dropped(DropReason::BadFragment), 0);
        prop_assert_eq!(b.counters().dropped(DropReason::BadDatagram), 0);
    }
}

/// A daemon that was restarted knows no flow: a segment in the middle of a connection goes to every peer, and the
/// client's next word settles which.
#[test]
fn after_a_restart_all_peers_are_asked_about_a_connection_in_progress() {
    let (_, mut b) = pair();
    let (container, client) = (ends(false).1, client(false));
    let third: Peer = 77;
    let targets = |forwarder: &mut Forwarder, packet: &[u8]| {
        let mut peers = Vec::new();
        let sent = forwarder.outbound(&plain(packet), 0, |_| 1400, |peer, _| peers.push(peer));
        (sent.is_ok(), peers)
    };
    let segment = reply(container, client, false, ACK);
    assert_eq!(targets(&mut b, &segment), (false, vec![]), "nobody to ask");
    b.set_peers([A, third]);
    assert_eq!(targets(&mut b, &segment), (true, vec![A, third]));
    assert_eq!(
        targets(&mut b, &reply(container, client, false, SYN)),
        (false, vec![]),
        "not of a connection"
    );
    assert_eq!(targets(&mut b, &reply(container, client, true, 0)), (false, vec![]), "UDP has no middle");
    assert_eq!(inbound(&mut b, third, &between(client, container, false, ACK), 0), Ok(1));
    assert_eq!(targets(&mut b, &segment), (true, vec![third]));
    b.set_peers(0..=ASKED_PEERS as Peer);
    let stranger = reply(container, "203.0.113.9".parse().unwrap(), false, ACK);
    assert_eq!(targets(&mut b, &stranger), (false, vec![]), "too many to ask");
}
