//! Connections between nodes that have no direct path: through a manager that both are connected to.
//!
//! What is relayed are whole QUIC packets, so the two ends keep their own handshake, certificates, classes and
//! congestion control, and the manager between sees only ciphertext. To the endpoint a relayed peer is an address like
//! any other: a made-up one in 0.0.0.0/8, which stands for (peer, relay, class) on this host alone ([`Routes`]).
//!
//! ```text
//!  endpoint ── packet to a made-up address ──> RelaySocket ──> carry ──> frame on our Relay connection to the manager
//!                                                                             │ may the two talk through me?
//!                                                                             v
//!  endpoint <── packet from a made-up address <── RelaySocket <── carry <── frame on its Relay connection to the peer
//! ```
//!
//! A relayed connection is the last resort and never stays one by itself: diallers turn to relays when direct addresses
//! do not answer, both ends go on trying direct ones, and a direct connection replaces a relayed one (see `peer`, `dial`).
//! Relay connections themselves are always direct.

pub(crate) mod carry;
mod frame;
mod halves;
mod routes;
mod socket;

#[cfg(feature = "fuzzing")]
pub(crate) use frame::Frame;
pub(crate) use routes::{Route, is_made_up};
pub(crate) use socket::{RelaySocket, Relayed};
