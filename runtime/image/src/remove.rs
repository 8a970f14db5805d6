//! Removing images by Docker's rules, and collecting what nothing uses any more.
//!
//! The rules are those of moby's `daemon/images/image_delete.go`:
//!
//! ```text
//! by name ── other names left ──────────────▶ untagged, done
//!    └ the last name ── in use, no force ───▶ conflict, nothing changed
//!                    └ running, force ──────▶ untagged, image stays without a name
//!                    └ free ────────────────▶ untagged, deleted
//! by ID ─── names in several repositories, or several tags, no force ─▶ conflict
//!    └ in use by a running container ───────▶ conflict, even with force
//!    └ in use by a stopped one, no force ───▶ conflict
//!    └ else ────────────────────────────────▶ every name untagged, deleted
//! ```

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::error::IoContext;
use crate::store::{Inner, State};
use crate::{Digest, Error, Image, ImageId, Reference, Result, Store};

/// One line of the answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone: `nginx:latest`, or `nginx@sha256:…`.
    Untagged(String),
    /// An image, or one of its layers (by diff ID), is gone.
    Deleted(Digest),
}

/// Who uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// The container's ID; the conflict text shows its first 12 characters.
    pub container: String,
    /// True if the image must stay even with force.
    pub running: bool,
}

impl Store {
    /// Removes a name, or an image by ID or unique beginning of an ID, by Docker's rules (see the module).
    /// `in_use` is asked who uses an image; the store is locked meanwhile, so it must not call the store nor
    /// drop a lease. Blobs and unpacked layers that no other image and no lease needs are deleted.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::AmbiguousId`], [`Error::Reference`], [`Error::Conflict`] with Docker's
    /// text, [`Error::Io`] if it could not be recorded. Nothing has changed then.
    pub fn remove(
        &self,
        name_or_id: &str,
        force: bool,
        in_use: &dyn Fn(&ImageId) -> Option<ImageUse>,
    ) -> Result<Vec<Removed>> {
        let mut state = self.inner.lock();
        let found = state.catalog.find(name_or_id)?;
        let id = found.id;
        let names = state.catalog.names_of(&id);
        let used = in_use(&id);
        let mut removed = Vec::new();
        let mut catalog = state.catalog.clone();
        let mut delete = true;

        if let Some(name) = &found.reference {
            let last = single_reference(&names);
            if let Some(used) = &used
                && last
                && !force
            {
                return Err(Error::Conflict(format!(
                    "unable to remove repository reference {name_or_id:?} (must force) - container {} is using its referenced image {}",
                    short(&used.container),
                    id.short(),
                )));
            }
            let mut gone = vec![name.clone()];
            let mut left: Vec<&Reference> = names.iter().filter(|n| *n != name).collect();
            // Names by digest go with the last tag of their repository.
            if name.digest().is_none()
                && !left.iter().any(|n| n.digest().is_none() && n.same_repository(name))
            {
                gone.extend(left.iter().filter(|n| n.same_repository(name)).map(|n| (*n).clone()));
                left.retain(|n| !n.same_repository(name));
            }
            delete = left.is_empty() && used.as_ref().is_none_or(|u| !u.running);
            for name in gone {
                catalog.references.remove(&name);
                removed.push(Removed::Untagged(name.familiar()));
            }
        } else {
            let refuse = |how: &str, why: String| {
                Err(Error::Conflict(format!("unable to delete {} ({how}) - {why}", id.short())))
            };
            match &used {
                Some(used) if used.running => {
                    let why = format!("image is being used by running container {}", short(&used.container));
                    return refuse("cannot be forced", why);
                }
                _ if !force && !single_reference(&names) && !names.is_empty() => {
                    return refuse("must be forced", "image is referenced in multiple repositories".into());
                }
                Some(used) if !force => {
                    let why = format!("image is being used by stopped container {}", short(&used.container));
                    return refuse("must be forced", why);
                }
                _ => {}
            }
            for name in names {
                catalog.references.remove(&name);
                removed.push(Removed::Untagged(name.familiar()));
            }
        }
        let mut candidates = Vec::new();
        if delete && let Some(entry) = catalog.images.remove(&id) {
            candidates = entry.variants().flat_map(Inner::digests_of).collect();
            removed.push(Removed::Deleted(id));
            let live = catalog.live();
            let layers = entry.current().layers.iter().rev().map(|l| l.diff_id);
            removed.extend(layers.filter(|d| !live.contains(d)).map(Removed::Deleted));
        }
        self.inner.record(&mut state, catalog)?;
        let doomed = self.inner.collect(&state, candidates);
        drop(state);
        dispose(doomed);
        Ok(removed)
    }
}

/// Docker's `isSingleReference`: one name, or one tag with names by digest in the same repository.
fn single_reference(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|n| n.digest().is_none()).count();
    names.len() <= 1 || (tags <= 1 && names.iter().all(|n| n.same_repository(&names[0])))
}

fn short(container: &str) -> String {
    container.chars().take(12).collect()
}

impl Inner {
    /// Blobs and diff IDs of an image.
    pub(crate) fn digests_of(image: &Image) -> Vec<Digest> {
        image.blobs().iter().map(|b| b.digest).chain(image.layers.iter().map(|l| l.diff_id)).collect()
    }

    /// Takes what neither an image nor a lease needs out of the store, and returns what the caller deletes
    /// ([`dispose`]) after it has let the lock go. Failures are left for the sweep of the next open.
    #[must_use]
    pub(crate) fn collect(
        &self,
        state: &State,
        candidates: impl IntoIterator<Item = Digest>,
    ) -> Vec<PathBuf> {
        let mut doomed = Vec::new();
        let mut live = None;
        for digest in candidates {
            if state.pins.contains_key(&digest)
                || live.get_or_insert_with(|| state.catalog.live()).contains(&digest)
            {
                continue;
            }
            for path in [self.blob_path(&digest), self.layer_dir(&digest)] {
                let trash = self.temp_path("removed");
                if fs::rename(&path, &trash).is_ok() {
                    doomed.push(trash);
                }
            }
        }
        doomed
    }
}

/// Deletes what [`Inner::collect`] took out.
pub(crate) fn dispose(doomed: Vec<PathBuf>) {
    for path in doomed {
        if let Err(error) = remove_tree(&path) {
            warn!(%error, "not deleted now; the next start does it");
        }
    }
}

/// Deletes a file or a tree of any depth with a constant number of open files: every folder found inside is
/// first moved up beside the root of the tree. (A layer can be deeper than the limit on open files, which is
/// what the standard library's version spends.)
pub(crate) fn remove_tree(root: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(root) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).io("remove", root),
    };
    if !metadata.is_dir() {
        return fs::remove_file(root).io("remove", root);
    }
    let mut queue = VecDeque::from([root.to_path_buf()]);
    let mut moved = 0u64;
    while let Some(folder) = queue.pop_front() {
        for entry in fs::read_dir(&folder).io("read", &folder)? {
            let entry = entry.io("read", &folder)?;
            let path = entry.path();
            if entry.file_type().io("read", &path)?.is_dir() {
                let mut name = OsString::from(root.as_os_str());
                name.push(format!(".{moved}"));
                moved += 1;
                let target = PathBuf::from(name);
                fs::rename(&path, &target).io("remove", &path)?;
                queue.push_back(target);
            } else {
                fs::remove_file(&path).io("remove", &path)?;
            }
        }
        fs::remove_dir(&folder).io("remove", &folder)?;
    }
    Ok(())
}
