//! Processes that need not be this one's children. A process is its number and its start time: a number alone may have
//! been given to another by now.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys;

/// A process that was alive when it was opened.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    /// Opens a process, unless it has ended or its number is another's now.
    pub fn open(pid: i32, start_time: u64) -> Option<Self> {
        let pidfd = open(pid).ok()?;
        // Looked up after the opening: the descriptor is of the process that has the number now.
        (self::start_time(pid) == Some(start_time)).then_some(Self { pid, pidfd })
    }

    /// Its number, which is another's once it has ended and was reaped.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal, by any number.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EINVAL` for a number that is no signal's.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        Ok(sys::pidfd_signal(self.pidfd.as_fd(), signal)?)
    }

    /// The process, by descriptor: readable when it ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// A process by descriptor. A number that is none of a process (from a file, say) is one of a process that is gone.
pub(crate) fn open(pid: i32) -> Result<OwnedFd, Errno> {
    let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// When a process started, in the kernel's ticks since boot; `None` if there is none of that number or it has ended.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = Stat::read(pid)?;
    (!stat.ended).then_some(stat.start_time)
}

/// Of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its first thread has ended. Others may live.
    pub ended: bool,
    /// Its parent's number.
    pub parent: i32,
    /// When it started, in the kernel's ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// A process's, as long as it was not reaped.
    pub fn read(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Fields 3, 4 and 22. The command's name, field 2, may contain anything.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X" | "x");
        let parent = fields.next()?.parse().ok()?;
        Some(Self { ended, parent, start_time: fields.nth(17)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_no_process_has_is_no_process() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert!(Process::open(pid, 0).is_none());
        }
    }

    #[test]
    fn stat_is_read_behind_any_name() {
        let rest = "42 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        let stat = |ended| Some(Stat { ended, parent: 42, start_time: 777 });
        assert_eq!(Stat::parse(&format!("7 (a) b) 1 (x) S {rest}")), stat(false));
        assert_eq!(Stat::parse(&format!("7 (a) Z {rest}")), stat(true), "a zombie has ended");
        assert_eq!(Stat::parse("7 (a"), None);
    }

    #[test]
    fn a_number_with_another_start_time_is_another_process() {
        let own = std::process::id() as i32;
        let start = start_time(own).unwrap();
        assert!(Process::open(own, start).is_some_and(|process| process.signal(0).is_ok()));
        assert!(Process::open(own, start + 1).is_none());
    }
}
