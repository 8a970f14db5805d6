//! Programs of the user's that run at fixed points of a container's life (OCI runtime spec, "POSIX-platform Hooks").
//!
//! ```text
//!  create: namespaces, mounts -> prestart, createRuntime -> createContainer -> root changed -> at the gate
//!                                [this process's]           [the container's, the host's files still seen]
//!  start:  a byte -> startContainer -> exec -> poststart          delete: poststop
//!                    [the container's]         [this process's]           [this process's]
//! ```
//!
//! A hook that fails, up to the exec, ends the container. Each gets the container's state as JSON on standard input and
//! an environment of its own, or else that of whom it runs for: this process's, or for `startContainer` the program's.
//! None that runs the host's programs gets anything of the container's environment (CVE-2025-23266).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{Hook, State};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::pipe;
use crate::sys;

/// Most of a hook's output that is kept, for the error should it fail. The last lines say what went wrong.
const OUTPUT_KEPT_MAX: usize = 2048;

/// Most that is read once a hook has ended: what a pipe holds (pipe(7)), for a descendant may write on for ever.
const OUTPUT_LEFT_MAX: usize = 64 * 1024;

/// Why a hook ended the operation.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The spec's hook cannot be run by anybody.
    #[error("hook {}: {reason}", path.display())]
    Invalid {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// One of several.
    #[error("error running {kind} hook #{index}: {source}")]
    InRow {
        /// The member of the spec's hooks.
        kind: &'static str,
        /// Its place there.
        index: usize,
        /// The cause.
        #[source]
        source: Box<Self>,
    },
    /// The state could not be handed over.
    #[error("cannot prepare the state for hooks: {0}")]
    State(#[source] io::Error),
    /// The program could not be started or waited for.
    #[error("cannot run the hook {}: {source}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("hook {} failed: {status}{}", path.display(), if output.is_empty() { String::new() } else { format!(": {output}") })]
    Failed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// The program took longer than the spec allows it.
    #[error("hook {} was killed after its {} s", path.display(), timeout.as_secs())]
    Timeout {
        /// The program.
        path: PathBuf,
        /// The spec's limit.
        timeout: Duration,
    },
}

/// Whether every hook can be run at all.
///
/// # Errors
/// [`HookError::Invalid`].
pub fn check(hooks: &[Hook]) -> Result<(), HookError> {
    for hook in hooks {
        let invalid = |reason| Err(HookError::Invalid { path: hook.path().clone(), reason });
        if !hook.path().is_absolute() {
            return invalid("the path is not absolute");
        }
        if hook.timeout().is_some_and(|seconds| seconds <= 0) {
            return invalid("the timeout is not greater than zero");
        }
    }
    Ok(())
}

/// How long what takes `own` by itself may take with these hooks in it. `None`: one of them has all the time there is.
pub(super) fn patience(own: Duration, hooks: Option<&[Hook]>) -> Option<Duration> {
    hooks.unwrap_or_default().iter().try_fold(own, |sum, hook| {
        Some(sum.saturating_add(Duration::from_secs(u64::try_from(hook.timeout()?).ok()?)))
    })
}

/// Runs the hooks of a kind in order in this process's namespaces. The first that fails ends the row.
///
/// # Errors
/// [`HookError`].
pub fn run(kind: &'static str, hooks: &[Hook], state: &State) -> Result<(), HookError> {
    check(hooks)?;
    for index in 0..hooks.len() {
        run_at(kind, hooks, index, state)?;
    }
    Ok(())
}

/// Runs one of them.
///
/// # Errors
/// [`HookError`].
pub fn run_at(kind: &'static str, hooks: &[Hook], index: usize, state: &State) -> Result<(), HookError> {
    let Some(hook) = hooks.get(index) else { return Ok(()) };
    run_one(hook, state).map_err(|source| HookError::InRow { kind, index, source: Box::new(source) })
}

/// The state in a file without a name, to be somebody's standard input. A pipe would block on a hook that reads nothing.
fn state_file(state: &State) -> Result<OwnedFd, HookError> {
    let file = memfd_create("state", MemfdFlags::CLOEXEC).map_err(|errno| HookError::State(errno.into()))?;
    write_state(&file, state)?;
    rustix::fs::seek(&file, SeekFrom::Start(0)).map_err(|errno| HookError::State(errno.into()))?;
    Ok(file)
}

/// Writes the state into such a file.
pub(super) fn write_state(file: &OwnedFd, state: &State) -> Result<(), HookError> {
    let write = || -> io::Result<()> {
        let mut text: &[u8] = &serde_json::to_vec(state)?;
        while !text.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(file, text))?;
            text = &text[written..];
        }
        Ok(())
    };
    write().map_err(HookError::State)
}

