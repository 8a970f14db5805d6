//! What is known of a container between two commands, and the state document made from it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_runtime::container::Gate;
use skep_runtime::process;
use skep_runtime::spec::oci::{ContainerState, Spec, State};

use crate::groups::Place;

/// A container, as kept in its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) annotations: HashMap<String, String>,
    /// `argv[0]`, for messages.
    pub(crate) command: String,
    /// Whether its processes end with its init.
    pub(crate) own_pids: bool,
    pub(crate) cgroup: Option<Place>,
    /// The command that creates it.
    pub(crate) creator: Option<Init>,
    /// `None` while it is created.
    pub(crate) init: Option<Init>,
}

/// The init process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

/// runc's words for what a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `state` prints, in runc's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document<'a> {
    oci_version: &'a str,
    id: &'a str,
    pub(crate) pid: i32,
    pub(crate) status: &'static str,
    pub(crate) bundle: &'a Path,
    rootfs: &'a Path,
    pub(crate) created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    pub(crate) owner: String,
}

impl Record {
    /// Whether the command that began it ended before it was done.
    pub(crate) fn is_left_over(&self) -> bool {
        self.init.is_none() && self.creator.and_then(Init::open).is_none()
    }

    /// What the container does now.
    pub(crate) fn status(&self, directory: &Path) -> Status {
        let Some(init) = self.init else { return Status::Creating };
        if init.open().is_none() {
            Status::Stopped
        } else if self.cgroup.as_ref().is_some_and(Place::is_frozen) {
            Status::Paused
        } else if Gate::is_closed(directory) {
            Status::Created
        } else {
            Status::Running
        }
    }

    pub(crate) fn document(&self, status: Status, owner: String) -> Document<'_> {
        let alive = self.init.filter(|_| status != Status::Stopped);
        Document {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: alive.map_or(0, |init| init.pid),
            status: status.name(),
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: &self.created,
            annotations: &self.annotations,
            owner,
        }
    }

    /// The state as hooks are told it (OCI runtime specification, "State").
    pub(crate) fn for_hooks(&self, status: ContainerState) -> State {
        let mut state = State::default();
        state.set_version(self.oci_version.clone());
        state.set_id(self.id.clone());
        state.set_status(status);
        state.set_bundle(self.bundle.clone());
        state.set_annotations(Some(self.annotations.clone()).filter(|map| !map.is_empty()));
        if status != ContainerState::Stopped {
            state.set_pid(self.init.map(|init| init.pid));
        }
        state
    }
}

impl Init {
    /// This process.
    pub(crate) fn own() -> Self {
        let pid = std::process::id() as i32;
        Self { pid, start_time: process::start_time(pid).unwrap_or_default() }
    }

    /// The process, unless it has ended.
    pub(crate) fn open(self) -> Option<process::Process> {
        process::Process::open(self.pid, self.start_time)
    }
}

/// Whether a specification has a PID namespace made.
pub(crate) fn has_own_pids(spec: &Spec) -> bool {
    use skep_runtime::spec::oci::LinuxNamespaceType;
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut namespaces = namespaces.into_iter().flatten();
    namespaces.any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Pid
            && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
    })
}
