//! Secrets and configs: named bytes for tasks.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Meta;
use crate::spec::StringMap;

/// Name, labels and bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConfigSpec {
    /// Unique among its kind.
    pub name: String,
    /// Labels.
    pub labels: StringMap,
    /// The bytes, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// Template driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templating: Option<Value>,
}

/// A config.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// Identity and version.
    #[serde(flatten)]
    pub meta: Meta,
    /// Name, labels, bytes.
    pub spec: ConfigSpec,
}

/// A secret; the API never returns its bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Secret {
    /// Identity and version.
    #[serde(flatten)]
    pub meta: Meta,
    /// Name, labels, bytes.
    pub spec: ConfigSpec,
}
