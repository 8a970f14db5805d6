//! Epochs: how often a swarm was made anew out of what was left of it.
//!
//! Whoever recovers a swarm signs the new number. Every connection begins with both sides' proofs; whoever sees a valid
//! proof of a higher number adopts it and passes it on, and connections between different epochs are not used:
//!
//! ```text
//! theirs = ours: the connection is used        theirs < ours: they are told ours, the connection ends
//! theirs > ours: proof good? adopted: connections of the old epoch end, Handler::superseded; else refused
//! ```
//! A proof is as good as the word of a manager of this swarm, whatever time it is (see `chain`). Its length is bounded,
//! and it is looked at only when it comes from a member and claims a higher number.

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;

use crate::certificate::{MAX_CHAIN, parse, parse_certificates};
use crate::chain;
use crate::identity::{Identity, IdentityError, PeerIdentity, Role};

/// A proof in a hello, bytes: a chain with two RSA signatures has about 4 KiB.
pub(crate) const MAX_PROOF: usize = 8 << 10;
const CONTEXT: &[u8] = b"skep-epoch/1";

/// A manager's signed word that the swarm is in an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochProof {
    number: u64,
    chain: Vec<CertificateDer<'static>>,
    signature: Vec<u8>,
}

impl EpochProof {
    /// Signs a number with a manager's key. Proofs are checked by the CAs that are trusted then: a manager should sign
    /// the number anew with each certificate of its own.
    pub fn sign(identity: &Identity, number: u64) -> Result<Self, IdentityError> {
        let mut chain = identity.chain();
        chain.retain(|certificate| !chain::is_self_signed(certificate));
        let signature = identity.sign(&message(identity.cluster_id(), number))?;
        let proof = Self { number, chain, signature };
        match proof.encode().len() {
            len if len > MAX_PROOF => Err(IdentityError::Certificate(format!(
                "a proof with it has {len} bytes, more than {MAX_PROOF}"
            ))),
            _ => Ok(proof),
        }
    }

    /// Whether a manager of the swarm has signed it; `trust_pem` holds the CAs that count, `cluster_id` is the swarm.
    pub fn verify(&self, trust_pem: &str, cluster_id: &str) -> bool {
        parse_certificates(trust_pem).is_ok_and(|roots| self.verify_with(&roots, cluster_id))
    }

    /// The epoch; 1 after the first recovery.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who signed it. Proves nothing before `verify`.
    pub fn signer(&self) -> Option<PeerIdentity> {
        PeerIdentity::from_certificate(self.chain.first()?).ok()
    }

    pub(crate) fn verify_with(&self, roots: &[CertificateDer<'static>], cluster_id: &str) -> bool {
        let Some((leaf, between)) = self.chain.split_first() else { return false };
        let Ok(signer) = PeerIdentity::from_certificate(leaf) else { return false };
        signer.role == Role::Manager
            && signer.cluster_id == cluster_id
            && chain::verify(leaf, between, roots).is_ok()
            && is_signed(leaf, &message(cluster_id, self.number), &self.signature)
    }

    /// For the wire and for files: number (8 bytes), signature and certificates with their lengths (2 bytes each).
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.number.to_be_bytes().to_vec();
        for part in [&self.signature[..]].into_iter().chain(self.chain.iter().map(AsRef::as_ref)) {
            // What is longer makes the whole longer than MAX_PROOF, which is refused.
            bytes.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }

    /// The reverse of [`encode`](Self::encode); nothing for what no `encode` has made.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_PROOF {
            return None;
        }
        let (number, mut rest) = bytes.split_first_chunk::<8>()?;
        let mut parts = Vec::new();
        while let Some((len, more)) = rest.split_first_chunk::<2>() {
            let (part, more) = more.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            parts.push(part.to_vec());
            rest = more;
        }
        if !rest.is_empty() || !(2..=MAX_CHAIN).contains(&parts.len()) {
            return None;
        }
        let signature = parts.remove(0);
        Some(Self {
            number: u64::from_be_bytes(*number),
            chain: parts.into_iter().map(Into::into).collect(),
            signature,
        })
    }
}

/// Whether the key of a certificate made a signature: ECDSA P-256, which all nodes' keys are.
pub(crate) fn is_signed(leaf: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    parse(leaf).is_ok_and(|leaf| {
        let key = UnparsedPublicKey::new(
            &ECDSA_P256_SHA256_ASN1,
            leaf.public_key().subject_public_key.data.as_ref(),
        );
        key.verify(message, signature).is_ok()
    })
}

fn message(cluster_id: &str, number: u64) -> Vec<u8> {
    [CONTEXT, b"\0", cluster_id.as_bytes(), b"\0", &number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
    use crate::identity::NewKey;
    use proptest::prelude::*;

    fn identity(ca: &CertificateAuthority, role: Role) -> Identity {
        let key = NewKey::generate().unwrap();
        let chain = ca.sign_csr(key.csr_pem(), "n", "c", role, SystemTime::now(), DEFAULT_VALIDITY).unwrap();
        Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem()).unwrap()
    }

    #[test]
    fn only_managers_of_the_swarm_prove_an_epoch() {
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        let proof = EpochProof::sign(&identity(&ca, Role::Manager), 3).unwrap();
        let again = EpochProof::decode(&proof.encode()).unwrap();
        assert_eq!(again, proof);
        assert!(again.verify(ca.certificate_pem(), "c"));
        assert!(!again.verify(ca.certificate_pem(), "d"));
        let other = CertificateAuthority::generate(SystemTime::now()).unwrap();
        assert!(!again.verify(other.certificate_pem(), "c"));
        let higher = EpochProof { number: 4, ..proof };
        assert!(!higher.verify(ca.certificate_pem(), "c"));
        let worker = EpochProof::sign(&identity(&ca, Role::Worker), 3).unwrap();
        assert!(!worker.verify(ca.certificate_pem(), "c"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            if let Some(proof) = EpochProof::decode(&bytes) {
                prop_assert_eq!(proof.encode(), bytes);
                prop_assert!(!proof.verify_with(&[], "c"));
            }
        }
    }
}
