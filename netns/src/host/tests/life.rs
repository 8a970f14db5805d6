//! Setting up, adopting, replacing, taking down; and what must not get in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::lab::*;
use crate::fabric;
use crate::netlink::{Netlink, Route};
use crate::nft::Nftables;
use crate::{HostNetwork, HostNetworkConfig, Namespace, NetworkError, Protocol, Subnet, TunError, sysctl};

/// Everything that a network consists of, for comparing before and after.
fn snapshot(namespace: &Namespace) -> Vec<String> {
    let mut netlink = Netlink::new_in(namespace).unwrap();
    let mut lines: Vec<String> = Vec::new();
    for mut link in netlink.links().unwrap() {
        // The kernel takes note of a carrier some time after it is there.
        link.operational = false;
        lines.push(format!("{link:?}"));
    }
    lines.extend(netlink.addresses().unwrap().iter().map(|address| format!("{address:?}")));
    lines.extend(netlink.routes().unwrap().iter().map(|route| format!("{route:?}")));
    lines.extend(netlink.rules().unwrap().iter().map(|rule| format!("{rule:?}")));
    lines.push(format!("table: {:?}", Nftables::new_in(namespace).unwrap().table_data().unwrap()));
    for name in [
        "ipv4/ip_forward",
        "ipv4/conf/all/rp_filter",
        "ipv4/conf/eth0/forwarding",
        "ipv4/conf/all/route_localnet",
    ] {
        lines.push(format!("{name} {}", sysctl::read(namespace, name).unwrap()));
    }
    lines
}

#[test]
fn tearing_down_leaves_nothing() {
    let fabric = fabric::create().unwrap();
    for forwarding in ["0", "1"] {
        let host = bare_host(&fabric, 1);
        sysctl::write(&host, &[("ipv4/ip_forward", forwarding)]).unwrap();
        // IPv6 finishes choosing its addresses some time after a link is up.
        sysctl::write(&host, &[("ipv6/conf/eth0/disable_ipv6", "1")]).unwrap();
        let before = snapshot(&host);
        let (network, tun) = HostNetwork::set_up_in(host.try_clone().unwrap(), config()).unwrap();
        let container = Namespace::create().unwrap();
        network.attach(&container, &attachment(5, Ipv4Addr::new(10, 255, 1, 5))).unwrap();
        network.publish(&ports(&[])).unwrap();
        assert_ne!(snapshot(&host), before);
        // A second set-up must not remember what the first one changed.
        drop((network, tun));
        let (network, tun) = HostNetwork::set_up_in(host.try_clone().unwrap(), config()).unwrap();
        network.tear_down().unwrap();
        drop(tun);
        assert_eq!(snapshot(&host), before);
        HostNetwork::tear_down_in(&host, &config()).unwrap();
        assert_eq!(snapshot(&host), before);
        fabric::disconnect(&fabric, "h1").unwrap();
    }
}

#[test]
fn a_new_daemon_adopts_what_is_there_and_connections_live_on() {
    let mut lab = Lab::new(2);
    let (far, near) = (lab.container(2, 5), lab.container(1, 5));
    let _servers = [serve(&far), serve(&near)];
    let entry = lab.host(1).address();
    lab.publish(&[&near]);
    let mut to_near = connect(&lab.outsider, (entry, PORT)).unwrap();
    lab.publish(&[&far]);
    let mut to_far = connect(&lab.outsider, (entry, PORT)).unwrap();
    let check = |to_near: &mut TcpStream, to_far: &mut TcpStream| {
        assert_eq!(ask(to_near).unwrap().container, near.address);
        assert_eq!(ask(to_far).unwrap().container, far.address);
    };
    check(&mut to_near, &mut to_far);

    // A second daemon while the first one lives is refused and harms nothing, not even with another configuration.
    let other = HostNetworkConfig { subnets: vec![], ..config() };
    let taken = HostNetwork::set_up_in(lab.host(1).namespace.try_clone().unwrap(), other);
    assert!(matches!(taken, Err(NetworkError::Tun(TunError::Busy(_)))), "{taken:?}");
    check(&mut to_near, &mut to_far);
    assert_eq!(tcp(&lab.outsider, (entry, PORT)).unwrap().container, far.address);

    // Both daemons die. What is local goes on, and so do published ports; then they come back.
    drop(lab.mesh.stop());
    for host in &mut lab.hosts {
        drop(host.network.take());
    }
    assert_eq!(ask(&mut to_near).unwrap().container, near.address);
    let mut tuns = Vec::new();
    for host in &mut lab.hosts {
        let (network, tun) = HostNetwork::set_up_in(host.namespace.try_clone().unwrap(), config()).unwrap();
        host.network = Some(network);
        tuns.push(tun);
    }
    lab.mesh = Mesh::start(tuns);
    assert_eq!(tcp(&lab.outsider, (entry, PORT)).unwrap().container, far.address);
    check(&mut to_near, &mut to_far);
    let found = lab.host(1).network().attachments().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].host_ifname.as_str(), found[0].address), ("skv5", Some(IpAddr::V4(near.address))));
}

