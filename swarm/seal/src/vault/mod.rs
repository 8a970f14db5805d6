//! A node's data key on its disk.
//!
//! The folder (mode 0700) holds, each with mode 0600:
//! - `vault`: the data key, wrapped, and by what: `node-key` or `unlock-key`. The one file whose replacement, by a
//!   rename, changes anything.
//! - `key`: the node's own key, while the vault is wrapped by it. Of no use to a vault that is wrapped by an unlock key.
//! - `vault.new`, `key.new`: half-written; of no meaning, removed by the next [`Vault::open`].
//!
//! What [`Vault::open`] answers, and the steps between:
//!
//! ```text
//!                    │ open(None)      │ open(Some(right)) │ open(Some(wrong))
//!  A  no vault, ±key │ Missing         │ Missing           │ Missing
//!  B  node-key, key  │ opens           │ opens (not asked) │ opens (not asked)
//!  C  node-key, none │ Damaged         │ Damaged           │ Damaged
//!  D  unlock-key,key │ Locked          │ opens, key erased │ WrongKey
//!  E  unlock-key     │ Locked          │ opens             │ WrongKey
//!
//!  create(None)      A ──key──▶ A ══vault══▶ B
//!  create(Some u)    A ══vault══▶ D or E ──erase key──▶ E
//!  lock              B ══vault══▶ D ──erase key──▶ E
//!  unlock            E ──key──▶ D ══vault══▶ B
//!  another unlock key E ══vault══▶ E
//! ```
//! `──` and `══` are each: write under another name, sync, rename, sync the folder. A crash before a `══` leaves what
//! opens as before it, a crash after it what opens as after it; C is never passed. A crash in D leaves the key file,
//! which the next open erases; it opens nothing that is there then.
//!
//! The data key itself stays the same for the folder's life. Who had read the disk while it was not locked can
//! therefore still open what is sealed after it is locked; and a file that was erased can be found on some disks
//! (flash, copy-on-write file systems) with tools.

mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use files::Steps;
use parking_lot::Mutex;

use crate::key::KEY_BYTES;
use crate::{Key, SealError, UnlockKey, open, seal};

/// A node's data key, and the folder that keeps it. A clone is the same vault.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    key: Key,
    /// How the file is wrapped now; held while that is changed.
    wrap: Mutex<Wrap>,
}

/// What the data key is wrapped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrap {
    NodeKey,
    UnlockKey,
}

