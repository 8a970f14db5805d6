//! The laboratory: hosts with a network each, a mesh that carries frames between their TUN devices, echo servers.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::fabric::{self, Leg};
use crate::tun::{FRAME_BYTES_MAX, HEADER_BYTES};
use crate::{Attachment, HostNetwork, HostNetworkConfig, Namespace, Protocol, PublishedPort, Tun};

pub(super) const PATIENCE: Duration = Duration::from_secs(5);
pub(super) const SHORT: Duration = Duration::from_millis(300);
pub(super) const PORT: u16 = 8080;
/// More than one segment of the largest size.
const LARGE: usize = 300_000;

pub(super) fn config() -> HostNetworkConfig {
    HostNetworkConfig { subnets: vec!["10.255.0.0/16".parse().unwrap()], ..HostNetworkConfig::default() }
}

/// A host of the fabric. Its address is 10.77.0.NUMBER, its containers' are 10.255.NUMBER.x.
pub(super) struct Host {
    pub(super) number: u8,
    pub(super) namespace: Namespace,
    pub(super) network: Option<HostNetwork>,
}

impl Host {
    pub(super) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    pub(super) fn network(&self) -> &HostNetwork {
        self.network.as_ref().unwrap()
    }
}

pub(super) struct Container {
    pub(super) namespace: Namespace,
    pub(super) address: Ipv4Addr,
}

pub(super) struct Lab {
    pub(super) hosts: Vec<Host>,
    pub(super) outsider: Namespace,
    pub(super) mesh: Mesh,
    _fabric: Namespace,
}

pub(super) fn bare_host(fabric: &Namespace, number: u8) -> Namespace {
    let namespace = Namespace::create().unwrap();
    let address = IpAddr::V4(Ipv4Addr::new(10, 77, 0, number));
    let port = format!("h{number}");
    fabric::connect(fabric, &namespace, &Leg { port: &port, ifname: "eth0", address, prefix: 24 }).unwrap();
    // A test must not depend on this machine's settings: the strictest ones.
    crate::sysctl::write(
        &namespace,
        &[("ipv4/conf/all/rp_filter", "1"), ("ipv4/conf/default/rp_filter", "1")],
    )
    .unwrap();
    namespace
}

impl Lab {
    /// `count` hosts and an outsider at 10.77.0.100.
    pub(super) fn new(count: u8) -> Self {
        let fabric = fabric::create().unwrap();
        let (mut hosts, mut tuns) = (Vec::new(), Vec::new());
        for number in 1..=count {
            let namespace = bare_host(&fabric, number);
            let (network, tun) = HostNetwork::set_up_in(namespace.try_clone().unwrap(), config()).unwrap();
            tuns.push(tun);
            hosts.push(Host { number, namespace, network: Some(network) });
        }
        let outsider = bare_host(&fabric, 100);
        Self { hosts, outsider, mesh: Mesh::start(tuns), _fabric: fabric }
    }

    pub(super) fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number) - 1]
    }

    /// A container on a host.
    pub(super) fn container(&self, host: u8, number: u8) -> Container {
        let namespace = Namespace::create().unwrap();
        let address = Ipv4Addr::new(10, 255, host, number);
        self.host(host).network().attach(&namespace, &attachment(number, address)).unwrap();
        Container { namespace, address }
    }

    /// Publishes [`PORT`] on all hosts, TCP and UDP, for these containers' port 80.
    pub(super) fn publish(&self, backends: &[&Container]) {
        let ports = ports(backends);
        for host in &self.hosts {
            host.network().publish(&ports).unwrap();
        }
    }
}

pub(super) fn attachment(number: u8, address: Ipv4Addr) -> Attachment {
    Attachment {
        host_ifname: format!("skv{number}"),
        address: address.into(),
        mtu: 1400,
        container_ifname: "eth0".to_owned(),
    }
}

pub(super) fn ports(backends: &[&Container]) -> Vec<PublishedPort> {
    let backends: Vec<_> = backends.iter().map(|c| (IpAddr::V4(c.address), 80)).collect();
    [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| PublishedPort { protocol, port: PORT, backends: backends.clone() })
        .into()
}

/// What the daemons do, in one thread: frames go to the host whose number is in the destination, and what answers a
/// flow goes back to the host it came from.
pub(super) struct Mesh {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Tun>>>,
    /// How many frames were carried.
    pub(super) frames: Arc<AtomicU64>,
    /// What nobody wanted.
    pub(super) strays: Arc<Mutex<Vec<String>>>,
}

type Flow = (usize, u8, SocketAddr, SocketAddr);

impl Mesh {
    pub(super) fn start(tuns: Vec<Tun>) -> Self {
        let (stop, frames, strays) = (Arc::default(), Arc::default(), Arc::default());
        let mut carrier =
            Carrier { tuns, flows: HashMap::new(), frames: Arc::clone(&frames), strays: Arc::clone(&strays) };
        let stopped: Arc<AtomicBool> = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                carrier.round();
            }
            carrier.tuns
        });
        Self { stop, thread: Some(thread), frames, strays }
    }

    /// Stops carrying and hands the devices back.
    pub(super) fn stop(&mut self) -> Vec<Tun> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Carrier {
    tuns: Vec<Tun>,
    flows: HashMap<Flow, usize>,
    frames: Arc<AtomicU64>,
    strays: Arc<Mutex<Vec<String>>>,
}

