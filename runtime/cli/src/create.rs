//! `create` and `run`.
//!
//! ```text
//!   claim the ID -> record: creating -> cgroup -> init at the gate -> record: created -> create: done
//!        |                                 |            |                     |
//!        | left over: its cgroup goes      v            v                     +--> run: start -> attend -> delete
//!        v                                 undone: init, cgroup, directory
//!   as if it had never been
//! ```

use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::path::Path;

use skep_runtime::cgroup::{self, SystemdUnit};
use skep_runtime::container::{self, Container, CreateOptions, Gate, NetworkAhead, Placement};
use skep_runtime::process::{self, Process};
use skep_runtime::seccomp::Filter;
use skep_runtime::spec::oci::Spec;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::app::Context;
use crate::attend::{Signals, attend};
use crate::bundle;
use crate::error::Failure;
use crate::flags::Words;
use crate::groups::Groups;
use crate::hooks;
use crate::lifecycle::{destroy, finish, remove_group};
use crate::log::Level;
use crate::notify::Notify;
use crate::record::{Init, Record, has_own_pids};
use crate::sockets::{self, Wishes};
use crate::store::Slot;
use crate::terminal::Offer;

/// Which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    Run,
}

/// Makes a container, and runs it. Returns the exit code.
pub(crate) fn create(
    context: &Context,
    words: &Words,
    wishes: Wishes,
    action: Action,
) -> Result<u8, Failure> {
    let (bundle, mut spec) = bundle::enter(context, words.text("bundle"))?;
    let id = words.arguments.first().map_or("", String::as_str);
    // Before anything is named after it.
    context.store.directory(id)?;
    let (rootfs, root) = bundle::rootfs(&bundle, &spec)?;
    let detach = action == Action::Create || words.switch("detach");
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()) == Some(true);
    let network = NetworkAhead::begin(&spec);
    let cgroups_path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let groups = Groups::place(cgroups_path.as_deref(), id, context.systemd)?;
    // What an exec starts from, without what is the init's alone.
    let kept = spec.clone();
    announce_sockets(&mut spec, wishes.listen);

    let place = groups.noted();
    let (slot, left) = context.store.claim(id)?;
    if let Some(left) = left {
        // A command that was killed began it.
        match remove_group(slot.path(), &left) {
            Err(Failure::Strangers { .. }) => {}
            removed => removed?,
        }
    }
    // Before the group stands in the record: a record's group is the container's to remove.
    if let Err(failure) = place.check_free() {
        slot.remove()?;
        return Err(failure);
    }
    slot.empty()?;
    let mut record = Record {
        id: id.to_owned(),
        oci_version: spec.version().clone(),
        bundle: bundle.clone(),
        rootfs,
        created: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        command: command(&spec),
        own_pids: has_own_pids(&spec),
        cgroup: Some(place),
        creator: Some(Init::own()),
        init: None,
    };
    slot.write(&record)?;
    let mut notify = Notify::wanted(slot.path());
    // Until then nothing in the group is this container's.
    let cloned = Cell::new(false);
    let made = wishes.check_terminal(detach, terminal).and_then(|()| {
        slot.keep_spec(&kept)?;
        if let Some(notify) = &mut notify {
            notify.announce(&mut spec)?;
            if action == Action::Run {
                notify.listen()?;
            }
        }
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        if context.systemd {
            groups.group.make_room(&groups.host)?;
        } else {
            groups.make(resources)?;
        }
        let owner = groups.host.is_pure_v2().then(|| cgroup::owner(&spec)).flatten();
        let give = || owner.map_or(Ok(()), |uid| groups.group.give(uid));
        if !context.systemd {
            give()?;
        }
        let place = |pid: i32| {
            let unit = SystemdUnit::new(pid.unsigned_abs(), &record.annotations)?;
            groups.group.make(&groups.host, resources, Some(&unit))?;
            give()?;
            groups.group.join(pid)
        };
        let offer = if terminal && !detach { Some(Offer::new()?) } else { None };
        let (offer, console) = match (offer, &wishes.console) {
            (Some((offer, socket)), _) => (Some(offer), Some(socket)),
            (None, Some(path)) => (None, Some(sockets::connect(path)?)),
            (None, None) => (None, None),
        };
        if !detach && !words.switch("no-subreaper") {
            rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
                .map_err(Failure::system("prctl"))?;
        }
        context.log.line(Level::Debug, "nsexec container setup");
        debug_seccomp(context, &spec);
        let network = network.and_then(NetworkAhead::finish);
        cloned.set(true);
        let container = container::create(CreateOptions {
            id,
            bundle: &bundle,
            spec: &spec,
            rootfs: &root,
            netns: network.as_ref().map(|fd| fd.as_fd()),
            stdio: sockets::own_stdio()?,
            console,
            no_pivot: words.switch("no-pivot"),
            preserve_fds: wishes.preserve,
            no_new_keyring: words.switch("no-new-keyring"),
            gate: gate(action, slot.path()),
            cgroup: Some((&groups.host, &groups.group)),
            placement: context.systemd.then_some(Placement(&place)),
            root: None,
            filter: None,
            meanwhile: None,
        })?;
        context.log.line(Level::Debug, &format!("child process in init(): {}", container.pid()));
        context.log.line(Level::Debug, "init: closing the pipe to signal completion");
        Ok((container, offer))
    });
    let (mut container, offer) = match made {
        Ok(made) => made,
        Err(failure) => {
            give_up(context, slot, &record, &spec, cloned.get());
            return Err(failure);
        }
    };
    let told = note(&container, &mut record, &slot, &wishes);
    if action == Action::Create {
        return match told {
            Ok(()) => Ok(0),
            Err(failure) => {
                end(&container);
                give_up(context, slot, &record, &spec, true);
                Err(failure)
            }
        };
    }
    let ran = told.and_then(|()| run(&mut container, offer, &spec, &record, slot, detach, notify));
    match ran {
        Ok(None) => Ok(0),
        Ok(Some(code)) => {
            if !words.switch("keep") {
                finish(context, id, &record, &spec);
            }
            Ok(code as u8)
        }
        Err(failure) => {
            end(&container);
            finish(context, id, &record, &spec);
            Err(failure)
        }
    }
}

