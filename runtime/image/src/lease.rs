//! Leases: content that somebody works with is not removed.
//!
//! A lease counts in memory, so it ends with the process; an image that is recorded lives without one. When the
//! last lease on a digest goes and no image needs it, the blob and the unpacked layer go too. So a transfer that
//! was given up leaves nothing.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use crate::blobs::Staged;
use crate::store::Inner;
use crate::{Digest, Error, Image, Reference, Result, remove};

/// Keeps blobs and layers from being removed until it is dropped. See [`crate::Store::lease`].
pub struct Lease {
    inner: Arc<Inner>,
    held: HashSet<Digest>,
}

impl Lease {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, held: HashSet::new() }
    }

    /// Holds a blob, whether it is here yet or not, and says whether it is here. After `true` it stays.
    pub fn hold(&mut self, digest: &Digest) -> bool {
        self.hold_all([*digest]);
        self.inner.blob_path(digest).is_file()
    }

    pub(crate) fn hold_all(&mut self, digests: impl IntoIterator<Item = Digest>) {
        let mut state = self.inner.lock();
        for digest in digests {
            if self.held.insert(digest) {
                *state.pins.entry(digest).or_insert(0) += 1;
            }
        }
    }

    /// Begins to receive a blob of `size` bytes; the lease holds it from now on. Any number of blobs can be
    /// received at the same time; of two writers of one blob the second changes nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn ingest(&mut self, digest: &Digest, size: u64) -> Result<BlobWriter> {
        self.hold_all([*digest]);
        let mut own = Self::new(self.inner.clone());
        own.hold_all([*digest]);
        Ok(BlobWriter { staged: Staged::create(&self.inner)?, digest: *digest, size, lease: own })
    }

    /// Makes an image of blobs that are here: the manifest, and all that it names. `reference` may carry a
    /// digest, or be absent (the image then has only its ID). The lease holds all blobs afterwards.
    ///
    /// Blobs were verified when they came; manifest and configuration are verified again. Whether a layer is
    /// the one that the configuration means is verified when it is unpacked.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], [`Error::Document`], [`Error::SizeMismatch`], [`Error::DigestMismatch`] if
    /// `reference` has another digest, [`Error::Io`].
    pub fn import(&mut self, reference: Option<&Reference>, manifest_digest: &Digest) -> Result<Image> {
        if let Some(expected) = reference.and_then(Reference::digest)
            && expected != *manifest_digest
        {
            let what = "the manifest".into();
            return Err(Error::DigestMismatch { what, expected, found: *manifest_digest });
        }
        self.hold_all([*manifest_digest]);
        // Twice: once to learn what to hold, once to see that it was there after it was held.
        let image = self.inner.read_image(manifest_digest)?;
        self.hold_all(image.blobs().iter().map(|b| b.digest).chain(image.layers.iter().map(|l| l.diff_id)));
        let image = self.inner.read_image(manifest_digest)?;
        self.inner.sync_blobs()?;
        let adopted =
            self.inner.adopt(vec![(image.clone(), reference.into_iter().cloned().collect(), None)])?;
        Ok(adopted.into_iter().next().unwrap_or(image))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        for digest in &self.held {
            if let Some(count) = state.pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(digest);
                }
            }
        }
        let doomed = self.inner.collect(&state, self.held.iter().copied());
        drop(state);
        remove::dispose(doomed);
    }
}

/// A blob that is being received. Dropped without [`BlobWriter::commit`] it leaves nothing.
pub struct BlobWriter {
    staged: Staged,
    digest: Digest,
    size: u64,
    lease: Lease,
}

impl BlobWriter {
    /// Verifies size and digest and makes the blob durable and visible.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`], [`Error::DigestMismatch`], [`Error::Io`]; the store is unchanged then.
    pub fn commit(self) -> Result<()> {
        let what = || format!("blob {}", self.digest.short());
        if self.staged.size != self.size {
            return Err(Error::SizeMismatch { what: what(), expected: self.size, found: self.staged.size });
        }
        let complete = self.staged.complete();
        if complete.digest != self.digest {
            let what = format!("blob {}", self.digest.short());
            return Err(Error::DigestMismatch { what, expected: self.digest, found: complete.digest });
        }
        complete.publish(&self.lease.inner)?;
        self.lease.inner.sync_blobs()
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.staged.size
    }
}

impl Write for BlobWriter {
    /// Fails with `InvalidData` for a byte more than was announced.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.staged.size + bytes.len() as u64 > self.size {
            let text = format!("more than the {} bytes announced", self.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        match self.staged.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::Io { source, .. }) => Err(source),
            Err(other) => Err(io::Error::other(other)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
