//! The packet engine between a node's TUN device and the datagrams to its peers.
//!
//! Pure: bytes, tables and time come in; bytes and counters go out. No socket, no clock, no unsafe.
//!
//! ```text
//!  TUN frame ──▶ vnet ──▶ packet ──▶ forwarder (which peer?) ──▶ split ──▶ wire ──▶ datagrams
//!  TUN frame ◀── coalesce ◀── forwarder (may this peer send it?) ◀── packet ◀── reassembly ◀── wire
//! ```
//!
//! - [`forwarder`]: the two directions, the tables they decide by, and the state diagram of a packet
//! - [`vnet`]: the virtio-net header in front of each TUN frame
//! - [`packet`]: bounds-checked reading of IP and transport headers
//! - [`split`]: one large frame into packets that fit the path
//! - [`coalesce`]: many packets of one flow into one large frame
//! - [`wire`]: the datagram format, with fragments for paths that are too narrow
//! - [`reassembly`]: fragments back into packets, bounded in memory and time
//! - [`flow`]: which peer a client's flow came in from, so that replies find their way back
//! - [`flow_key`]: what makes two packets one flow
//! - [`counters`]: what was carried, and what was dropped and why
//! - [`checksum`]: the Internet checksum

#![forbid(unsafe_code)]

pub mod checksum;
pub mod coalesce;
pub mod counters;
pub mod flow;
pub mod flow_key;
pub mod forwarder;
pub mod packet;
pub mod reassembly;
pub mod split;
pub mod vnet;
pub mod wire;

pub use counters::{Counters, DropReason};
pub use forwarder::{Config, Forwarder, Sent};
pub use packet::Subnet;
pub use vnet::VnetLayout;
pub use wire::Datagram;

/// A peer node: a small number that the caller chose and can turn back into a connection.
pub type Peer = u32;