fn run_one(hook: &Hook, state: &State) -> Result<(), HookError> {
    let fail = |source| HookError::Run { path: hook.path().clone(), source };
    let stdin = state_file(state)?;
    let (read, write) = output_pipe().map_err(fail)?;
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    // As runc: one without an environment of its own gets this process's.
    if let Some(env) = hook.env() {
        command.env_clear();
        for variable in env {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            command.env(key, value);
        }
    }
    command.stdin(stdin);
    command.stdout(write.try_clone().map_err(fail)?).stderr(write);
    sys::lead_session(&mut command);
    let mut child = command.spawn().map_err(fail)?;
    // With it go this process's copies of the write end.
    drop(command);
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let mut output = Output { pipe: read, kept: Vec::new() };
    let status = wait(&mut child, &mut output, timeout).map_err(fail)?;
    match (status, timeout) {
        (Some(status), _) if status.success() => Ok(()),
        (Some(status), _) => {
            Err(HookError::Failed { path: hook.path().clone(), status, output: output.text() })
        }
        (None, timeout) => {
            Err(HookError::Timeout { path: hook.path().clone(), timeout: timeout.unwrap_or_default() })
        }
    }
}

/// Waits for the hook's end, and takes what it writes meanwhile. `None`: it took too long, and is dead with those of its
/// descendants that stayed in its process group.
fn wait(child: &mut Child, output: &mut Output, timeout: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let ended = watch(pid, output, timeout);
    if !matches!(ended, Ok(true)) {
        // Not reaped yet, so the number is still its own.
        let _ = kill_process_group(pid, Signal::KILL);
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(ended?.then_some(status))
}

/// Whether it ends in time.
fn watch(pid: Pid, output: &mut Output, timeout: Option<Duration>) -> io::Result<bool> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    // Without an end where the clock has none for it.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut open = true;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if ends_within(pidfd.as_fd(), open.then(|| output.pipe.as_fd()), left)? {
            output.drain();
            return Ok(true);
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        // One that closed both of its outputs would be ready for ever.
        open = open && output.read() != Some(0);
    }
}

/// Waits for an end or for output; whether it is the end.
fn ends_within(
    pidfd: BorrowedFd<'_>,
    pipe: Option<BorrowedFd<'_>>,
    left: Option<Duration>,
) -> io::Result<bool> {
    let left = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    let mut fds = [pidfd, pipe.unwrap_or(pidfd)].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, left) {
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
        Ok(_) => Ok(fds[0].any() == Some(true)),
    }
}

/// What a hook writes. It is read all the time, so that the hook never waits; the end of it is kept.
struct Output {
    /// Does not block.
    pipe: OwnedFd,
    kept: Vec<u8>,
}

impl Output {
    /// How much came; 0: nothing will any more, `None`: nothing did.
    fn read(&mut self) -> Option<usize> {
        let mut bytes = [0; OUTPUT_KEPT_MAX];
        let length = match rustix::io::retry_on_intr(|| rustix::io::read(&self.pipe, &mut bytes)) {
            Ok(length) => length,
            Err(Errno::AGAIN) => return None,
            Err(_) => 0,
        };
        self.kept.extend(bytes.iter().take(length));
        self.kept.drain(..self.kept.len().saturating_sub(OUTPUT_KEPT_MAX));
        Some(length)
    }

    fn drain(&mut self) {
        let mut left = OUTPUT_LEFT_MAX;
        while left > 0 {
            match self.read() {
                None | Some(0) => return,
                Some(length) => left = left.saturating_sub(length),
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).trim().to_owned()
    }
}

/// A pipe whose read end does not block.
pub(super) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// The state that a hook is told.
pub(super) fn state(
    version: &str,
    id: &str,
    status: oci_spec::runtime::ContainerState,
    pid: i32,
    bundle: &std::path::Path,
    annotations: Option<&std::collections::HashMap<String, String>>,
) -> State {
    let mut state = State::default();
    state.set_version(version.to_owned()).set_id(id.to_owned()).set_status(status);
    state.set_pid(Some(pid)).set_bundle(bundle.to_path_buf());
    state.set_annotations(Some(annotations.cloned().unwrap_or_default()));
    state
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{ContainerState, HookBuilder};

    use super::*;

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let hook = HookBuilder::default().path("/bin/sh").args(["sh", "-c", script].map(str::to_owned));
        let mut hook = hook.env(vec!["GIVEN=yes".to_owned()]).build().unwrap();
        hook.set_timeout(timeout);
        hook
    }

