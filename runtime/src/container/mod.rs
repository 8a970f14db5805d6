//! From an OCI spec to a running container, without a keeper: the library's core.
//!
//! ```text
//!  create                         start
//!    |  plan (parse, open, mount     |  gate opens
//!    |  detached, compile)           v
//!    +--> clone3 --> child runs the plan --> waits at the gate --> exec
//!           |            | a step fails           | gate closed:      | exec fails
//!           v            v                        v ends quietly      v
//!         error    (step, errno) over a pipe; the child ends; `create` or `start` reports it
//! ```
//!
//! The parent prepares everything that allocates ([`plan`]); the child ([`child`]) only makes system calls. A path
//! inside the root filesystem is only ever resolved by the kernel below the root's descriptor
//! (`openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`), so that no link in an image leads to the host.

mod ahead;
mod attribute;
mod build;
mod capabilities;
mod child;
mod confine;
mod error;
mod exec;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gate;
pub mod hooks;
mod mounts;
mod net_devices;
mod plan;
pub(crate) mod resctrl;
mod rootfs;

pub use self::ahead::{NetworkAhead, RootAhead};
pub use self::capabilities::lacking_capabilities;
pub use self::error::{CreateError, StartError};
pub use self::exec::ExecOptions;
pub use self::gate::Gate;
pub use self::mounts::mount_options;
pub use self::resctrl::{has as has_resctrl, remove as remove_resctrl, update as update_resctrl};

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{ContainerState, Spec, State};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use self::child::Message;
use self::hooks::HookError;
use self::net_devices::{MovedIn, NetDevices};
use self::plan::{HookFiles, Outside, Plan};
use crate::cgroup::{Cgroup, CgroupError, Cgroups};
use crate::seccomp::{self, Filter, Told};
use crate::{sys, weak};

/// Longest wait for a child's next word, beside the time that hooks in between have. A set-up step that takes longer
/// hangs (a dead network filesystem).
const CHILD_WAIT_MAX: Duration = Duration::from_secs(20);

/// A container's root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay mounted inside the container's own mount namespace only.
    Overlay {
        /// Unpacked layers, topmost first.
        lower: Vec<PathBuf>,
        /// Where writes go.
        upper: PathBuf,
        /// Scratch of overlayfs, empty, on `upper`'s filesystem.
        work: PathBuf,
    },
    /// A plain directory.
    Directory(PathBuf),
}

/// A container's standard descriptors.
#[derive(Debug)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// What [`create`] needs.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// Name of the container, as an agent for seccomp notifications is told it.
    pub id: &'a str,
    /// Directory that relative paths of the spec start from, and over which the root is attached inside the container's
    /// mount namespace. Absolute.
    pub bundle: &'a Path,
    /// The spec. `root.path` and `linux.resources` are not read: see `rootfs` and `cgroup`.
    pub spec: &'a Spec,
    /// The root filesystem.
    pub rootfs: &'a Rootfs,
    /// A network namespace to join instead of a new one.
    pub netns: Option<BorrowedFd<'a>>,
    /// Standard descriptors.
    pub stdio: Stdio,
    /// A connected unix socket that gets the terminal's master side (`SCM_RIGHTS`) if the spec wants a terminal; the
    /// terminal then stands in for `stdio`.
    pub console: Option<OwnedFd>,
    /// Change the root without pivot_root(2), which cannot leave a ramdisk (`runc --no-pivot`).
    pub no_pivot: bool,
    /// How many of this process's descriptors from 3 on the program gets too. They have to be open.
    pub preserve_fds: u32,
    /// Leave the process in the caller's session keyring instead of one of the container's own.
    pub no_new_keyring: bool,
    /// Who may start the container.
    pub gate: Gate,
    /// The group to run in, made with [`Cgroups::create`], and the host's hierarchies.
    pub cgroup: Option<(&'a Cgroups, &'a Cgroup)>,
    /// Who makes the group when there is a process for it, and puts it there.
    pub placement: Option<Placement<'a>>,
    /// What `rootfs` was begun to be mounted with.
    pub root: Option<RootAhead>,
    /// The filter, instead of that of the spec's profile.
    pub filter: Option<Arc<Filter>>,
    /// What the caller does while the init sets itself up.
    pub meanwhile: Option<Meanwhile<'a>>,
}

/// Called with the init's process ID as soon as it has one, while it works. What is slow here costs nothing if the init
/// takes longer. `true`: the program may run as soon as all is ready; [`Container::start`] then only tells whether it
/// does.
#[derive(Clone, Copy)]
pub struct Meanwhile<'a>(pub &'a dyn Fn(i32) -> bool);

