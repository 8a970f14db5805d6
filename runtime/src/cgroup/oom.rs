//! Being told when a group runs out of memory.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::fs::inotify;

use super::group::keyed;
use super::{Cgroup, CgroupError, write};

/// A descriptor to poll. When it is readable, [`Self::read`] tells what happened.
#[derive(Debug)]
pub struct OomEvents {
    descriptor: OwnedFd,
    /// The file that is gone when the group is, and that counts on v2.
    file: PathBuf,
    v2: bool,
    seen: u64,
}

/// What a readable descriptor means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomEvent {
    /// The group had no memory left.
    Oom,
    /// Something else in the group's memory events has changed.
    Other,
    /// The group is gone, or (on v2) empty; there will be no more events.
    Gone,
}

impl Cgroup {
    /// Starts listening.
    ///
    /// # Errors
    /// [`CgroupError::NoController`], [`CgroupError::Io`].
    pub fn oom_events(&self) -> Result<OomEvents, CgroupError> {
        if let Some(path) = self.v1("memory") {
            return listen_v1(path);
        }
        let file = self.unified().map(|path| path.join("memory.events")).filter(|file| file.exists());
        let file = file.ok_or(CgroupError::NoController { controller: "memory" })?;
        let failed = |errno: rustix::io::Errno| CgroupError::io("watch", &file)(errno.into());
        let descriptor =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
        inotify::add_watch(&descriptor, &file, inotify::WatchFlags::MODIFY).map_err(failed)?;
        let seen = keyed(&file, "oom_kill").unwrap_or(0);
        // The end of the last process is an event of this file.
        let populated = file.with_file_name("cgroup.events");
        inotify::add_watch(&descriptor, &populated, inotify::WatchFlags::MODIFY).map_err(failed)?;
        Ok(OomEvents { descriptor, file, v2: true, seen })
    }
}

fn listen_v1(path: &Path) -> Result<OomEvents, CgroupError> {
    let file = path.join("memory.oom_control");
    let control = std::fs::File::open(&file).map_err(CgroupError::io("open", &file))?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| CgroupError::io("make an event descriptor for", &file)(errno.into()))?;
    let register = path.join("cgroup.event_control");
    let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    write(&register, &line).map_err(CgroupError::io("write", &register))?;
    Ok(OomEvents { descriptor: event.into(), file, v2: false, seen: 0 })
}

impl OomEvents {
    /// Takes the event that made the descriptor readable. `None`: there is none.
    ///
    /// # Errors
    /// Reading failed.
    pub fn read(&mut self) -> Result<Option<OomEvent>, Error> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.descriptor, &mut buffer) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // The end of a group makes the descriptor readable too.
        match std::fs::metadata(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(OomEvent::Gone)),
            _ if !self.v2 => return Ok(Some(OomEvent::Oom)),
            _ => {}
        }
        if keyed(&self.file.with_file_name("cgroup.events"), "populated") == Some(0) {
            return Ok(Some(OomEvent::Gone));
        }
        let now = keyed(&self.file, "oom_kill").unwrap_or(self.seen);
        let event = if now > self.seen { OomEvent::Oom } else { OomEvent::Other };
        self.seen = now;
        Ok(Some(event))
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
