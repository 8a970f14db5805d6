//! How long things take. Printed for people (`--nocapture`); the bounds are generous, so that only a change of an order
//! of magnitude fails.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::lab::*;
use crate::{HostNetwork, Namespace, Protocol, PublishedPort};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[test]
fn attaching_and_publishing_are_fast() {
    let host = Namespace::create().unwrap();
    let set_up = Instant::now();
    let (network, _tun) = HostNetwork::set_up_in(host.try_clone().unwrap(), config()).unwrap();
    println!("set_up: {:?}", set_up.elapsed());

    let spaces: Vec<_> = (0..50).map(|_| Namespace::create().unwrap()).collect();
    let attach = (1u8..).zip(&spaces).map(|(number, space)| {
        time(|| network.attach(space, &attachment(number, Ipv4Addr::new(10, 255, 1, number))).unwrap())
    });
    let attach = median(attach.collect());
    let detach =
        median((1..=50).map(|number| time(|| network.detach(&format!("skv{number}")).unwrap())).collect());
    println!("attach: median of 50 {attach:?}; detach: {detach:?}");
    assert!(attach < Duration::from_millis(30), "{attach:?}");

    for (ports, backends) in [(1u16, 3u8), (10, 3), (100, 3), (1000, 3), (1, 200)] {
        let set: Vec<_> = (0..ports)
            .map(|port| PublishedPort {
                protocol: Protocol::Tcp,
                port: 1000 + port,
                backends: (0..backends).map(|b| (IpAddr::V4(Ipv4Addr::new(10, 255, 2, b)), 80)).collect(),
            })
            .collect();
        let publish = median((0..9).map(|_| time(|| network.publish(&set).unwrap())).collect());
        println!("publish {ports} ports of {backends} backends: median of 9 {publish:?}");
        assert!(publish < Duration::from_secs(1), "{publish:?}");
    }
    // As much as is allowed goes through.
    let backends: Vec<_> =
        (0..256u32).map(|b| (IpAddr::V4(Ipv4Addr::from_bits(0x0aff_0000 + b)), 80)).collect();
    let most: Vec<_> = (1..=32)
        .map(|port| PublishedPort { protocol: Protocol::Udp, port, backends: backends.clone() })
        .collect();
    println!("publish 32 ports of 256 backends: {:?}", time(|| network.publish(&most).unwrap()));
    network.tear_down().unwrap();
}
