//! Blobs on disk: staged, verified, published under their digest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::IoContext;
use crate::store::Inner;
use crate::{Digest, Error, Result};

/// A file in `temp` that disappears when it is dropped, unless it was published.
pub(crate) struct Staged {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    pub(crate) size: u64,
}

/// A staged file whose content is complete.
pub(crate) struct Complete {
    path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Staged {
    pub(crate) fn create(inner: &Inner) -> Result<Self> {
        let path = inner.temp_path("blob");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .io("create", &path)?;
        Ok(Self { path, file, hasher: Sha256::new(), size: 0 })
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).io("write", &self.path)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// The digest of what was written.
    pub(crate) fn complete(mut self) -> Complete {
        let digest = Digest::finish(std::mem::take(&mut self.hasher));
        Complete { path: std::mem::take(&mut self.path), digest, size: self.size }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        remove_staged(&self.path);
    }
}

impl Complete {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn open(&self) -> Result<File> {
        File::open(&self.path).io("open", &self.path)
    }

    /// Puts the content under its digest and says whether it was new. The caller holds a lease on the digest
    /// and, after the last one, calls [`Inner::sync_blobs`].
    pub(crate) fn publish(self, inner: &Inner) -> Result<bool> {
        let target = inner.blob_path(&self.digest);
        if !target.exists() {
            File::open(&self.path).and_then(|f| f.sync_all()).io("sync", &self.path)?;
        }
        // Under the lock, so that a removal cannot decide on the old file and delete the new one.
        let _state = inner.lock();
        if target.exists() {
            return Ok(false);
        }
        fs::rename(&self.path, &target).io("rename", &target)?;
        Ok(true)
    }
}

impl Drop for Complete {
    fn drop(&mut self) {
        remove_staged(&self.path);
    }
}

fn remove_staged(path: &Path) {
    // Empty when moved on, absent when published; whatever else is left is emptied by the next open.
    if !path.as_os_str().is_empty() {
        let _ = fs::remove_file(path);
    }
}

impl Inner {
    /// Stages some bytes.
    pub(crate) fn stage(&self, bytes: &[u8]) -> Result<Complete> {
        let mut staged = Staged::create(self)?;
        staged.append(bytes)?;
        Ok(staged.complete())
    }

    pub(crate) fn sync_blobs(&self) -> Result<()> {
        sync_dir(&self.blobs_dir())
    }

    pub(crate) fn blob_size(&self, digest: &Digest, what: &str) -> Result<u64> {
        let path = self.blob_path(digest);
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::MissingBlob { digest: *digest, what: what.into() })
            }
            Err(e) => Err(e).io("read", &path),
        }
    }

    pub(crate) fn open_blob(&self, digest: &Digest, what: &str) -> Result<File> {
        let path = self.blob_path(digest);
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => Ok(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::MissingBlob { digest: *digest, what: what.into() })
            }
            Err(e) => Err(e).io("open", &path),
        }
    }

    /// Reads a document and verifies it once more: it is small, and everything hangs on it.
    pub(crate) fn read_small(&self, digest: &Digest, bytes_max: u64, what: &str) -> Result<Vec<u8>> {
        let file = self.open_blob(digest, what)?;
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes).io("read", &self.blob_path(digest))?;
        if bytes.len() as u64 > bytes_max {
            return Err(Error::document(what, format!("longer than {bytes_max} bytes")));
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Error::DigestMismatch { what: what.into(), expected: *digest, found });
        }
        Ok(bytes)
    }
}

pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).io("sync", path)
}

/// Replaces a file so that a power cut leaves the old or the new content, never a mixture.
pub(crate) fn replace_file(folder: &Path, name: &str, temp: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> Result<()> {
        let mut file =
            File::options().write(true).create_new(true).mode(0o600).open(temp).io("create", temp)?;
        file.write_all(bytes).io("write", temp)?;
        file.sync_all().io("sync", temp)?;
        let target = folder.join(name);
        fs::rename(temp, &target).io("rename", &target)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(temp);
        return Err(error);
    }
    sync_dir(folder)
}
