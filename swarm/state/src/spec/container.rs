//! The container of a task.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{StringMap, is_zero};

/// What the container of a task is (moby `api/types/swarm/container.go`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSpec {
    /// Image reference.
    #[serde(skip_serializing_if = "is_zero")]
    pub image: String,
    /// Labels of the container.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub labels: StringMap,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Host name; a template.
    #[serde(skip_serializing_if = "is_zero")]
    pub hostname: String,
    /// Environment, `NAME=value`; templates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Working directory.
    #[serde(skip_serializing_if = "is_zero")]
    pub dir: String,
    /// `user[:group]`.
    #[serde(skip_serializing_if = "is_zero")]
    pub user: String,
    /// Further groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Seccomp, AppArmor, SELinux, `NoNewPrivileges`, credential spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Value>,
    /// Run an init as process 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Signal that stops it.
    #[serde(skip_serializing_if = "is_zero")]
    pub stop_signal: String,
    /// Allocate a terminal.
    #[serde(rename = "TTY", skip_serializing_if = "is_zero")]
    pub tty: bool,
    /// Keep standard input open.
    #[serde(skip_serializing_if = "is_zero")]
    pub open_stdin: bool,
    /// Mount the root file system read-only.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only: bool,
    /// Mounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Time between the stop signal and SIGKILL, in nanoseconds; 10 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<u64>,
    /// Health check.
    #[serde(alias = "HealthCheck", skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Lines for `/etc/hosts`, `IP name…`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Name resolution.
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    /// Secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretReference>,
    /// Configs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<ConfigReference>,
    /// Windows only; `default` on read.
    #[serde(skip_serializing_if = "is_zero")]
    pub isolation: String,
    /// Kernel parameters of its namespaces.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub sysctls: StringMap,
    /// Capabilities to add.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_add: Vec<String>,
    /// Capabilities to drop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_drop: Vec<String>,
    /// Resource limits of the process.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// −1000 to 1000.
    #[serde(skip_serializing_if = "is_zero")]
    pub oom_score_adj: i64,
}

/// A mount (moby `api/types/mount`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs`, `cluster`, `image`.
    #[serde(skip_serializing_if = "is_zero")]
    pub r#type: String,
    /// Path on the host or volume name.
    #[serde(skip_serializing_if = "is_zero")]
    pub source: String,
    /// Path in the container.
    #[serde(skip_serializing_if = "is_zero")]
    pub target: String,
    /// Mount read-only.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only: bool,
    /// `default`, `consistent`, `cached`, `delegated`; of no effect.
    #[serde(skip_serializing_if = "is_zero")]
    pub consistency: String,
    /// Options of a bind mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<Value>,
    /// Options of a volume mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<Value>,
    /// Options of an image mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<Value>,
    /// Options of a tmpfs mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<Value>,
    /// Options of a cluster volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_options: Option<Value>,
}

/// A health check (durations in nanoseconds).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// `NONE`, or `CMD` or `CMD-SHELL` with the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time a check may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time at the start in which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// Name resolution of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DnsConfig {
    /// Servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A file made from a secret or a config.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileTarget {
    /// Name or path.
    #[serde(rename = "Name")]
    pub name: String,
    /// Owner.
    #[serde(rename = "UID")]
    pub uid: String,
    /// Group.
    #[serde(rename = "GID")]
    pub gid: String,
    /// Permission bits, in decimal.
    #[serde(rename = "Mode")]
    pub mode: u32,
}

/// A secret of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretReference {
    /// The file to make.
    #[serde(rename = "File", skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTarget>,
    /// Its ID.
    #[serde(rename = "SecretID")]
    pub secret_id: String,
    /// Its name.
    #[serde(rename = "SecretName")]
    pub secret_name: String,
}

/// A config of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigReference {
    /// The file to make.
    #[serde(rename = "File", skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTarget>,
    /// Windows only.
    #[serde(rename = "Runtime", skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Value>,
    /// Its ID.
    #[serde(rename = "ConfigID")]
    pub config_id: String,
    /// Its name.
    #[serde(rename = "ConfigName")]
    pub config_name: String,
}

/// A resource limit of the process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// As `nofile`.
    pub name: String,
    /// Hard limit.
    pub hard: i64,
    /// Soft limit.
    pub soft: i64,
}
