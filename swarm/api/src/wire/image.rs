//! Images (moby `api/types/image`).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Go's zero time, for images that do not say when they were made.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// One line of `GET /images/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ImageSummary {
    containers: i64,
    /// Seconds since the Unix epoch.
    created: i64,
    id: String,
    labels: Option<BTreeMap<String, String>>,
    parent_id: &'static str,
    repo_digests: Vec<String>,
    repo_tags: Vec<String>,
    /// Not computed.
    shared_size: i64,
    size: u64,
}

/// `GET /images/{name}/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: &'static str,
    comment: &'static str,
    created: String,
    docker_version: &'static str,
    author: String,
    config: Value,
    architecture: String,
    os: String,
    size: u64,
    graph_driver: Value,
    #[serde(rename = "RootFS")]
    root_fs: Value,
    metadata: Value,
}

impl From<skep_image::ImageSummary> for ImageSummary {
    fn from(image: skep_image::ImageSummary) -> Self {
        let created = image.created.and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
        Self {
            containers: -1,
            created: created.map_or(0, OffsetDateTime::unix_timestamp),
            id: image.id.to_string(),
            labels: (!image.labels.is_empty()).then_some(image.labels),
            parent_id: "",
            repo_digests: image.repo_digests,
            repo_tags: image.repo_tags,
            shared_size: -1,
            size: image.size,
        }
    }
}

impl Image {
    /// The image as clients see it; `config` is its configuration as its author wrote it.
    pub(crate) fn new(image: &skep_image::Image, config: &Value) -> Self {
        let text = |name: &str| config[name].as_str().unwrap_or_default().to_owned();
        let layers: Vec<String> = image.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let created = text("created");
        Self {
            id: image.id.to_string(),
            repo_tags: image.repo_tags(),
            repo_digests: image.repo_digests(),
            parent: "",
            comment: "",
            created: if created.is_empty() { NO_TIME.to_owned() } else { created },
            docker_version: "",
            author: text("author"),
            config: if config["config"].is_object() { config["config"].clone() } else { json!({}) },
            architecture: text("architecture"),
            os: text("os"),
            size: image.size,
            graph_driver: json!({ "Name": "overlay2", "Data": null }),
            root_fs: json!({ "Type": "layers", "Layers": layers }),
            metadata: json!({ "LastTagTime": NO_TIME }),
        }
    }
}

/// `GET /images/{name}/history`: newest first.
pub(crate) fn history(image: &skep_image::Image, config: &Value) -> Vec<Value> {
    let steps = config["history"].as_array().cloned().unwrap_or_default();
    let mut sizes = image.layers.iter().map(|layer| layer.size);
    let lines = steps.iter().map(|step| {
        let size = if step["empty_layer"].as_bool() == Some(true) { 0 } else { sizes.next().unwrap_or(0) };
        let created = step["created"].as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        json!({
            "Id": "<missing>",
            "Created": created.map_or(0, OffsetDateTime::unix_timestamp),
            "CreatedBy": step["created_by"].as_str().unwrap_or_default(),
            "Tags": null,
            "Size": size,
            "Comment": step["comment"].as_str().unwrap_or_default(),
        })
    });
    let mut lines: Vec<Value> = lines.collect();
    lines.reverse();
    if let Some(newest) = lines.first_mut() {
        newest["Id"] = json!(image.id.to_string());
        newest["Tags"] = json!(image.repo_tags());
    }
    lines
}