/// Why the vault could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is no vault in the folder.
    #[error("there is no vault in {}", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// There is one already; making another would lose all that is sealed under it.
    #[error("there is a vault in {} already", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// The unlock key is needed.
    #[error("the vault in {} is locked", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// This is not the unlock key that locked it.
    #[error("wrong unlock key for the vault in {}", dir.display())]
    WrongKey {
        /// The folder.
        dir: PathBuf,
    },
    /// A file holds what this program did not write there. It is left as it is.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Vault {
    /// Makes a vault with a new data key in `dir` (made when missing), wrapped by the unlock key, or by a key file
    /// beside it.
    ///
    /// # Errors
    /// [`VaultError::Exists`], [`VaultError::Io`].
    pub fn create(dir: &Path, unlock: Option<&UnlockKey>) -> Result<Self, VaultError> {
        files::make_folder(dir)?;
        if files::exists(dir)? {
            return Err(VaultError::Exists { dir: dir.to_owned() });
        }
        let vault = Self::new(dir, Key::random(), Wrap::NodeKey);
        vault.wrap_anew(unlock, &mut Steps::unseen())?;
        Ok(vault)
    }

    /// Opens the vault in `dir`. An unlock key that is given to a vault that needs none is not looked at: see
    /// [`Self::is_locked`].
    ///
    /// # Errors
    /// [`VaultError::Missing`]; [`VaultError::Locked`] when the unlock key is needed; [`VaultError::WrongKey`] when it
    /// is another; [`VaultError::Damaged`], [`VaultError::Io`].
    pub fn open(dir: &Path, unlock: Option<&UnlockKey>) -> Result<Self, VaultError> {
        let (wrap, wrapped) = files::read_vault(dir)?;
        let opened = match (wrap, unlock) {
            (Wrap::UnlockKey, None) => return Err(VaultError::Locked { dir: dir.to_owned() }),
            (Wrap::UnlockKey, Some(unlock)) => match open(unlock.key(), context(wrap), &wrapped) {
                Err(SealError::WrongKey) => return Err(VaultError::WrongKey { dir: dir.to_owned() }),
                opened => opened,
            },
            (Wrap::NodeKey, _) => open(&files::read_node_key(dir)?, context(wrap), &wrapped),
        };
        let damaged = |reason| VaultError::Damaged { path: files::vault_path(dir), reason };
        let bytes = zeroize::Zeroizing::new(opened.map_err(|error| {
            damaged(match error {
                SealError::WrongKey => "the key file beside it is another vault's",
                SealError::Damaged | SealError::Version(_) => "the wrapped key does not open",
            })
        })?);
        let exact: &[u8; KEY_BYTES] =
            bytes.as_slice().try_into().map_err(|_| damaged("the wrapped key has another length"))?;
        files::clean(dir, wrap);
        Ok(Self::new(dir, Key::from_bytes(*exact), wrap))
    }

    /// Wraps the data key by this unlock key from now on, or by a key file of the node's own. Durable when it returns;
    /// a crash on the way leaves a vault that opens as before or as after.
    ///
    /// # Errors
    /// [`VaultError::Io`]: the vault opens as before or as after; [`Self::is_locked`] says which. It may be tried again.
    pub fn set_unlock_key(&self, unlock: Option<&UnlockKey>) -> Result<(), VaultError> {
        self.set_unlock_key_in(unlock, &mut Steps::unseen())
    }

    fn set_unlock_key_in(&self, unlock: Option<&UnlockKey>, steps: &mut Steps<'_>) -> Result<(), VaultError> {
        if unlock.is_none() && !self.is_locked() {
            return Ok(());
        }
        self.wrap_anew(unlock, steps)
    }

    /// Whether an unlock key will be needed after a restart.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        *self.inner.wrap.lock() == Wrap::UnlockKey
    }

    /// The data key. It stays the same for the vault's life.
    #[must_use]
    pub fn key(&self) -> Key {
        self.inner.key.clone()
    }

    /// [`seal`] under the data key.
    #[must_use]
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Vec<u8> {
        seal(&self.inner.key, context, plain)
    }

    /// [`open`] under the data key.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open_sealed(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        open(&self.inner.key, context, sealed)
    }

    fn new(dir: &Path, key: Key, wrap: Wrap) -> Self {
        Self { inner: Arc::new(Inner { dir: dir.to_owned(), key, wrap: Mutex::new(wrap) }) }
    }

    /// The steps of the module's drawing.
    fn wrap_anew(&self, unlock: Option<&UnlockKey>, steps: &mut Steps<'_>) -> Result<(), VaultError> {
        let dir = &self.inner.dir;
        let mut current = self.inner.wrap.lock();
        let (wrap, by) = match unlock {
            Some(unlock) => (Wrap::UnlockKey, unlock.key().clone()),
            None => (Wrap::NodeKey, Key::random()),
        };
        if wrap == Wrap::NodeKey {
            files::write_node_key(dir, &by, steps)?;
        }
        let wrapped = seal(&by, context(wrap), self.inner.key.bytes());
        files::write_vault(dir, wrap, &wrapped, steps, || *current = wrap)?;
        if wrap == Wrap::UnlockKey {
            files::erase_node_key(dir, steps)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

/// What wraps is authenticated, so that nobody can make a locked vault look like an open one.
const fn context(wrap: Wrap) -> &'static [u8] {
    match wrap {
        Wrap::NodeKey => b"skep-vault/1 node-key",
        Wrap::UnlockKey => b"skep-vault/1 unlock-key",
    }
}

#[cfg(test)]
mod tests;
