//! The key that a person keeps: Docker's form of it (`swarmkit/manager/encryption/encryption.go`,
//! `HumanReadableKey`).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use crate::Key;
use crate::key::KEY_BYTES;

/// The swarm's unlock key. `Display` and `FromStr`: `SWMKEY-1-` and the 32 bytes in base64 (standard alphabet, no
/// padding). `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(Key);

const PREFIX: &str = "SWMKEY-1-";

impl UnlockKey {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(Key::random())
    }

    /// For sealing something with the unlock key itself.
    pub const fn key(&self) -> &Key {
        &self.0
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey(hidden)")
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Zeroizing::new(STANDARD_NO_PAD.encode(self.0.bytes()));
        write!(f, "{PREFIX}{}", *text)
    }
}

/// The text is no unlock key. The text itself is not repeated: it may be most of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid key string: an unlock key is {PREFIX} and 43 characters of base64")]
pub struct UnlockKeyError;

impl FromStr for UnlockKey {
    type Err = UnlockKeyError;

    fn from_str(text: &str) -> Result<Self, UnlockKeyError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(UnlockKeyError)?;
        if encoded.len() > 2 * KEY_BYTES {
            return Err(UnlockKeyError);
        }
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(encoded).map_err(|_| UnlockKeyError)?);
        let mut exact: [u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| UnlockKeyError)?;
        let key = Key::from_bytes(exact);
        exact.zeroize();
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_dockers() {
        let key = UnlockKey::random();
        let text = key.to_string();
        assert_eq!(text.len(), 9 + 43);
        assert_eq!(text.parse(), Ok(key.clone()));
        assert!(!format!("{key:?}").contains(&text[12..20]));
        // From `docker swarm unlock-key`.
        let dockers = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8";
        assert_eq!(dockers.parse::<UnlockKey>().unwrap().to_string(), dockers);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "SWMKEY-1-",
            "SWMKEY-1-abc",
            "SWMKEY-2-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8",
            "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8=",
            "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8AAAA",
            " SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8",
        ] {
            assert_eq!(text.parse::<UnlockKey>(), Err(UnlockKeyError), "{text}");
        }
    }
}
