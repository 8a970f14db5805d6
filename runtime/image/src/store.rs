//! The store: where things are, and questions about what is there.
//!
//! ```text
//! root/                 0700
//!   lock                held (flock) while the store is open
//!   images.json         images and their names; the only thing that makes blobs and layers live
//!   blobs/sha256/<hex>  content, complete and verified when it has this name
//!   layers/<hex>/fs     an unpacked layer by diff ID, complete and on disk when it has this name
//!   empty/              the lower directory of an image without layers
//!   temp/               everything unfinished; emptied by open
//! ```
//!
//! Life of content, and what a crash at each arrow leaves:
//!
//! ```text
//! staged in temp ──verified, fsync, rename──▶ present ──images.json written──▶ live
//!      │ crash: emptied by open                  │ crash: swept by open          │ remove: images.json first
//!      ▼                                         ▼                               ▼
//!    gone ◀───────────────────────────────────── gone ◀───── no image, no lease ─ present
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use crate::error::IoContext;
use crate::record::{Catalog, Entry};
use crate::{Digest, Error, Image, ImageId, ImageSummary, Lease, Reference, Result, blobs, remove};

/// The image store of one host. Clones are the same store; every method may be called from any thread.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// Bytes used by a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Images known.
    pub images: usize,
    /// Blobs present.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Layers unpacked.
    pub layers: usize,
    /// Bytes of their files, as counted when they were unpacked.
    pub layer_bytes: u64,
}

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) state: Mutex<State>,
    /// Diff IDs that a thread is unpacking now.
    pub(crate) unpacking: Mutex<HashSet<Digest>>,
    pub(crate) unpacked: Condvar,
    next_temp: AtomicU64,
    _lock: File,
}

pub(crate) struct State {
    pub(crate) catalog: Catalog,
    /// How many leases hold each digest (blob digests and diff IDs alike).
    pub(crate) pins: HashMap<Digest, usize>,
}

