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

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{Connecting, Endpoint};

use crate::ca::MAX_CSR;
use crate::certificate::parse_certificates;
use crate::handler::RemoteError;
use crate::inner::Inner;
use crate::token::{CaDigest, JoinToken};
use crate::visit::{self, Errand};
use crate::wire::StreamType;
use crate::{tls, transport};

/// What callers may send beside the fixed fields, bytes.
const MAX_EXTRA: usize = 64 << 10;
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
    /// The node's certificate, then those above it.
    pub chain_pem: String,
    /// The trust bundle: the CA's certificate, and while the swarm changes its CA the next one's.
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
    #[error("{address}: {reason}")]
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
    visit::in_turn(&request, &remotes, bind, timeout).await
}

impl Errand for JoinRequest {
    type Answer = JoinReply;

    async fn run(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        left: Duration,
    ) -> Result<JoinReply, JoinError> {
        ask(endpoint, address, self, left).await
    }

    fn is_final(&self, error: &JoinError) -> bool {
        matches!(error, JoinError::Refused { .. } | JoinError::WrongCa { .. } | JoinError::Tls(_))
    }
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
    let connected = visit::connect(endpoint, address, transport::join_client(crypto), left).await;
    let seen = *seen.lock();
    let connection = match (connected, seen) {
        (Err(JoinError::Connection { .. }), Some(seen)) if seen != expected => {
            return Err(JoinError::WrongCa { address, expected, seen });
        }
        (connected, _) => connected?,
    };
    let body = visit::exchange(&connection, address, StreamType::Join, request.encode(), left).await?;
    let reply = JoinReply::decode(body).ok_or_else(|| failed("malformed reply".into()))?;
    // More than one while the swarm changes its CA.
    let all = parse_certificates(&reply.ca_pem).unwrap_or_default();
    if !all.iter().any(|ca| CaDigest::of(ca) == expected) {
        return Err(failed("the reply holds another CA than the manager showed".into()));
    }
    Ok(reply)
}

pub(crate) fn busy() -> RemoteError {
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
    let served = inner.clone();
    let answer = move |_, body| async move {
        match JoinRequest::decode(body) {
            Some(request) => Ok(served.handler.join(remote, request).await?.encode()),
            None => Err(RemoteError::new(RemoteError::MALFORMED, "malformed join request")),
        }
    };
    visit::serve(inner, connecting, remote, StreamType::Join, answer).await;
}

// === wire form: three fields, each with its length (4 bytes, big endian) ===

impl JoinRequest {
    pub(crate) fn encode(&self) -> Bytes {
        encode(&[self.token.to_string().as_bytes(), self.csr_pem.as_bytes(), &self.extra])
    }

    pub(crate) fn decode(body: Bytes) -> Option<Self> {
        let [token, csr_pem, extra] = decode(body)?;
        Some(Self {
            token: std::str::from_utf8(&token).ok()?.parse().ok()?,
            csr_pem: String::from_utf8(csr_pem.into()).ok().filter(|csr| csr.len() <= MAX_CSR)?,
            extra: Some(extra).filter(|extra| extra.len() <= MAX_EXTRA)?,
        })
    }
}

impl JoinReply {
    pub(crate) fn encode(&self) -> Bytes {
        encode(&[self.chain_pem.as_bytes(), self.ca_pem.as_bytes(), &self.extra])
    }

    pub(crate) fn decode(body: Bytes) -> Option<Self> {
        let [chain_pem, ca_pem, extra] = decode(body)?;
        Some(Self {
            chain_pem: String::from_utf8(chain_pem.into()).ok()?,
            ca_pem: String::from_utf8(ca_pem.into()).ok()?,
            extra,
        })
    }
}

pub(crate) fn encode(fields: &[&[u8]; 3]) -> Bytes {
    let mut body = BytesMut::new();
    for field in fields {
        // Bounded far below 4 GiB by the callers; the bound on the whole message holds in any case.
        body.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
        body.put_slice(field);
    }
    body.freeze()
}

pub(crate) fn decode(mut body: Bytes) -> Option<[Bytes; 3]> {
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
