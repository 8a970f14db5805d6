//! Configs and secrets (moby `api/types/swarm/{config,secret}.go`).

use serde::Serialize;
use serde_json::Value;
use skep_state::Meta;
use skep_state::object::ConfigSpec;
use skep_state::spec::StringMap;

/// A config, with its bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Config {
    #[serde(flatten)]
    meta: Meta,
    spec: ConfigSpec,
}

/// A secret, without them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Secret {
    #[serde(flatten)]
    meta: Meta,
    spec: SecretSpec,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SecretSpec {
    name: String,
    labels: StringMap,
    #[serde(skip_serializing_if = "Option::is_none")]
    templating: Option<Value>,
}

impl From<&skep_state::Config> for Config {
    fn from(config: &skep_state::Config) -> Self {
        Self { meta: config.meta.clone(), spec: config.spec.clone() }
    }
}

impl From<&skep_state::Secret> for Secret {
    fn from(secret: &skep_state::Secret) -> Self {
        let ConfigSpec { name, labels, data: _, templating } = secret.spec.clone();
        Self { meta: secret.meta.clone(), spec: SecretSpec { name, labels, templating } }
    }
}
