//! Images from archives.
//!
//! ```text
//! read and stage everything ─▶ index.json? ── yes ─▶ walk to the manifests for this machine ─┐
//!                                └─ no: manifest.json ─▶ make a manifest for each entry ─────┤
//!                                                                                            ▼
//!          images.json ◀── publish blobs ◀── every diff ID verified ◀── sizes and digests compared
//! ```
//!
//! A failure anywhere drops what is staged and the lease; the lease takes published blobs back out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;

use serde::Deserialize;

use crate::archive::Archive;
use crate::decompress::Decoder;
use crate::error::LayerError;
use crate::limits::{
    ARCHIVE_IMAGES_MAX, CONFIG_BYTES_MAX, INDEX_DEPTH_MAX, INDEX_ENTRIES_MAX, LAYER_BYTES_MAX, LAYERS_MAX,
    MANIFEST_BYTES_MAX,
};
use crate::manifest::{self, Descriptor, Document, Manifest, Packing};
use crate::rootfs::{Hashing, for_each_layer};
use crate::{Digest, Error, Image, ImageId, Reference, Result, Store};

const NAME_ANNOTATION: &str = "io.containerd.image.name";
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// How far [`Store::load`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadProgress {
    /// So many bytes of the archive have come (after outer decompression).
    Received {
        /// Since the beginning.
        bytes: u64,
    },
    /// A layer was verified.
    Layer {
        /// Digest of its uncompressed tar.
        diff_id: Digest,
        /// Size of its blob in bytes.
        size: u64,
    },
}

/// One image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its ID.
    pub id: ImageId,
    /// The names it was given, as users write them; empty for an image without a name.
    pub names: Vec<String>,
}

/// An image of the archive.
struct Planned {
    image: Image,
    names: Vec<Reference>,
}

/// An entry of `docker save`'s manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Store {
    /// Loads every image of an archive of `docker save` (old or new layout) or an OCI layout, plain or
    /// compressed with gzip or zstd. All or nothing: after an error the store is as it was. Of an image for
    /// several platforms the one for this machine is taken. A name that another image has moves to the new one.
    ///
    /// Names come from `RepoTags`, or from the annotation `io.containerd.image.name`, or from
    /// `org.opencontainers.image.ref.name`. The last is often only a tag: a bare word is taken as a repository if
    /// it begins with a letter and is not `latest`, and is no name otherwise.
    ///
    /// `progress` is called on the caller's thread.
    ///
    /// # Errors
    /// [`Error::ArchiveRead`] and [`Error::Archive`] for what cannot be read, [`Error::Document`],
    /// [`Error::Digest`], [`Error::DigestMismatch`], [`Error::SizeMismatch`], [`Error::MissingBlob`],
    /// [`Error::NoPlatform`], [`Error::Layer`] for what is in it, [`Error::Io`] for this host, the full disk
    /// included ([`Error::is_disk_full`]).
    pub fn load(&self, reader: impl Read, progress: &mut dyn FnMut(LoadProgress)) -> Result<Vec<Loaded>> {
        let mut lease = self.lease();
        let mut archive = Archive::read(&self.inner, &mut lease, reader, progress)?;
        let planned = if let Some(index) = archive.find("index.json") {
            let bytes = archive.document(index, MANIFEST_BYTES_MAX, "index.json")?;
            Walk::default().top(&archive, &bytes)?
        } else if archive.find("manifest.json").is_some() {
            saved_images(&mut archive, &self.inner)?
        } else {
            return Err(Error::Archive("it has neither index.json nor manifest.json".into()));
        };
        verify_layers(&archive, &planned, progress)?;

        let needed: BTreeSet<Digest> =
            planned.iter().flat_map(|p| p.image.blobs()).map(|b| b.digest).collect();
        for digest in &needed {
            let here = lease.hold(digest);
            match archive.staged.remove(digest) {
                Some(complete) => drop(complete.publish(&self.inner)?),
                None if here => {}
                None => return Err(Error::MissingBlob { digest: *digest, what: "archive".into() }),
            }
        }
        self.inner.sync_blobs()?;
        let loaded = planned
            .iter()
            .map(|p| Loaded { id: p.image.id, names: p.names.iter().map(Reference::familiar).collect() })
            .collect();
        self.inner.adopt(planned.into_iter().map(|p| (p.image, p.names, None)).collect())?;
        Ok(loaded)
    }
}

/// The way through the indexes of an OCI layout.
#[derive(Default)]
struct Walk {
    visited: usize,
}

