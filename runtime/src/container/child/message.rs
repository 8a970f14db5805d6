//! What the child says over the status pipe.

use rustix::io::Errno;

/// What the child says over the status pipe. The pipe's end is the word "exec succeeded".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::container) enum Message {
    /// At the gate, with a seccomp listener under this number (0: none).
    Ready { listener: u32 },
    /// A step failed.
    Failed { step: u32, errno: Errno, note: Note },
    /// There is no program of that name.
    NotFound,
    /// The program cannot be executed.
    NotExecutable(Errno),
    /// From the process in between: the init has this number, in the creator's PID namespace.
    Entered { pid: i32 },
    /// The init waits to be put into its group.
    Placement,
    /// The init waits for its ID maps.
    Maps,
    /// The process waits for its limits.
    Limits,
    /// The init waits for the runtime's hooks.
    Hooks,
    /// A hook, the index-th of its kind, ended with this wait status (wait(2)); -1: it was killed, its time was up. The
    /// note is the end of what it wrote.
    HookFailed { index: u32, status: i32, note: Note },
    /// A hook, the index-th of its kind, could not be started, or not be watched.
    HookNotRun { index: u32, errno: Errno },
}

/// A few words about a failure, kept where nothing has to be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::container) struct Note {
    bytes: [u8; Self::SIZE],
    length: u8,
}

impl Note {
    /// Two or three lines of a filesystem's log.
    pub(super) const SIZE: usize = 240;

    pub(in crate::container) const EMPTY: Self = Self { bytes: [0; Self::SIZE], length: 0 };

    /// Adds as much of the text as there is room for.
    pub(super) fn add(&mut self, text: &[u8]) {
        let start = usize::from(self.length);
        for (place, byte) in self.bytes.iter_mut().skip(start).zip(text) {
            *place = *byte;
            self.length += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(in crate::container) fn text(&self) -> String {
        let text = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        String::from_utf8_lossy(text).trim().to_owned()
    }
}

impl Default for Note {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Message {
    /// A failure that the error number says all about.
    pub(super) const fn failed(step: u32, errno: Errno) -> Self {
        Self::Failed { step, errno, note: Note::EMPTY }
    }

    /// Kind, number and errno, then the note's length and bytes.
    const HEAD: usize = 12;
    pub(in crate::container) const SIZE: usize = Self::HEAD + 1 + Note::SIZE;

    pub(in crate::container) fn encode(self) -> [u8; Self::SIZE] {
        let (kind, step, errno, note) = match self {
            Self::Ready { listener } => (1_u32, listener, 0, Note::EMPTY),
            Self::Failed { step, errno, note } => (2, step, errno.raw_os_error(), note),
            Self::NotFound => (3, 0, 0, Note::EMPTY),
            Self::NotExecutable(errno) => (4, 0, errno.raw_os_error(), Note::EMPTY),
            Self::Entered { pid } => (5, 0, pid, Note::EMPTY),
            Self::Maps => (6, 0, 0, Note::EMPTY),
            Self::Hooks => (7, 0, 0, Note::EMPTY),
            Self::Placement => (9, 0, 0, Note::EMPTY),
            Self::Limits => (10, 0, 0, Note::EMPTY),
            Self::HookFailed { index, status, note } => (8, index, status, note),
            Self::HookNotRun { index, errno } => (11, index, errno.raw_os_error(), Note::EMPTY),
        };
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&step.to_ne_bytes());
        bytes[8..Self::HEAD].copy_from_slice(&errno.to_ne_bytes());
        bytes[Self::HEAD] = note.length;
        bytes[Self::HEAD + 1..].copy_from_slice(&note.bytes);
        bytes
    }

    pub(in crate::container) fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<{ Self::HEAD }>()?;
        let (length, text) = rest.split_first()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *head;
        let step = u32::from_ne_bytes([e, f, g, h]);
        let number = i32::from_ne_bytes([i, j, k, l]);
        // rustix knows no errno outside of this range.
        let errno = Errno::from_raw_os_error(number.clamp(1, 4095));
        let mut note = Note::EMPTY;
        note.add(text.get(..usize::from(*length))?);
        match u32::from_ne_bytes([a, b, c, d]) {
            1 => Some(Self::Ready { listener: step }),
            2 => Some(Self::Failed { step, errno, note }),
            3 => Some(Self::NotFound),
            4 => Some(Self::NotExecutable(errno)),
            5 => Some(Self::Entered { pid: number }),
            6 => Some(Self::Maps),
            7 => Some(Self::Hooks),
            9 => Some(Self::Placement),
            10 => Some(Self::Limits),
            8 => Some(Self::HookFailed { index: step, status: number, note }),
            11 => Some(Self::HookNotRun { index: step, errno }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_as_they_went() {
        let mut note = Note::EMPTY;
        note.add(b"fsconfig size: ");
        note.add(&[b'x'; 500]);
        let failed = Message::Failed { step: 7, errno: Errno::INVAL, note };
        let hook = Message::HookFailed { index: 1, status: -1, note };
        for message in [
            Message::Ready { listener: 9 },
            failed,
            hook,
            Message::HookNotRun { index: 2, errno: Errno::NOSYS },
            Message::NotFound,
            Message::Limits,
            Message::NotExecutable(Errno::NOEXEC),
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(note.text().len(), Note::SIZE);
        assert!(note.text().starts_with("fsconfig size: x"));
    }
}
