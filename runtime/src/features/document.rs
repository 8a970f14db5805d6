//! What this runtime can do, as the OCI `features` document lists it (OCI runtime specification, features.md): what is
//! understood, whether this host's kernel has it or not.

use serde::Serialize;

use super::{INTEL_RDT, MEMORY_POLICY_FLAGS, MEMORY_POLICY_MODES, NAMESPACES, NET_DEVICES};
use crate::container::mount_options;
use crate::seccomp::{self, Machine};

/// Hook kinds.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: &'static [&'static str],
    mount_options: Vec<&'static str>,
    linux: Linux,
    annotations: std::collections::BTreeMap<&'static str, &'static str>,
    potentially_unsafe_config_annotations: &'static [&'static str],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: &'static [&'static str],
    capabilities: Vec<String>,
    cgroup: Cgroup,
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<Seccomp>,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdt,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
    memory_policy: MemoryPolicy,
}

#[derive(Debug, Serialize)]
struct MemoryPolicy {
    modes: &'static [&'static str],
    flags: &'static [&'static str],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Debug, Serialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Debug, Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: &'static [&'static str],
    operators: &'static [&'static str],
    archs: &'static [&'static str],
    known_flags: &'static [&'static str],
    supported_flags: Vec<&'static str>,
}

/// What this build can do, on this kernel where the document asks for that.
pub fn features() -> Features {
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: "1.3.0",
        hooks: &HOOKS,
        mount_options: mount_options(),
        linux: Linux {
            namespaces: &NAMESPACES,
            capabilities: super::capabilities(),
            cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: false, rdma: true },
            seccomp: Machine::native().ok().map(|machine| Seccomp {
                enabled: true,
                actions: &seccomp::features::ACTIONS,
                operators: &seccomp::features::OPERATORS,
                archs: seccomp::features::architectures(machine),
                known_flags: &seccomp::features::FLAGS,
                supported_flags: seccomp::features::supported_flags(),
            }),
            apparmor: Enabled { enabled: super::APPARMOR },
            selinux: Enabled { enabled: super::SELINUX },
            intel_rdt: IntelRdt { enabled: INTEL_RDT, schemata: true, monitoring: true },
            mount_extensions: MountExtensions { idmap: Enabled { enabled: true } },
            net_devices: Enabled { enabled: NET_DEVICES },
            memory_policy: MemoryPolicy { modes: &MEMORY_POLICY_MODES, flags: &MEMORY_POLICY_FLAGS },
        },
        annotations: [("org.opencontainers.runc.checkpoint.enabled", "false")].into(),
        potentially_unsafe_config_annotations: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_of_the_specification() {
        let text = serde_json::to_string(&features()).unwrap();
        let read: oci_spec::runtime::Features = serde_json::from_str(&text).unwrap();
        let linux = read.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), NAMESPACES.len());
        assert!(linux.capabilities().as_ref().unwrap().contains(&"CAP_SYS_ADMIN".to_owned()));
    }
}
