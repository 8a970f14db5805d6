//! Whose a v2 group is: who may make groups in it, by the runtime specification's rules ("Cgroup ownership").

use std::io::ErrorKind;
use std::os::unix::fs::chown;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Cgroup, CgroupError};

/// The files that go with a group's directory, by the kernel's word and, without it, by cgroup_namespaces(7).
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";
const DELEGATED_DEFAULT: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// The host's user to whom the container's group belongs: that of its process, if it sees its group as the root of a
/// hierarchy and may write there. `None`: it stays its maker's.
#[must_use]
pub fn owner(spec: &Spec) -> Option<u32> {
    let linux = spec.linux().as_ref()?;
    let new = |kind: LinuxNamespaceType| {
        linux.namespaces().iter().flatten().any(|one| {
            one.typ() == kind && one.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
        })
    };
    let writable = spec.mounts().iter().flatten().any(|mount| {
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && mount.destination() == Path::new("/sys/fs/cgroup")
            && !mount.options().iter().flatten().any(|option| option == "ro")
    });
    if !new(LinuxNamespaceType::Cgroup) || !writable {
        return None;
    }
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    let Some(mappings) = linux.uid_mappings().as_ref().filter(|_| new(LinuxNamespaceType::User)) else {
        // In another's user namespace nothing tells what the user is on the host.
        let joins = linux.namespaces().iter().flatten().any(|one| one.typ() == LinuxNamespaceType::User);
        return (!joins).then_some(uid);
    };
    mappings.iter().find_map(|map| {
        let inside = uid.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
        map.host_id().checked_add(inside)
    })
}

impl Cgroup {
    /// Gives the v2 group to a user of the host. Groups of v1 are never given away.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn give(&self, uid: u32) -> Result<(), CgroupError> {
        let Some(path) = self.unified() else { return Ok(()) };
        chown(path, Some(uid), None).map_err(CgroupError::io("give away", path))?;
        let files = std::fs::read_to_string(DELEGATED).unwrap_or_else(|_| DELEGATED_DEFAULT.to_owned());
        for file in files.lines() {
            let file = path.join(file);
            match chown(&file, Some(uid), None) {
                // The kernel names files of controllers that are not there, too.
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(CgroupError::io("give away", &file)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(namespaces: &str, options: &str, mappings: &str, uid: u32) -> Option<u32> {
        let json = format!(
            r#"{{"ociVersion":"1.0.2","process":{{"cwd":"/","user":{{"uid":{uid},"gid":0}}}},
            "mounts":[{{"destination":"/sys/fs/cgroup","type":"cgroup","options":[{options}]}}],
            "linux":{{"namespaces":[{namespaces}],"uidMappings":[{mappings}]}}}}"#
        );
        owner(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn a_group_is_its_users_where_he_may_write_to_it_as_a_root() {
        let (own, mapped) = (r#"{"type":"cgroup"}"#, r#"{"type":"cgroup"},{"type":"user"}"#);
        let map = r#"{"containerID":0,"hostID":100000,"size":10},{"containerID":10,"hostID":5,"size":1}"#;
        assert_eq!(owner_of(own, r#""rw""#, "", 7), Some(7));
        assert_eq!(owner_of(mapped, r#""rw""#, map, 7), Some(100_007));
        assert_eq!(owner_of(mapped, "", map, 10), Some(5));
        assert_eq!(owner_of(mapped, "", map, 11), None, "not mapped");
        assert_eq!(owner_of(own, r#""nosuid","ro""#, "", 7), None, "read-only");
        assert_eq!(owner_of("", r#""rw""#, "", 7), None, "the host's view");
        let foreign = r#"{"type":"cgroup","path":"/proc/1/ns/cgroup"}"#;
        assert_eq!(owner_of(foreign, "", "", 7), None);
        let foreign = r#"{"type":"cgroup"},{"type":"user","path":"/proc/1/ns/user"}"#;
        assert_eq!(owner_of(foreign, "", map, 7), None);
    }
}
