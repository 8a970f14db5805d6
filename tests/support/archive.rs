//! Image archives made from nothing, as `docker save` writes them.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An archive of one image: one layer with one program at `/program`, and this configuration on top of the usual one.
pub(crate) fn image(name: &str, program: &[u8], config: &Value) -> Vec<u8> {
    let layer = tar(&[("program", 0o755, program)]);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2026-01-02T03:04:05Z",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hash(&layer))] },
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", hash(&config));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]);
    let manifest = manifest.to_string();
    tar(&[
        ("manifest.json", 0o644, manifest.as_bytes()),
        (&config_name, 0o644, &config),
        ("layer.tar", 0o644, &layer),
    ])
}

/// An image whose program is this binary's web server.
pub(crate) fn web_image(name: &str) -> Vec<u8> {
    let program = std::fs::read(super::playground::SKEP).unwrap();
    image(name, &program, &json!({ "Entrypoint": ["/program", "whoami"] }))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tar(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}
