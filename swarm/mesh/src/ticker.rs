//! The mesh's clock: heartbeats out, silence noticed, drained connections closed. One task for all connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::class::Class;
use crate::inner::Inner;
use crate::link::{CloseCode, Link};
use crate::liveness::{CONTROL_SILENCE, HEARTBEAT, OTHER_SILENCE};
use crate::peer::Peer;
use crate::wire::Heartbeat;

/// Bulk connections beat once in so many ticks: nothing waits for them to fail.
const BULK_TICKS: u64 = 5;
/// How long datagrams on their way may take to arrive on a data connection that another has replaced.
const DATA_DRAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(inner: Arc<Inner>) {
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0u64.. {
        interval.tick().await;
        let now = Instant::now();
        for peer in inner.peers() {
            attend(&peer, now, tick);
        }
        inner.reap();
    }
}

fn attend(peer: &Peer, now: Instant, tick: u64) {
    let mut control_died = false;
    // It may have moved since it called; QUIC follows.
    if let Some(link) = peer.slot(Class::Control).current().filter(|link| !link.dialled && link.via.is_none())
    {
        peer.learn(link.remote());
    }
    for class in Class::ALL {
        let links = peer.slot(class).links.lock().clone();
        for link in links {
            let stats = link.connection.stats();
            let mut liveness = link.liveness.lock();
            if liveness.tick(now, stats.udp_rx.datagrams) {
                peer.heard(now);
            }
            // Once control is gone, the others have no more patience than it had.
            let bound = if class == Class::Control || control_died { CONTROL_SILENCE } else { OTHER_SILENCE };
            if liveness.is_dead(now, bound, stats.path.rtt) {
                drop(liveness);
                tracing::debug!(node_id = peer.node_id, ?class, "silent");
                control_died |= class == Class::Control;
                link.close(CloseCode::Silent);
                continue;
            }
            drop(liveness);
            let draining_since = *link.draining_since.lock();
            if let Some(since) = draining_since
                && is_drained(&link, since, now)
            {
                link.close(CloseCode::Superseded);
                continue;
            }
            if class == Class::Control || (class == Class::Bulk && tick.is_multiple_of(BULK_TICKS)) {
                let heartbeat = Heartbeat { draining: draining_since.is_some(), idle: link.streams() == 0 };
                // Fails on a connection that has just broken; its own task sees to that.
                let _ = link.connection.send_datagram(heartbeat.encode());
            }
        }
    }
}

fn is_drained(link: &Link, since: Instant, now: Instant) -> bool {
    if link.class.has_streams() {
        link.peer_is_done() && link.retire()
    } else {
        now.duration_since(since) > DATA_DRAIN
    }
}
