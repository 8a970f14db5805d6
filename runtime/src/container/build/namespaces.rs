//! Which namespaces are made, and which are joined, by which process.
//!
//! One clone makes all new ones. What takes effect in a process's children only (a PID or time namespace to join, time
//! offsets), and what has to be joined with the rights that a new or joined user namespace takes away, is the work of a
//! process between the creator and the init: [`Entry`].

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};

use super::Builder;
use crate::container::CreateError;
use crate::container::plan::{Entry, Join, Outside, Step};

/// Most ID map lines of a user namespace (user_namespaces(7)).
const ID_MAP_LINES_MAX: usize = 340;

/// What [`Builder::namespaces`] plans beside steps.
pub(super) struct Namespaces {
    /// Made by the clone.
    pub(super) flags: u64,
    pub(super) entry: Option<Entry>,
    pub(super) outside: Outside,
}

impl Builder<'_> {
    /// The cgroup namespace is made by a step, after all groups were joined.
    pub(super) fn namespaces(
        &mut self,
        linux: &Linux,
        netns: Option<OwnedFd>,
    ) -> Result<Namespaces, CreateError> {
        let mut flags = 0;
        let mut joins = Vec::new();
        let mut new_cgroup = false;
        let mut seen = 0;
        for namespace in linux.namespaces().iter().flatten() {
            let typ = namespace.typ();
            if seen & typ as u64 != 0 {
                return Err(CreateError::Invalid(format!("two {typ} namespaces")));
            }
            seen |= typ as u64;
            match super::joined_path(namespace) {
                _ if typ == LinuxNamespaceType::Network && netns.is_some() => {}
                Some(path) => joins.push(Join { fd: open(path, typ)?, typ: typ as u64 }),
                _ if typ == LinuxNamespaceType::Cgroup => new_cgroup = true,
                _ => flags |= typ as u64,
            }
        }
        if let Some(netns) = netns {
            joins.push(Join { fd: netns, typ: LinuxNamespaceType::Network as u64 });
        }
        if seen & LinuxNamespaceType::Mount as u64 == 0 {
            shared_mounts(linux, seen & LinuxNamespaceType::User as u64 != 0)?;
        }
        self.joined = joins.iter().map(|join| join.typ).fold(0, |all, typ| all | typ);
        self.userns = seen & LinuxNamespaceType::User as u64 != 0;
        let own_time = flags & LinuxNamespaceType::Time as u64 != 0;
        let own_user = flags & LinuxNamespaceType::User as u64 != 0;
        let time_offsets = time_offsets(linux, own_time)?;
        if time_offsets.is_some() {
            flags &= !(LinuxNamespaceType::Time as u64);
        }
        let outside = outside(linux, own_user)?;
        let in_children = LinuxNamespaceType::Pid as u64 | LinuxNamespaceType::Time as u64;
        let between = self.userns || time_offsets.is_some() || self.joined & in_children != 0;
        // The mount namespace comes last: it takes the view of the host away.
        joins.sort_by_key(|join| join.typ == LinuxNamespaceType::Mount as u64);
        let mut entry = None;
        if between && (!joins.is_empty() || time_offsets.is_some()) {
            entry = Some(Entry { joins, time_offsets, ..Entry::default() });
        } else {
            self.steps.extend(joins.into_iter().map(Step::JoinNamespace));
        }
        if !outside.is_empty() {
            self.steps.push(Step::Maps);
        }
        if flags & LinuxNamespaceType::Network as u64 != 0 {
            self.steps.push(Step::Loopback);
        }
        if new_cgroup {
            self.steps.push(Step::NewCgroupNamespace);
        }
        Ok(Namespaces { flags, entry, outside })
    }
}

/// What cannot be in the host's mount namespace.
fn shared_mounts(linux: &Linux, userns: bool) -> Result<(), CreateError> {
    let given = |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(|paths| !paths.is_empty());
    if given(linux.masked_paths()) || given(linux.readonly_paths()) {
        return Err(CreateError::Invalid(
            "unable to restrict sys entries without a private MNT namespace".to_owned(),
        ));
    }
    if userns {
        return Err(CreateError::Unsupported(
            "a user namespace without a mount namespace of the container's own".to_owned(),
        ));
    }
    Ok(())
}

/// This process's mount namespace.
pub(super) fn own_mounts() -> Result<OwnedFd, CreateError> {
    open(Path::new("/proc/self/ns/mnt"), LinuxNamespaceType::Mount)
}

