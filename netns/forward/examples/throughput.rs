//! How fast one core splits and joins: `cargo run --release -p skep-forward --example throughput`.
#![allow(missing_docs)]

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use skep_forward::vnet::{GSO_NONE, GSO_TCPV4, NEEDS_CSUM, VnetHeader};
use skep_forward::{Config, Forwarder, Subnet, VnetLayout};

const RUN_FOR: Duration = Duration::from_secs(1);
/// What quinn leaves of a 1,500 byte Ethernet frame, about.
const MAX_DATAGRAM: usize = 1414;
const PEER: u32 = 1;

fn main() {
    let a = IpAddr::from([10, 255, 0, 10]);
    let b = IpAddr::from([10, 255, 0, 11]);
    let client = IpAddr::from([192, 0, 2, 9]);
    let large = frame(a, b, 62_000, 1_374);
    let small = frame(a, b, 1_374, 0);
    let wide = frame(a, b, 1_460, 0);
    let from_client = frame(client, b, 62_000, 1_374);

    println!("{:<44} {:>12} {:>14} {:>12}", "one core", "Gbit/s", "datagrams/s", "ns/datagram");
    for (name, frame) in [
        ("split: 62 KB TCP frames", &large),
        ("outbound: single TCP packets that fit", &small),
        ("outbound: single TCP packets, split in two", &wide),
    ] {
        let mut forwarder = node([a], [b]);
        let mut out = Vec::with_capacity(70_000);
        measure(name, || {
            out.clear();
            let sent =
                forwarder.outbound(frame, 0, |_| MAX_DATAGRAM, |_, datagram| datagram.append_to(&mut out));
            (sent.map_or(0, |sent| sent.datagrams), black_box(&out).len())
        });
    }
    for (name, frame) in [
        ("join: container to container", &large),
        ("join: client to container", &from_client),
        ("inbound: single TCP packets", &small),
    ] {
        let mut sender = node([a], [b]);
        let mut datagrams = Vec::new();
        let _ = sender.outbound(
            frame,
            0,
            |_| MAX_DATAGRAM,
            |_, datagram| {
                let mut bytes = Vec::new();
                datagram.append_to(&mut bytes);
                datagrams.push(bytes);
            },
        );
        let mut receiver = node([b], [a]);
        measure(name, || {
            let mut written = 0;
            let items = datagrams.iter().map(|datagram| (PEER, datagram.as_slice()));
            receiver.inbound_batch(items, 0, |frame| written += black_box(frame).len());
            (datagrams.len() as u32, written)
        });
    }
}

fn node<const N: usize, const M: usize>(here: [IpAddr; N], there: [IpAddr; M]) -> Forwarder {
    let overlay = vec![Subnet { address: IpAddr::from([10, 255, 0, 0]), prefix: 16 }];
    let mut forwarder = Forwarder::new(Config { overlay, ..Config::default() });
    forwarder.set_local(HashSet::from(here));
    forwarder.set_routes(HashMap::from(there.map(|address| (address, PEER))));
    forwarder
}

/// A TCP frame as a kernel gives it. The checksum's value does not matter to the speed of the split.
fn frame(source: IpAddr, destination: IpAddr, payload: usize, gso_size: u16) -> Vec<u8> {
    let layout = VnetLayout::Ten;
    let mut frame = vec![0; layout.len() + 40 + payload];
    let gso_type = if gso_size == 0 { GSO_NONE } else { GSO_TCPV4 };
    VnetHeader { flags: NEEDS_CSUM, gso_type, hdr_len: 40, gso_size, csum_start: 20, csum_offset: 16 }
        .write(layout, &mut frame);
    let packet = &mut frame[layout.len()..];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[64, 6]);
    for (at, address) in [(12, source), (16, destination)] {
        if let IpAddr::V4(address) = address {
            packet[at..at + 4].copy_from_slice(&address.octets());
        }
    }
    packet[20..24].copy_from_slice(&[0x10, 0, 0, 80]);
    packet[32..34].copy_from_slice(&[0x50, 0x10]);
    frame
}

fn measure(name: &str, mut round: impl FnMut() -> (u32, usize)) {
    let start = Instant::now();
    let (mut datagrams, mut bytes) = (0u64, 0u64);
    while start.elapsed() < RUN_FOR {
        for _ in 0..64 {
            let (more, len) = round();
            datagrams += u64::from(more);
            bytes += len as u64;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{name:<44} {:>12.1} {:>14.0} {:>12.0}",
        bytes as f64 * 8.0 / seconds / 1e9,
        datagrams as f64 / seconds,
        seconds * 1e9 / datagrams.max(1) as f64
    );
}
