//! Carries frames: our own packets to a relay, other nodes' packets through us, and what relays bring us.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::frame::{Direction, Frame, Part};
use super::halves::Halves;
use super::routes::{Route, is_made_up};
use super::socket::Outgoing;
use crate::class::Class;
use crate::dial;
use crate::inner::Inner;
use crate::link::Link;
use crate::peer::Peer;

/// Datagrams of this length fit before a connection is measured: QUIC's smallest path less what QUIC itself needs.
const UNMEASURED: usize = 1100;
/// For how long it counts that two nodes may talk through us.
const VERDICT: Duration = Duration::from_secs(1);
/// Verdicts that are remembered of one connection.
const MAX_VERDICTS: usize = 1024;

/// Sends what the endpoint has for made-up addresses, until the mesh closes.
pub(crate) async fn run(inner: Arc<Inner>, mut packets: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { to, packet }) = packets.recv().await {
        let Some((Route { peer, via }, class)) = inner.relayed.routes.route(to) else { continue };
        let Some(relay) = inner.peer(&via) else { continue };
        let direction = Direction::ToRelay;
        send(&inner, &relay, Frame { direction, class, node_id: peer, part: Part::Whole, packet });
    }
}

/// What is remembered of one relay connection while it is served.
#[derive(Default)]
pub(crate) struct Served {
    verdicts: HashMap<String, (bool, Instant)>,
    halves: Halves,
}

impl Served {
    /// Takes one datagram. What is not in order is dropped: a path may lose packets.
    pub(crate) fn take(&mut self, inner: &Arc<Inner>, link: &Link, datagram: &Bytes) {
        let Some(frame) = Frame::decode(datagram) else { return };
        if frame.node_id == inner.node_id {
            return;
        }
        match frame.direction {
            Direction::ToRelay => self.pass_on(inner, link, frame),
            Direction::FromRelay => self.deliver(inner, link, frame),
        }
    }

    fn pass_on(&mut self, inner: &Arc<Inner>, link: &Link, frame: Frame) {
        let Some(target) = inner.peer(&frame.node_id) else { return };
        if !self.may_pass(inner, link, &frame.node_id) {
            return;
        }
        // Only to where we are connected ourselves: never through a second relay, and no dialling on others' behalf.
        if target.slot(Class::Control).current().is_some_and(|control| control.via.is_none()) {
            let node_id = link.peer.node_id.clone();
            send(inner, &target, Frame { direction: Direction::FromRelay, node_id, ..frame });
        }
    }

    fn may_pass(&mut self, inner: &Inner, link: &Link, target: &str) -> bool {
        let now = Instant::now();
        match self.verdicts.get(target) {
            Some((verdict, at)) if now.duration_since(*at) < VERDICT => *verdict,
            _ => {
                let verdict = inner.handler.may_relay(&link.peer, target);
                if self.verdicts.len() >= MAX_VERDICTS {
                    self.verdicts.clear();
                }
                self.verdicts.insert(target.to_owned(), (verdict, now));
                verdict
            }
        }
    }

    fn deliver(&mut self, inner: &Inner, link: &Link, frame: Frame) {
        // Who it really is its certificate must show; this only keeps the table of addresses to nodes that there are.
        let is_relay = inner.peer(&link.peer.node_id).is_some_and(|relay| relay.keep());
        if !is_relay || inner.peer(&frame.node_id).is_none() {
            return;
        }
        let route = Route { peer: frame.node_id, via: link.peer.node_id.clone() };
        let Some(from) = inner.relayed.routes.address(&route, frame.class) else { return };
        if let Some(packet) = self.halves.join(from, frame.part, frame.packet) {
            inner.relayed.deliver(from, packet);
        }
    }
}

/// Sends a frame on the relay connection to a peer, never waiting; while there is none, a few frames are held.
fn send(inner: &Arc<Inner>, to: &Arc<Peer>, frame: Frame) {
    let slot = to.slot(Class::Relay);
    slot.note_demand(inner.epoch, Instant::now());
    dial::ensure(inner, to, Class::Relay);
    let link = slot.current();
    // A peer may move its end wherever it likes.
    if link.as_ref().is_some_and(|link| is_made_up(link.remote())) {
        return;
    }
    let limit = link.as_ref().and_then(|link| link.connection.max_datagram_size()).unwrap_or(UNMEASURED);
    for datagram in frame.fitted(limit, inner.relayed.next_number()) {
        match &link {
            // Lost if the connection has just broken or become narrower.
            Some(link) => drop(link.connection.send_datagram(datagram)),
            // A full queue loses packets.
            None => drop(slot.queue(datagram)),
        }
    }
    if link.is_none() {
        // It may have come up since we looked.
        slot.flush();
    }
}
