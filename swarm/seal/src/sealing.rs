//! Sealing and opening bytes in memory.
//!
//! ```text
//! offset 0         1          5           29
//!        [version][key name ][nonce      ][cipher text …][tag, 16 bytes]
//! ```
//! The key's name tells a wrong key from damage; it and the version are authenticated together with the context.
//! Nonces are random: with 24 bytes a key may seal more texts than any disk holds (libsodium's
//! `crypto_aead_xchacha20poly1305_ietf`, draft-irtf-cfrg-xchacha).

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use crate::Key;
use crate::key::{KEY_NAME_BYTES, fill_random};

/// Why sealed bytes did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// They name another key.
    #[error("wrong key")]
    WrongKey,
    /// They were changed since they were sealed, or stand in a place that they were not sealed for.
    #[error("the sealed bytes are damaged, or stand where they do not belong")]
    Damaged,
    /// They are of a later version of this program, or not sealed at all.
    #[error("sealed in an unknown way ({0}); by a newer version?")]
    Version(u8),
}

/// By how much [`seal`] makes bytes longer.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const HEADER_BYTES: usize = 1 + KEY_NAME_BYTES + NONCE_BYTES;
const TAG_BYTES: usize = 16;

/// Seals `plain`. `context` says what it is and where it belongs; it is not stored, and [`open`] must be given the same.
///
/// # Panics
/// When `plain` is longer than the 256 GiB that the cipher takes, or the kernel has no random bytes.
#[must_use]
pub fn seal(key: &Key, context: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
    sealed.push(VERSION);
    sealed.extend_from_slice(&key.name());
    let mut nonce = [0; NONCE_BYTES];
    fill_random(&mut nonce);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let associated = associated(&sealed[..1 + KEY_NAME_BYTES], context);
    let outcome = cipher(key).encrypt_inout_detached(
        &XNonce::from(nonce),
        &associated,
        (&mut sealed[HEADER_BYTES..]).into(),
    );
    let Ok(tag) = outcome else { panic!("{} bytes are too many for one seal", plain.len()) };
    sealed.extend_from_slice(&tag);
    sealed
}

/// Opens what [`seal`] made under the same key and for the same context.
///
/// # Errors
/// See [`SealError`].
pub fn open(key: &Key, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (head, rest) = sealed.split_first_chunk::<{ 1 + KEY_NAME_BYTES }>().ok_or(SealError::Damaged)?;
    if head[0] != VERSION {
        return Err(SealError::Version(head[0]));
    }
    if head[1..] != key.name() {
        return Err(SealError::WrongKey);
    }
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Damaged)?;
    let (text, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(SealError::Damaged)?;
    let mut plain = text.to_vec();
    cipher(key)
        .decrypt_inout_detached(
            &XNonce::from(*nonce),
            &associated(head, context),
            plain.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .map_err(|_| SealError::Damaged)?;
    Ok(plain)
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.bytes().into())
}

/// The head has a fixed length, so that it and the context cannot be taken for each other.
fn associated(head: &[u8], context: &[u8]) -> Vec<u8> {
    [head, context].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sealed_opens_with_the_same_key_and_context_only(
            plain in proptest::collection::vec(any::<u8>(), 0..300),
            context in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            let key = Key::random();
            let sealed = seal(&key, &context, &plain);
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
            prop_assert_eq!(open(&key, &context, &sealed), Ok(plain));
            prop_assert_eq!(open(&Key::random(), &context, &sealed), Err(SealError::WrongKey));
            prop_assert_eq!(open(&key, &[&context[..], b"x"].concat(), &sealed), Err(SealError::Damaged));
        }

        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&Key::random(), b"", &bytes).is_err());
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let key = Key::random();
        let sealed = seal(&key, b"context", b"text");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&key, b"context", &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open(&key, b"context", &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_same_text_looks_different_each_time() {
        let key = Key::random();
        assert_ne!(seal(&key, b"", b"text"), seal(&key, b"", b"text"));
    }

    /// Appendix A.3.1 of draft-irtf-cfrg-xchacha-03: that the cipher is the one it says it is.
    #[test]
    fn the_drafts_vector_opens() {
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + u8::try_from(at).unwrap());
        let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap());
        let associated = hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
        let mut text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.".to_vec();
        let tag = cipher(&Key::from_bytes(key))
            .encrypt_inout_detached(&XNonce::from(nonce), &associated, text.as_mut_slice().into())
            .unwrap();
        assert_eq!(hex::encode(tag), "c0875924c1c7987947deafd8780acf49");
        assert!(hex::encode(text).starts_with("bd6d179d3e83d43b9576579493c0e939"));
    }
}
