//! When this host's address or port has changed.
//!
//! QUIC lets the side that dialled move: its packets come from somewhere else, and the other side follows. The side that
//! was called cannot move (relayed connections apart, which do not notice), so what peers dialled is *stranded*: not used any more, dialled anew from here, and closed
//! by the peer as soon as it sees a hello that counts one move more (or else by both for silence).
//!
//! ```text
//!                   rebound, and the peer dialled it
//! usable link ------------------------------------------> stranded ----> the peer has a new one, or silence: closed
//!    |  checked, and nothing was heard of it              ^
//!    +----------------------------------------------------+
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::class::Class;
use crate::dial;
use crate::inner::Inner;
use crate::link::Link;
use crate::liveness::HEARTBEAT;
use crate::peer::Peer;
use crate::wire::Heartbeat;

/// A control connection brings a heartbeat within this time, two lost ones allowed for.
const CONTROL_CHECK: Duration = HEARTBEAT.saturating_mul(3).saturating_add(Duration::from_millis(100));
/// The others have a keep-alive each second.
pub(crate) const OTHER_CHECK: Duration = Duration::from_millis(1600);
/// A check that takes so much longer than planned is none; what does not work is then found by its silence (`ticker`).
const STOOD_STILL: Duration = Duration::from_millis(200);
/// Round trips that an answer may take beside that.
const ROUND_TRIPS: u32 = 2;

/// One connection under suspicion.
struct Suspect {
    peer: Arc<Peer>,
    link: Arc<Link>,
    packets: u64,
}

/// The socket is another one than that at `former` now.
pub(crate) fn rebound(inner: &Arc<Inner>, former: SocketAddr) {
    inner.moves.fetch_add(1, Ordering::AcqRel);
    // QUIC's paths do not go over from one family to the other.
    let now = inner.endpoint.local_addr();
    let other_family = now.is_ok_and(|now| now.is_ipv4() != former.is_ipv4());
    for peer in inner.peers() {
        for class in Class::ALL {
            if peer
                .strand(class, Instant::now(), |link| link.via.is_none() && (other_family || !link.dialled))
            {
                redial(inner, &peer, class);
            }
        }
    }
    check(inner);
}

/// Finds out which connections still work, and replaces the others.
pub(crate) fn check(inner: &Arc<Inner>) {
    let suspects = suspects(inner);
    // Their silence says nothing of them when it was us who stood still: the next check will tell.
    let slept_well = |started: Instant, planned: Duration| started.elapsed() < planned + STOOD_STILL;
    for suspect in suspects.iter().filter(|suspect| suspect.link.class.has_streams()) {
        let heartbeat = Heartbeat { draining: false, idle: false };
        // Tells the other end where we are. Fails on a connection that has just broken.
        let _ = suspect.link.connection.send_datagram(heartbeat.encode());
    }
    let task_inner = inner.clone();
    inner.spawn(async move {
        let started = Instant::now();
        let (control, others): (Vec<_>, Vec<_>) =
            suspects.into_iter().partition(|suspect| suspect.link.class == Class::Control);
        let (quick, slow): (Vec<_>, Vec<_>) =
            control.into_iter().partition(|suspect| suspect.link.connection.rtt() * ROUND_TRIPS < HEARTBEAT);
        tokio::time::sleep(CONTROL_CHECK).await;
        if !slept_well(started, CONTROL_CHECK) {
            return;
        }
        replace_silent(&task_inner, &quick);
        tokio::time::sleep(OTHER_CHECK.saturating_sub(started.elapsed())).await;
        if slept_well(started, OTHER_CHECK) {
            replace_silent(&task_inner, &slow);
            replace_silent(&task_inner, &others);
        }
    });
}

fn suspects(inner: &Inner) -> Vec<Suspect> {
    let mut all = Vec::new();
    for peer in inner.peers() {
        for slot in &peer.slots {
            let links = slot.links.lock().clone();
            all.extend(links.into_iter().filter(|link| link.is_usable() && link.via.is_none()).map(|link| {
                Suspect { peer: peer.clone(), packets: link.connection.stats().udp_rx.datagrams, link }
            }));
        }
    }
    all
}

fn replace_silent(inner: &Arc<Inner>, suspects: &[Suspect]) {
    let silent = |suspect: &&Suspect| {
        suspect.link.is_usable() && suspect.link.connection.stats().udp_rx.datagrams == suspect.packets
    };
    let silent: Vec<&Suspect> = suspects.iter().filter(silent).collect();
    if silent.is_empty() {
        return;
    }
    inner.moves.fetch_add(1, Ordering::AcqRel);
    for Suspect { peer, link, .. } in silent {
        if peer.strand(link.class, Instant::now(), |other| other.sequence == link.sequence) {
            redial(inner, peer, link.class);
        }
    }
}

fn redial(inner: &Arc<Inner>, peer: &Arc<Peer>, class: Class) {
    peer.slot(class).note_demand(inner.epoch, Instant::now());
    dial::ensure(inner, peer, class);
}
