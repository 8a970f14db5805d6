//! Re-enrolling: a member that was switched off past the end of its certificate, or whose clock is wrong, gets a new
//! certificate for its old key.
//!
//! ```text
//! member                                                  manager
//!   | TLS: the manager's certificates <--------------------- |
//!   | a manager under a CA of ours, at whatever time? no: closed
//!   | own certificates, signing request, signature --------> | under a CA of ours, at whatever time? one key in all?
//!   |                                                        | signed for this very connection? not removed?
//!   |                                                        | Handler::reenrol decides
//!   | new certificates, CAs, time; or a refusal <----------- |
//!   | for our key, newer, every CA ours or vouched for by one of ours? else refused
//! ```
//! The signature covers keying material that only the two ends of this TLS connection know (RFC 8446, 7.5; RFC 9266 for
//! the idea): what was recorded elsewhere is worth nothing. What the member takes in return does not rest on the
//! manager's certificate alone, which may be a former manager's by now: only the CA's key can make the new one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quinn::{Connecting, Connection, Endpoint};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::ca::{BACK_DATE, MAX_CSR};
use crate::certificate::{csr_key_digest, key_digest_of, parse_certificates};
use crate::class::Purpose;
use crate::epoch::is_signed;
use crate::handler::RemoteError;
use crate::identity::{Identity, PeerIdentity};
use crate::inner::Inner;
use crate::join::{self, JoinError, JoinReply};
use crate::visit::{self, Errand};
use crate::wire::StreamType;
use crate::{chain, tls, transport};

/// RFC 5705, 4: labels of one's own begin so.
const EXPORTER: &[u8] = b"EXPORTER-skep-renew/1";
const CONTEXT: &[u8] = b"skep-renew/1";
/// A member's own certificates, PEM, bytes.
const MAX_CHAIN_PEM: usize = 64 << 10;

/// How to re-enrol.
#[derive(Debug, Clone)]
pub struct ReenrolOptions {
    /// Managers to ask, in turn.
    pub remotes: Vec<SocketAddr>,
    /// Who the node is.
    pub identity: Identity,
    /// Local address to call from; an ephemeral one if none.
    pub bind: Option<SocketAddr>,
    /// Time for all of it.
    pub timeout: Duration,
}

/// What a re-enrolled node gets; [`Identity::renewed`] takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReenrolReply {
    /// The node's certificate, then those above it.
    pub chain_pem: String,
    /// The trust bundle.
    pub ca_pem: String,
    /// The manager's time, to the second.
    pub now: SystemTime,
}

struct Reenrolment {
    identity: Identity,
    csr_pem: String,
}

/// Asks for a new certificate for the node's key. Managers that do not answer or refuse are passed over; the last
/// refusal is told. The reply has been checked: it is for this node, newer than what it had, and signed by a CA that the
/// node trusts or that such a CA has cross-signed.
pub async fn reenrol(options: ReenrolOptions) -> Result<ReenrolReply, JoinError> {
    let ReenrolOptions { remotes, identity, bind, timeout } = options;
    let csr_pem = identity.csr_pem().map_err(|error| JoinError::Tls(error.to_string()))?;
    visit::in_turn(&Reenrolment { identity, csr_pem }, &remotes, bind, timeout).await
}

impl Errand for Reenrolment {
    type Answer = ReenrolReply;

    async fn run(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        left: Duration,
    ) -> Result<ReenrolReply, JoinError> {
        let failed = |reason: String| JoinError::Connection { address, reason };
        let crypto = tls::renew_client(&self.identity).map_err(JoinError::Tls)?;
        let config = transport::visitor(crypto, Purpose::Renew);
        let connection = visit::connect(endpoint, address, config, left).await?;
        let request = request(&connection, &self.identity, &self.csr_pem).map_err(failed)?;
        let body = visit::exchange(&connection, address, StreamType::Renew, request, left).await?;
        let reply = ReenrolReply::decode(body).ok_or_else(|| failed("malformed reply".into()))?;
        accept(&self.identity, &reply).map_err(|why| failed(format!("the reply is not good: {why}")))?;
        Ok(reply)
    }

    fn is_final(&self, error: &JoinError) -> bool {
        matches!(error, JoinError::Tls(_))
    }
}

/// The request for one connection.
pub(crate) fn request(connection: &Connection, identity: &Identity, csr_pem: &str) -> Result<Bytes, String> {
    let chain_pem = identity.chain_pem();
    let signature = identity
        .sign(&message(connection, chain_pem.as_bytes(), csr_pem.as_bytes())?)
        .map_err(|error| error.to_string())?;
    Ok(join::encode(&[chain_pem.as_bytes(), csr_pem.as_bytes(), &signature]))
}

/// What the member signs: this connection and all that it says on it.
fn message(connection: &Connection, chain_pem: &[u8], csr_pem: &[u8]) -> Result<Vec<u8>, String> {
    let mut exported = [0u8; 32];
    connection
        .export_keying_material(&mut exported, EXPORTER, b"")
        .map_err(|_| "the connection exports no keys".to_owned())?;
    let (chain, csr) = (Sha256::digest(chain_pem), Sha256::digest(csr_pem));
    Ok([CONTEXT, b"\0", &exported, &chain[..], &csr[..]].concat())
}

