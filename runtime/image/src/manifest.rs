//! Documents of images: manifests, indexes, configurations. Bytes in, decisions out; no I/O.
//!
//! What a document is, is decided by its content, never by a media type that came with it: one with both
//! `manifests` and `layers` is refused (CVE-2021-41190).

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::limits::LAYERS_MAX;
use crate::{Digest, Error, Image, Layer, Result};

const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A pointer from one document to another blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<Value>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Parses a manifest or an index.
pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Document> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| Error::document(what, e))?;
    if raw.schema_version != 2 || raw.fs_layers.is_some() {
        return Err(Error::document(what, "schema version is not 2"));
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(_), _, Some(_)) | (Some(_), Some(_), _) => Err(Error::document(
            what,
            "it is both a manifest and an index (\"manifests\" beside \"layers\" or \"config\")",
        )),
        (Some(manifests), None, None) => Ok(Document::Index(manifests)),
        (None, Some(config), layers) => {
            let layers = layers.unwrap_or_default();
            if layers.len() > LAYERS_MAX {
                return Err(Error::document(
                    what,
                    format!("{} layers, at most {LAYERS_MAX} are allowed", layers.len()),
                ));
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        (None, None, _) => Err(Error::document(what, "it is neither a manifest nor an index")),
    }
}

/// Parses a manifest, and refuses an index.
pub(crate) fn parse_manifest(bytes: &[u8], what: &str) -> Result<Manifest> {
    match parse(bytes, what)? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(Error::document(what, "it is an index, not a manifest")),
    }
}

/// Parses an image configuration and its diff IDs.
pub(crate) fn parse_config(bytes: &[u8], what: &str) -> Result<(ImageConfiguration, Vec<Digest>)> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| Error::document(what, e))?;
    // Docker writes `null` for empty fields where the typed form wants them absent.
    strip_nulls(&mut value);
    let config: ImageConfiguration = serde_json::from_value(value).map_err(|e| Error::document(what, e))?;
    let diff_ids =
        config.rootfs().diff_ids().iter().map(|id| id.parse().map_err(|e| Error::document(what, e)));
    let diff_ids = diff_ids.collect::<Result<Vec<Digest>>>()?;
    Ok((config, diff_ids))
}

/// The recursion is bounded by serde_json's own limit of 128 levels.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Puts an image together from its documents; the caller has verified their digests.
pub(crate) fn assemble(
    manifest_digest: Digest,
    manifest_bytes: &[u8],
    manifest: &Manifest,
    config_bytes: &[u8],
) -> Result<Image> {
    let what = format!("configuration {}", manifest.config.digest);
    if config_bytes.len() as u64 != manifest.config.size {
        let found = config_bytes.len() as u64;
        return Err(Error::SizeMismatch { what, expected: manifest.config.size, found });
    }
    let (config, diff_ids) = parse_config(config_bytes, &what)?;
    if diff_ids.len() != manifest.layers.len() {
        let reason = format!("it has {} diff IDs for {} layers", diff_ids.len(), manifest.layers.len());
        return Err(Error::document(what, reason));
    }
    let layers: Vec<Layer> = manifest
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(l, diff_id)| Layer { diff_id, digest: l.digest, size: l.size })
        .collect();
    let mut image = Image {
        id: manifest.config.digest,
        manifest_digest,
        manifest_size: manifest_bytes.len() as u64,
        config_size: manifest.config.size,
        references: Vec::new(),
        config: Arc::new(config),
        layers: layers.into(),
        size: 0,
    };
    image.size = image.blobs().iter().fold(0, |sum: u64, b| sum.saturating_add(b.size));
    Ok(image)
}