#[test]
fn replacing_the_ports_fails_no_connection() {
    let lab = Lab::new(2);
    let containers = [lab.container(1, 5), lab.container(2, 5), lab.container(2, 6)];
    let _servers: Vec<_> = containers.iter().map(serve).collect();
    lab.publish(&[&containers[0]]);
    let entry = lab.host(1).address();
    let (stop, published) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let number = published.fetch_add(1, Ordering::Relaxed);
                let backends: Vec<_> = containers.iter().take(1 + number % 3).collect();
                lab.host(1).network().publish(&ports(&backends)).unwrap();
            }
        });
        let callers: Vec<_> = [&lab.outsider, &lab.host(1).namespace, &lab.host(2).namespace]
            .into_iter()
            .map(|from| {
                scope.spawn(move || -> Result<(), String> {
                    let mut kept =
                        connect(from, (entry, PORT)).map_err(|e| format!("first connection: {e}"))?;
                    let first = ask(&mut kept).map_err(|e| format!("first question: {e}"))?;
                    for round in 0..150 {
                        let say = |what: &str, error: io::Error| format!("round {round}, {what}: {error}");
                        let mut stream = connect(from, (entry, PORT)).map_err(|e| say("connection", e))?;
                        ask(&mut stream).map_err(|e| say("question", e))?;
                        udp(from, (entry, PORT)).map_err(|e| say("datagram", e))?;
                        assert_eq!(ask(&mut kept).map_err(|e| say("kept connection", e))?, first);
                    }
                    Ok(())
                })
            })
            .collect();
        let results: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
    assert!(published.load(Ordering::Relaxed) > 20, "the ports were hardly replaced");
}

#[test]
fn a_udp_client_leaves_a_backend_that_is_forgotten() {
    let lab = Lab::new(1);
    let (old, new) = (lab.container(1, 5), lab.container(1, 6));
    let _servers = [serve(&old), serve(&new)];
    let host = lab.host(1);
    let socket = lab.outsider.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.connect((host.address(), PORT)).unwrap();
    lab.publish(&[&old]);
    assert_eq!(ask_udp(&socket).unwrap().container, old.address);
    lab.publish(&[&new]);
    assert_eq!(ask_udp(&socket).unwrap().container, old.address);
    assert_eq!(host.network().forget_backend(Protocol::Udp, old.address.into(), Some(81)).unwrap(), 0);
    assert_eq!(host.network().forget_backend(Protocol::Tcp, old.address.into(), None).unwrap(), 0);
    assert_eq!(host.network().forget_backend(Protocol::Udp, old.address.into(), Some(80)).unwrap(), 1);
    assert_eq!(ask_udp(&socket).unwrap().container, new.address);
}

/// Sends a datagram from a namespace with a source that may be forged, past the usual ways of the kernel.
fn reaches(from: &Namespace, source: Option<Ipv4Addr>, to: SocketAddr, listener: &UdpSocket) -> bool {
    from.run(|| {
        let socket = match source {
            None => UdpSocket::bind("0.0.0.0:0").unwrap(),
            Some(source) => {
                // The namespace believes that the address is its own.
                let mut netlink = Netlink::new().unwrap();
                let lo = netlink.link_index("lo").unwrap();
                netlink.add_address(lo, source.into(), 32).unwrap();
                UdpSocket::bind((source, 0)).unwrap()
            }
        };
        let _ = socket.send_to(b"x", to);
    })
    .unwrap();
    listener.set_read_timeout(Some(SHORT)).unwrap();
    listener.recv(&mut [0; 8]).is_ok()
}

