//! `images.json`: which images there are, and their names.
//!
//! It names manifests only; configurations and layers are read from the manifests' blobs at open.

use std::collections::BTreeMap;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::error::IoContext;
use crate::limits::{CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::store::{Images, Inner};
use crate::{Digest, Error, Image, ImageId, Reference, Result, manifest};

const VERSION: u32 = 1;
/// Manifests kept for one image (the same configuration with layers compressed in another way). The oldest goes.
const VARIANTS_MAX: usize = 4;

/// All that the store knows; replaced as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) images: Images,
    pub(crate) references: BTreeMap<Reference, ImageId>,
}

/// One image ID and the manifests that it is known by, the newest last. Never without one in a catalog.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    variants: Vec<Image>,
    /// What the image was built from, see [`crate::Store::build_single_layer`].
    pub(crate) stamp: Option<String>,
}

impl Entry {
    pub(crate) fn add(&mut self, image: Image, stamp: Option<String>) {
        self.variants.retain(|v| v.manifest_digest != image.manifest_digest);
        self.variants.push(image);
        if self.variants.len() > VARIANTS_MAX {
            self.variants.remove(0);
        }
        if stamp.is_some() {
            self.stamp = stamp;
        }
    }

    pub(crate) fn variants(&self) -> impl Iterator<Item = &Image> {
        self.variants.iter()
    }

    pub(crate) fn variant(&self, manifest: &Digest) -> Option<&Image> {
        self.variants.iter().find(|v| v.manifest_digest == *manifest)
    }

    pub(crate) fn current(&self) -> &Image {
        &self.variants[self.variants.len() - 1]
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    images: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    id: ImageId,
    manifests: Vec<Digest>,
    references: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stamp: Option<String>,
}

impl Catalog {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let row = |(id, entry): (&ImageId, &Entry)| Row {
            id: *id,
            manifests: entry.variants.iter().map(|v| v.manifest_digest).collect(),
            references: self.names_of(id).iter().map(ToString::to_string).collect(),
            stamp: entry.stamp.clone(),
        };
        let file = File { version: VERSION, images: self.images.iter().map(row).collect() };
        // Strings and numbers only: serialising them cannot fail.
        serde_json::to_vec_pretty(&file).unwrap_or_default()
    }

    /// Reads the record. An image whose blobs are gone or damaged is dropped with a warning; a failing disk is
    /// an error, because going on would sweep what is only unreadable for a moment.
    pub(crate) fn read(inner: &Inner) -> Result<Self> {
        let path = inner.root.join("images.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e).io("read", &path),
        };
        let file: File =
            serde_json::from_slice(&bytes).map_err(|source| Error::Record { path: path.clone(), source })?;
        if file.version != VERSION {
            return Err(Error::RecordVersion { path, found: file.version, known: VERSION });
        }
        let mut catalog = Self::default();
        for row in file.images {
            let mut entry = Entry { variants: Vec::new(), stamp: row.stamp };
            for digest in row.manifests {
                match inner.read_image(&digest) {
                    Ok(image) if image.id == row.id => entry.variants.push(image),
                    Ok(image) => {
                        warn!(manifest = %digest, found = %image.id, recorded = %row.id, "image dropped: other ID")
                    }
                    Err(error @ Error::Io { .. }) => return Err(error),
                    Err(error) => warn!(manifest = %digest, %error, "image dropped: it cannot be read"),
                }
            }
            if entry.variants.is_empty() {
                continue;
            }
            for name in row.references {
                match name.parse() {
                    Ok(reference) => drop(catalog.references.insert(reference, row.id)),
                    Err(error) => warn!(%error, "name dropped"),
                }
            }
            catalog.images.insert(row.id, entry);
        }
        Ok(catalog)
    }
}

impl Inner {
    /// Puts an image together from its blobs, all of which must be present.
    pub(crate) fn read_image(&self, manifest_digest: &Digest) -> Result<Image> {
        let manifest_bytes = self.read_small(manifest_digest, MANIFEST_BYTES_MAX, "image manifest")?;
        let parsed = manifest::parse_manifest(&manifest_bytes, &format!("manifest {manifest_digest}"))?;
        let config_bytes = self.read_small(&parsed.config.digest, CONFIG_BYTES_MAX, "image configuration")?;
        let image = manifest::assemble(*manifest_digest, &manifest_bytes, &parsed, &config_bytes)?;
        for layer in image.layers.iter() {
            let found = self.blob_size(&layer.digest, "layer")?;
            if found != layer.size {
                return Err(Error::SizeMismatch {
                    what: format!("layer {}", layer.digest),
                    expected: layer.size,
                    found,
                });
            }
        }
        Ok(image)
    }
}