fn open(path: &Path, typ: LinuxNamespaceType) -> Result<OwnedFd, CreateError> {
    let fail = |source| CreateError::OpenNamespace { path: path.to_path_buf(), source };
    if !path.is_absolute() {
        return Err(CreateError::Invalid(format!(
            "the {typ} namespace's path {} is not absolute",
            path.display()
        )));
    }
    // Looked at before it is opened: the opening of a device or a named pipe may have effects, or wait.
    let seen = rustix::fs::statfs(path).map_err(|errno| fail(errno.into()))?;
    if seen.f_type != libc::NSFS_MAGIC {
        return Err(CreateError::Invalid(format!("{} is not a namespace", path.display())));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
    match crate::sys::namespace_type(&fd) {
        Ok(kind) if kind == typ as u64 => Ok(fd),
        Ok(_) => Err(CreateError::Invalid(format!("{} is not a {typ} namespace", path.display()))),
        Err(_) => Err(CreateError::Invalid(format!("{} is not a namespace", path.display()))),
    }
}

/// Lines for `timens_offsets` (time_namespaces(7)).
fn time_offsets(linux: &Linux, own: bool) -> Result<Option<Vec<u8>>, CreateError> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else {
        return Ok(None);
    };
    if !own {
        return Err(CreateError::Invalid("timeOffsets without a time namespace of its own".to_owned()));
    }
    let mut lines = Vec::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(CreateError::Invalid(format!(
                "timeOffsets of the clock {clock:?}; \"monotonic\" and \"boottime\" can be set"
            )));
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        lines.push(format!("{clock} {seconds} {nanoseconds}\n"));
    }
    lines.sort();
    Ok(Some(lines.concat().into_bytes()))
}

fn outside(linux: &Linux, own_user: bool) -> Result<Outside, CreateError> {
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    if !own_user {
        // With a joined namespace the maps are that one's; the spec repeats them for whoever reads it.
        let joined = linux.namespaces().iter().flatten().any(|one| one.typ() == LinuxNamespaceType::User);
        let mapped = !uids.is_empty() || !gids.is_empty();
        if mapped && !joined {
            return Err(CreateError::Invalid(
                "uidMappings or gidMappings without a user namespace".to_owned(),
            ));
        }
        return Ok(Outside::default());
    }
    if uids.is_empty() || gids.is_empty() {
        return Err(CreateError::Invalid("a user namespace without uidMappings and gidMappings".to_owned()));
    }
    Ok(Outside { uid_map: id_map(uids)?, gid_map: id_map(gids)?, oom_score: None })
}

fn id_map(mappings: &[LinuxIdMapping]) -> Result<Vec<u8>, CreateError> {
    if mappings.len() > ID_MAP_LINES_MAX {
        return Err(CreateError::Invalid(format!(
            "{} ID mappings; at most {ID_MAP_LINES_MAX} can be",
            mappings.len()
        )));
    }
    let lines =
        mappings.iter().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()));
    Ok(lines.collect::<String>().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(json: serde_json::Value) -> Linux {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn offsets_are_lines_and_need_a_namespace() {
        let given = linux(serde_json::json!({
            "timeOffsets": {"monotonic": {"secs": 5}, "boottime": {"secs": -1, "nanosecs": 9}}
        }));
        assert_eq!(time_offsets(&given, true).unwrap().unwrap(), b"boottime -1 9\nmonotonic 5 0\n");
        assert!(time_offsets(&given, false).is_err());
        let wrong = linux(serde_json::json!({"timeOffsets": {"realtime": {"secs": 5}}}));
        assert!(time_offsets(&wrong, true).unwrap_err().to_string().contains("realtime"));
    }

    #[test]
    fn maps_need_a_user_namespace_and_the_other_way_round() {
        let map = serde_json::json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let given = linux(serde_json::json!({"uidMappings": map, "gidMappings": map}));
        assert_eq!(outside(&given, true).unwrap().uid_map, b"0 1000 10\n");
        assert!(outside(&given, false).is_err());
        assert!(outside(&linux(serde_json::json!({})), true).is_err());
    }

    #[test]
    fn a_path_that_is_no_namespace_of_that_type_is_refused() {
        let typ = LinuxNamespaceType::Network;
        assert!(open(Path::new("/proc/self/ns/net"), typ).is_ok());
        for path in ["/proc/self/ns/uts", "/dev/null", "proc/self/ns/net", "/nowhere"] {
            assert!(open(Path::new(path), typ).is_err(), "{path}");
        }
    }
}
