//! The endpoint's socket: real addresses go to the kernel, made-up ones to `carry`.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::routes::{Routes, is_made_up};

/// Packets on their way from the endpoint to relays; more are lost, as on a full link.
pub(super) const MAX_OUTGOING: usize = 4096;
/// Packets that came through relays and wait for the endpoint; more are lost.
const MAX_INCOMING: usize = 4096;

/// A packet from the endpoint to a made-up address.
pub(crate) struct Outgoing {
    pub(super) to: SocketAddr,
    pub(super) packet: Bytes,
}

/// What an endpoint's sockets (there is a new one after each move) and its relay connections share.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) routes: Routes,
    outgoing: mpsc::Sender<Outgoing>,
    incoming: Mutex<Incoming>,
    numbers: AtomicU16,
}

#[derive(Debug, Default)]
struct Incoming {
    packets: VecDeque<(SocketAddr, Bytes)>,
    waker: Option<Waker>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RelaySocket {
    udp: Arc<dyn AsyncUdpSocket>,
    /// Whether the endpoint speaks IPv6, in which IPv4 addresses are mapped ones.
    ipv6: bool,
    relayed: Arc<Relayed>,
}

impl Relayed {
    /// With what is to be sent through relays.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<Outgoing>) {
        let (outgoing, packets) = mpsc::channel(MAX_OUTGOING);
        let relayed = Self {
            routes: Routes::default(),
            outgoing,
            incoming: Mutex::default(),
            numbers: AtomicU16::new(0),
        };
        (Arc::new(relayed), packets)
    }

    /// Hands a packet that came through a relay to the endpoint.
    pub(super) fn deliver(&self, from: SocketAddr, packet: Bytes) {
        let mut incoming = self.incoming.lock();
        if incoming.packets.len() >= MAX_INCOMING {
            return;
        }
        incoming.packets.push_back((from, packet));
        let waker = incoming.waker.take();
        drop(incoming);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A number for the two halves of a packet.
    pub(super) fn next_number(&self) -> u16 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn send(&self, transmit: &Transmit<'_>) {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for packet in transmit.contents.chunks(segment) {
            let packet = Bytes::copy_from_slice(packet);
            // A full queue loses packets, as a full link does.
            let _ = self.outgoing.try_send(Outgoing { to: transmit.destination, packet });
        }
    }

    /// How many packets were put into the buffers; registers the waker when there were none.
    fn take(
        &self,
        cx: &Context<'_>,
        ipv6: bool,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> usize {
        let mut incoming = self.incoming.lock();
        let mut taken = 0;
        while let (Some(buf), Some(meta)) = (bufs.get_mut(taken), meta.get_mut(taken))
            && let Some((from, packet)) = incoming.packets.pop_front()
        {
            // Longer than any that the endpoint takes.
            let Some(room) = buf.get_mut(..packet.len()) else { continue };
            room.copy_from_slice(&packet);
            let addr = if ipv6 { mapped(from) } else { from };
            *meta = RecvMeta { addr, len: packet.len(), stride: packet.len(), ecn: None, dst_ip: None };
            taken += 1;
        }
        if taken == 0 {
            incoming.waker = Some(cx.waker().clone());
        }
        taken
    }
}

impl RelaySocket {
    pub(crate) fn new(udp: Arc<dyn AsyncUdpSocket>, relayed: Arc<Relayed>) -> io::Result<Arc<Self>> {
        let ipv6 = udp.local_addr()?.is_ipv6();
        Ok(Arc::new(Self { udp, ipv6, relayed }))
    }
}

impl AsyncUdpSocket for RelaySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.udp.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if is_made_up(transmit.destination) {
            self.relayed.send(transmit);
            return Ok(());
        }
        self.udp.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // First, and still fair: each of these came in over the socket below.
        match self.relayed.take(cx, self.ipv6, bufs, meta) {
            0 => self.udp.poll_recv(cx, bufs, meta),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
