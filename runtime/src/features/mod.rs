//! What of the OCI runtime spec this runtime knows, as its `features` document lists it (features-linux.md), and what of
//! it the running kernel has.

mod document;

pub use self::document::{Features, features};

use std::path::{Path, PathBuf};

use rustix::fs::statfs;

pub use crate::seccomp::features as seccomp;

/// `SELINUX_MAGIC` and `RDTGROUP_SUPER_MAGIC` (linux/magic.h).
const SELINUX_MAGIC: u64 = 0xf97c_ff8c;
const RESCTRL_MAGIC: u64 = 0x0765_5821;

/// Where the kernel makes a directory for resctrl.
const RESCTRL_ROOT: &str = "/sys/fs/resctrl";

/// Types of namespace that can be made and joined.
pub const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// `linux.memoryPolicy.mode`.
pub const MEMORY_POLICY_MODES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

/// `linux.memoryPolicy.flags`.
pub const MEMORY_POLICY_FLAGS: [&str; 3] =
    ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// `process.apparmorProfile`: known, whether the running kernel has it or not, as the three below.
pub const APPARMOR: bool = true;
/// `process.selinuxLabel` and `linux.mountLabel`.
pub const SELINUX: bool = true;
/// `linux.intelRdt` with `schemata` and `enableMonitoring`.
pub const INTEL_RDT: bool = true;
/// `linux.netDevices`.
pub const NET_DEVICES: bool = true;

/// Names of the capabilities that may be asked for, in the kernel's order.
pub fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.into_iter().map(|capability| capability.to_string()).collect()
}

/// Whether the running kernel confines by AppArmor profiles.
pub fn apparmor_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether the running kernel confines by SELinux labels.
pub fn selinux_enabled() -> bool {
    has_magic(Path::new("/sys/fs/selinux"), SELINUX_MAGIC)
}

/// Where the kernel's groups of caches and memory bandwidth are mounted, if they are.
pub fn resctrl_root() -> Option<PathBuf> {
    if has_magic(Path::new(RESCTRL_ROOT), RESCTRL_MAGIC) {
        return Some(RESCTRL_ROOT.into());
    }
    // A kernel that knows it has the directory; it may be mounted elsewhere.
    Path::new(RESCTRL_ROOT)
        .exists()
        .then(|| std::fs::read_to_string("/proc/self/mountinfo").ok())
        .flatten()
        .and_then(|mounts| {
            mounts
                .lines()
                .find(|line| line.contains(" - resctrl "))
                .and_then(|line| line.split(' ').nth(4))
                .map(PathBuf::from)
        })
}

fn has_magic(path: &Path, magic: u64) -> bool {
    // The field's type differs between architectures, and the number is one of 32 bits.
    statfs(path).is_ok_and(|stat| stat.f_type as u32 == magic as u32)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Capability, LinuxNamespaceType, MemoryPolicyFlagType, MemoryPolicyModeType};

    use super::*;

    #[test]
    fn every_name_is_one_of_the_spec() {
        assert!(MEMORY_POLICY_MODES.iter().all(|name| name.parse::<MemoryPolicyModeType>().is_ok()));
        assert!(MEMORY_POLICY_FLAGS.iter().all(|name| name.parse::<MemoryPolicyFlagType>().is_ok()));
        let known = |name: &str| serde_json::from_value::<LinuxNamespaceType>(name.into()).is_ok();
        assert!(NAMESPACES.iter().all(|name| known(name)));
        let capabilities = capabilities();
        assert_eq!((capabilities[0].as_str(), capabilities.len()), ("CAP_CHOWN", 41));
        assert!(
            capabilities
                .iter()
                .all(|name| serde_json::from_value::<Capability>(name.as_str().into()).is_ok())
        );
    }
}
