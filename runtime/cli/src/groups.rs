//! All that the commands do with cgroups.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use skep_runtime::cgroup::{Cgroup, Cgroups, Limits};
use skep_runtime::spec::oci::LinuxResources;

use crate::error::Failure;

/// Where containers go whose specification names no place.
const PARENT: &str = "skep-runtime";

/// A container's group by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    parent: String,
    name: String,
}

/// The host's hierarchies.
#[derive(Debug)]
pub(crate) struct Groups {
    host: Cgroups,
}

impl Groups {
    pub(crate) fn detect() -> Result<Self, Failure> {
        Ok(Self { host: Cgroups::detect()? })
    }

    pub(crate) fn host(&self) -> &Cgroups {
        &self.host
    }

    /// Where a container goes.
    pub(crate) fn place(path: Option<&Path>, id: &str, systemd: bool) -> Result<Place, Failure> {
        if systemd {
            return Err(Failure::Refused("the systemd cgroup driver is not supported".to_owned()));
        }
        let mut names: Vec<String> = Vec::new();
        for component in path.into_iter().flat_map(Path::components) {
            match component {
                Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
                Component::ParentDir => drop(names.pop()),
                _ => {}
            }
        }
        let absolute = path.is_some_and(Path::is_absolute);
        let Some(name) = names.pop() else {
            return Ok(Place { parent: PARENT.to_owned(), name: id.to_owned() });
        };
        if !absolute || names.is_empty() {
            names.insert(0, PARENT.to_owned());
        }
        Ok(Place { parent: names.join("/"), name })
    }

    /// Refuses a group that somebody else's processes are in: the group is killed with its container.
    pub(crate) fn check_free(place: &Place) -> Result<(), Failure> {
        match Self::pids(place)?.len() {
            0 => Ok(()),
            count => Err(Failure::Refused(format!(
                "container's cgroup is not empty: {count} process(es) found"
            ))),
        }
    }

    /// Makes the group with its limits.
    pub(crate) fn make(&self, place: &Place, resources: Option<&LinuxResources>) -> Result<Cgroup, Failure> {
        let limits = resources.map(Limits::from_oci).unwrap_or_default();
        Ok(self.host.create(&place.parent, &place.name, &limits)?)
    }

    /// A group made earlier.
    pub(crate) fn group(&self, place: &Place) -> Result<Cgroup, Failure> {
        Ok(self.host.group(&place.parent, &place.name)?)
    }

    /// The group that a further process joins: the container's own.
    pub(crate) fn within(&self, place: &Place, sub: &[&str]) -> Result<Cgroup, Failure> {
        match sub {
            [] | ["" | "/"] => self.group(place),
            _ => Err(Failure::Refused("--cgroup is not supported".to_owned())),
        }
    }

    /// The processes in a group.
    pub(crate) fn pids(place: &Place) -> Result<Vec<i32>, Failure> {
        Ok(Self::detect()?.group(place)?.processes())
    }

    /// What a group uses, as `events` prints it.
    pub(crate) fn statistics(place: &Place) -> Result<serde_json::Value, Failure> {
        let usage = Self::detect()?.group(place)?.usage();
        Ok(serde_json::json!({
            "cpu": { "usage": { "total": usage.cpu } },
            "memory": { "usage": { "usage": usage.memory } },
            "pids": { "current": usage.pids },
        }))
    }

    /// Changes the limits of a group.
    pub(crate) fn update(_place: &Place, _resources: &LinuxResources) -> Result<(), Failure> {
        Err(Failure::Refused("update is not supported".to_owned()))
    }

    /// Kills what runs in a group, and removes it.
    pub(crate) fn remove(place: &Place) -> Result<(), Failure> {
        let groups = Self::detect()?;
        let group = groups.group(place)?;
        group.kill();
        group.remove()?;
        if place.parent == PARENT {
            groups.host.remove_parent(PARENT);
        }
        Ok(())
    }

    /// Suspends its processes.
    pub(crate) fn freeze(_place: &Place) -> Result<(), Failure> {
        Err(Failure::Refused("pausing is not supported".to_owned()))
    }

    /// Goes on with them.
    pub(crate) fn thaw(_place: &Place) -> Result<(), Failure> {
        Err(Failure::Refused("resuming is not supported".to_owned()))
    }

    /// Whether its processes are suspended.
    pub(crate) fn frozen(_place: &Place) -> bool {
        false
    }
}
