//! `start`, `kill`, `delete`, `pause` and `resume`.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use skep_runtime::container::Gate;
use skep_runtime::spec::oci::Spec;

use crate::app::Context;
use crate::error::Failure;
use crate::flags::Words;
use crate::hooks;
use crate::notify::Notify;
use crate::record::{Init, Record, Status};
use crate::signals;
use crate::store::{Slot, kept_spec};

/// Longest wait for a killed init's end (runc's).
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Starts a created container.
pub(crate) fn start(context: &Context, id: &str) -> Result<(), Failure> {
    let slot = context.store.lock(id)?;
    let record = slot.read()?.ok_or(Failure::NoContainer)?;
    let refuse = |text: String| Err(Failure::Refused(text));
    match record.status(slot.path()) {
        Status::Created => {}
        Status::Stopped => return refuse("cannot start a container that has stopped".to_owned()),
        Status::Running => return refuse("cannot start an already running container".to_owned()),
        status => return refuse(format!("cannot start a container in the {} state", status.name())),
    }
    let init = record.init.and_then(Init::open).ok_or(Failure::NotRunning)?;
    let mut notify = Notify::wanted(slot.path());
    if let Some(notify) = &mut notify {
        notify.listen()?;
    }
    let spec = kept_spec(slot.path())?;
    Gate::pass(slot.path(), &spec, &record.command, init.pidfd())?;
    let Err(failure) = hooks::poststart(&spec, &record) else {
        drop(slot);
        let watched = record.init.map_or(0, |init| init.pid);
        return notify.map_or(Ok(()), |notify| notify.forward(init.pidfd(), watched));
    };
    // It is the specification's word that the container is stopped and destroyed. The failed hook is what to pass on.
    let destroyed = end(&record).and_then(|()| destroy(context, slot, &record, Some(&spec)));
    if let Err(failure) = destroyed {
        context.warn(&failure);
    }
    Err(failure)
}

/// Sends a signal.
pub(crate) fn kill(context: &Context, words: &Words) -> Result<(), Failure> {
    let id = words.arguments.first().map_or("", String::as_str);
    let record = context.store.load(id)?;
    let name = words.arguments.get(1).filter(|name| !name.is_empty());
    let name = name.map_or("SIGTERM", String::as_str);
    let signal = signals::parse(name).ok_or_else(|| Failure::Refused(format!("unknown signal {name:?}")))?;
    signal_container(&record, signal, words.switch("all"))
}

fn signal_container(record: &Record, signal: i32, all: bool) -> Result<(), Failure> {
    let kills = signal == libc::SIGKILL;
    let init = record.init.and_then(Init::open);
    let mut others = false;
    if all || (kills && !record.own_pids) {
        // Without a PID namespace of its own the others outlive the init.
        if let Some(place) = &record.cgroup {
            others = !place.pids().is_empty();
            place.signal(signal);
        }
    }
    match init.ok_or(Failure::NotRunning).and_then(|init| init.signal(signal).map_err(Failure::Signal)) {
        // The signal to all was the init's end too, or had others to go to.
        Err(Failure::NotRunning) if all || others => {}
        Err(Failure::Signal(error)) if error.raw_os_error() == Some(libc::ESRCH) => {
            return if all || others { Ok(()) } else { Err(Failure::NotRunning) };
        }
        sent => sent?,
    }
    if kills && let Some(place) = &record.cgroup {
        // On v1 a frozen process dies only once it is thawed.
        if place.is_frozen() {
            place.thaw()?;
        }
    }
    Ok(())
}

/// Deletes a container.
pub(crate) fn delete(context: &Context, id: &str, force: bool) -> Result<(), Failure> {
    let slot = match context.store.lock(id) {
        Err(Failure::NoContainer) if force => return Ok(()),
        slot => slot?,
    };
    let Some(record) = slot.read()? else {
        // A killed command's.
        slot.remove()?;
        return if force { Ok(()) } else { Err(Failure::NoContainer) };
    };
    match record.status(slot.path()) {
        Status::Stopped | Status::Creating => {}
        Status::Created => end(&record)?,
        _ if force => end(&record)?,
        status => return Err(Failure::NotStopped { id: id.to_owned(), status: status.name() }),
    }
    let spec = kept_spec(slot.path()).ok();
    destroy(context, slot, &record, spec.as_ref())
}

/// Kills the init, and waits for its end.
fn end(record: &Record) -> Result<(), Failure> {
    let Some(init) = record.init.and_then(Init::open) else { return Ok(()) };
    match signal_container(record, libc::SIGKILL, false) {
        Ok(()) | Err(Failure::NotRunning) => {}
        Err(failure) => return Err(failure),
    }
    let mut fds = [PollFd::from_borrowed_fd(init.pidfd(), PollFlags::IN)];
    let patience = Timespec { tv_sec: KILL_WAIT_MAX.as_secs() as i64, tv_nsec: 0 };
    let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience)));
    match ended.map_err(Failure::system("poll"))? {
        0 => Err(Failure::StillRunning),
        _ => Ok(()),
    }
}

/// Removes what a container has: processes that outlived its init, cgroup, directory. Then its last hooks run.
pub(crate) fn destroy(
    context: &Context,
    slot: Slot,
    record: &Record,
    spec: Option<&Spec>,
) -> Result<(), Failure> {
    if let Some(place) = &record.cgroup {
        place.remove()?;
    }
    if let Some(Err(error)) = spec.map(|spec| skep_runtime::container::remove_resctrl(&record.id, spec)) {
        context.warn(&Failure::System { what: "rmdir of the resctrl group", source: error });
    }
    slot.remove()?;
    if let Some(spec) = spec.filter(|_| record.init.is_some()) {
        for failure in hooks::poststop(spec, record) {
            context.warn(&failure);
        }
    }
    Ok(())
}

/// Suspends all processes.
pub(crate) fn pause(context: &Context, id: &str) -> Result<(), Failure> {
    let slot = context.store.lock(id)?;
    let record = slot.read()?.ok_or(Failure::NoContainer)?;
    match (record.status(slot.path()), &record.cgroup) {
        (Status::Running | Status::Created, Some(place)) => place.freeze(),
        _ => Err(Failure::NotRunning),
    }
}

/// Goes on with them.
pub(crate) fn resume(context: &Context, id: &str) -> Result<(), Failure> {
    let slot = context.store.lock(id)?;
    let record = slot.read()?.ok_or(Failure::NoContainer)?;
    match (record.status(slot.path()), &record.cgroup) {
        (Status::Paused, Some(place)) => place.thaw(),
        _ => Err(Failure::NotPaused),
    }
}