impl std::fmt::Debug for Meanwhile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// Called with the init's process ID before it does anything. A scope of systemd's cannot be made without a process.
#[derive(Clone, Copy)]
pub struct Placement<'a>(pub &'a dyn Fn(i32) -> Result<(), CgroupError>);

impl std::fmt::Debug for Placement<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Placement")
    }
}

/// A container whose init this process is the parent of.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    pidfd: OwnedFd,
    gate: Option<OwnedFd>,
    /// The byte is in it already.
    opened: bool,
    status: OwnedFd,
    command: String,
    /// How long the exec may take. `None`: for ever.
    patience: Option<Duration>,
}

/// Builds a container up to the point where only exec is missing.
///
/// The caller's process stays the parent of the container's init and has to reap it.
///
/// # Errors
/// See [`CreateError`]. No process, mount or namespace is left then; the cgroup is the caller's to remove.
pub fn create(options: CreateOptions<'_>) -> Result<Container, CreateError> {
    let gate::Ends { read, write: gate, told } = options.gate.open()?;
    let (status, status_write) = pipe().map_err(CreateError::Pipe)?;
    let about = About { id: options.id, bundle: options.bundle, spec: options.spec };
    let (placement, meanwhile) = (options.placement, options.meanwhile);
    let into_cgroup = match options.cgroup {
        Some((_, group)) if placement.is_none() => group.open_unified()?,
        _ => None,
    };
    let plan = build::build(options, build::Ends { gate: read, status: status_write, told })?;
    launch(plan, into_cgroup, (placement, meanwhile), gate, status, &about)
}

/// Prepares a process in a running container up to the point where only exec is missing: [`Container::start`].
///
/// # Errors
/// See [`CreateError`]. No process is left then.
pub fn exec(options: ExecOptions<'_>) -> Result<Container, CreateError> {
    let (read, gate) = pipe().map_err(CreateError::Pipe)?;
    let (status, status_write) = pipe().map_err(CreateError::Pipe)?;
    let about = About { id: options.id, bundle: options.bundle, spec: options.spec };
    let plan = build::build_exec(options, build::Ends { gate: read, status: status_write, told: None })?;
    launch(plan, None, (None, None), gate, status, &about)
}

/// Clones, and does for the child what it asks for until it is at the gate.
fn launch(
    mut plan: Plan,
    into_cgroup: Option<OwnedFd>,
    (placement, meanwhile): (Option<Placement<'_>>, Option<Meanwhile<'_>>),
    gate: OwnedFd,
    status: OwnedFd,
    about: &About<'_>,
) -> Result<Container, CreateError> {
    weak::prepare();
    let into_cgroup = into_cgroup.as_ref().map(AsFd::as_fd);
    let child = match &plan.entry {
        None => sys::clone_child(plan.clone_flags, into_cgroup, || child::run(&plan, Some(&status))),
        Some(entry) => sys::clone_child(0, None, || child::enter(&plan, entry, into_cgroup, &status)),
    };
    let child = child.map_err(|errno| CreateError::Clone(errno.into()))?;
    let mut container = Container {
        pid: child.pid,
        pidfd: child.pidfd,
        gate: Some(gate),
        opened: false,
        status,
        command: plan.command.clone(),
        patience: gate::start_patience(about.spec),
    };
    let patience = about.patience();
    let steps = plan.describe();
    let mut between = plan.entry.is_some();
    let first_of_entry = (plan.steps.len() + plan.last.len()) as u32;
    let named = plan.told.is_some();
    let asks_nothing = plan.asks_nothing();
    let outside = std::mem::take(&mut plan.outside);
    let limits = plan.limits();
    let (filter, hook_files) = (plan.filter.take(), plan.hook_files.take());
    let mut belongings = Belongings {
        net_devices: plan.net_devices.take(),
        moved: None,
        resctrl: plan.resctrl.take(),
        joined: None,
    };
    // With it go this process's copies of the child's ends, so that the child's death ends the pipe.
    drop(plan);
    // Both write to one pipe: the init's first words may overtake the one that tells of it.
    let mut early = None;
    let mut give = |pid: i32| {
        belongings.give(pid)?;
        Ok(meanwhile.is_some_and(|Meanwhile(work)| work(pid)))
    };
    let mut given = if between {
        Ok(())
    } else {
        give(container.pid).map(|may_run| {
            // A byte that the init does not have to wait for saves it from sleeping.
            if may_run && asks_nothing {
                container.open_gate();
            }
        })
    };
    let outcome = loop {
        if let Err(error) = given {
            break Err(error);
        }
        let kept = if between { None } else { early.take() };
        let message = match kept.map_or_else(|| container.next_message(patience), |message| Ok(Some(message)))
        {
            Ok(Some(message)) => message,
            Ok(None) => break Err(CreateError::Died),
            Err(source) => break Err(CreateError::Silent { source }),
        };
        given = match message {
            Message::Entered { pid } if between => {
                between = false;
                container.become_sibling(pid).and_then(|()| give(pid)).map(drop)
            }
            // What the process in between fails with is the end, all else is the init's.
            Message::Failed { step, .. } if between && step >= first_of_entry => {
                Err(container.failure(&steps, message))
            }
            message if between && early.is_none() => {
                early = Some(message);
                Ok(())
            }
            Message::Placement => {
                let placed = placement.map_or(Ok(()), |placement| placement.0(container.pid));
                placed.map_err(CreateError::from).and_then(|()| container.go_on())
            }
            Message::Maps => outside.write(container.pid).and_then(|()| container.go_on()),
            Message::Limits => {
                for limit in &limits {
                    // The child tries once more, and tells.
                    let _ = sys::set_rlimit(Some(container.pid), limit.resource, limit.soft, limit.hard);
                }
                container.go_on()
            }
            Message::Hooks => {
                about.run_hooks(container.pid, hook_files.as_ref()).and_then(|()| container.go_on())
            }
            Message::Ready { listener } => {
                break about.give_listener(&container, listener, filter.as_deref());
            }
            failure => Err(container.failure(&steps, failure)),
        };
    };
    match outcome {
        Ok(()) => {
            if named {
                // Who comes to start it has to see whether the init still waits.
                container.gate = None;
            }
            Ok(container)
        }
        Err(error) => {
            container.abandon();
            belongings.take_back();
            Err(error)
        }
    }
}