impl Carrier {
    fn round(&mut self) {
        let mut fds: Vec<PollFd<'_>> =
            self.tuns.iter().map(|tun| PollFd::new(tun.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::from(20u8)).unwrap();
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        for from in 0..self.tuns.len() {
            while let Ok(length) = self.tuns[from].read(&mut buffer) {
                self.carry(from, &buffer[..length]);
            }
        }
    }

    fn carry(&mut self, from: usize, frame: &[u8]) {
        let packet = &frame[HEADER_BYTES..];
        if packet[0] >> 4 != 4 {
            return;
        }
        self.frames.fetch_add(1, Ordering::Relaxed);
        let ip = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let port = |at: usize| match packet[9] {
            6 | 17 => u16::from_be_bytes([packet[20 + at], packet[21 + at]]),
            _ => 0,
        };
        let (source, destination) =
            (SocketAddr::new(ip(12).into(), port(0)), SocketAddr::new(ip(16).into(), port(2)));
        let (protocol, overlay) = (packet[9], ip(16).octets()[..2] == [10, 255]);
        let back = self.flows.get(&(from, protocol, source, destination)).copied();
        let to = back.or_else(|| overlay.then(|| usize::from(ip(16).octets()[2]) - 1));
        let Some(to) = to.filter(|to| *to < self.tuns.len()) else {
            self.strays
                .lock()
                .unwrap()
                .push(format!("{from}: {source} -> {destination} protocol {protocol}"));
            return;
        };
        if overlay && back.is_none() {
            self.flows.insert((to, protocol, destination, source), from);
        }
        // Flow tables are per target: a packet written where it came from would loop.
        match self.tuns[to].write(frame) {
            Ok(_) => {}
            Err(error) => self.strays.lock().unwrap().push(format!("write to {to}: {error}")),
        }
    }
}

/// Serves TCP and UDP on port 80 of a container: says its own address and the client's.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    address: Ipv4Addr,
    namespace: Namespace,
}

pub(super) fn serve(container: &Container) -> Server {
    let address = container.address;
    let (listener, socket) = container
        .namespace
        .run(|| (TcpListener::bind((address, 80)).unwrap(), UdpSocket::bind((address, 80)).unwrap()))
        .unwrap();
    let stop: Arc<AtomicBool> = Arc::default();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (tcp_stop, udp_stop) = (Arc::clone(&stop), Arc::clone(&stop));
    let tcp = thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if tcp_stop.load(Ordering::Relaxed) {
                return;
            }
            thread::spawn(move || answer(stream, address));
        }
    });
    let udp = thread::spawn(move || {
        let mut buffer = [0; 64];
        while !udp_stop.load(Ordering::Relaxed) {
            if let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{address} {}", client.ip()).as_bytes(), client);
            }
        }
    });
    Server { stop, threads: vec![tcp, udp], address, namespace: container.namespace.try_clone().unwrap() }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the one that accepts.
        let _ = self.namespace.run(|| TcpStream::connect((self.address, 80)));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// For each byte received: one line with both addresses, so that a connection can be used again and again.
fn answer(mut stream: TcpStream, address: Ipv4Addr) {
    let Ok(client) = stream.peer_addr() else { return };
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        let mut line = format!("{address} {}", client.ip());
        if byte[0] == b'U' && stream.read_exact(&mut vec![0; LARGE]).is_err() {
            return;
        }
        if byte[0] == b'L' {
            line.push_str(&" ".repeat(LARGE));
        }
        line.push('\n');
        if stream.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

/// Which container answered, and whom it saw.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) struct Answer {
    pub(super) container: Ipv4Addr,
    pub(super) client: Ipv4Addr,
}

fn parse(text: &str) -> io::Result<Answer> {
    let wrong = || io::Error::other(format!("answer {text:?}"));
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(container)), Some(Ok(client))) => Ok(Answer { container, client }),
        _ => Err(wrong()),
    }
}

pub(super) fn connect(from: &Namespace, to: (Ipv4Addr, u16)) -> io::Result<TcpStream> {
    connect_within(from, to, PATIENCE)
}

pub(super) fn connect_within(from: &Namespace, to: (Ipv4Addr, u16), wait: Duration) -> io::Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&SocketAddr::from(to), wait)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub(super) fn ask(stream: &mut TcpStream) -> io::Result<Answer> {
    ask_for(stream, b'x')
}

pub(super) fn ask_for(stream: &mut TcpStream, byte: u8) -> io::Result<Answer> {
    stream.write_all(&[byte])?;
    if byte == b'U' {
        stream.write_all(&vec![0; LARGE])?;
    }
    let (mut line, mut chunk) = (Vec::new(), [0; 65536]);
    while line.last() != Some(&b'\n') {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => line.extend(&chunk[..length]),
        }
    }
    parse(&String::from_utf8_lossy(&line))
}

/// One TCP call: something small, a large answer, a large question.
pub(super) fn tcp(from: &Namespace, to: (Ipv4Addr, u16)) -> io::Result<Answer> {
    let mut stream = connect(from, to)?;
    let answer = ask(&mut stream)?;
    assert_eq!(ask_for(&mut stream, b'L')?, answer);
    assert_eq!(ask_for(&mut stream, b'U')?, answer);
    Ok(answer)
}

pub(super) fn udp(from: &Namespace, to: (Ipv4Addr, u16)) -> io::Result<Answer> {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap()?;
    socket.connect(to).or_else(|_| from.run(|| socket.connect(to)).unwrap())?;
    ask_udp(&socket)
}

pub(super) fn ask_udp(socket: &UdpSocket) -> io::Result<Answer> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"x")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    parse(&String::from_utf8_lossy(&buffer[..length]))
}
