//! What makes bytes on a disk unreadable without a key.
//!
//! - [`Key`]: 32 bytes that seal; wiped from memory when dropped.
//! - [`seal`], [`open`]: XChaCha20-Poly1305 with a random nonce; the key it was sealed with is told from damage.
//! - [`Vault`]: a node's data key in a folder, wrapped by the swarm's unlock key or by a key file of the node. Its
//!   files and what a crash leaves of them are drawn in the module.
//! - [`UnlockKey`]: the key that a person keeps, as text `SWMKEY-1-…`.
//!
//! Nothing here knows what is sealed. Only the vault touches files.

mod key;
mod sealing;
mod unlock;
mod vault;

pub use key::Key;
pub use sealing::{OVERHEAD_BYTES, SealError, open, seal};
pub use unlock::{UnlockKey, UnlockKeyError};
pub use vault::{Vault, VaultError};