/// What a container gets from outside as soon as its init is there.
struct Belongings {
    net_devices: Option<NetDevices>,
    moved: Option<MovedIn>,
    resctrl: Option<resctrl::Membership>,
    joined: Option<resctrl::Joined>,
}

impl Belongings {
    fn give(&mut self, pid: i32) -> Result<(), CreateError> {
        self.joined = self.resctrl.take().map(|group| group.join(pid)).transpose()?;
        self.moved = self.net_devices.take().map(|devices| devices.move_in(pid)).transpose()?;
        Ok(())
    }

    fn take_back(&mut self) {
        if let Some(moved) = &mut self.moved {
            moved.give_back();
        }
        if let Some(joined) = &mut self.joined {
            joined.undo();
        }
    }
}

impl Container {
    /// Process ID of the init on the host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The init, by descriptor: readable when it ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Opens the gate, if it is not open; returns when the exec succeeded.
    ///
    /// # Errors
    /// [`StartError`]; the init has ended or is about to, and is to be reaped as any other end.
    pub fn start(&mut self) -> Result<(), StartError> {
        if !self.opened {
            self.open_gate();
        }
        self.gate.take().ok_or(StartError::Started)?;
        let last = gate::next_message(&self.status, None, self.patience);
        error::started(&self.command, last.map_err(|source| StartError::Silent { source })?)
    }

    /// Sends a signal to the init.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Waits for the init's end and reaps it: the exit code, or 128 + the signal.
    ///
    /// # Errors
    /// `ECHILD` when it was reaped elsewhere.
    pub fn wait(&self) -> io::Result<i32> {
        let status = rustix::io::retry_on_intr(|| {
            waitid(rustix::process::WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
        })?;
        let status = status.ok_or_else(|| io::Error::from(Errno::CHILD))?;
        Ok(status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255))
    }

    fn open_gate(&mut self) {
        if let Some(gate) = &self.gate {
            // A broken pipe means that the init is gone, and the status pipe says that better.
            let _ = rustix::io::write(gate, b"!");
            self.opened = true;
        }
    }

    fn next_message(&self, patience: Option<Duration>) -> io::Result<Option<Message>> {
        gate::next_message(&self.status, None, patience)
    }

    /// Lets a child that asked for something go on.
    fn go_on(&self) -> Result<(), CreateError> {
        let Some(gate) = &self.gate else { return Err(CreateError::Died) };
        rustix::io::write(gate, b"!").map(drop).map_err(|errno| CreateError::Pipe(errno.into()))
    }

    /// The process in between has done its work and ends; its sibling is the init, a child of this process too.
    fn become_sibling(&mut self, pid: i32) -> Result<(), CreateError> {
        self.reap().map_err(|source| CreateError::Silent { source })?;
        self.pidfd =
            crate::process::open(pid).map_err(|errno| CreateError::NoInit { pid, source: errno.into() })?;
        self.pid = pid;
        Ok(())
    }

