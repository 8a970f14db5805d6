//! QUIC settings per class, each number with its reason.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
};
use quinn::{TransportConfig, VarInt};
use ring::hmac;
use sha2::{Digest as _, Sha256};

use crate::class::{Class, Purpose};
use crate::congestion::OpenWindow;
use crate::identity::Identity;
use crate::tls::TlsConfigs;

/// Streams that a peer may have open on one connection: requests in progress and sessions.
const MAX_STREAMS: u32 = 1024;
/// What one stream may have in flight: 2 MiB fill 1 Gbit/s at 16 ms.
const STREAM_WINDOW: u32 = 2 << 20;
/// What one connection may have in flight, both ways; also bounds the memory that unread streams take.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Datagrams waiting for the socket on the data class. The oldest are dropped first, which is what a full link does.
pub(crate) const DATAGRAM_SEND_BUFFER: usize = 4 << 20;
/// Datagrams received and not yet taken.
const DATAGRAM_RECEIVE_BUFFER: usize = 8 << 20;
/// Heartbeats are the only datagrams elsewhere.
const HEARTBEAT_BUFFER: usize = 64 << 10;
/// QUIC's own idle timeout, only a safety net: the ticker's liveness is quicker, but forgives our own pauses.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Keep-alive where no heartbeat datagrams run (`liveness::OTHER_SILENCE` allows for several lost ones).
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Assumed before the first measurement. RFC 9002 says 333 ms; a swarm is mostly a LAN, and a first packet that meets
/// a node that is not up yet must be repeated soon.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// IPv6's minimum MTU less headers: what every path carries.
const INITIAL_MTU: u16 = 1200;
/// Ethernet less headers; control needs no more.
const CONTROL_MTU: u16 = 1452;
/// For paths with jumbo frames. Not more: quinn sends up to ten segments in one call, and beyond 65,507 bytes in all the
/// kernel answers EMSGSIZE, which quinn-udp takes for a failed MTU probe and swallows; everything would be lost.
pub(crate) const DEFAULT_MAX_MTU: u16 = 6500;
/// Ack-eliciting packets that a datagram receiver may leave unacknowledged: acks matter only for round-trip time and
/// MTU there, and every ack costs both sides a packet.
const DATA_ACK_THRESHOLD: u32 = 30;
/// Handshakes that wait for our decision; more are turned away unseen.
pub(crate) const MAX_PENDING_HANDSHAKES: usize = 256;
/// What is buffered of each of them, bytes.
const INCOMING_BUFFER: u64 = 64 << 10;
/// Idle time after which a joiner is dropped.
const JOIN_IDLE: Duration = Duration::from_secs(20);

/// Transport configurations of an endpoint, made once.
pub(crate) struct Transports {
    classes: [Arc<TransportConfig>; Class::COUNT],
    join: Arc<TransportConfig>,
}

impl Transports {
    pub(crate) fn new(max_mtu: u16) -> Self {
        let max_mtu = max_mtu.max(INITIAL_MTU);
        Self {
            classes: Class::ALL.map(|class| {
                Arc::new(match class {
                    Class::Control => control(),
                    Class::Data | Class::Relay => data(max_mtu),
                    Class::Bulk => bulk(max_mtu),
                })
            }),
            join: Arc::new(joining()),
        }
    }

    pub(crate) fn client(&self, class: Class, tls: &TlsConfigs) -> ClientConfig {
        let mut config = ClientConfig::new(tls.mesh_client.clone());
        config.transport_config(self.classes[class.index()].clone());
        config.initial_dst_cid_provider(Arc::new(move || Purpose::Mesh(class).new_cid()));
        config
    }

    pub(crate) fn server(&self, purpose: Purpose, tls: &TlsConfigs) -> ServerConfig {
        let (crypto, transport) = match purpose {
            Purpose::Mesh(class) => (tls.mesh_server.clone(), &self.classes[class.index()]),
            Purpose::Join => (tls.join_server.clone(), &self.join),
            Purpose::Renew => (tls.renew_server.clone(), &self.join),
        };
        let mut config = ServerConfig::with_crypto(crypto);
        config
            .transport_config(transport.clone())
            .max_incoming(MAX_PENDING_HANDSHAKES)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER * MAX_PENDING_HANDSHAKES as u64);
        config
    }
}

/// Stateless-reset and connection-id keys come from the node's key, so that a restarted node can tell its peers at
/// their first packet that their connections are gone (RFC 9000, 10.3).
pub(crate) fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let derive = |label: &[u8]| -> [u8; 32] {
        Sha256::new().chain_update(label).chain_update(identity.key_bytes()).finalize().into()
    };
    let mut config =
        EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &derive(b"skep stateless reset"))));
    let seed = derive(b"skep connection ids");
    let seed = u64::from_be_bytes([seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], seed[7]]);
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(seed)));
    // Never fails: the bound is 65527. Larger than quinn's default so that jumbo frames can arrive.
    let _ = config.max_udp_payload_size(DEFAULT_MAX_MTU);
    config
}

pub(crate) fn join_client(crypto: Arc<quinn::crypto::rustls::QuicClientConfig>) -> ClientConfig {
    visitor(crypto, Purpose::Join)
}

/// For one stream with one message each way.
pub(crate) fn visitor(
    crypto: Arc<quinn::crypto::rustls::QuicClientConfig>,
    purpose: Purpose,
) -> ClientConfig {
    let mut config = ClientConfig::new(crypto);
    config.transport_config(Arc::new(joining()));
    config.initial_dst_cid_provider(Arc::new(move || purpose.new_cid()));
    config
}

fn common() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_idle_timeout(idle(IDLE_TIMEOUT))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(INITIAL_MTU)
        .datagram_send_buffer_size(HEARTBEAT_BUFFER)
        .datagram_receive_buffer_size(Some(HEARTBEAT_BUFFER));
    config
}

fn control() -> TransportConfig {
    let mut config = common();
    config.mtu_discovery_config(Some(mtu(CONTROL_MTU)));
    config
}

fn data(max_mtu: u16) -> TransportConfig {
    let mut config = common();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(DATA_ACK_THRESHOLD));
    config
        // One stream: the first message. Nothing else runs on streams here.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .congestion_controller_factory(Arc::new(OpenWindow))
        .mtu_discovery_config(Some(mtu(max_mtu)))
        .ack_frequency_config(Some(acks))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER));
    config
}

fn bulk(max_mtu: u16) -> TransportConfig {
    let mut config = common();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .congestion_controller_factory(Arc::new(CubicConfig::default()))
        .mtu_discovery_config(Some(mtu(max_mtu)));
    config
}

fn joining() -> TransportConfig {
    let mut config = common();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_idle_timeout(idle(JOIN_IDLE))
        .mtu_discovery_config(None)
        .datagram_receive_buffer_size(None);
    config
}

fn mtu(upper_bound: u16) -> MtuDiscoveryConfig {
    let mut config = MtuDiscoveryConfig::default();
    config.upper_bound(upper_bound);
    config
}

fn idle(timeout: Duration) -> Option<IdleTimeout> {
    // Fits: a VarInt holds 2^62 ms.
    IdleTimeout::try_from(timeout).ok()
}
