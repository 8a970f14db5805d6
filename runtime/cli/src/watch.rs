//! `events` without `--stats`: statistics at every interval, until the container's end.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Failure;
use crate::events::statistics;
use crate::groups::Place;
use crate::record::{Init, Record};

/// Prints until the container's end.
pub(crate) fn watch(id: &str, record: &Record, place: &Place, interval: Duration) -> Result<(), Failure> {
    let Some(process) = record.init.and_then(Init::open) else { return Ok(()) };
    let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec: seconds, tv_nsec: interval.subsec_nanos().into() };
    loop {
        let mut fds = [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)));
        if ready.map_err(Failure::system("poll"))? > 0 {
            return Ok(());
        }
        statistics(id, place)?;
    }
}
