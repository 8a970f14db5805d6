//! Unpacked layers, made once.
//!
//! ```text
//! absent ──claimed by one thread──▶ unpacking in temp ──diff ID right, syncfs, rename──▶ layers/<hex>
//!    ▲          others wait                │
//!    └────────── error: temp removed ──────┘ (a waiter then tries itself)
//! ```

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::blobs::sync_dir;
use crate::decompress::Decoder;
use crate::error::{IoContext, LayerError};
use crate::limits::LAYER_THREADS_MAX;
use crate::store::Inner;
use crate::{Digest, Error, Image, Layer, Result, Store, remove, unpack};

/// Beside the layer's directory `fs`.
const MARKER: &str = "layer.json";

#[derive(Serialize, Deserialize)]
struct Marker {
    /// The blob that it was unpacked from.
    blob: Digest,
    entries: u64,
    bytes: u64,
}

impl Store {
    /// The directories of an image's layers for overlayfs' `lowerdir`, TOPMOST FIRST; never empty (an image
    /// without layers has one empty directory). Unpacks what is not yet there, each layer once however many
    /// callers there are. The caller keeps the image in use ([`Store::hold`]) while it needs the directories, and
    /// never writes to them.
    ///
    /// # Errors
    /// [`Error::Layer`] (the layer's content is not what it must be, or the disk is full), [`Error::MissingBlob`],
    /// [`Error::Io`]. What was complete stays, nothing half-made does.
    pub fn rootfs(&self, image: &Image) -> Result<Vec<PathBuf>> {
        let _lease = self.hold(image);
        let mut seen = BTreeSet::new();
        let missing: Vec<&Layer> = image
            .layers
            .iter()
            .filter(|l| !self.inner.layer_dir(&l.diff_id).is_dir() && seen.insert(l.diff_id))
            .collect();
        for_each_layer(&missing, |layer| self.inner.ensure_unpacked(layer))?;
        // Overlayfs refuses one directory twice. The upper of two equal layers hides everything that the lower
        // one could show, so the lower one can go.
        let mut shown = BTreeSet::new();
        let mut folders: Vec<PathBuf> = image
            .layers
            .iter()
            .rev()
            .filter(|l| shown.insert(l.diff_id))
            .map(|l| self.inner.layer_dir(&l.diff_id).join("fs"))
            .collect();
        if folders.is_empty() {
            folders.push(self.inner.root.join("empty"));
        }
        Ok(folders)
    }
}

/// Runs `work` for every layer on a few threads, and returns the first error in order of layers.
pub(crate) fn for_each_layer<L: Sync>(layers: &[L], work: impl Fn(&L) -> Result<()> + Sync) -> Result<()> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = layers.len().min(processors).min(LAYER_THREADS_MAX);
    if threads <= 1 {
        return layers.iter().try_for_each(work);
    }
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let layer = layers.get(index)?;
            if let Err(error) = work(layer) {
                next.store(layers.len(), Ordering::Relaxed);
                return Some((index, error));
            }
        }
    };
    let first = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut errors: Vec<(usize, Error)> = run().into_iter().collect();
        for helper in helpers {
            match helper.join() {
                Ok(error) => errors.extend(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        errors.into_iter().min_by_key(|(index, _)| *index)
    });
    first.map_or(Ok(()), |(_, error)| Err(error))
}

/// The right to unpack one layer; passes to a waiter when dropped.
struct Claim<'a> {
    inner: &'a Inner,
    diff_id: Digest,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.inner.unpacking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.diff_id);
        self.inner.unpacked.notify_all();
    }
}

impl Inner {
    fn ensure_unpacked(&self, layer: &Layer) -> Result<()> {
        let folder = self.layer_dir(&layer.diff_id);
        let mut busy = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if folder.is_dir() {
                return Ok(());
            }
            if busy.insert(layer.diff_id) {
                break;
            }
            busy = self.unpacked.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        drop(busy);
        let _claim = Claim { inner: self, diff_id: layer.diff_id };
        let temp = self.temp_path("layer");
        let result = self.unpack_into(layer, &temp).and_then(|()| {
            fs::rename(&temp, &folder).io("rename", &folder)?;
            sync_dir(&self.layers_dir())
        });
        if result.is_err() {
            remove::dispose(vec![temp]);
        }
        result
    }

    fn unpack_into(&self, layer: &Layer, temp: &Path) -> Result<()> {
        let diff_id = layer.diff_id;
        let of_layer = |source| Error::Layer { diff_id, source };
        let blob = self.open_blob(&layer.digest, "layer")?;
        let root = temp.join("fs");
        let trash = temp.join("trash");
        for (folder, mode) in [(temp, 0o700), (&root, 0o755), (&trash, 0o700)] {
            DirBuilder::new().mode(mode).create(folder).io("create", folder)?;
        }
        let root_fd = File::open(&root).io("open", &root)?;
        // The umask of the process must not decide what is in an image.
        rustix::fs::fchmod(&root_fd, rustix::fs::Mode::from_raw_mode(0o755))
            .io("change the mode of", &root)?;
        let trash_fd = File::open(&trash).io("open", &trash)?;
        let (decoder, _) = Decoder::new(blob).map_err(|e| of_layer(LayerError::Read(e)))?;
        let mut reader = Hashing::new(decoder);
        let done = unpack::unpack(&mut reader, root_fd.as_fd(), trash_fd.as_fd()).map_err(of_layer)?;
        let found = reader.digest();
        if found != diff_id {
            return Err(of_layer(LayerError::DiffId(found)));
        }
        remove::remove_tree(&trash)?;
        let marker = Marker { blob: layer.digest, entries: done.entries, bytes: done.bytes };
        let path = temp.join(MARKER);
        fs::write(&path, serde_json::to_vec(&marker).unwrap_or_default()).io("write", &path)?;
        // One call for all files of the layer: a layer that has its name is complete, a power cut included.
        rustix::fs::syncfs(&root_fd).io("sync", &root)
    }
}

/// Bytes of a layer's files as its marker says; 0 if it does not.
pub(crate) fn recorded_bytes(layer: &Path) -> u64 {
    let marker = fs::read(layer.join(MARKER)).ok().and_then(|b| serde_json::from_slice::<Marker>(&b).ok());
    marker.map_or(0, |m| m.bytes)
}

/// A reader that hashes what passes.
pub(crate) struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, hasher: Sha256::new() }
    }

    pub(crate) fn digest(self) -> Digest {
        Digest::finish(self.hasher)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.reader.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}
