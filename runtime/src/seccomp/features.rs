//! What can be asked for, as the `features` document lists it (OCI runtime spec, features-linux.md, "seccomp").

use super::Machine;
use super::load::kernel_knows;

/// Actions that profiles may name.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Comparisons that profiles may name.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Flags that profiles may name.
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Architectures whose programs a machine runs and a profile can filter. Others may be named, to no effect.
pub fn architectures(machine: Machine) -> &'static [&'static str] {
    match machine {
        Machine::X86_64 => &["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
        Machine::Aarch64 => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        Machine::Riscv64 => &["SCMP_ARCH_RISCV64"],
    }
}

/// Those of [`FLAGS`] that the running kernel takes.
pub fn supported_flags() -> Vec<&'static str> {
    let flags = [
        libc::SECCOMP_FILTER_FLAG_LOG,
        libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        libc::SECCOMP_FILTER_FLAG_TSYNC,
        // Nothing waits without a listener.
        libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    ];
    FLAGS
        .into_iter()
        .zip(flags)
        .filter(|(_, flag)| kernel_knows(*flag as u32))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator};

    use super::*;

    #[test]
    fn every_name_is_one_of_the_spec() {
        assert!(ACTIONS.iter().all(|name| name.parse::<LinuxSeccompAction>().is_ok()));
        assert!(OPERATORS.iter().all(|name| name.parse::<LinuxSeccompOperator>().is_ok()));
        assert!(FLAGS.iter().all(|name| name.parse::<LinuxSeccompFilterFlag>().is_ok()));
        for machine in [Machine::X86_64, Machine::Aarch64, Machine::Riscv64] {
            let parse = |name: &&str| serde_json::from_str::<oci_spec::runtime::Arch>(&format!("{name:?}"));
            assert!(architectures(machine).iter().all(|name| parse(name).is_ok()));
        }
        assert!(supported_flags().contains(&"SECCOMP_FILTER_FLAG_LOG"), "since Linux 4.14");
    }
}