impl Store {
    /// Opens the store at `root`, makes it if it is not there, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process (or another `open` in this one) has it, [`Error::Record`] if its
    /// record is damaged (nothing is changed then), [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self> {
        for folder in ["", "blobs", "blobs/sha256", "layers", "empty", "temp"] {
            let path = root.join(folder);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).io("create", &path)?;
        }
        let lock_path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .io("open", &lock_path)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(root.into())),
            Err(e) => return Err(e).io("lock", &lock_path),
        }
        let inner = Inner {
            root: root.into(),
            state: Mutex::new(State { catalog: Catalog::default(), pins: HashMap::new() }),
            unpacking: Mutex::default(),
            unpacked: Condvar::new(),
            next_temp: AtomicU64::new(0),
            _lock: lock,
        };
        inner.empty_temp()?;
        let catalog = Catalog::read(&inner)?;
        inner.lock().catalog = catalog;
        inner.sweep()?;
        inner.empty_temp()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The image with this name, `name@sha256:…`, ID, or unique beginning of an ID (with or without `sha256:`).
    /// A name wins over an ID. A name with a digest finds an image by its manifest digest (or ID), under
    /// whatever name it is known here: content is content.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::AmbiguousId`], or [`Error::Reference`] if `name` cannot be either.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let state = self.inner.lock();
        let found = state.catalog.find(name)?;
        Ok(state.catalog.image(found.id, found.manifest))
    }

    /// Every image, in order of ID. Images without a name too.
    pub fn list(&self) -> Vec<ImageSummary> {
        self.images().iter().map(Image::summary).collect()
    }

    /// Every image, in order of ID.
    pub fn images(&self) -> Vec<Image> {
        let state = self.inner.lock();
        state.catalog.images.keys().map(|id| state.catalog.image(*id, None)).collect()
    }

    /// Gives an image one more name. If another image has that name, it loses it.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::TagWithDigest`], [`Error::Io`] if it could not be recorded.
    pub fn tag(&self, id: &ImageId, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(Error::TagWithDigest(name.clone()));
        }
        let mut state = self.inner.lock();
        if !state.catalog.images.contains_key(id) {
            return Err(Error::NoSuchImage(id.to_string()));
        }
        let mut catalog = state.catalog.clone();
        catalog.references.insert(name.clone(), *id);
        self.inner.record(&mut state, catalog)
    }

    /// An empty lease: what it holds is not removed before it is dropped.
    pub fn lease(&self) -> Lease {
        Lease::new(self.inner.clone())
    }

    /// A lease on the blobs and unpacked layers of an image. A container that uses the directories of
    /// [`Store::rootfs`] needs one, or an answer to the question of [`Store::remove`].
    pub fn hold(&self, image: &Image) -> Lease {
        let mut lease = self.lease();
        lease.hold_all(image.blobs().iter().map(|b| b.digest).chain(image.layers.iter().map(|l| l.diff_id)));
        lease
    }

    /// The configuration as its author wrote it (JSON), with the fields that only Docker knows.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DigestMismatch`] if the disk changed it.
    pub fn read_config(&self, image: &Image) -> Result<Vec<u8>> {
        self.inner.read_small(&image.id, crate::limits::CONFIG_BYTES_MAX, "image configuration")
    }

    /// The manifest as its author wrote it (JSON).
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DigestMismatch`] if the disk changed it.
    pub fn read_manifest(&self, image: &Image) -> Result<Vec<u8>> {
        self.inner.read_small(&image.manifest_digest, crate::limits::MANIFEST_BYTES_MAX, "image manifest")
    }

    /// True if the blob is here, complete.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.inner.blob_path(digest).is_file()
    }

    /// Opens a blob for reading. The file stays readable when the blob is removed meanwhile.
    ///
    /// # Errors
    /// [`Error::MissingBlob`], [`Error::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        self.inner.open_blob(digest, "store")
    }

    /// What is on the disk. Reads the folders, so its price grows with their number of entries.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage { images: self.inner.lock().catalog.images.len(), ..Usage::default() };
        let blobs = self.inner.blobs_dir();
        for entry in fs::read_dir(&blobs).io("read", &blobs)? {
            let entry = entry.io("read", &blobs)?;
            if let Ok(metadata) = entry.metadata() {
                usage.blobs += 1;
                usage.blob_bytes += metadata.len();
            }
        }
        let layers = self.inner.layers_dir();
        for entry in fs::read_dir(&layers).io("read", &layers)? {
            let entry = entry.io("read", &layers)?;
            usage.layers += 1;
            usage.layer_bytes += crate::rootfs::recorded_bytes(&entry.path());
        }
        Ok(usage)
    }
}

impl Inner {
    /// The state. A panic elsewhere leaves it valid: it is replaced only when the new one is complete.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.layers_dir().join(diff_id.hex())
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    /// A path in `temp` that nothing has used since `open`.
    pub(crate) fn temp_path(&self, kind: &str) -> PathBuf {
        let n = self.next_temp.fetch_add(1, Ordering::Relaxed);
        self.root.join("temp").join(format!("{kind}-{n}"))
    }

    /// Writes the new catalog to disk and only then makes it current.
    pub(crate) fn record(&self, state: &mut State, catalog: Catalog) -> Result<()> {
        let bytes = catalog.to_json();
        blobs::replace_file(&self.root, "images.json", &self.temp_path("record"), &bytes)?;
        state.catalog = catalog;
        Ok(())
    }

    fn empty_temp(&self) -> Result<()> {
        let temp = self.root.join("temp");
        for entry in fs::read_dir(&temp).io("read", &temp)? {
            let path = entry.io("read", &temp)?.path();
            remove::remove_tree(&path)?;
        }
        Ok(())
    }

    /// Removes blobs and layers that no image uses.
    fn sweep(&self) -> Result<()> {
        let live = self.lock().catalog.live();
        for folder in [self.blobs_dir(), self.layers_dir()] {
            for entry in fs::read_dir(&folder).io("read", &folder)? {
                let entry = entry.io("read", &folder)?;
                let known = entry.file_name().to_str().and_then(|n| Digest::from_hex(n).ok());
                if known.is_some_and(|digest| live.contains(&digest)) {
                    continue;
                }
                let doomed = self.temp_path("swept");
                fs::rename(entry.path(), &doomed).io("remove", &entry.path())?;
            }
        }
        Ok(())
    }