/// Whether what a manager has answered may be taken over.
fn accept(own: &Identity, reply: &ReenrolReply) -> Result<(), String> {
    let new = own.renewed(&reply.chain_pem, &reply.ca_pem).map_err(|error| error.to_string())?;
    let certificates = parse_certificates(&reply.chain_pem).map_err(|error| error.to_string())?;
    let (leaf, others) = certificates.split_first().ok_or("no certificate")?;
    chain::verify(leaf, others, own.roots()).map_err(|error| format!("not of a CA of ours: {error}"))?;
    let vouched = |root: &CertificateDer<'static>| {
        let by_ours = |cross: &CertificateDer<'_>| {
            own.roots().iter().any(|own| chain::is_issued_by(cross, own).unwrap_or(false))
        };
        own.roots().contains(root)
            || others.iter().any(|cross| chain::same_authority(cross, root) && by_ours(cross))
    };
    if !new.roots().iter().all(vouched) {
        return Err("it names a CA that no CA of ours vouches for".into());
    }
    // Whoever holds no CA key could only repeat what was issued before. Signers back-date differently.
    let former = own.peer().not_before;
    if own.chain().first() == Some(leaf) || new.peer().not_before + BACK_DATE < former {
        return Err("the certificate is not a new one".into());
    }
    if reply.now < new.peer().not_before || reply.now > new.peer().not_after {
        return Err("the certificate is not valid at the manager's time".into());
    }
    Ok(())
}

/// The manager's side.
pub(crate) async fn serve(inner: &Arc<Inner>, connecting: Connecting, remote: SocketAddr) {
    let served = inner.clone();
    let answer = move |connection: Connection, body: Bytes| async move {
        let member = prove(&served, &connection, body)?;
        let (node_id, digest) = (member.peer.node_id.clone(), member.key_digest.clone());
        tracing::info!(%remote, node_id, "re-enrols");
        let reply = served.handler.reenrol(remote, member.peer, digest, member.csr_pem).await?;
        Ok(ReenrolReply::of(reply, served.clock.now()).encode())
    };
    visit::serve(inner, connecting, remote, StreamType::Renew, answer).await;
}

/// A member that has proven to hold the key of its certificate.
struct Member {
    peer: PeerIdentity,
    key_digest: String,
    csr_pem: String,
}

/// What a visitor says of itself; nothing of it is proven.
pub(crate) struct Claim {
    chain_pem: String,
    pub(crate) csr_pem: String,
    signature: Bytes,
    leaf: CertificateDer<'static>,
    others: Vec<CertificateDer<'static>>,
}

impl Claim {
    pub(crate) fn decode(body: Bytes) -> Result<Self, RemoteError> {
        let [chain_pem, csr_pem, signature] =
            join::decode(body).ok_or_else(|| malformed("malformed request"))?;
        let text = |bytes: &Bytes, max: usize| {
            let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= max);
            text.map(str::to_owned).ok_or_else(|| malformed("malformed request"))
        };
        let (chain_pem, csr_pem) = (text(&chain_pem, MAX_CHAIN_PEM)?, text(&csr_pem, MAX_CSR)?);
        let mut certificates =
            parse_certificates(&chain_pem).map_err(|error| malformed(&error.to_string()))?.into_iter();
        let leaf = certificates.next().ok_or_else(|| malformed("no certificate"))?;
        Ok(Self { chain_pem, csr_pem, signature, leaf, others: certificates.collect() })
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }
}

fn malformed(what: &str) -> RemoteError {
    RemoteError::new(RemoteError::MALFORMED, what)
}

fn prove(inner: &Inner, connection: &Connection, body: Bytes) -> Result<Member, RemoteError> {
    let refused = |what: &str| RemoteError::new(RemoteError::REFUSED, what);
    let Claim { chain_pem, csr_pem, signature, leaf, others } = &Claim::decode(body)?;
    let own = inner.credentials();
    chain::verify(leaf, others, own.identity.roots())
        .map_err(|_| refused("the certificate was not signed by a CA of this swarm"))?;
    let peer = PeerIdentity::from_certificate(leaf).map_err(|error| malformed(&error.to_string()))?;
    if peer.cluster_id != own.identity.cluster_id() {
        return Err(refused("the certificate is of another swarm"));
    }
    if inner.removed.lock().contains(&peer.node_id) {
        return Err(refused("the node was removed from the swarm"));
    }
    let key_digest = key_digest_of(leaf).map_err(|error| malformed(&error.to_string()))?;
    if csr_key_digest(csr_pem).map_err(|error| malformed(&error.to_string()))? != key_digest {
        return Err(refused("the request is for another key than the certificate's"));
    }
    let message =
        message(connection, chain_pem.as_bytes(), csr_pem.as_bytes()).map_err(|error| malformed(&error))?;
    if !is_signed(leaf, &message, signature) {
        return Err(refused("the key of the certificate is not proven"));
    }
    Ok(Member { peer, key_digest, csr_pem: csr_pem.clone() })
}

impl ReenrolReply {
    fn of(reply: JoinReply, now: SystemTime) -> Self {
        Self { chain_pem: reply.chain_pem, ca_pem: reply.ca_pem, now }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        join::encode(&[self.chain_pem.as_bytes(), self.ca_pem.as_bytes(), &now.to_be_bytes()])
    }

    pub(crate) fn decode(body: Bytes) -> Option<Self> {
        let [chain_pem, ca_pem, now] = join::decode(body)?;
        let now = Duration::from_secs(u64::from_be_bytes(now.as_ref().try_into().ok()?));
        Some(Self {
            chain_pem: String::from_utf8(chain_pem.into()).ok()?,
            ca_pem: String::from_utf8(ca_pem.into()).ok()?,
            now: SystemTime::UNIX_EPOCH.checked_add(now)?,
        })
    }
}
