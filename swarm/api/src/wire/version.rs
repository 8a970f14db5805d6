//! `GET /version` (moby `api/types/types.go`, `Version`).

use serde::Serialize;

use crate::host::Host;
use crate::{API_VERSION, API_VERSION_MIN};

/// Versions. The command line prints from the component and ignores the flat fields; others read those.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Version {
    platform: Platform,
    components: [Component; 1],
    version: String,
    #[serde(flatten)]
    details: Details,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Platform {
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: &'static str,
    version: String,
    details: ComponentDetails,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Details {
    api_version: &'static str,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: &'static str,
    git_commit: &'static str,
    go_version: &'static str,
    os: &'static str,
    arch: &'static str,
    kernel_version: String,
    build_time: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ComponentDetails {
    #[serde(flatten)]
    details: Details,
    /// A word, not a switch.
    experimental: &'static str,
}

impl Version {
    /// Of skep `version` on this machine.
    pub(crate) fn new(version: &str) -> Self {
        let details = Details {
            api_version: API_VERSION,
            min_api_version: API_VERSION_MIN,
            git_commit: "",
            // There is no Go in it; the field must be there, and says what it was built with.
            go_version: "none (Rust)",
            os: "linux",
            arch: Host::go_architecture(),
            kernel_version: Host::get().kernel.clone(),
            build_time: "",
        };
        Self {
            platform: Platform { name: "skep" },
            components: [Component {
                name: "Engine",
                version: version.to_owned(),
                details: ComponentDetails { details: details.clone(), experimental: "false" },
            }],
            version: version.to_owned(),
            details,
        }
    }
}