    fn some_state() -> State {
        state("1.0.2", "x", ContainerState::Creating, 7, std::path::Path::new("/b"), None)
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment_alone() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let script = format!("{{ cat; env; }} > {}", to.display());
        run("createRuntime", &[shell(&script, None)], &some_state()).unwrap();
        let text = std::fs::read_to_string(to).unwrap();
        assert!(text.contains("\"id\":\"x\"") && text.contains("\"pid\":7"), "{text}");
        assert!(text.contains("GIVEN=yes") && !text.contains("HOME="), "{text}");
    }

    #[test]
    fn a_hook_without_an_environment_gets_this_processs() {
        let plain = |value: &str| !value.is_empty() && !value.contains(['\n', '=']);
        let own = ["PWD", "OLDPWD", "SHLVL", "_"];
        let given = std::env::vars().find(|(name, value)| plain(value) && !own.contains(&name.as_str()));
        let (name, value) = given.expect("there is some variable");
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let args = ["sh".to_owned(), "-c".to_owned(), format!("env > {}", to.display())];
        run_one(&HookBuilder::default().path("/bin/sh").args(args).build().unwrap(), &some_state()).unwrap();
        let text = std::fs::read_to_string(to).unwrap();
        assert!(text.lines().any(|line| line == format!("{name}={value}")), "{name}: {text}");
    }

    #[test]
    fn the_first_that_fails_ends_the_row_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let never = format!("touch {}", dir.path().join("never").display());
        let hooks = [shell("echo no luck >&2; exit 3", None), shell(&never, None)];
        let error = run("createRuntime", &hooks, &some_state()).unwrap_err().to_string();
        assert!(error.starts_with("error running createRuntime hook #0: "), "{error}");
        assert!(error.contains("exit status: 3") && error.contains("no luck"), "{error}");
        assert!(!dir.path().join("never").exists());
    }

    #[test]
    fn a_hook_that_never_ends_is_ended() {
        let error = run_one(&shell("exec sleep 1000", Some(1)), &some_state()).unwrap_err();
        assert!(matches!(error, HookError::Timeout { .. }), "{error}");
    }

    #[test]
    fn a_hooks_descendants_end_with_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        // The second is nobody's child by then, and would outlive the first.
        let script = format!("sleep 1000 & echo $! > {}; wait", pids.display());
        let error = run_one(&shell(&script, Some(1)), &some_state()).unwrap_err();
        assert!(matches!(error, HookError::Timeout { .. }), "{error}");
        let pid: i32 = std::fs::read_to_string(pids).unwrap().trim().parse().unwrap();
        let Ok(pidfd) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return };
        assert!(ends_within(pidfd.as_fd(), None, Some(Duration::from_secs(60))).unwrap());
    }

    #[test]
    fn a_hook_may_write_without_end_and_the_end_is_told() {
        let script = "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo no luck >&2; exit 3";
        let HookError::Failed { output, .. } = run_one(&shell(script, None), &some_state()).unwrap_err()
        else {
            panic!()
        };
        assert!(output.ends_with("x\nno luck") && output.len() <= OUTPUT_KEPT_MAX, "{output}");
        run_one(&shell("exec >&- 2>&-; sleep 0.1", None), &some_state()).unwrap();
    }

    #[test]
    fn a_hooks_descendants_may_live_on_with_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}", pid.display());
        run_one(&shell(&script, None), &some_state()).unwrap();
        let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn who_waits_for_hooks_has_their_time_too() {
        let own = Duration::from_secs(20);
        let hooks = [Some(30), Some(15), None].map(|seconds| shell("true", seconds));
        assert_eq!(patience(own, None), Some(own));
        assert_eq!(patience(own, Some(&hooks[..2])), Some(Duration::from_secs(65)));
        assert_eq!(patience(own, Some(&hooks)), None);
    }

    #[test]
    fn a_hook_with_a_relative_path_or_no_time_is_refused() {
        let relative = HookBuilder::default().path("true").build().unwrap();
        assert!(matches!(check(&[relative]), Err(HookError::Invalid { .. })));
        assert!(matches!(check(&[shell("true", Some(0))]), Err(HookError::Invalid { .. })));
    }
}
