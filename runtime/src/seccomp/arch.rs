//! Machines, the calling conventions that their kernels serve, and the numbers of system calls in each.

use oci_spec::runtime::Arch;

use super::SeccompError;
use super::numbers::NUMBERS;

/// What x32's numbers have set and x86_64's have not (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A kind of machine, by the kernel's 64-bit convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86_64, which also runs x86 and x32 programs.
    X86_64,
    /// aarch64, which may also run arm programs.
    Aarch64,
    /// riscv64.
    Riscv64,
}

impl Machine {
    /// The machine that this program was built for.
    ///
    /// # Errors
    /// [`SeccompError::Machine`].
    pub fn native() -> Result<Self, SeccompError> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            "riscv64" => Ok(Self::Riscv64),
            other => Err(SeccompError::Machine(other)),
        }
    }

    /// Conventions of its kernel, its own first.
    pub(super) fn abis(self) -> &'static [Abi] {
        match self {
            Self::X86_64 => &[Abi::X86_64, Abi::X86, Abi::X32],
            Self::Aarch64 => &[Abi::Aarch64, Abi::Arm],
            Self::Riscv64 => &[Abi::Riscv64],
        }
    }
}

/// A calling convention: one set of system call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86,
    X86_64,
    X32,
    Arm,
    Aarch64,
    Riscv64,
}

impl Abi {
    /// The profile's word for it. `None` is a convention of machines that this program does not run on: its programs
    /// cannot make a system call here, so what the profile says of them has no effect.
    pub(super) fn from_spec(arch: Arch, machine: Machine) -> Option<Self> {
        let abi = match arch {
            Arch::ScmpArchNative => machine.abis()[0],
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchArm => Self::Arm,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            Arch::ScmpArchRiscv64 => Self::Riscv64,
            _ => return None,
        };
        machine.abis().contains(&abi).then_some(abi)
    }

    /// `seccomp_data.arch` (`AUDIT_ARCH_*` of `linux/audit.h`). x32 shares x86_64's.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86 => 0x4000_0003,
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::Arm => 0x4000_0028,
            Self::Aarch64 => 0xc000_00b7,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// Whether only the lower halves of arguments count. libseccomp has it so for x32 too.
    pub(super) fn narrow(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// The number as the filter sees it. `None`: no such call in this convention.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let index = NUMBERS.binary_search_by_key(&name, |row| row.0).ok()?;
        let number = u32::try_from(NUMBERS[index].1[self as usize]).ok()?;
        Some(if self == Self::X32 { number | X32_BIT } else { number })
    }

    /// How else a program may ask for a call: `socketcall(2)` or `ipc(2)` with this first argument, of which these
    /// bits count. Only x86 has them (arm's `socketcall` went with the old ABI).
    pub(super) fn multiplexed(self, name: &str) -> Option<Multiplexed> {
        if self != Self::X86 {
            return None;
        }
        if let Some(index) = SOCKET_CALLS.iter().position(|call| *call == name) {
            return Some(Multiplexed { number: X86_SOCKETCALL, call: index as u64 + 1, mask: 0xffff_ffff });
        }
        // The upper half of ipc's argument is a version (ipc/syscall.c).
        let call = IPC_CALLS.iter().find(|call| call.0 == name)?;
        Some(Multiplexed { number: X86_IPC, call: call.1, mask: 0xffff })
    }
}

/// One call of a multiplexer.
pub(super) struct Multiplexed {
    pub(super) number: u32,
    pub(super) call: u64,
    pub(super) mask: u64,
}

const X86_SOCKETCALL: u32 = 102;
const X86_IPC: u32 = 117;

/// `SYS_SOCKET` = 1 and on (`linux/net.h`).
#[rustfmt::skip]
const SOCKET_CALLS: [&str; 20] = [
    "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send",
    "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4",
    "recvmmsg", "sendmmsg",
];

/// `linux/ipc.h`.
#[rustfmt::skip]
const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1), ("semget", 2), ("semctl", 3), ("semtimedop", 4), ("msgsnd", 11), ("msgrcv", 12),
    ("msgget", 13), ("msgctl", 14), ("shmat", 21), ("shmdt", 22), ("shmget", 23), ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_number_has_one_name() {
        assert!(NUMBERS.is_sorted_by(|one, next| one.0 < next.0));
        for column in 0..6 {
            let mut numbers: Vec<_> = NUMBERS.iter().map(|row| row.1[column]).filter(|n| *n >= 0).collect();
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            // arm calls one number sync_file_range2 and arm_sync_file_range.
            assert!(all - numbers.len() <= usize::from(column == Abi::Arm as usize), "column {column}");
        }
    }

    #[test]
    fn known_numbers() {
        let known = [
            (Abi::X86_64, "read", 0),
            (Abi::X86_64, "execve", 59),
            (Abi::X86_64, "clone3", 435),
            (Abi::X86_64, "mseal", 462),
            (Abi::X86, "read", 3),
            (Abi::X86, "socketcall", 102),
            (Abi::X86, "clock_gettime64", 403),
            (Abi::X32, "read", X32_BIT),
            (Abi::X32, "execve", X32_BIT | 520),
            (Abi::Arm, "set_tls", 0xf_0005),
            (Abi::Aarch64, "openat", 56),
            (Abi::Aarch64, "newfstatat", 79),
            (Abi::Riscv64, "riscv_flush_icache", 259),
        ];
        for (abi, name, number) in known {
            assert_eq!(abi.number(name), Some(number), "{abi:?} {name}");
        }
        assert_eq!(Abi::Aarch64.number("open"), None);
        assert_eq!(Abi::X86_64.number("no_such_call"), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn numbers_agree_with_libc() {
        for (name, number) in [
            ("keyctl", libc::SYS_keyctl),
            ("unshare", libc::SYS_unshare),
            ("openat2", libc::SYS_openat2),
            ("memfd_secret", libc::SYS_memfd_secret),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("bpf", libc::SYS_bpf),
        ] {
            assert_eq!(Abi::X86_64.number(name).map(i64::from), Some(number), "{name}");
        }
    }
}
