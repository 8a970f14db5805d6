//! One authenticated connection to a peer.
//!
//! ```text
//! current ---- a better connection came up ----> draining ---- both sides idle ----> closed
//!    |                                              |
//!    +---- silence, reset, closed by the peer ------+----------------------------> closed (streams in it are lost)
//! ```
//! While it drains, streams that are open go on, new ones use the better connection, and heartbeats tell the peer so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use quinn::VarInt;

use crate::class::Class;
use crate::identity::PeerIdentity;
use crate::liveness::Liveness;
use crate::socket::canonical;
use crate::wire::{Heartbeat, Hello};

/// Why a connection is closed, for the peer's log and its dialler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    Shutdown,
    Refused,
    Removed,
    Superseded,
    Silent,
    Restarted,
    Protocol,
    TooMany,
    Duplicate,
    OtherEpoch,
    Moved,
}

impl CloseCode {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "the node shuts down",
            Self::Refused => "not authorised",
            Self::Removed => "the node was removed from the swarm",
            Self::Superseded => "a better connection is up",
            Self::Silent => "nothing heard for too long",
            Self::Restarted => "the node has restarted",
            Self::Protocol => "protocol violation",
            Self::TooMany => "too many connections",
            Self::Duplicate => "another running process has this node's identity",
            Self::OtherEpoch => "the swarm was recovered, and one of the two did not know it",
            Self::Moved => "the node has another address now",
        }
    }

    fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Shutdown => 0,
            Self::Refused => 1,
            Self::Removed => 2,
            Self::Superseded => 3,
            Self::Silent => 4,
            Self::Restarted => 5,
            Self::Protocol => 6,
            Self::TooMany => 7,
            Self::Duplicate => 8,
            Self::OtherEpoch => 9,
            Self::Moved => 10,
        })
    }

    /// Whether the other side closed a connection for this reason.
    pub(crate) fn was(self, error: &quinn::ConnectionError) -> bool {
        matches!(error, quinn::ConnectionError::ApplicationClosed(closed) if closed.error_code == self.code())
    }

    pub(crate) fn close(self, connection: &quinn::Connection) {
        connection.close(self.code(), self.reason().as_bytes());
    }
}

/// Set in `Link::streams` once no stream may begin any more.
const RETIRED: usize = 1 << (usize::BITS - 1);
const SAID_DRAINING: u8 = 1;
const SAID_IDLE: u8 = 2;

pub(crate) struct Link {
    pub(crate) connection: quinn::Connection,
    pub(crate) peer: Arc<PeerIdentity>,
    pub(crate) class: Class,
    /// Whether this side dialled.
    pub(crate) dialled: bool,
    /// The manager between the two ends, where there is no direct path.
    pub(crate) via: Option<String>,
    /// The peer's process, see `wire::Hello`.
    pub(crate) incarnation: u64,
    /// How often the peer had moved when this came up, see `wire::Hello`.
    pub(crate) moves: u32,
    /// Whether the other end cannot follow us to our new address: not used any more, and dead soon.
    pub(crate) stranded: AtomicBool,
    /// Counts up with each connection of this endpoint.
    pub(crate) sequence: u64,
    /// The same of the endpoint that dialled: both ends know it.
    pub(crate) order: u64,
    pub(crate) liveness: Mutex<Liveness>,
    /// When another connection became better than this one.
    pub(crate) draining_since: Mutex<Option<Instant>>,
    streams: AtomicUsize,
    said: AtomicU8,
}

/// A stream in progress: its connection is not retired while this lives.
pub(crate) struct Use(Arc<Link>);

impl Link {
    pub(crate) fn new(
        connection: quinn::Connection,
        peer: Arc<PeerIdentity>,
        hello: &Hello,
        dialled: bool,
        via: Option<String>,
        sequence: u64,
        now: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            peer,
            class: hello.class,
            dialled,
            via,
            incarnation: hello.incarnation,
            moves: hello.moves,
            stranded: AtomicBool::new(false),
            sequence,
            order: if dialled { sequence } else { hello.sequence },
            liveness: Mutex::new(Liveness::new(now)),
            draining_since: Mutex::new(None),
            streams: AtomicUsize::new(0),
            said: AtomicU8::new(0),
        })
    }

    /// Marks a stream as in progress; nothing if the connection is being retired.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Use> {
        let before = self.streams.fetch_add(1, Ordering::AcqRel);
        let held = Use(self.clone());
        (before & RETIRED == 0).then_some(held)
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire) & !RETIRED
    }

    /// Forbids further streams if none is open.
    pub(crate) fn retire(&self) -> bool {
        self.streams.compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Where the other end is now; it may move.
    pub(crate) fn remote(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// Whether new streams and datagrams may go over it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.is_closed() && !self.stranded.load(Ordering::Acquire)
    }

    pub(crate) fn peer_said(&self, heartbeat: Heartbeat) {
        let draining = if heartbeat.draining { SAID_DRAINING } else { 0 };
        let idle = if heartbeat.idle { SAID_IDLE } else { 0 };
        self.said.store(draining | idle, Ordering::Release);
    }

    /// Whether the peer's last heartbeat said that it neither opens streams here nor has any open.
    pub(crate) fn peer_is_done(&self) -> bool {
        self.said.load(Ordering::Acquire) == SAID_DRAINING | SAID_IDLE
    }

    pub(crate) fn close(&self, why: CloseCode) {
        why.close(&self.connection);
    }
}

impl Clone for Use {
    fn clone(&self) -> Self {
        self.0.streams.fetch_add(1, Ordering::AcqRel);
        Self(self.0.clone())
    }
}

impl Use {
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}
