//! Joining a swarm: the token proves the manager, then the manager judges the token.
//!
//! ```text
//! joiner                                             manager
//!   | TLS: certificate chain with the CA  <------------ |
//!   | digest of the CA = the token's? no: closed, nothing said
//!   | token, signing request, extra ------------------> | Handler::join decides
//!   | certificate chain, CA, extra; or a refusal <----- |
//! ```
//! One stream, one message each way; a join that breaks half-way leaves nothing with the mesh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{Connecting, ConnectionError, Endpoint, EndpointConfig, TokioRuntime, VarInt};

use crate::ca::MAX_CSR;
use crate::frame::read_bytes;
use crate::handler::RemoteError;
use crate::identity::parse_certificates;
use crate::inner::Inner;
use crate::tls;
use crate::token::{CaDigest, JoinToken};
use crate::wire::{self, StreamType};
use crate::{socket, transport};

/// Time for a joiner's whole visit, the handler's decision (a Raft write) included.
const VISIT: Duration = Duration::from_secs(20);
/// A joiner's own time for one address.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause before busy managers are asked again; varied by half.
const BUSY_PAUSE: Duration = Duration::from_millis(400);
/// QUIC's own word for "too many handshakes" (RFC 9000, 20.1).
const CONNECTION_REFUSED: u64 = 2;
/// What callers may send beside the fixed fields, bytes.
const MAX_EXTRA: usize = 64 << 10;
/// A whole message, bytes.
const MAX_MESSAGE: usize = MAX_CSR + MAX_EXTRA + 128 * 1024;

/// What a joiner asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// The token; the handler must compare it with `JoinToken::matches`.
    pub token: JoinToken,
    /// A signing request ([`NewKey::csr_pem`](crate::NewKey::csr_pem)), at most 16 KiB.
    pub csr_pem: String,
    /// Whatever the node adds, at most 64 KiB.
    pub extra: Bytes,
}

/// What a manager answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinReply {
    /// The node's certificate, then the CA's.
    pub chain_pem: String,
    /// The CA's certificate.
    pub ca_pem: String,
    /// Whatever the manager adds, at most 64 KiB.
    pub extra: Bytes,
}

/// How to join.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// Managers to ask, in turn.
    pub remotes: Vec<SocketAddr>,
    /// What to ask.
    pub request: JoinRequest,
    /// Local address to call from; an ephemeral one if none.
    pub bind: Option<SocketAddr>,
    /// Time for all of it. Docker takes 20 s.
    pub timeout: Duration,
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No manager was named.
    #[error("no manager address to join")]
    NoRemote,
    /// A field is over its bound.
    #[error("the {what} of the join request has {len} bytes, more than {max}")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// Its size, bytes.
        len: usize,
        /// Its bound, bytes.
        max: usize,
    },
    /// The local endpoint could not be made.
    #[error("open a UDP socket to join from")]
    Socket(#[source] std::io::Error),
    /// TLS could not be set up.
    #[error("set up TLS: {0}")]
    Tls(String),
    /// The manager belongs to another swarm than the token.
    #[error(
        "remote CA does not match fingerprint: {address} shows {seen}, the token says {expected}; \
         is it a token of another swarm?"
    )]
    WrongCa {
        /// The manager's address.
        address: SocketAddr,
        /// The token's digest.
        expected: CaDigest,
        /// The digest of what it showed.
        seen: CaDigest,
    },
    /// Nothing answered.
    #[error("no answer from {address} (UDP) within {waited:?}; is the manager running and the port open?")]
    NoAnswer {
        /// The address.
        address: SocketAddr,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection failed.
    #[error("join by {address}: {reason}")]
    Connection {
        /// The manager's address.
        address: SocketAddr,
        /// What failed.
        reason: String,
    },
    /// The manager refused.
    #[error("{address} refused: {error}")]
    Refused {
        /// The manager's address.
        address: SocketAddr,
        /// What it said.
        #[source]
        error: RemoteError,
    },
}