    /// [`Self::wait`] for a process that is about to end. One that the kernel does not let go is given up.
    fn reap(&self) -> io::Result<()> {
        if gate::ends_within(self.pidfd(), CHILD_WAIT_MAX)? {
            self.wait().map(drop)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    fn failure(&self, steps: &[String], message: Message) -> CreateError {
        let name =
            |step: u32| steps.get(step as usize).cloned().unwrap_or_else(|| "close descriptors".to_owned());
        match message {
            Message::Failed { step, errno, note } => CreateError::Step {
                step: error::step_text(&name(step), errno, &note.text()),
                source: errno.into(),
            },
            Message::HookFailed { index, status, note } => {
                CreateError::InnerHook { index, reason: error::hook_reason(status, &note.text()) }
            }
            Message::HookNotRun { index, errno } => {
                CreateError::InnerHook { index, reason: error::hook_not_run(errno) }
            }
            Message::NotFound => CreateError::CommandNotFound { command: self.command.clone() },
            Message::NotExecutable(errno) => {
                CreateError::CommandNotExecutable { command: self.command.clone(), source: errno.into() }
            }
            _ => CreateError::Died,
        }
    }

    /// Kills and reaps a child whose set-up failed.
    fn abandon(&mut self) {
        self.gate = None;
        drop(self.kill(Signal::KILL));
        drop(self.reap());
    }
}

/// Whose process it is, for those who are told of it.
struct About<'a> {
    id: &'a str,
    bundle: &'a Path,
    spec: &'a Spec,
}

impl About<'_> {
    /// How long the child may be silent.
    fn patience(&self) -> Option<Duration> {
        let hooks = self.spec.hooks().as_ref().and_then(|hooks| hooks.create_container().as_deref());
        hooks::patience(CHILD_WAIT_MAX, hooks)
    }

    fn state(&self, status: ContainerState, pid: i32) -> State {
        hooks::state(self.spec.version(), self.id, status, pid, self.bundle, self.spec.annotations().as_ref())
    }

    /// Runs the hooks that run in this process's namespaces, and leaves the state for those that run in the container's.
    fn run_hooks(&self, pid: i32, files: Option<&HookFiles>) -> Result<(), CreateError> {
        let Some(all) = self.spec.hooks() else { return Ok(()) };
        let state = self.state(ContainerState::Creating, pid);
        // `prestart` is deprecated and still what the engines use.
        #[allow(deprecated)]
        let prestart = all.prestart();
        for (kind, list) in [("prestart", prestart), ("createRuntime", all.create_runtime())] {
            hooks::run(kind, list.as_deref().unwrap_or_default(), &state)?;
        }
        if let Some(files) = files {
            let pid = inner_pid(pid).map_err(HookError::State)?;
            hooks::write_state(&files.creating, &self.state(ContainerState::Creating, pid))?;
            hooks::write_state(&files.created, &self.state(ContainerState::Created, pid))?;
        }
        Ok(())
    }

    /// The child cannot send it itself: the agent's socket is not in its mount namespace.
    fn give_listener(
        &self,
        container: &Container,
        number: u32,
        filter: Option<&Filter>,
    ) -> Result<(), CreateError> {
        let Some(address) = filter.and_then(Filter::listener) else { return Ok(()) };
        let told = Told {
            version: self.spec.version(),
            id: self.id,
            pid: container.pid,
            bundle: self.bundle,
            annotations: serde_json::json!(self.spec.annotations().clone().unwrap_or_default()),
        };
        let give = || -> io::Result<()> {
            let listener = seccomp::take_descriptor(container.pidfd(), number as i32)?;
            seccomp::send(address, &told, listener.as_fd())
        };
        give().map_err(|source| CreateError::SeccompAgent { path: address.path.clone(), source })
    }
}

impl Outside {
    fn write(&self, pid: i32) -> Result<(), CreateError> {
        let write = |file: &'static str, text: &[u8]| {
            std::fs::write(format!("/proc/{pid}/{file}"), text)
                .map_err(|source| CreateError::Outside { file, source })
        };
        if let Some(score) = &self.oom_score {
            write("oom_score_adj", score)?;
        }
        if !rustix::process::geteuid().is_root() {
            // Without privilege a group map needs this first (user_namespaces(7)).
            write("setgroups", b"deny")?;
        }
        write("uid_map", &self.uid_map)?;
        write("gid_map", &self.gid_map)
    }
}

/// A process's number in its own PID namespace (proc_pid_status(5), NSpid).
fn inner_pid(pid: i32) -> io::Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let last = line.and_then(|line| line.split_whitespace().next_back()).and_then(|pid| pid.parse().ok());
    last.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A pipe that no program inherits.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests;

fn c_string(text: impl Into<Vec<u8>>, what: &'static str) -> Result<CString, CreateError> {
    CString::new(text).map_err(|_| CreateError::Nul { what })
}