#[test]
fn what_must_not_get_in_does_not() {
    let lab = Lab::new(1);
    let container = lab.container(1, 5);
    let host = lab.host(1);
    let listen =
        |namespace: &Namespace, at: (Ipv4Addr, u16)| namespace.run(|| UdpSocket::bind(at).unwrap()).unwrap();
    let local = listen(&host.namespace, (Ipv4Addr::LOCALHOST, 5000));
    let inside = listen(&container.namespace, (container.address, 80));
    let open = listen(&host.namespace, (host.address(), 5001));

    // A way to the host's 127/8 for whoever is outside: no local 127/8 of their own, and a route.
    let point_localhost_at = |namespace: &Namespace, gateway: Ipv4Addr| {
        sysctl::write(namespace, &[("ipv4/conf/all/route_localnet", "1")]).unwrap();
        let mut netlink = Netlink::new_in(namespace).unwrap();
        let link = netlink.link_index("eth0").unwrap();
        let lo = netlink.link_index("lo").unwrap();
        netlink.set_link_up(lo, false).unwrap();
        netlink.set_link_up(lo, true).unwrap();
        netlink.delete_address(lo, Ipv4Addr::LOCALHOST.into(), 8).unwrap();
        let route = Route {
            prefix: 8,
            destination: Ipv4Addr::new(127, 0, 0, 0).into(),
            ..Route::default_through(gateway.into(), link)
        };
        netlink.set_route(&route).unwrap();
    };
    point_localhost_at(&lab.outsider, host.address());
    point_localhost_at(&container.namespace, Ipv4Addr::new(169, 254, 1, 1));
    let localhost: SocketAddr = "127.0.0.1:5000".parse().unwrap();
    assert!(!reaches(&lab.outsider, None, localhost, &local), "localhost from outside");
    assert!(!reaches(&container.namespace, None, localhost, &local), "localhost from a container");
    assert!(reaches(&host.namespace, None, localhost, &local), "localhost from the host");

    // Routing into the overlay from outside.
    let mut netlink = Netlink::new_in(&lab.outsider).unwrap();
    let link = netlink.link_index("eth0").unwrap();
    let overlay = Route {
        prefix: 16,
        destination: Ipv4Addr::new(10, 255, 0, 0).into(),
        ..Route::default_through(host.address().into(), link)
    };
    netlink.set_route(&overlay).unwrap();
    let straight = SocketAddr::from((container.address, 80));
    assert!(!reaches(&lab.outsider, None, straight, &inside), "the overlay from outside");
    assert!(reaches(&host.namespace, None, straight, &inside), "the overlay from the host");

    // A container with another's address.
    let to_host = SocketAddr::from((host.address(), 5001));
    assert!(reaches(&container.namespace, None, to_host, &open), "the host from a container");
    for forged in [Ipv4Addr::new(10, 255, 9, 9), Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(8, 8, 8, 8)] {
        assert!(!reaches(&container.namespace, Some(forged), to_host, &open), "{forged} from a container");
    }
}

#[test]
fn other_nodes_can_open_connections_to_containers_only() {
    let mut lab = Lab::new(1);
    let host_address = lab.host(1).address();
    let container = lab.container(1, 5);
    let in_container = container.namespace.run(|| UdpSocket::bind((container.address, 80)).unwrap()).unwrap();
    let on_host = lab.host(1).namespace.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap()).unwrap();
    let outside = lab.outsider.run(|| UdpSocket::bind("10.77.0.100:5000").unwrap()).unwrap();
    let tuns = lab.mesh.stop();
    let client = Ipv4Addr::new(10, 77, 0, 77);
    let arrives = |to: SocketAddr, listener: &UdpSocket| {
        tuns[0].write(&datagram(client, to)).unwrap();
        listener.set_read_timeout(Some(SHORT)).unwrap();
        listener.recv(&mut [0; 8]).is_ok()
    };
    assert!(arrives((container.address, 80).into(), &in_container));
    assert!(!arrives((host_address, 5000).into(), &on_host));
    assert!(!arrives((Ipv4Addr::LOCALHOST, 5000).into(), &on_host));
    assert!(!arrives((Ipv4Addr::new(10, 77, 0, 100), 5000).into(), &outside));
}

