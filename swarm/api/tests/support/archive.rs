//! Small image archives, as `docker save` writes them.

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// An archive of one image with one layer, which holds one empty file, under these names.
pub(crate) fn image(names: &[&str]) -> Vec<u8> {
    let layer = tar(&[("file", b"")]);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2026-01-02T03:04:05Z",
        "config": { "Cmd": ["/bin/true"], "Labels": { "a": "b" }, "Healthcheck": { "Test": ["NONE"] } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))] },
        "history": [
            { "created": "2026-01-02T03:04:05Z", "created_by": "COPY file" },
            { "created": "2026-01-02T03:04:06Z", "created_by": "CMD", "empty_layer": true },
        ],
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let manifest = json!([{ "Config": config_name, "RepoTags": names, "Layers": ["layer.tar"] }]);
    tar(&[("manifest.json", manifest.to_string().as_bytes()), (&config_name, &config), ("layer.tar", &layer)])
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}
