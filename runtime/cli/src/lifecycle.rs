//! `start`, `kill`, `delete`, `pause` and `resume`.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use skep_runtime::container::Gate;
use skep_runtime::process;
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
    let directory = slot.path().to_path_buf();
    let spec = kept_spec(&directory)?;
    // Hooks may take for ever, and what ends them must not wait for that.
    Gate::pass(&directory, &spec, &record.command, init.pidfd(), || drop(slot))?;
    let Err(failure) = hooks::poststart(&spec, &record) else {
        let watched = record.init.map_or(0, |init| init.pid);
        return notify.map_or(Ok(()), |notify| notify.forward(init.pidfd(), watched));
    };
    // It is the specification's word that the container is stopped and destroyed. The failed hook is what to pass on.
    match end(&record) {
        Ok(()) => finish(context, id, &record, &spec),
        Err(failure) => context.warn(&failure),
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
    match (record.init, words.switch("all")) {
        // There is no process of its own to be sent one.
        (None, true) => Ok(()),
        (None, false) => Err(Failure::NotRunning),
        (Some(_), all) => signal_container(&record, signal, all),
    }
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
    let locked = if force { context.store.seize(id) } else { context.store.lock(id) };
    let slot = match locked {
        Err(Failure::NoContainer) if force => return Ok(()),
        Err(Failure::Creating) => {
            return Err(Failure::NotStopped { id: id.to_owned(), status: Status::Creating.name() });
        }
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
    destroy(context, slot, &record, spec.as_ref(), false)
}

/// Kills the init, and waits for its end.
fn end(record: &Record) -> Result<(), Failure> {
    let Some(init) = record.init.and_then(Init::open) else { return Ok(()) };
    match signal_container(record, libc::SIGKILL, false) {
        Ok(()) | Err(Failure::NotRunning) => {}
        Err(failure) => return Err(failure),
    }
    if ends_within(init.pidfd(), KILL_WAIT_MAX)? { Ok(()) } else { Err(Failure::StillRunning) }
}

/// Waits for a process's end.
pub(crate) fn ends_within(process: BorrowedFd<'_>, wait_max: Duration) -> Result<bool, Failure> {
    let mut fds = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    let patience =
        Timespec { tv_sec: wait_max.as_secs() as i64, tv_nsec: i64::from(wait_max.subsec_nanos()) };
    let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&patience)));
    Ok(ended.map_err(Failure::system("poll"))? > 0)
}

/// Whether what still runs in a container's group is known to be the container's. Another may have been given the same
/// path since this one's processes ended.
///
/// All processes of a PID namespace end before its init is seen to have ended, so that what is there then is somebody
/// else's. Without such a namespace nothing tells, and what is in the group counts as the container's, as to runc. An
/// init that is in no record yet is alive if something waits at its gate; it is in the group then, which others do not
/// take while anything is in it.
fn owns_group(directory: &Path, record: &Record, pids: &[i32]) -> bool {
    match record.init {
        None => Gate::is_waited_at(directory),
        Some(_) if !record.own_pids => true,
        // Its other threads may live on after its first one ended.
        Some(init) => {
            let stat = process::Stat::read(init.pid).filter(|stat| stat.start_time == init.start_time);
            pids.contains(&init.pid) && stat.is_some()
        }
    }
}

/// Removes a container's group, with the container's processes in it.
pub(crate) fn remove_group(directory: &Path, record: &Record) -> Result<(), Failure> {
    let removed =
        record.cgroup.as_ref().map(|place| place.remove(|pids| owns_group(directory, record, pids)));
    removed.unwrap_or(Ok(()))
}

/// Removes what a container has: processes that outlived its init, cgroup, directory. Then its last hooks run, if its
/// first ones may have. `made`: this command has put processes into the group, and whatever else is in it came from them.
pub(crate) fn destroy(
    context: &Context,
    slot: Slot,
    record: &Record,
    spec: Option<&Spec>,
    made: bool,
) -> Result<(), Failure> {
    let removed = match &record.cgroup {
        Some(place) if made => place.remove(|_| true),
        _ => remove_group(slot.path(), record),
    };
    match removed {
        Err(failure @ Failure::Strangers { .. }) => context.warn(&failure),
        removed => removed?,
    }
    if let Some(Err(error)) = spec.map(|spec| skep_runtime::container::remove_resctrl(&record.id, spec)) {
        context.warn(&Failure::System { what: "rmdir of the resctrl group", source: error });
    }
    slot.remove()?;
    if let Some(spec) = spec.filter(|_| made || record.init.is_some()) {
        for failure in hooks::poststop(spec, record) {
            context.warn(&failure);
        }
    }
    Ok(())
}

/// Destroys a container that this command made or started, after the lock was given back.
pub(crate) fn finish(context: &Context, id: &str, record: &Record, spec: &Spec) {
    match context.store.lock(id) {
        // Deleted meanwhile, and perhaps another's by now.
        Ok(slot) if slot.read().ok().flatten().is_some_and(|now| now.init == record.init) => {
            if let Err(failure) = destroy(context, slot, record, Some(spec), false) {
                context.warn(&failure);
            }
        }
        _ => {}
    }
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
