//! What the child says over the status pipe.

use rustix::io::Errno;

/// What the child says over the status pipe. The pipe's end is the word "exec succeeded".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::container) enum Message {
    /// At the gate, with a seccomp listener under this number (0: none).
    Ready { listener: u32 },
    /// A step failed.
    Failed { step: u32, errno: Errno },
    /// There is no program of that name.
    NotFound,
    /// The program cannot be executed.
    NotExecutable(Errno),
    /// From the process in between: the init has this number, in the creator's PID namespace.
    Entered { pid: i32 },
    /// The init waits for its ID maps.
    Maps,
    /// The init waits for the runtime's hooks.
    Hooks,
    /// A hook ended with this wait status (wait(2)); -1: it was killed, its time was up.
    HookFailed { step: u32, status: i32 },
}

impl Message {
    pub(in crate::container) const SIZE: usize = 12;

    pub(super) fn encode(self) -> [u8; Self::SIZE] {
        let (kind, step, errno) = match self {
            Self::Ready { listener } => (1_u32, listener, 0),
            Self::Failed { step, errno } => (2, step, errno.raw_os_error()),
            Self::NotFound => (3, 0, 0),
            Self::NotExecutable(errno) => (4, 0, errno.raw_os_error()),
            Self::Entered { pid } => (5, 0, pid),
            Self::Maps => (6, 0, 0),
            Self::Hooks => (7, 0, 0),
            Self::HookFailed { step, status } => (8, step, status),
        };
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&step.to_ne_bytes());
        bytes[8..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    pub(in crate::container) fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        let step = u32::from_ne_bytes([e, f, g, h]);
        let number = i32::from_ne_bytes([i, j, k, l]);
        // rustix knows no errno outside of this range.
        let errno = Errno::from_raw_os_error(number.clamp(1, 4095));
        match u32::from_ne_bytes([a, b, c, d]) {
            1 => Some(Self::Ready { listener: step }),
            2 => Some(Self::Failed { step, errno }),
            3 => Some(Self::NotFound),
            4 => Some(Self::NotExecutable(errno)),
            5 => Some(Self::Entered { pid: number }),
            6 => Some(Self::Maps),
            7 => Some(Self::Hooks),
            8 => Some(Self::HookFailed { step, status: number }),
            _ => None,
        }
    }
}
