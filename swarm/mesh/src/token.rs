//! Join tokens, in Docker's format: `SWMTKN-1-<CA digest>-<secret>`.
//!
//! The digest (SHA-256 of the CA certificate's DER, base 36, padded to 50) lets the joiner prove the manager before it
//! says the secret (16 random bytes, base 36, padded to 25). SwarmKit: `ca/config.go`, `ParseJoinToken`.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::base36;

const PREFIX: &str = "SWMTKN-1-";
const DIGEST_WIDTH: usize = 50;
const SECRET_WIDTH: usize = 25;

/// SHA-256 of a CA certificate's DER. Displays as `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CaDigest(pub [u8; 32]);

/// A token that lets its bearer join a swarm. `Display` gives the whole token, `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    digest: CaDigest,
    secret: String,
}

/// Why a text is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not `SWMTKN-1-` and two fields.
    #[error("invalid join token: expected SWMTKN-1-<digest>-<secret>")]
    Form,
    /// The digest is not 50 characters of base 36 below 2^256.
    #[error("invalid join token: the CA digest is damaged")]
    Digest,
    /// The secret is not 25 characters of base 36.
    #[error("invalid join token: the secret is damaged")]
    Secret,
}

// === impl CaDigest ===

impl CaDigest {
    /// The digest of a certificate in DER.
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(Sha256::digest(certificate_der).into())
    }
}

impl fmt::Display for CaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl JoinToken ===

impl JoinToken {
    /// A token for the CA of that digest; `random` must come from a cryptographic source.
    pub fn generate(digest: CaDigest, random: [u8; 16]) -> Self {
        Self { digest, secret: base36::encode(&random, SECRET_WIDTH) }
    }

    /// The CA that the token vouches for.
    pub fn digest(&self) -> CaDigest {
        self.digest
    }

    /// Whether `other` is this very token; takes as long for a near miss as for a far one.
    pub fn matches(&self, other: &Self) -> bool {
        let secrets = self.secret.as_bytes().ct_eq(other.secret.as_bytes());
        let digests = self.digest.0.ct_eq(&other.digest.0);
        bool::from(secrets & digests)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let fields = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Form)?;
        let (digest, secret) = fields.split_once('-').ok_or(TokenError::Form)?;
        if digest.len() != DIGEST_WIDTH {
            return Err(TokenError::Digest);
        }
        let digest = base36::decode::<32>(digest).ok_or(TokenError::Digest)?;
        if secret.len() != SECRET_WIDTH || base36::decode::<17>(secret).is_none() {
            return Err(TokenError::Secret);
        }
        Ok(Self { digest: CaDigest(digest), secret: secret.to_owned() })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}", base36::encode(&self.digest.0, DIGEST_WIDTH), self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Docker's documentation of `docker swarm join-token`.
    const DOCKERS: &str =
        "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-1awxwuwd3z9j1z3puu7rcgdbx";

    #[test]
    fn dockers_example_round_trips() {
        let token: JoinToken = DOCKERS.parse().unwrap();
        assert_eq!(token.to_string(), DOCKERS);
        assert!(!format!("{token:?}").contains("1awxwuwd3z9j1z3puu7rcgdbx"));
    }

    #[test]
    fn generated_tokens_round_trip_and_compare() {
        let digest = CaDigest::of(b"a certificate");
        let token = JoinToken::generate(digest, [7; 16]);
        assert_eq!(token.to_string().len(), PREFIX.len() + 50 + 1 + 25);
        let again: JoinToken = token.to_string().parse().unwrap();
        assert_eq!(again.digest(), digest);
        assert!(again.matches(&token));
        assert!(!again.matches(&JoinToken::generate(digest, [8; 16])));
        assert!(!again.matches(&JoinToken::generate(CaDigest::of(b"another"), [7; 16])));
    }

    #[test]
    fn damaged_tokens_are_refused_by_part() {
        assert_eq!("SWMTKN-1-abc".parse::<JoinToken>(), Err(TokenError::Form));
        assert_eq!("hello".parse::<JoinToken>(), Err(TokenError::Form));
        assert_eq!(DOCKERS.replace("3pu6", "pu6").parse::<JoinToken>(), Err(TokenError::Digest));
        assert_eq!(DOCKERS.replace("3pu6", "zzzz").parse::<JoinToken>(), Err(TokenError::Digest));
        assert_eq!(DOCKERS.replace("1awx", "awx").parse::<JoinToken>(), Err(TokenError::Secret));
        assert_eq!(DOCKERS.replace("1awx", "1aWx").parse::<JoinToken>(), Err(TokenError::Secret));
    }
}
