//! What the store says about an image.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use crate::{Digest, Reference};

/// The ID of an image: the digest of its configuration, as in Docker.
pub type ImageId = Digest;

/// One image, as it was when it was looked up. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Digest of the OCI or Docker v2 manifest; for an image of an old `docker save` archive the store has
    /// made one, the same on every host.
    pub manifest_digest: Digest,
    /// Size of the manifest in bytes.
    pub manifest_size: u64,
    /// Size of the configuration in bytes.
    pub config_size: u64,
    /// Names of the image, sorted.
    pub references: Vec<Reference>,
    /// The configuration (OCI image-spec, config.md). Fields that only Docker knows (`Healthcheck`, `Shell`) are
    /// in the blob: [`crate::Store::read_config`].
    pub config: Arc<ImageConfiguration>,
    /// The layers, lowest first.
    pub layers: Arc<[Layer]>,
    /// Bytes of the layers, the configuration and the manifest as stored.
    pub size: u64,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the blob as stored: plain, gzip or zstd.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
}

/// A blob that an image needs: what one host tells another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobDescriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// One line of a list of images.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Digest of the manifest.
    pub manifest_digest: Digest,
    /// Names with a tag as users write them (`nginx:latest`), sorted.
    pub repo_tags: Vec<String>,
    /// Names with the manifest's digest (`nginx@sha256:…`), sorted.
    pub repo_digests: Vec<String>,
    /// When it was made, RFC 3339, as the configuration says.
    pub created: Option<String>,
    /// Bytes as stored.
    pub size: u64,
    /// Labels of the configuration.
    pub labels: BTreeMap<String, String>,
}

impl Image {
    /// Names with a tag as users write them (`nginx:latest`), sorted.
    pub fn repo_tags(&self) -> Vec<String> {
        self.references.iter().filter(|r| r.digest().is_none()).map(Reference::familiar).collect()
    }

    /// Names with the manifest's digest (`nginx@sha256:…`), sorted and without repetition.
    pub fn repo_digests(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .references
            .iter()
            .map(|r| match r.digest() {
                Some(_) => r.familiar(),
                None => r.with_digest(self.manifest_digest).familiar(),
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The line for a list of images.
    pub fn summary(&self) -> ImageSummary {
        let labels = self.config.config().as_ref().and_then(|c| c.labels().clone()).unwrap_or_default();
        ImageSummary {
            id: self.id,
            manifest_digest: self.manifest_digest,
            repo_tags: self.repo_tags(),
            repo_digests: self.repo_digests(),
            created: self.config.created().clone(),
            size: self.size,
            labels: labels.into_iter().collect(),
        }
    }

    /// Digests of every blob: manifest first, then configuration, then layers from the lowest.
    pub fn blobs(&self) -> Vec<BlobDescriptor> {
        let mut blobs = vec![
            BlobDescriptor { digest: self.manifest_digest, size: self.manifest_size },
            BlobDescriptor { digest: self.id, size: self.config_size },
        ];
        for layer in self.layers.iter() {
            let blob = BlobDescriptor { digest: layer.digest, size: layer.size };
            if !blobs.contains(&blob) {
                blobs.push(blob);
            }
        }
        blobs
    }
}
