//! `events` without `--stats`: statistics at every interval and each lack of memory, until the container's end.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use skep_runtime::cgroup::OomEvent;

use crate::error::Failure;
use crate::events::out_of_memory;
use crate::events::statistics;
use crate::groups::Place;
use crate::record::{Init, Record};

/// Prints until the container's end.
pub(crate) fn watch(id: &str, record: &Record, place: &Place, interval: Duration) -> Result<(), Failure> {
    let Some(process) = record.init.and_then(Init::open) else { return Ok(()) };
    let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec: seconds, tv_nsec: interval.subsec_nanos().into() };
    let mut ooms = place.oom_events()?;
    loop {
        let mut fds =
            [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN), PollFd::new(&ooms, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)));
        let ready = ready.map_err(Failure::system("poll"))?;
        let [ended, oom] = fds.map(|fd| !fd.revents().is_empty());
        if oom {
            match ooms.read().map_err(Failure::system("read"))? {
                Some(OomEvent::Oom) => out_of_memory(id)?,
                Some(OomEvent::Gone) => return Ok(()),
                Some(OomEvent::Other) | None => {}
            }
        }
        if ended {
            return Ok(());
        }
        if ready == 0 {
            statistics(id, place)?;
        }
    }
}
