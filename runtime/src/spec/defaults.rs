//! Docker's default spec (moby `oci/defaults.go`, `oci/caps/defaults.go`), field by field.

use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Mount, Process, Root, Spec,
};

use crate::seccomp::{self, Machine, SeccompError};

/// `PATH` that Docker gives a container whose image sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container must not read: host secrets and side channels in procfs and sysfs.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What a container may read and not write.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Docker's 14 default capabilities.
pub fn default_capabilities() -> Capabilities {
    Capabilities::from([
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fsetid,
        Capability::Fowner,
        Capability::Mknod,
        Capability::NetRaw,
        Capability::Setgid,
        Capability::Setuid,
        Capability::Setfcap,
        Capability::Setpcap,
        Capability::NetBindService,
        Capability::SysChroot,
        Capability::Kill,
        Capability::AuditWrite,
    ])
}

/// The spec of a container as `docker run IMAGE` has it: all of Docker's mounts, masked and read-only paths, device
/// rules, the 14 default capabilities (bounding, permitted, effective; inheritable and ambient empty), six new
/// namespaces, no resource limits, no rlimits, no seccomp filter (see [`confine`]). Callers change arguments, environment, user, mounts
/// and limits.
pub fn default_spec() -> Spec {
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned());
    spec.set_hostname(None);
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"));
    root.set_readonly(Some(false));
    spec.set_root(Some(root));
    spec.set_mounts(Some(default_mounts()));
    spec.set_process(Some(default_process()));
    spec.set_linux(Some(default_linux()));
    spec
}

/// Gives a spec Docker's default seccomp profile for its capabilities, unless it has a profile. To be called when the
/// capabilities are what they will be; not for privileged and unconfined containers.
///
/// # Errors
/// [`SeccompError::Machine`]: there are no filters for this processor.
pub fn confine(spec: &mut Spec) -> Result<(), SeccompError> {
    let capabilities = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|sets| sets.bounding().clone()).unwrap_or_default();
    let mut linux = spec.linux().clone().unwrap_or_default();
    if linux.seccomp().is_none() {
        let profile = seccomp::default_profile(&bounding, seccomp::kernel_version(), Machine::native()?);
        linux.set_seccomp(Some(profile));
        spec.set_linux(Some(linux));
    }
    Ok(())
}

/// Five sets without a word, as those of a process without `capabilities`. (The crate's default has some in them.)
pub fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None).set_permitted(None).set_effective(None).set_inheritable(None).set_ambient(None);
    none
}

fn default_process() -> Process {
    let mut capabilities = no_capabilities();
    capabilities.set_bounding(Some(default_capabilities()));
    capabilities.set_permitted(Some(default_capabilities()));
    capabilities.set_effective(Some(default_capabilities()));
    // Inheritable capabilities survive an exec by a non-root user with file capabilities (CVE-2022-24769).
    capabilities.set_inheritable(Some(Capabilities::new()));
    capabilities.set_ambient(Some(Capabilities::new()));
    let mut process = Process::default();
    process
        .set_args(Some(Vec::new()))
        .set_env(Some(vec![DEFAULT_PATH.to_owned()]))
        .set_rlimits(None)
        .set_capabilities(Some(capabilities))
        .set_no_new_privileges(Some(false));
    process
}

fn default_linux() -> Linux {
    let namespace = |typ| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ);
        namespace
    };
    let mut deny_all = LinuxDeviceCgroup::default();
    deny_all.set_allow(false).set_access(Some("rwm".to_owned()));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![deny_all]));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(
            [
                LinuxNamespaceType::Mount,
                LinuxNamespaceType::Network,
                LinuxNamespaceType::Uts,
                LinuxNamespaceType::Pid,
                LinuxNamespaceType::Ipc,
                LinuxNamespaceType::Cgroup,
            ]
            .map(namespace)
            .to_vec(),
        ))
        .set_resources(Some(resources))
        .set_masked_paths(Some(MASKED_PATHS.map(str::to_owned).to_vec()))
        .set_readonly_paths(Some(READONLY_PATHS.map(str::to_owned).to_vec()));
    linux
}

fn default_mounts() -> Vec<Mount> {
    [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ]
    .into_iter()
    .map(|(destination, typ, source, options)| {
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(destination))
            .set_typ(Some(typ.to_owned()))
            .set_source(Some(PathBuf::from(source)))
            .set_options(Some(options.split(',').map(str::to_owned).collect()));
        mount
    })
    .collect()
}