impl Walk {
    fn top(&mut self, archive: &Archive<'_>, bytes: &[u8]) -> Result<Vec<Planned>> {
        let Document::Index(entries) = manifest::parse(bytes, "index.json")? else {
            return Err(Error::document("index.json", "it is not an index"));
        };
        let mut saved_names = saved_names(archive)?;
        let mut planned: Vec<Planned> = Vec::new();
        for entry in entries.iter() {
            self.count()?;
            if !manifest::fits_host(entry) {
                continue;
            }
            let image = self.image(archive, entry, 1)?;
            let mut names = annotated_name(entry)?;
            names.extend(saved_names.remove(&image.id).unwrap_or_default());
            match planned.iter_mut().find(|p| p.image.manifest_digest == image.manifest_digest) {
                Some(same) => same.names.extend(names),
                None => planned.push(Planned { image, names }),
            }
            if planned.len() > ARCHIVE_IMAGES_MAX {
                return Err(Error::Archive(format!("it has more than {ARCHIVE_IMAGES_MAX} images")));
            }
        }
        if planned.is_empty() {
            return Err(no_platform("index.json", &entries));
        }
        for image in &mut planned {
            image.names.sort();
            image.names.dedup();
        }
        Ok(planned)
    }

    fn image(&mut self, archive: &Archive<'_>, descriptor: &Descriptor, depth: usize) -> Result<Image> {
        let what = format!("manifest {}", descriptor.digest);
        let content = archive.blob(&descriptor.digest, "index")?;
        same_size(&what, descriptor.size, content.size)?;
        let bytes = archive.document(content, MANIFEST_BYTES_MAX, &what)?;
        match manifest::parse(&bytes, &what)? {
            Document::Manifest(parsed) => image_of(archive, descriptor.digest, &bytes, &parsed),
            Document::Index(entries) => {
                if depth >= INDEX_DEPTH_MAX {
                    return Err(Error::document(
                        what,
                        format!("more than {INDEX_DEPTH_MAX} indexes inside each other"),
                    ));
                }
                for _ in &entries {
                    self.count()?;
                }
                let fitting = || entries.iter().filter(|e| manifest::fits_host(e));
                // An entry that says it is for this machine goes before one that says nothing.
                let chosen = fitting().find(|e| e.platform.is_some()).or_else(|| fitting().next());
                self.image(archive, chosen.ok_or_else(|| no_platform(&what, &entries))?, depth + 1)
            }
        }
    }

    fn count(&mut self) -> Result<()> {
        self.visited += 1;
        if self.visited > INDEX_ENTRIES_MAX {
            return Err(Error::Archive(format!("its indexes have more than {INDEX_ENTRIES_MAX} entries")));
        }
        Ok(())
    }
}

/// An image of an OCI layout, all blobs of which are in the archive.
fn image_of(archive: &Archive<'_>, digest: Digest, bytes: &[u8], parsed: &Manifest) -> Result<Image> {
    let what = format!("manifest {digest}");
    let media_type = &parsed.config.media_type;
    if !media_type.is_empty()
        && !media_type.contains("image.config")
        && !media_type.contains("container.image")
    {
        return Err(Error::document(what, format!("it is not a container image but {media_type:?}")));
    }
    let config = archive.blob(&parsed.config.digest, &what)?;
    let config_bytes = archive.document(config, CONFIG_BYTES_MAX, "image configuration")?;
    for layer in &parsed.layers {
        let content = archive.blob(&layer.digest, &what)?;
        same_size(&format!("layer {}", layer.digest), layer.size, content.size)?;
    }
    manifest::assemble(digest, bytes, parsed, &config_bytes)
}

/// The images of an old `docker save` archive, with the manifests that they lack.
fn saved_images(archive: &mut Archive<'_>, inner: &crate::store::Inner) -> Result<Vec<Planned>> {
    let entries = saved_entries(archive)?;
    let mut planned: Vec<Planned> = Vec::new();
    for entry in entries {
        let missing = |name: &str| Error::Archive(format!("manifest.json names {name:?}, which is missing"));
        let config = archive.find(&entry.config).ok_or_else(|| missing(&entry.config))?;
        if let Some(expected) = entry.config.strip_suffix(".json").and_then(|hex| Digest::from_hex(hex).ok())
            && expected != config.digest
        {
            return Err(Error::DigestMismatch {
                what: format!("{:?}", entry.config),
                expected,
                found: config.digest,
            });
        }
        let config_bytes = archive.document(config, CONFIG_BYTES_MAX, &entry.config)?;
        let names = entry.layers.unwrap_or_default();
        if names.len() > LAYERS_MAX {
            return Err(Error::Archive(format!("{:?} has more than {LAYERS_MAX} layers", entry.config)));
        }
        let mut layers = Vec::new();
        for name in &names {
            let content = archive.find(name).ok_or_else(|| missing(name))?;
            layers.push((content.digest, content.size, archive.packing(content, name)?));
        }
        let bytes = manifest::synthesise((config.digest, config.size), &layers);
        let parsed = manifest::parse_manifest(&bytes, "made manifest")?;
        let content = archive.add(inner.stage(&bytes)?);
        let image = manifest::assemble(content.digest, &bytes, &parsed, &config_bytes)?;
        let references =
            entry.repo_tags.unwrap_or_default().iter().map(|t| t.parse()).collect::<Result<_, _>>()?;
        match planned.iter_mut().find(|p| p.image.manifest_digest == image.manifest_digest) {
            Some(same) => same.names.extend::<Vec<Reference>>(references),
            None => planned.push(Planned { image, names: references }),
        }
    }
    if planned.is_empty() {
        return Err(Error::Archive("it has no image".into()));
    }
    Ok(planned)
}

