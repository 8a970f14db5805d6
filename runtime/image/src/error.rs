//! What can go wrong, one variant per failing step.

use std::io;
use std::path::PathBuf;

use crate::digest::InvalidDigest;
use crate::reference::InvalidReference;
use crate::{Digest, Reference};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation of the store. The store is as it was before, if the variant does not say otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder of the store could not be used.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried: "open", "write", …
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("the image store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The store's own record cannot be understood; it is left as it is.
    #[error("the record {} is damaged: {source}", path.display())]
    Record {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The store was written by a later version.
    #[error("the record {} has format {found}, this version knows {known}", path.display())]
    RecordVersion {
        /// Its path.
        path: PathBuf,
        /// Format found.
        found: u32,
        /// Format known.
        known: u32,
    },
    /// No image has this name or ID.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// Several images begin with this ID.
    #[error("image ID prefix {prefix} is ambiguous: {count} images match")]
    AmbiguousId {
        /// What was asked for.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// The name is not an image reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The digest is not one.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// A tag cannot carry a digest.
    #[error("refusing to create a tag with a digest reference: {0}")]
    TagWithDigest(Reference),
    /// The image cannot be removed; the text is Docker's.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The archive could not be read, or was cut off.
    #[error("cannot read the archive: {0}")]
    ArchiveRead(#[source] io::Error),
    /// The archive is not what an image archive must be.
    #[error("invalid image archive: {0}")]
    Archive(String),
    /// A document of an image is not valid.
    #[error("invalid {what}: {reason}")]
    Document {
        /// Which one.
        what: String,
        /// Why.
        reason: String,
    },
    /// Content does not have the digest that its name or a document says.
    #[error("{what} has digest {found}, expected {expected}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// The digest it must have.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// Content does not have the size that a document says.
    #[error("{what} has {found} bytes, expected {expected}")]
    SizeMismatch {
        /// What was read.
        what: String,
        /// The size it must have.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// A blob that is needed is not in the store or the archive.
    #[error("{what}: blob {digest} is missing")]
    MissingBlob {
        /// Which one.
        digest: Digest,
        /// Who needs it.
        what: String,
    },
    /// A layer cannot be unpacked.
    #[error("layer {diff_id}: {source}")]
    Layer {
        /// Which one.
        diff_id: Digest,
        /// Why.
        source: LayerError,
    },
    /// No manifest is for this machine.
    #[error("no image for {wanted} in {what} (it has: {found})")]
    NoPlatform {
        /// Operating system and architecture of this machine.
        wanted: String,
        /// Where it was looked for.
        what: String,
        /// The platforms that are there.
        found: String,
    },
    /// The files for [`crate::Store::build_single_layer`] cannot be used.
    #[error("cannot build the image: {0}")]
    Build(String),
}

/// Why a layer cannot be read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob cannot be read or decompressed.
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    /// The tar stream is not well formed.
    #[error("invalid tar at byte {offset}: {reason}")]
    Tar {
        /// Where in the uncompressed stream.
        offset: u64,
        /// Why.
        reason: String,
    },
    /// An entry asks for what no layer may do.
    #[error("entry {path:?}: {reason}")]
    Entry {
        /// Its path, bytes outside ASCII escaped.
        path: String,
        /// Why.
        reason: String,
    },
    /// The kernel refused a step for an entry.
    #[error("entry {path:?}: cannot {step}: {source}")]
    Io {
        /// Its path, bytes outside ASCII escaped.
        path: String,
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A bound of [`crate::limits`] was passed.
    #[error("too large: {0}")]
    Limit(String),
    /// The uncompressed content has another digest than the configuration says.
    #[error("the content has digest {0}")]
    DiffId(Digest),
}

/// What sort of answer a caller should give for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The caller's input is wrong (400).
    Invalid,
    /// There is no such image (404).
    NotFound,
    /// Another state of the store is needed first (409).
    Conflict,
    /// This machine failed (500).
    System,
}

impl Error {
    /// Sorts the error for an API.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchImage(_) => Kind::NotFound,
            Self::Conflict(_) => Kind::Conflict,
            Self::Io { .. } | Self::Locked(_) | Self::Record { .. } | Self::RecordVersion { .. } => {
                Kind::System
            }
            Self::Layer { source: LayerError::Io { .. }, .. } => Kind::System,
            _ => Kind::Invalid,
        }
    }

    /// True when the disk, or a quota on it, was full.
    pub fn is_disk_full(&self) -> bool {
        let full =
            |e: &io::Error| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Io { source, .. } | Self::Layer { source: LayerError::Io { source, .. }, .. } => {
                full(source)
            }
            _ => false,
        }
    }

    pub(crate) fn document(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Document { what: what.into(), reason: reason.to_string() }
    }
}

/// Adds the step and the path to an I/O error.
pub(crate) trait IoContext<T> {
    /// See [`Error::Io`].
    fn io(self, step: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn io(self, step: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| Error::Io { step, path: path.into(), source: e.into() })
    }
}