/// Joins by the first manager that answers. A refusal and a foreign CA are final; silence moves on to the next one.
/// Managers that are too busy are asked again while there is time.
pub async fn join(options: JoinOptions) -> Result<JoinReply, JoinError> {
    let JoinOptions { remotes, request, bind, timeout } = options;
    let too_large =
        |what, len, max| if len > max { Err(JoinError::TooLarge { what, len, max }) } else { Ok(()) };
    too_large("signing request", request.csr_pem.len(), MAX_CSR)?;
    too_large("extra part", request.extra.len(), MAX_EXTRA)?;
    let first = *remotes.first().ok_or(JoinError::NoRemote)?;
    let any: SocketAddr = match first {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // With both families among the managers, a dual-stack socket reaches all.
    let any = if remotes.iter().any(SocketAddr::is_ipv6) { (Ipv6Addr::UNSPECIFIED, 0).into() } else { any };
    let socket = socket::listen(bind.unwrap_or(any)).map_err(JoinError::Socket)?;
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
        .map_err(JoinError::Socket)?;
    let started = Instant::now();
    let left = || timeout.saturating_sub(started.elapsed());
    let mut outcome = Err(JoinError::NoAnswer { address: first, waited: timeout });
    'rounds: loop {
        let mut busy = false;
        for &address in &remotes {
            if left().is_zero() {
                break 'rounds;
            }
            outcome = ask(&endpoint, address, &request, left()).await;
            match &outcome {
                Err(JoinError::Refused { error, .. }) if error.code == RemoteError::BUSY => busy = true,
                Ok(_) | Err(JoinError::Refused { .. } | JoinError::WrongCa { .. } | JoinError::Tls(_)) => {
                    break 'rounds;
                }
                Err(_) => {}
            }
        }
        let pause = BUSY_PAUSE.mul_f64(0.5 + rand::random::<f64>());
        if !busy || pause > left() {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    endpoint.close(VarInt::from_u32(0), b"done");
    // So that the manager sees the end at once; nothing is lost if it does not.
    let _ = tokio::time::timeout(Duration::from_millis(100), endpoint.wait_idle()).await;
    outcome
}

async fn ask(
    endpoint: &Endpoint,
    address: SocketAddr,
    request: &JoinRequest,
    left: Duration,
) -> Result<JoinReply, JoinError> {
    let expected = request.token.digest();
    let (crypto, seen) = tls::join_client(expected).map_err(JoinError::Tls)?;
    let failed = |reason: String| JoinError::Connection { address, reason };
    let connecting = endpoint
        .connect_with(transport::join_client(crypto), address, tls::join_server_name())
        .map_err(|error| failed(error.to_string()))?;
    let patience = left.min(ATTEMPT);
    let connection = match tokio::time::timeout(patience, connecting).await {
        Err(_) => return Err(JoinError::NoAnswer { address, waited: patience }),
        Ok(Err(error)) => {
            let seen = *seen.lock();
            return Err(match seen {
                Some(seen) if seen != expected => JoinError::WrongCa { address, expected, seen },
                _ if is_refusal(&error) => JoinError::Refused { address, error: busy() },
                _ => failed(error.to_string()),
            });
        }
        Ok(Ok(connection)) => connection,
    };
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|error| failed(error.to_string()))?;
        let mut parts = wire::opening(StreamType::Join, 0, request.encode());
        send.write_all_chunks(&mut parts).await.map_err(|error| failed(error.to_string()))?;
        // Fails only on a stream that is finished already.
        let _ = send.finish();
        let answer = wire::read_answer(&mut recv).await.map_err(|error| failed(error.to_string()))?;
        let body = answer.map_err(|error| JoinError::Refused { address, error })?;
        let reply = JoinReply::decode(body).ok_or_else(|| failed("malformed reply".into()))?;
        let ca = parse_certificates(&reply.ca_pem).ok().and_then(|all| all.into_iter().next());
        if ca.map(|ca| CaDigest::of(&ca)) != Some(expected) {
            return Err(failed("the reply holds another CA than the manager showed".into()));
        }
        Ok(reply)
    };
    match tokio::time::timeout(left.min(VISIT), exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed("the manager did not answer the join request in time".into())),
    }
}

fn is_refusal(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == CONNECTION_REFUSED)
}

fn busy() -> RemoteError {
    RemoteError::new(RemoteError::BUSY, "too many nodes are joining; try again")
}

/// A caller's place in the limit, given back however the visit ends.
pub(crate) struct Place {
    inner: Arc<Inner>,
    address: IpAddr,
}

