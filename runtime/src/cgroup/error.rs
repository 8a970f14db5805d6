//! What can go wrong with a group.

use std::io;
use std::path::{Path, PathBuf};

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup filesystem is mounted.
    #[error("no cgroup filesystem is mounted (see /proc/self/mountinfo)")]
    NotMounted,
    /// A parent or ID that would lead out of its place.
    #[error("{0:?} is not a cgroup name")]
    Name(String),
    /// A systemd cgroupsPath of another form.
    #[error("{0:?} is not of the form slice:prefix:name, which the systemd driver takes as cgroupsPath")]
    SystemdPath(String),
    /// A limit was asked for whose controller this host lacks.
    #[error("this host has no {controller} cgroup controller, which the container's limits need")]
    NoController {
        /// The controller.
        controller: &'static str,
    },
    /// The kernel lacks a file that a limit needs.
    #[error("this kernel has no {}, which the container's limits need", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// Cgroup v2 has no such limit.
    #[error("cgroup v2 has nothing like {field}")]
    NotInV2 {
        /// The field of the spec's resources.
        field: &'static str,
    },
    /// `unified` is for v2.
    #[error(
        "invalid configuration: the resources' unified settings need cgroup v2, this host has v1 controllers"
    )]
    UnifiedOnV1,
    /// A key of `unified` that is no file of a controller.
    #[error("the unified resource {file:?} is not of the form CONTROLLER.PARAMETER")]
    UnifiedName {
        /// The key.
        file: String,
    },
    /// A key of `unified` whose controller is not there.
    #[error("the unified resource {file:?} cannot be set: the controller {controller:?} is not available")]
    UnifiedController {
        /// The key.
        file: String,
        /// Its controller.
        controller: String,
    },
    /// A value that the field cannot have.
    #[error("{field} cannot be {value}: {why}")]
    Value {
        /// The field of the spec's resources.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More is in use than the new limit allows.
    #[error("a memory limit of {limit} is too low: {usage} bytes are in use")]
    TooLow {
        /// The limit.
        limit: i64,
        /// What is in use.
        usage: i64,
    },
    /// A device rule that cannot be understood.
    #[error("device rule {index}: {why}")]
    DeviceRule {
        /// Its index.
        index: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Device rules that the v1 controller cannot express.
    #[error(
        "the device rules except something from a wildcard, which cgroup v1's devices controller cannot do"
    )]
    DevicesHole,
    /// The devices controller did not take all of the rules.
    #[error("{} allows other devices than it was told; does its parent allow less?", path.display())]
    DevicesDiffer {
        /// The group.
        path: PathBuf,
    },
    /// A bpf(2) command failed.
    #[error("cannot {action}: {source}")]
    Bpf {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The group is in use.
    #[error("the cgroup {} is not empty: it has {processes} processes", path.display())]
    NotEmpty {
        /// The group.
        path: PathBuf,
        /// How many.
        processes: usize,
    },
    /// Nothing could run in the group.
    #[error("container's cgroup unexpectedly frozen: {}", path.display())]
    Frozen {
        /// The group.
        path: PathBuf,
    },
    /// Processes could not be frozen.
    #[error("the processes in {} do not freeze", path.display())]
    NotFreezing {
        /// The group.
        path: PathBuf,
    },
    /// A group in a place that allows no more than CPU limits.
    #[error("{} is in a threaded or invalid part of the cgroup tree, the container's limits cannot be set there",
        path.display())]
    Threaded {
        /// The group.
        path: PathBuf,
    },
    /// A file with other text than the kernel's documents say.
    #[error("{} has unexpected content", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// A file or directory of the cgroup filesystem refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A limit was refused by the kernel.
    #[error("cannot set {} to {value:?}: {source}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The systemd driver without systemd.
    #[error("systemd is not running (/run/systemd/system is missing)")]
    NoSystemd,
    /// The connection to systemd failed.
    #[error("cannot {action} systemd: {source}")]
    Bus {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Systemd refused.
    #[error("systemd refuses {method} for {unit}: {message}")]
    Systemd {
        /// The method of its manager.
        method: &'static str,
        /// The unit.
        unit: String,
        /// Its answer.
        message: String,
    },
    /// An annotation `org.systemd.property.*` that is no property.
    #[error("the annotation {annotation} cannot be a systemd property: {why}")]
    SystemdProperty {
        /// The annotation.
        annotation: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl CgroupError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }

    /// What was to be made is there.
    pub(super) fn is_there_already(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}
