//! Why a seccomp profile cannot be used.

use oci_spec::runtime::LinuxSeccompAction;

/// What is wrong with a profile, or with this machine for it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// This program was built for a processor that the compiler of filters does not know.
    #[error("seccomp filters for {0} are not implemented")]
    Machine(&'static str),
    /// A notification for `write`, with which the set-up itself tells that it is done (runc refuses it too).
    #[error("SCMP_ACT_NOTIFY cannot be used for the write syscall")]
    NotifyWrite,
    /// Everything would wait for the agent, the set-up's own system calls included.
    #[error("SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyDefault,
    /// Nobody would get the notifications.
    #[error("SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath")]
    NoListener,
    /// `errnoRet` where no number can be returned; the OCI spec has it refused.
    #[error("errnoRet {errno} with {action}, which returns none")]
    Errno {
        /// The number.
        errno: u32,
        /// The action.
        action: LinuxSeccompAction,
    },
    /// A system call has six arguments.
    #[error("seccomp rule for {name}: argument {index}; a system call has arguments 0 to 5")]
    Argument {
        /// The system call.
        name: String,
        /// What was asked for.
        index: usize,
    },
    /// An empty name.
    #[error("a seccomp rule with an empty system call name")]
    EmptyName,
    /// The kernel takes 4,096 instructions (`BPF_MAXINSNS`).
    #[error("the seccomp profile needs {instructions} BPF instructions; the kernel takes 4096")]
    TooLong {
        /// The program's length.
        instructions: usize,
    },
    /// The kernel is too old for a flag.
    #[error("the kernel does not know the seccomp flag {0}")]
    Flag(&'static str),
}
