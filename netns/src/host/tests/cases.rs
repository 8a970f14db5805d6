//! Who calls whom through whom, and what the container sees.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::Ordering;

use super::lab::*;
use crate::Namespace;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Calls by TCP and UDP; both must reach `container` and show `client`.
fn expect(from: &Namespace, to: Ipv4Addr, container: &Container, client: Ipv4Addr, case: &str) {
    let wanted = Answer { container: container.address, client };
    for (protocol, answer) in [("tcp", tcp(from, (to, PORT))), ("udp", udp(from, (to, PORT)))] {
        match answer {
            Ok(answer) => assert_eq!(answer, wanted, "{case}, {protocol}"),
            Err(error) => panic!("{case}, {protocol}: {error}"),
        }
    }
}

#[test]
fn every_client_reaches_a_container_through_every_node_and_is_seen() {
    let lab = Lab::new(3);
    let container = lab.container(2, 5);
    let _server = serve(&container);
    lab.publish(&[&container]);
    let outsider = Ipv4Addr::new(10, 77, 0, 100);
    for entry in &lab.hosts {
        let to = entry.address();
        expect(&lab.outsider, to, &container, outsider, &format!("outsider through {}", entry.number));
        for client in &lab.hosts {
            let case = format!("host {} through {}", client.number, entry.number);
            expect(&client.namespace, to, &container, client.address(), &case);
        }
        expect(
            &entry.namespace,
            LOCALHOST,
            &container,
            entry.address(),
            &format!("host {} through its localhost", entry.number),
        );
    }
    assert!(lab.mesh.frames.load(Ordering::Relaxed) > 100, "nothing went through the mesh");
    assert_eq!(*lab.mesh.strays.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_container_can_call_published_ports_too() {
    let lab = Lab::new(3);
    let (server, neighbour, stranger) = (lab.container(2, 5), lab.container(2, 6), lab.container(1, 7));
    let _server = serve(&server);
    lab.publish(&[&server]);
    let [one, two, three] = [1, 2, 3].map(|number| lab.host(number).address());
    expect(&neighbour.namespace, two, &server, neighbour.address, "neighbour through its own node");
    expect(&neighbour.namespace, one, &server, two, "neighbour through another node");
    expect(&stranger.namespace, one, &server, stranger.address, "stranger through its own node");
    expect(&stranger.namespace, two, &server, one, "stranger through the container's node");
    expect(&stranger.namespace, three, &server, one, "stranger through a third node");
    expect(&server.namespace, two, &server, two, "itself through its own node");
    expect(&server.namespace, one, &server, two, "itself through another node");
    // And straight, without any published port.
    for client in [&neighbour, &stranger] {
        let wanted = Answer { container: server.address, client: client.address };
        assert_eq!(tcp(&client.namespace, (server.address, 80)).unwrap(), wanted);
        assert_eq!(udp(&client.namespace, (server.address, 80)).unwrap(), wanted);
    }
}

#[test]
fn connections_are_spread_over_all_backends() {
    let lab = Lab::new(3);
    let containers = [lab.container(1, 5), lab.container(2, 5), lab.container(3, 5), lab.container(3, 6)];
    let _servers: Vec<_> = containers.iter().map(serve).collect();
    lab.publish(&containers.iter().collect::<Vec<_>>());
    for host in &lab.hosts {
        for call in [tcp, udp] {
            let answers: HashSet<_> =
                (0..8).map(|_| call(&lab.outsider, (host.address(), PORT)).unwrap().container).collect();
            assert_eq!(answers.len(), containers.len(), "{answers:?}");
        }
    }
}

#[test]
fn a_port_without_backends_refuses_at_once() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    // Even where a process of the host listens.
    let _listener = host.namespace.run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap()).unwrap();
    lab.publish(&[]);
    for (from, to) in
        [(&lab.outsider, host.address()), (&host.namespace, host.address()), (&host.namespace, LOCALHOST)]
    {
        for call in [tcp, udp] {
            assert_eq!(call(from, (to, PORT)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
    host.network().publish(&[]).unwrap();
    connect(&lab.outsider, (host.address(), PORT)).unwrap();
}

#[test]
fn a_container_that_is_not_there_any_more_is_refused_by_its_node() {
    let lab = Lab::new(2);
    let container = lab.container(2, 5);
    lab.publish(&[&container]);
    lab.host(2).network().detach("skv5").unwrap();
    let error = connect(&lab.outsider, (lab.host(1).address(), PORT)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_container_reaches_the_world_with_its_nodes_address() {
    let lab = Lab::new(1);
    let container = lab.container(1, 5);
    let address = Ipv4Addr::new(10, 77, 0, 100);
    let listener = lab.outsider.run(|| TcpListener::bind((address, 9000)).unwrap()).unwrap();
    let _stream = connect(&container.namespace, (address, 9000)).unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), lab.host(1).address());
}