fn saved_entries(archive: &Archive<'_>) -> Result<Vec<SavedImage>> {
    let Some(content) = archive.find("manifest.json") else { return Ok(Vec::new()) };
    let bytes = archive.document(content, MANIFEST_BYTES_MAX, "manifest.json")?;
    let entries: Vec<SavedImage> =
        serde_json::from_slice(&bytes).map_err(|e| Error::document("manifest.json", e))?;
    if entries.len() > ARCHIVE_IMAGES_MAX {
        return Err(Error::Archive(format!("it has more than {ARCHIVE_IMAGES_MAX} images")));
    }
    Ok(entries)
}

/// The names that manifest.json gives in an archive that has both descriptions.
fn saved_names(archive: &Archive<'_>) -> Result<BTreeMap<ImageId, Vec<Reference>>> {
    let mut names = BTreeMap::new();
    for entry in saved_entries(archive)? {
        if let Some(config) = archive.find(&entry.config) {
            let tags = entry.repo_tags.unwrap_or_default();
            let tags = tags.iter().map(|t| t.parse()).collect::<Result<Vec<Reference>, _>>()?;
            names.entry(config.digest).or_insert_with(Vec::new).extend(tags);
        }
    }
    Ok(names)
}

fn annotated_name(entry: &Descriptor) -> Result<Vec<Reference>> {
    if let Some(name) = entry.annotations.get(NAME_ANNOTATION) {
        return Ok(vec![name.parse()?]);
    }
    let Some(name) = entry.annotations.get(REF_ANNOTATION) else { return Ok(Vec::new()) };
    let bare = !name.contains(['/', ':', '@']);
    if bare && (name == "latest" || !name.starts_with(|c: char| c.is_ascii_alphabetic())) {
        return Ok(Vec::new());
    }
    // The annotation may be any text, so one that is no name is no error.
    Ok(name.parse().into_iter().collect())
}

fn no_platform(what: &str, entries: &[Descriptor]) -> Error {
    Error::NoPlatform {
        wanted: format!("linux/{}", manifest::host_architecture()),
        what: what.into(),
        found: manifest::platforms(entries),
    }
}

fn same_size(what: &str, expected: u64, found: u64) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::SizeMismatch { what: what.into(), expected, found }) }
}

/// Verifies that each layer, uncompressed, is the one that its configuration names.
fn verify_layers(
    archive: &Archive<'_>,
    planned: &[Planned],
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<()> {
    let mut seen = HashSet::new();
    let layers: Vec<_> = planned
        .iter()
        .flat_map(|p| p.image.layers.iter())
        .filter(|l| seen.insert((l.digest, l.diff_id)))
        .collect();
    thread::scope(|scope| {
        let (verified, news) = mpsc::channel();
        let worker = scope.spawn(move || {
            for_each_layer(&layers, |layer| {
                let content = crate::archive::Content { digest: layer.digest, size: layer.size };
                verify_layer(archive, content, layer.diff_id)?;
                // The receiver is gone only when the caller panics.
                let _ = verified.send(LoadProgress::Layer { diff_id: layer.diff_id, size: layer.size });
                Ok(())
            })
        });
        news.iter().for_each(&mut *progress);
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn verify_layer(archive: &Archive<'_>, content: crate::archive::Content, diff_id: Digest) -> Result<()> {
    let of_layer = |source| Error::Layer { diff_id, source };
    let file = archive.open(content, "layer")?;
    let (decoder, packing) = Decoder::new(file).map_err(|e| of_layer(LayerError::Read(e)))?;
    let found = if packing == Packing::Plain {
        // Hashed when it was staged.
        content.digest
    } else {
        let mut reader = Hashing::new(decoder).take(LAYER_BYTES_MAX + 1);
        let bytes = io::copy(&mut reader, &mut io::sink()).map_err(|e| of_layer(LayerError::Read(e)))?;
        if bytes > LAYER_BYTES_MAX {
            return Err(of_layer(LayerError::Limit(format!("more than {LAYER_BYTES_MAX} bytes"))));
        }
        reader.into_inner().digest()
    };
    if found == diff_id { Ok(()) } else { Err(of_layer(LayerError::DiffId(found))) }
}