impl Place {
    /// Nothing if the caller has as many as it may.
    pub(crate) fn take(inner: &Arc<Inner>, address: IpAddr) -> Option<Self> {
        let entered = inner.join_limit.lock().enter(address, Instant::now());
        entered.then(|| Self { inner: inner.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.join_limit.lock().leave(self.address);
    }
}

/// The manager's side of one join.
pub(crate) async fn serve(inner: &Arc<Inner>, connecting: Connecting, remote: SocketAddr) {
    let visit = async {
        let connection = connecting.await.map_err(|error| error.to_string())?;
        let (mut send, mut recv) = connection.accept_bi().await.map_err(|error| error.to_string())?;
        let result = if inner.join_limit.lock().admit(remote.ip(), Instant::now()) {
            let opening = wire::read_opening(&mut recv).await.map_err(|error| error.to_string())?;
            if opening.stream_type != StreamType::Join || opening.len > MAX_MESSAGE {
                return Err("no join request".to_owned());
            }
            let body = read_bytes(&mut recv, opening.len).await.map_err(|error| error.to_string())?;
            match JoinRequest::decode(body) {
                Some(request) => inner.handler.join(remote, request).await,
                None => Err(RemoteError::new(RemoteError::MALFORMED, "malformed join request")),
            }
        } else {
            Err(busy())
        };
        match &result {
            Ok(_) => inner.join_limit.lock().give_back(remote.ip()),
            Err(error) => tracing::info!(%remote, %error, "join refused"),
        }
        let mut parts = wire::answer(result.map(|reply| reply.encode()));
        send.write_all_chunks(&mut parts).await.map_err(|error| error.to_string())?;
        let _ = send.finish();
        // The joiner closes when it has read the answer.
        connection.closed().await;
        Ok(())
    };
    match tokio::time::timeout(VISIT, visit).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%remote, error, "join"),
        Err(_) => tracing::debug!(%remote, "a join took too long"),
    }
}

// === wire form: three fields, each with its length (4 bytes, big endian) ===

impl JoinRequest {
    fn encode(&self) -> Bytes {
        encode(&[self.token.to_string().as_bytes(), self.csr_pem.as_bytes(), &self.extra])
    }

    fn decode(body: Bytes) -> Option<Self> {
        let [token, csr_pem, extra] = decode(body)?;
        Some(Self {
            token: std::str::from_utf8(&token).ok()?.parse().ok()?,
            csr_pem: String::from_utf8(csr_pem.into()).ok().filter(|csr| csr.len() <= MAX_CSR)?,
            extra: Some(extra).filter(|extra| extra.len() <= MAX_EXTRA)?,
        })
    }
}

impl JoinReply {
    fn encode(&self) -> Bytes {
        encode(&[self.chain_pem.as_bytes(), self.ca_pem.as_bytes(), &self.extra])
    }

    fn decode(body: Bytes) -> Option<Self> {
        let [chain_pem, ca_pem, extra] = decode(body)?;
        Some(Self {
            chain_pem: String::from_utf8(chain_pem.into()).ok()?,
            ca_pem: String::from_utf8(ca_pem.into()).ok()?,
            extra,
        })
    }
}

fn encode(fields: &[&[u8]; 3]) -> Bytes {
    let mut body = BytesMut::new();
    for field in fields {
        // Bounded far below 4 GiB by the callers; the bound on the whole message holds in any case.
        body.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
        body.put_slice(field);
    }
    body.freeze()
}

fn decode(mut body: Bytes) -> Option<[Bytes; 3]> {
    let mut field = || {
        let len = body.try_get_u32().ok()? as usize;
        (len <= body.len()).then(|| body.split_to(len))
    };
    Some([field()?, field()?, field()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_round_trip() {
        let token = JoinToken::generate(CaDigest([3; 32]), [4; 16]);
        let request = JoinRequest { token, csr_pem: "csr".into(), extra: Bytes::from_static(b"\0x") };
        assert_eq!(JoinRequest::decode(request.encode()), Some(request));
        let reply = JoinReply { chain_pem: "a".into(), ca_pem: "b".into(), extra: Bytes::new() };
        assert_eq!(JoinReply::decode(reply.encode()), Some(reply));
    }

    proptest! {
        #[test]
        fn garbage_decodes_to_nothing_or_something_but_never_panics(body: Vec<u8>) {
            let _ = JoinRequest::decode(body.clone().into());
            let _ = JoinReply::decode(body.into());
        }
    }
}