/// A frame with one UDP datagram, without checksums where that is allowed.
fn datagram(from: Ipv4Addr, to: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(address) = to.ip() else { panic!("{to}") };
    let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(address.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x30, 0x39]);
    packet.extend(to.port().to_be_bytes());
    packet.extend([0, 9, 0, 0, b'x']);
    [vec![0; crate::tun::HEADER_BYTES], packet].concat()
}

#[test]
fn an_attachment_that_fails_is_undone() {
    let lab = Lab::new(1);
    let network = lab.host(1).network();
    let container = Namespace::create().unwrap();
    let good = attachment(5, Ipv4Addr::new(10, 255, 1, 5));
    network.attach(&container, &good).unwrap();
    // The name is taken on the host, in the container; and a default route is there already (not seen before the end).
    let other = Namespace::create().unwrap();
    assert!(network.attach(&other, &good).is_err());
    let taken_inside = attachment(6, Ipv4Addr::new(10, 255, 1, 6));
    assert!(network.attach(&container, &taken_inside).is_err());
    let mut wrong = attachment(7, Ipv4Addr::new(10, 255, 1, 7));
    wrong.mtu = 20; // too small for IPv4: the address is refused after the pair is there
    assert!(network.attach(&other, &wrong).is_err());
    assert_eq!(network.attachments().unwrap().len(), 1);
    let names: Vec<_> =
        Netlink::new_in(&other).unwrap().links().unwrap().into_iter().map(|l| l.name).collect();
    assert_eq!(names, ["lo"]);

    for (name, address) in [
        ("eth7", "10.255.1.7"),
        ("skv", "10.255.1.7"),
        ("skv4567890123456", "10.255.1.7"),
        ("skv/7", "10.255.1.7"),
        ("skv7", "10.254.1.7"),
        ("skv7", "fd00::7"),
    ] {
        let mut wrong = attachment(7, Ipv4Addr::UNSPECIFIED);
        wrong.host_ifname = name.to_owned();
        wrong.address = address.parse().unwrap();
        assert!(network.attach(&other, &wrong).is_err(), "{name} {address}");
    }
    network.detach("skv5").unwrap();
    network.detach("skv5").unwrap();
    assert!(network.attachments().unwrap().is_empty());
    network.attach(&other, &good).unwrap();
    drop((container, other));
}

#[test]
fn the_subnets_of_an_earlier_configuration_go() {
    let host = Namespace::create().unwrap();
    let mut config = config();
    let (network, tun) = HostNetwork::set_up_in(host.try_clone().unwrap(), config.clone()).unwrap();
    drop((network, tun));
    config.subnets = vec!["10.200.0.0/16".parse::<Subnet>().unwrap(), "10.201.0.0/16".parse().unwrap()];
    let (network, _tun) = HostNetwork::set_up_in(host.try_clone().unwrap(), config).unwrap();
    let routes = Netlink::new_in(&host).unwrap().routes().unwrap();
    let overlay: Vec<_> =
        routes.iter().filter(|r| r.protocol == crate::netlink::ROUTE_PROTOCOL && r.prefix == 16).collect();
    assert_eq!(overlay.len(), 4, "{overlay:?}");
    assert!(!overlay.iter().any(|route| route.destination == IpAddr::V4(Ipv4Addr::new(10, 255, 0, 0))));
    drop(network);
}

#[test]
fn a_listener_of_the_host_is_reached_when_nothing_is_published() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let listener = host.namespace.run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap()).unwrap();
    connect(&lab.outsider, (host.address(), PORT)).unwrap();
    let (_, client) = listener.accept().unwrap();
    assert_eq!(client.ip(), IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100)));
}
