//! Helpers for the tests: tars as bytes, archives, stores in temporary folders.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::{Digest, LoadProgress, Loaded, Result, Store};

/// A tar under construction. Nothing is checked: the tests write what no honest tool would.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn header(path: &[u8], kind: u8, size: u64, mode: u32, link: &[u8]) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(EntryType::new(kind));
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        header
    }

    pub(crate) fn raw(mut self, header: &Header, data: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.file_mode(path, 0o644, data)
    }

    pub(crate) fn file_mode(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.raw(&Self::header(path.as_bytes(), b'0', data.len() as u64, mode, b""), data)
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.raw(&Self::header(path.as_bytes(), b'5', 0, mode, b""), b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(&Self::header(path.as_bytes(), b'2', 0, 0o777, target.as_bytes()), b"")
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.raw(&Self::header(path.as_bytes(), b'1', 0, 0o644, target.as_bytes()), b"")
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(&Self::header(b"pax", b'x', data.len() as u64, 0o644, b""), &data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn config_json(diff_ids: &[Digest]) -> Vec<u8> {
    json!({
        "architecture": crate::manifest::host_architecture(), "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/bin/true"], "Entrypoint": null, "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

/// An archive as old Docker wrote it.
pub(crate) fn docker_save(tags: &[&str], layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|l| Digest::of(l)).collect();
    let config = config_json(&diff_ids);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let names: Vec<String> = (0..layers.len()).map(|i| format!("layer{i}/layer.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]).to_string();
    let mut tar = Tar::default();
    // The manifest first: an order that is not helpful.
    tar = tar.file("manifest.json", manifest.as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.dir(&name[..name.len() - 9], 0o755).file(name, layer);
    }
    tar.file(&config_name, &config).file("repositories", b"{}").end()
}

/// An OCI layout: blobs by digest, and `index.json`.
#[derive(Clone, Default)]
pub(crate) struct Layout {
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) index: Vec<Value>,
}

impl Layout {
    pub(crate) fn blob(&mut self, bytes: Vec<u8>) -> Value {
        let descriptor = json!({"mediaType": "", "digest": Digest::of(&bytes), "size": bytes.len()});
        self.blobs.push(bytes);
        descriptor
    }

    /// Adds an image of layers as they are in the blobs, with their uncompressed form, and returns its
    /// manifest's descriptor.
    pub(crate) fn image(&mut self, layers: &[(Vec<u8>, Vec<u8>)]) -> Value {
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, plain)| Digest::of(plain)).collect();
        let config = self.blob(config_json(&diff_ids));
        let layers: Vec<Value> = layers.iter().map(|(packed, _)| self.blob(packed.clone())).collect();
        self.blob(json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into_bytes())
    }

    pub(crate) fn named(mut self, mut descriptor: Value, annotation: &str, name: &str) -> Self {
        descriptor["annotations"] = json!({ annotation: name });
        self.index.push(descriptor);
        self
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut tar = Tar::default();
        for blob in &self.blobs {
            tar = tar.file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
        }
        let index = json!({"schemaVersion": 2, "manifests": self.index}).to_string();
        tar.file("index.json", index.as_bytes())
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .end()
    }
}

/// A store in a folder that goes with it.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) folder: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { store, folder }
    }

    pub(crate) fn load(&self, bytes: &[u8]) -> Result<Vec<Loaded>> {
        self.store.load(bytes, &mut |_: LoadProgress| {})
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    /// Every file and folder of the store with its size, to see that nothing changed.
    pub(crate) fn listing(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        list(&self.root(), &self.root(), &mut all);
        all.sort();
        all
    }
}

fn list(root: &Path, folder: &Path, into: &mut Vec<(String, u64)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let name = entry.path().strip_prefix(root).unwrap().display().to_string();
        if metadata.is_dir() {
            into.push((name, 0));
            list(root, &entry.path(), into);
        } else {
            into.push((name, metadata.len()));
        }
    }
}
