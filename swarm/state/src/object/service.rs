//! A service.

use serde::{Deserialize, Serialize};

use super::Meta;
use crate::Timestamp;
use crate::spec::{PortConfig, ServiceSpec};

/// A service: its spec, the one before, and how its last update went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    /// Identity and version.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user wants.
    pub spec: ServiceSpec,
    /// The spec before the last update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<ServiceSpec>,
    /// The version at which `spec` was last set: tasks made from it carry it.
    pub spec_version: u64,
    /// The version of `previous_spec`.
    pub previous_spec_version: u64,
    /// The ports with their numbers allocated.
    pub ports: Vec<PortConfig>,
    /// How the last update went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus>,
}

/// How an update goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateStatus {
    /// Where it stands.
    pub state: UpdateState,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// In words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Where an update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// Under way.
    #[default]
    Updating,
    /// Stopped after a failure.
    Paused,
    /// Done.
    Completed,
    /// Going back.
    RollbackStarted,
    /// Going back, and stopped after a failure.
    RollbackPaused,
    /// Gone back.
    RollbackCompleted,
}