    /// Records an image whose blobs are present and held by a lease.
    pub(crate) fn adopt(
        &self,
        additions: Vec<(Image, Vec<Reference>, Option<String>)>,
    ) -> Result<Vec<Image>> {
        let mut state = self.lock();
        let mut catalog = state.catalog.clone();
        let mut adopted = Vec::new();
        for (image, references, stamp) in additions {
            let id = image.id;
            adopted.push((id, image.manifest_digest));
            catalog.images.entry(id).or_default().add(image, stamp);
            for reference in references {
                catalog.references.insert(reference, id);
            }
        }
        let dropped: Vec<Digest> = state.catalog.live().difference(&catalog.live()).copied().collect();
        self.record(&mut state, catalog)?;
        let doomed = self.collect(&state, dropped);
        let images =
            adopted.into_iter().map(|(id, manifest)| state.catalog.image(id, Some(manifest))).collect();
        drop(state);
        remove::dispose(doomed);
        Ok(images)
    }
}

/// What a name or ID stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: ImageId,
    /// Set if it was asked for by the digest of a manifest.
    pub(crate) manifest: Option<Digest>,
    /// Set if it was found by a name that is recorded.
    pub(crate) reference: Option<Reference>,
}

impl Catalog {
    pub(crate) fn find(&self, name: &str) -> Result<Found> {
        let parsed = name.parse::<Reference>();
        if let Ok(reference) = &parsed {
            if let Some(id) = self.references.get(reference) {
                return Ok(Found {
                    id: *id,
                    manifest: reference.digest(),
                    reference: Some(reference.clone()),
                });
            }
            if let Some(digest) = reference.digest() {
                return self.find_digest(digest).ok_or_else(|| Error::NoSuchImage(name.into()));
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if !prefix.is_empty()
            && prefix.len() <= 64
            && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            let matches: Vec<ImageId> =
                self.images.keys().filter(|id| id.hex().starts_with(prefix)).copied().collect();
            return match matches[..] {
                [id] => Ok(Found { id, manifest: None, reference: None }),
                [] => Err(Error::NoSuchImage(name.into())),
                _ => Err(Error::AmbiguousId { prefix: name.into(), count: matches.len() }),
            };
        }
        match parsed {
            Ok(_) => Err(Error::NoSuchImage(name.into())),
            Err(e) => Err(e.into()),
        }
    }

    fn find_digest(&self, digest: Digest) -> Option<Found> {
        if self.images.contains_key(&digest) {
            return Some(Found { id: digest, manifest: None, reference: None });
        }
        let (id, _) = self.images.iter().find(|(_, entry)| entry.variant(&digest).is_some())?;
        Some(Found { id: *id, manifest: Some(digest), reference: None })
    }

    /// The image as callers see it. `id` must be in the catalog.
    pub(crate) fn image(&self, id: ImageId, manifest: Option<Digest>) -> Image {
        let entry = &self.images[&id];
        let mut image = manifest.and_then(|m| entry.variant(&m)).unwrap_or_else(|| entry.current()).clone();
        image.references = self.names_of(&id);
        image
    }

    /// Names of an image, sorted.
    pub(crate) fn names_of(&self, id: &ImageId) -> Vec<Reference> {
        self.references.iter().filter(|(_, of)| *of == id).map(|(name, _)| name.clone()).collect()
    }

    /// Every digest that an image needs: blobs and diff IDs.
    pub(crate) fn live(&self) -> HashSet<Digest> {
        let mut live = HashSet::new();
        for image in self.images.values().flat_map(Entry::variants) {
            live.extend(image.blobs().iter().map(|b| b.digest));
            live.extend(image.layers.iter().map(|l| l.diff_id));
        }
        live
    }
}

/// A map of images by ID.
pub(crate) type Images = BTreeMap<ImageId, Entry>;