/// How a layer blob is packed, as its first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Writes an OCI manifest for an image that came without one. The same content gives the same bytes on every
/// host (keys in order, no white space), so hosts that load one archive agree on the digest.
pub(crate) fn synthesise(config: (Digest, u64), layers: &[(Digest, u64, Packing)]) -> Vec<u8> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|(digest, size, packing)| {
            json!({"mediaType": packing.media_type(), "digest": digest.to_string(), "size": size})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": {"mediaType": MEDIA_CONFIG, "digest": config.0.to_string(), "size": config.1},
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// This machine's architecture in Go's words.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Says whether an index entry is for this machine. One without a platform may be.
pub(crate) fn fits_host(descriptor: &Descriptor) -> bool {
    let artifact = descriptor.annotations.contains_key("vnd.docker.reference.type");
    !artifact
        && descriptor
            .platform
            .as_ref()
            .is_none_or(|p| p.os == "linux" && p.architecture == host_architecture())
}

/// The platforms of an index, for an error text.
pub(crate) fn platforms(entries: &[Descriptor]) -> String {
    let shown: Vec<String> = entries
        .iter()
        .filter_map(|e| e.platform.as_ref())
        .take(10)
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .collect();
    if shown.is_empty() { "none".into() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor() -> Value {
        json!({"mediaType": "x", "digest": D, "size": 3})
    }

    #[test]
    fn ambiguous_documents_are_refused() {
        for bad in [
            json!({"schemaVersion": 2, "manifests": [], "layers": []}),
            json!({"schemaVersion": 2, "manifests": [], "config": descriptor()}),
            json!({"schemaVersion": 2, "manifests": [descriptor()], "config": descriptor(), "layers": [descriptor()]}),
            json!({"schemaVersion": 2, "layers": []}),
            json!({"schemaVersion": 1, "fsLayers": []}),
            json!({"schemaVersion": 2, "config": {"digest": "sha256:../../etc", "size": 1}, "layers": []}),
            json!({"schemaVersion": 2, "config": {"digest": D, "size": -1}, "layers": []}),
            json!({"schemaVersion": 2, "config": descriptor(), "layers": vec![descriptor(); 128]}),
            json!([]),
        ] {
            assert!(parse(bad.to_string().as_bytes(), "x").is_err(), "{bad}");
        }
        let twice =
            format!(r#"{{"schemaVersion":2,"config":{c},"layers":[],"layers":[]}}"#, c = descriptor());
        assert!(parse(twice.as_bytes(), "x").is_err(), "a key twice");
    }

    #[test]
    fn docker_nulls_are_accepted() {
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": null, "container_config": {"Cmd": null},
            "config": {"Cmd": null, "Env": ["A=b"], "Volumes": null, "Labels": null, "Healthcheck": {"Test": ["CMD"]},
                       "ExposedPorts": {"80/tcp": {}}, "OnBuild": null},
            "history": [{"created": null, "created_by": "x", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": [D]},
        });
        let (config, diff_ids) = parse_config(config.to_string().as_bytes(), "x").unwrap();
        assert_eq!(diff_ids.len(), 1);
        assert_eq!(config.config().as_ref().unwrap().exposed_ports().as_ref().unwrap()[0], "80/tcp");
    }

    #[test]
    fn platform_choice() {
        let entry = |v: Value| -> Descriptor {
            let mut d = descriptor();
            d.as_object_mut().unwrap().extend(v.as_object().unwrap().clone());
            serde_json::from_value(d).unwrap()
        };
        assert!(fits_host(&entry(json!({"platform": {"os": "linux", "architecture": host_architecture()}}))));
        assert!(fits_host(&entry(json!({"platform": null, "annotations": null}))));
        assert!(!fits_host(&entry(
            json!({"platform": {"os": "windows", "architecture": host_architecture()}})
        )));
        assert!(!fits_host(&entry(json!({"platform": {"os": "unknown", "architecture": "unknown"}}))));
        assert!(!fits_host(&entry(
            json!({"annotations": {"vnd.docker.reference.type": "attestation-manifest"}})
        )));
    }

    #[test]
    fn synthesised_manifest_is_fixed() {
        let digest: Digest = D.parse().unwrap();
        let bytes = synthesise((digest, 7), &[(digest, 9, Packing::Gzip)]);
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            format!(
                r#"{{"config":{{"digest":"{D}","mediaType":"{MEDIA_CONFIG}","size":7}},"layers":[{{"digest":"{D}","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":9}}],"mediaType":"{MEDIA_MANIFEST}","schemaVersion":2}}"#
            )
        );
        assert_eq!(parse_manifest(&bytes, "x").unwrap().layers.len(), 1);
    }
}
