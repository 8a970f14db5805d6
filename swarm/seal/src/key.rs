//! The key that seals.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 256-bit key. Wiped when dropped; compared in constant time; never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; KEY_BYTES]);

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes by which a sealed text names its key.
pub(crate) const KEY_NAME_BYTES: usize = 4;

impl Key {
    /// A new key from the kernel.
    ///
    /// # Panics
    /// When the kernel has no random bytes to give, as it never happens on Linux after boot.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; KEY_BYTES];
        fill_random(&mut bytes);
        Self(bytes)
    }

    /// The key with these bytes, which must be as good as random.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Which key it is, in a few bytes that say nothing about it: the key itself cannot be guessed from a hash of it.
    pub(crate) fn name(&self) -> [u8; KEY_NAME_BYTES] {
        let digest = Sha256::new().chain_update(b"skep-seal/1 name of a key").chain_update(self.0).finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

/// Straight from the kernel each time: a generator in this process would repeat itself in a copy of a running machine,
/// and a repeated nonce gives the text away.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    use rand::RngCore;
    OsRng.unwrap_err().fill_bytes(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_hide() {
        let key = Key::random();
        assert_ne!(key, Key::random());
        assert_eq!(key, Key::from_bytes(*key.bytes()));
        assert_eq!(format!("{key:?}"), "Key(hidden)");
    }

    #[test]
    fn the_name_of_a_key_is_stable() {
        // In every sealed file: must never change.
        assert_eq!(Key::from_bytes([7; 32]).name(), Key::from_bytes([7; 32]).name());
        assert_ne!(Key::from_bytes([7; 32]).name(), Key::from_bytes([8; 32]).name());
    }
}