/// Starts it, and in the foreground waits for its end: the exit code.
fn run(
    container: &mut Container,
    offer: Option<Offer>,
    spec: &Spec,
    record: &Record,
    slot: Slot,
    detach: bool,
    notify: Option<Notify>,
) -> Result<Option<i32>, Failure> {
    let process = record.init.and_then(Init::open);
    let relay = offer.map(Offer::accept).transpose()?;
    // A signal that comes as soon as the program runs is the program's.
    let signals = if detach { None } else { Some(Signals::hold()?) };
    // Hooks may take for ever, and what ends them must not wait for that.
    drop(slot);
    container.start()?;
    hooks::poststart(spec, record)?;
    let Some(signals) = signals else {
        if let Some(notify) = notify {
            notify.forward(container.pidfd(), container.pid())?;
        }
        return Ok(None);
    };
    attend(container, process.as_ref(), &signals, relay, notify).map(Some)
}

/// Writes down who the init is, and tells the caller.
fn note(container: &Container, record: &mut Record, slot: &Slot, wishes: &Wishes) -> Result<(), Failure> {
    let pid = container.pid();
    // One that has ended already is a container that stopped; the number is not given away before it is reaped.
    record.init = Some(Init { pid, start_time: process::start_time(pid).unwrap_or_default() });
    slot.write(record)?;
    wishes.tell(pid, container.pidfd())
}

/// A container that did not come to be leaves nothing. `cloned`: there was a process of its own.
fn give_up(context: &Context, slot: Slot, record: &Record, spec: &Spec, cloned: bool) {
    if let Err(failure) = destroy(context, slot, record, Some(spec), cloned) {
        context.warn(&failure);
    }
}

/// The line by which runc's tests and people see what a filter is loaded with.
pub(crate) fn debug_seccomp(context: &Context, spec: &Spec) {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    // One that is wrong fails where it is loaded.
    if let Some(Ok(filter)) = profile.filter(|_| context.log.debug).map(Filter::compile) {
        context.log.line(Level::Debug, &format!("seccomp filter flags: {}", filter.flags()));
    }
}

/// Kills and reaps the init.
fn end(container: &Container) {
    drop(container.kill(rustix::process::Signal::KILL));
    drop(container.wait());
}

fn gate(action: Action, directory: &Path) -> Gate {
    match action {
        Action::Create => Gate::Named(directory.to_path_buf()),
        Action::Run => Gate::Owner,
    }
}

fn command(spec: &Spec) -> String {
    let process = spec.process().as_ref();
    let args = process.and_then(|process| process.args().as_ref());
    args.and_then(|args| args.first()).cloned().unwrap_or_default()
}

/// Tells the program of the sockets that it gets (sd_listen_fds(3)).
fn announce_sockets(spec: &mut Spec, count: u32) {
    if count == 0 {
        return;
    }
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
        process.set_env(Some(env));
    }
}

/// A further process, as [`attend`] wants it.
pub(crate) fn opened(container: &Container) -> Option<Process> {
    let pid = container.pid();
    Process::open(pid, process::start_time(pid)?)
}
