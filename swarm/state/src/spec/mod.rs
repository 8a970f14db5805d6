//! What users ask for, with the field names and shapes of Docker's API (moby `api/types/swarm`).
//!
//! Every struct decodes leniently (absent fields take Go's zero value; see [`crate::lenient`]) and encodes as Go does
//! with `omitempty`, so that a spec goes through a node unchanged.

mod cluster;
mod container;
mod endpoint;
mod node;
mod service;
mod task;

pub use cluster::{
    CaConfig, ClusterSpec, DispatcherConfig, EncryptionConfig, ExternalCa, OrchestrationConfig, RaftConfig,
};
pub use container::{
    ConfigReference, ContainerSpec, DnsConfig, FileTarget, HealthConfig, Mount, SecretReference, Ulimit,
};
pub use endpoint::{EndpointSpec, PortConfig, PortProtocol, PublishMode, ResolutionMode};
pub use node::{Availability, NodeRole, NodeSpec};
pub use service::{
    FailureAction, GlobalJob, GlobalService, ReplicatedJob, ReplicatedService, ServiceMode, ServiceSpec,
    UpdateConfig, UpdateOrder,
};
pub use task::{
    DiscreteGenericResource, GenericResource, Limit, NamedGenericResource, NetworkAttachmentConfig,
    Placement, PlacementPreference, Platform, ResourceRequirements, Resources, RestartCondition,
    RestartPolicy, SpreadOver, TaskLogDriver, TaskSpec,
};

use std::collections::BTreeMap;

/// Labels and options: ordered, so that the same spec always encodes to the same bytes.
pub type StringMap = BTreeMap<String, String>;

/// For `skip_serializing_if`: whether a value is its type's zero value, Go's `omitempty`.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
