//! What strangers, or peers that are not what they should be, can make this crate decode: one function for each message
//! that is looked at before its sender is known, and for what comes first afterwards. For the fuzz targets in `fuzz/`.
//!
//! Each checks more than that nothing panics: what was understood is written and understood again as the same.

use bytes::Bytes;
use quinn::ConnectionId;
use rustls::pki_types::CertificateDer;

use crate::certificate::key_digest_of;
use crate::class::Purpose;
use crate::identity::PeerIdentity;
use crate::join::{JoinReply, JoinRequest};
use crate::relay::Frame;
use crate::renew::{Claim, ReenrolReply};
use crate::wire::{self, Hello};

/// The connection id of a first packet: which protocol and class.
pub fn first_packet(bytes: &[u8]) {
    if bytes.len() <= 20 {
        let _ = Purpose::from_cid(&ConnectionId::new(bytes));
    }
}

/// The head of a stream.
pub fn opening(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<8>()
        && let Ok(opening) = wire::decode_opening(head)
    {
        assert!(opening.len <= wire::MAX_BODY);
        // Only the length of the body counts; those that cost no memory will do.
        if opening.len < 1 << 12 {
            let again = wire::opening(opening.stream_type, opening.kind, vec![0; opening.len].into());
            assert_eq!(again[0], head[..]);
        }
    }
}

/// What a node that wants to join sends, and what it is answered.
pub fn join_request(bytes: &[u8]) {
    if let Some(request) = JoinRequest::decode(Bytes::copy_from_slice(bytes)) {
        let _ = crate::csr_key_digest(&request.csr_pem);
        assert_eq!(JoinRequest::decode(request.encode()), Some(request));
    }
    if let Some(reply) = JoinReply::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(JoinReply::decode(reply.encode()), Some(reply));
    }
}

/// What a member whose certificate is of no use sends, and what it is answered.
pub fn reenrolment(bytes: &[u8]) {
    if let Ok(claim) = Claim::decode(Bytes::copy_from_slice(bytes)) {
        let _ = PeerIdentity::from_certificate(claim.leaf());
        let _ = crate::csr_key_digest(&claim.csr_pem);
    }
    if let Some(reply) = ReenrolReply::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(ReenrolReply::decode(reply.encode()), Some(reply));
    }
}

/// A certificate, as a handshake or a proof shows it.
pub fn certificate(bytes: &[u8]) {
    let certificate = CertificateDer::from(bytes);
    let _ = PeerIdentity::from_certificate(&certificate);
    let _ = key_digest_of(&certificate);
    let _ = crate::chain::is_self_signed(&certificate);
    let _ = crate::chain::verify(&certificate, &[], &[certificate.clone().into_owned()]);
}

/// The first message of a connection, with the proof of an epoch in it.
pub fn hello(bytes: &[u8]) {
    if let Some(hello) = Hello::decode(bytes) {
        if let Some(proof) = &hello.epoch {
            let _ = proof.signer();
        }
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    }
}

/// What runs on relay connections.
pub fn relay_frame(bytes: &[u8]) {
    if let Some(frame) = Frame::decode(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(Frame::decode(&frame.encode()), Some(frame));
    }
}
