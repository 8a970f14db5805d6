//! One-layer images made from files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;
use tar::{EntryType, Header};

use crate::blobs::Staged;
use crate::error::IoContext;
use crate::limits::{BUILD_FILES_MAX, COPY_BUFFER_BYTES};
use crate::manifest::{self, Packing};
use crate::{Error, Image, Reference, Result, Store};

const BLOCK: u64 = 512;
/// Bytes of a path: the name field of a tar header, so that no extension is needed.
const PATH_BYTES_MAX: usize = 99;

/// A file of [`Store::build_single_layer`].
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// Where it is in the image; with or without a leading slash, at most 99 bytes.
    pub path: String,
    /// Permissions, for example `0o755`.
    pub mode: u32,
    /// What is in it.
    pub source: Source,
}

/// Content of a [`FileEntry`].
#[derive(Debug, Clone)]
pub enum Source {
    /// A file of this host.
    Path(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Store {
    /// Makes an image of one layer: the files, owned by root, dated 1970, parents 0755, in order of path. Equal
    /// input gives equal digests on every host. `config` gives everything but the diff IDs, which are set here.
    ///
    /// If `reference` is an image that was built with the same `stamp` before, that one is returned and nothing
    /// is read. Otherwise `reference` moves to the new image; the old one stays without a name.
    ///
    /// # Errors
    /// [`Error::Build`] for bad paths, [`Error::TagWithDigest`], [`Error::Io`].
    pub fn build_single_layer(
        &self,
        reference: &Reference,
        stamp: &str,
        files: &[FileEntry],
        config: ImageConfiguration,
    ) -> Result<Image> {
        if reference.digest().is_some() {
            return Err(Error::TagWithDigest(reference.clone()));
        }
        {
            let state = self.inner.lock();
            if let Some(id) = state.catalog.references.get(reference)
                && state.catalog.images.get(id).is_some_and(|e| e.stamp.as_deref() == Some(stamp))
            {
                return Ok(state.catalog.image(*id, None));
            }
        }
        let files = in_order(files)?;
        let layer = self.write_layer(&files)?;

        let mut config = config;
        config.rootfs_mut().set_typ("layers".into());
        config.rootfs_mut().set_diff_ids(vec![layer.digest.to_string()]);
        // By way of a map with sorted keys: labels are in no fixed order otherwise.
        let config = serde_json::to_value(&config).map_err(|e| Error::Build(e.to_string()))?;
        let config_bytes = config.to_string().into_bytes();
        let config = self.inner.stage(&config_bytes)?;
        let manifest_bytes =
            manifest::synthesise((config.digest, config.size), &[(layer.digest, layer.size, Packing::Plain)]);
        let manifest = self.inner.stage(&manifest_bytes)?;
        let parsed = manifest::parse_manifest(&manifest_bytes, "made manifest")?;
        let image = manifest::assemble(manifest.digest, &manifest_bytes, &parsed, &config_bytes)?;

        let mut lease = self.lease();
        lease.hold_all(image.blobs().iter().map(|b| b.digest));
        for blob in [layer, config, manifest] {
            blob.publish(&self.inner)?;
        }
        self.inner.sync_blobs()?;
        let adopted = self.inner.adopt(vec![(image.clone(), vec![reference.clone()], Some(stamp.into()))])?;
        Ok(adopted.into_iter().next().unwrap_or(image))
    }

    fn write_layer(&self, files: &BTreeMap<String, &FileEntry>) -> Result<crate::blobs::Complete> {
        let mut layer = Staged::create(&self.inner)?;
        let mut folders = BTreeSet::new();
        for (path, file) in files {
            for (end, _) in path.match_indices('/') {
                if files.contains_key(&path[..end]) {
                    return Err(Error::Build(format!("{:?} is a file and a folder", &path[..end])));
                }
                if folders.insert(&path[..end]) {
                    layer.append(
                        header(&format!("{}/", &path[..end]), 0o755, 0, EntryType::Directory)?.as_bytes(),
                    )?;
                }
            }
            match &file.source {
                Source::Bytes(bytes) => {
                    let size = bytes.len() as u64;
                    layer.append(header(path, file.mode, size, EntryType::Regular)?.as_bytes())?;
                    layer.append(bytes)?;
                }
                Source::Path(source) => {
                    let mut input = File::open(source).io("open", source)?;
                    let size = input.metadata().io("read", source)?.len();
                    layer.append(header(path, file.mode, size, EntryType::Regular)?.as_bytes())?;
                    let mut left = size;
                    let mut buffer = vec![0; COPY_BUFFER_BYTES];
                    while left > 0 {
                        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        match input.read(&mut buffer[..want]) {
                            Ok(0) => {
                                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).io("read", source);
                            }
                            Ok(n) => {
                                layer.append(&buffer[..n])?;
                                left -= n as u64;
                            }
                            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                            Err(e) => return Err(e).io("read", source),
                        }
                    }
                }
            }
            let padding = layer.size.next_multiple_of(BLOCK) - layer.size;
            layer.append(&vec![0; padding as usize])?;
        }
        layer.append(&[0; 2 * BLOCK as usize])?;
        Ok(layer.complete())
    }
}

fn in_order(files: &[FileEntry]) -> Result<BTreeMap<String, &FileEntry>> {
    if files.len() > BUILD_FILES_MAX {
        return Err(Error::Build(format!("more than {BUILD_FILES_MAX} files")));
    }
    let mut ordered = BTreeMap::new();
    for file in files {
        let path = file.path.trim_start_matches('/');
        let bad = |why: &str| Error::Build(format!("{:?}: {why}", file.path));
        if path.is_empty() || path.split('/').any(|p| matches!(p, "" | "." | "..") || p.starts_with(".wh.")) {
            return Err(bad("not a clean path of a file"));
        }
        if path.len() > PATH_BYTES_MAX || path.contains('\0') {
            return Err(bad("the path is longer than 99 bytes, or has a zero byte"));
        }
        if ordered.insert(path.to_owned(), file).is_some() {
            return Err(bad("named twice"));
        }
    }
    Ok(ordered)
}

fn header(path: &str, mode: u32, size: u64, kind: EntryType) -> Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path).map_err(|e| Error::Build(e.to_string()))?;
    header.set_entry_type(kind);
    header.set_mode(mode & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}
