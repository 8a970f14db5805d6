//! Kernel settings of the container's namespaces: names and sysctls.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::Builder;
use crate::container::plan::Step;
use crate::container::{CreateError, c_string};

/// Longest host or domain name (`__NEW_UTS_LEN`, linux/utsname.h).
const NAME_BYTES_MAX: usize = 64;

/// Settings of an IPC namespace beside those below `fs.mqueue`.
const IPC_SETTINGS: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Which of the namespaces with settings are not the creator's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    pub(super) net: bool,
    pub(super) ipc: bool,
    pub(super) uts: bool,
    pub(super) user: bool,
}

impl Own {
    /// `netns`: one is joined that the spec does not name.
    pub(super) fn of(linux: &Linux, netns: bool) -> Result<Self, CreateError> {
        let own = |typ: LinuxNamespaceType, file: &str| -> Result<bool, CreateError> {
            let Some(namespace) = linux.namespaces().iter().flatten().find(|entry| entry.typ() == typ) else {
                return Ok(false);
            };
            let Some(path) = super::joined_path(namespace) else { return Ok(true) };
            // One that is joined may be the very one that the creator is in.
            let identity = |path: &Path| {
                let stat = std::fs::metadata(path)
                    .map_err(|source| CreateError::OpenNamespace { path: path.to_owned(), source })?;
                Ok::<_, CreateError>((stat.dev(), stat.ino()))
            };
            Ok(identity(path)? != identity(&Path::new("/proc/self/ns").join(file))?)
        };
        Ok(Self {
            net: netns || own(LinuxNamespaceType::Network, "net")?,
            ipc: own(LinuxNamespaceType::Ipc, "ipc")?,
            uts: own(LinuxNamespaceType::Uts, "uts")?,
            user: own(LinuxNamespaceType::User, "user")?,
        })
    }
}

/// Whether the container is in a user namespace other than the creator's, by the spec.
pub(super) fn has_user_namespace(linux: &Linux) -> bool {
    linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

impl Builder<'_> {
    pub(super) fn kernel_settings(
        &mut self,
        spec: &Spec,
        linux: &Linux,
        own: Own,
    ) -> Result<(), CreateError> {
        for (name, what) in [(spec.hostname(), "hostname"), (spec.domainname(), "domainname")] {
            let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else { continue };
            if !own.uts {
                return Err(CreateError::Invalid(format!(
                    "{what} without a UTS namespace of the container's own"
                )));
            }
            if name.len() > NAME_BYTES_MAX {
                return Err(CreateError::Invalid(format!(
                    "{what} of {} bytes; at most {NAME_BYTES_MAX} can be",
                    name.len()
                )));
            }
            let name = name.clone().into_bytes();
            self.steps.push(if what == "hostname" { Step::Hostname(name) } else { Step::Domainname(name) });
        }
        let mut settings: Vec<_> = linux.sysctl().iter().flatten().collect();
        settings.sort();
        for (key, value) in settings {
            let path = sysctl_path(key);
            allow(key, &path, own)?;
            self.steps.push(Step::Sysctl {
                path: c_string(format!("sys/{path}"), "a sysctl")?,
                value: value.clone().into_bytes(),
            });
        }
        Ok(())
    }
}

/// The file below `/proc/sys`. The first separator decides which of the two is one: `net.ipv4.conf.eth0/1.x` and
/// `net/ipv4/conf/eth0.1/x` are the same (sysctl.d(5)).
fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(first) if key.as_bytes().get(first) == Some(&b'.') => key
            .chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// A setting outside of the container's own namespaces is the host's.
fn allow(key: &str, path: &str, own: Own) -> Result<(), CreateError> {
    let refuse = |why: &str| Err(CreateError::Invalid(format!("sysctl {key:?} {why}")));
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("is no setting's name");
    }
    if IPC_SETTINGS.contains(&path) || path.starts_with("fs/mqueue/") {
        return if own.ipc { Ok(()) } else { refuse("is not in an IPC namespace of the container's own") };
    }
    if path.starts_with("net/") {
        return if own.net { Ok(()) } else { refuse("is not in a network namespace of the container's own") };
    }
    match path {
        "kernel/domainname" if own.uts => Ok(()),
        "kernel/hostname" if own.uts => refuse("is what the field hostname is for"),
        // Counts of the host's users, if the namespace is the host's.
        _ if path.starts_with("user/") && own.user => Ok(()),
        _ => refuse("is not in a namespace of the container's own"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_separators_of_a_sysctl_mean_the_same() {
        assert_eq!(sysctl_path("net.ipv4.conf.eno2/100.rp_filter"), "net/ipv4/conf/eno2.100/rp_filter");
        assert_eq!(sysctl_path("net/ipv4/conf/eno2.100/rp_filter"), "net/ipv4/conf/eno2.100/rp_filter");
        assert_eq!(sysctl_path("kernel"), "kernel");
    }

    #[test]
    fn sysctls_are_allowed_by_their_namespace() {
        let none = Own::default();
        let allowed = |key: &str, own| allow(key, &sysctl_path(key), own).is_ok();
        for (key, own) in [
            ("kernel.shm_rmid_forced", Own { ipc: true, ..none }),
            ("fs.mqueue.msg_max", Own { ipc: true, ..none }),
            ("net.ipv4.ip_forward", Own { net: true, ..none }),
            ("net/ipv4/ip_forward", Own { net: true, ..none }),
            ("kernel.domainname", Own { uts: true, ..none }),
            ("user.max_user_namespaces", Own { user: true, ..none }),
        ] {
            assert!(allowed(key, own), "{key}");
            assert!(!allowed(key, none), "{key} is the host's");
        }
        let all = Own { net: true, ipc: true, uts: true, user: true };
        for key in [
            "kernel.hostname",
            "kernel.core_pattern",
            "kernel.msgmaxx",
            "kernel.shm_next_id",
            "vm.swappiness",
            "fs.file-max",
            "net/../kernel/panic",
            "net.//.kernel.panic",
            "net..ipv4",
            "net.",
            "netx.y",
            "",
        ] {
            assert!(!allowed(key, all), "{key}");
        }
    }

    #[test]
    fn a_namespace_with_an_empty_path_is_a_new_one() {
        let linux = json!({"namespaces": [{"type": "ipc", "path": ""}]});
        assert!(Own::of(&serde_json::from_value(linux).unwrap(), false).unwrap().ipc);
    }

    #[test]
    fn a_joined_namespace_that_is_the_creators_is_not_the_containers() {
        let own = |path: &str| {
            let namespaces = json!([{"type": "ipc", "path": path}, {"type": "uts"}]);
            Own::of(&serde_json::from_value(json!({ "namespaces": namespaces })).unwrap(), false)
        };
        let seen = own("/proc/self/ns/ipc").unwrap();
        assert!(!seen.ipc && seen.uts && !seen.net && !seen.user);
        // Any other file stands for another namespace.
        assert!(own("/proc/self/ns/uts").unwrap().ipc);
        assert!(own("/nothing/here").is_err());
    }
}
