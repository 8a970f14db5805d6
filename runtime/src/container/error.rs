//! What can go wrong with a container, one variant a step.

use std::io;
use std::path::PathBuf;

use super::child::Message;
use super::hooks::HookError;
use crate::cgroup::CgroupError;
use crate::seccomp::SeccompError;

/// Why a container was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The spec asks for something that this runtime does not do.
    #[error("unsupported in the spec: {0}")]
    Unsupported(String),
    /// The spec is wrong.
    #[error("wrong in the spec: {0}")]
    Invalid(String),
    /// The kernel lacks what the spec needs.
    #[error("this kernel has no {what}, which {field} needs")]
    Kernel {
        /// What is missing.
        what: &'static str,
        /// The field, with its value.
        field: String,
    },
    /// A network device was not moved into the container.
    #[error("cannot move the network device {name} into the container: {step}: {}", reason(source))]
    NetDevice {
        /// Its name on the host.
        name: String,
        /// What was tried.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process did not get into its group of resctrl.
    #[error("cannot set up linux.intelRdt: {step} {}: {source}{}", path.display(), if status.is_empty() { String::new() } else { format!(" ({status})") })]
    Resctrl {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said beside the error number.
        status: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A string with a zero byte.
    #[error("{what} contains a zero byte")]
    Nul {
        /// Which.
        what: &'static str,
    },
    /// A pipe could not be made.
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
    /// A layer or root directory could not be opened.
    #[error("cannot open the root filesystem's {}: {}", path.display(), reason(source))]
    OpenRoot {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The overlay could not be made.
    #[error("cannot make the overlay root filesystem ({step}): {}{}", reason(source), if log.is_empty() { String::new() } else { format!(" ({log})") })]
    Overlay {
        /// What was tried.
        step: String,
        /// What the kernel said beside the error number.
        log: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A bind mount's source could not be taken.
    #[error("error during container init: error mounting {:?} to rootfs at {:?}: {}", from.display().to_string(), to.display().to_string(), reason(source))]
    BindSource {
        /// The source.
        from: PathBuf,
        /// The target in the container.
        to: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An option of a mount was refused.
    #[error("error during container init: error mounting {:?} to rootfs at {:?}: {option}: {}", from.display().to_string(), to.display().to_string(), reason(source))]
    MountOption {
        /// The source.
        from: PathBuf,
        /// The target in the container.
        to: PathBuf,
        /// What the option or options ask for.
        option: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot map the IDs of this filesystem.
    #[error("idmapped mounts of {filesystem} are not supported by this kernel ({} at {}): {}", from.display(), to.display(), reason(source))]
    Idmap {
        /// The source's filesystem.
        filesystem: String,
        /// The source.
        from: PathBuf,
        /// The target in the container.
        to: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The user namespace that carries a mount's ID maps could not be made.
    #[error("cannot make ID maps for a mount ({step}): {}", reason(source))]
    IdMaps {
        /// What was tried.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A namespace of the spec could not be opened.
    #[error("cannot open the namespace {}: {}", path.display(), reason(source))]
    OpenNamespace {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// This process's own capabilities could not be read.
    #[error("cannot read this process's capabilities: {0}")]
    Capabilities(String),
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A further process has no way into its cgroup.
    #[error("error adding pid to cgroups: {0}")]
    JoinCgroup(#[source] CgroupError),
    /// The seccomp profile.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The agent for seccomp notifications did not get the listener.
    #[error("failed to connect with seccomp agent at {}: {}", path.display(), reason(source))]
    SeccompAgent {
        /// The profile's `listenerPath`.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A hook ended it.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A hook inside the container's namespaces failed.
    #[error("error running createContainer hook #{index}: {reason}")]
    InnerHook {
        /// Its place among those of its kind.
        index: u32,
        /// How it ended.
        reason: String,
    },
    /// The container's init is not there to be joined.
    #[error("cannot look into the container's init, process {pid}: {}", reason(source))]
    NoInit {
        /// Its process ID.
        pid: i32,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// What has to be written for a new user namespace from outside was refused.
    #[error("cannot write {file} of the container's init: {}", reason(source))]
    Outside {
        /// The file below /proc/PID.
        file: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the new process.
    #[error("cannot make a process in new namespaces")]
    Clone(#[source] io::Error),
    /// A step inside the new process failed.
    #[error("error during container init: {step}: {}", reason(source))]
    Step {
        /// The step.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No such program.
    #[error("{}", not_found(command))]
    CommandNotFound {
        /// The program, as the spec names it.
        command: String,
    },
    /// The program cannot be executed.
    #[error("exec: {command:?}: {}", reason(source))]
    CommandNotExecutable {
        /// The program, as the spec names it.
        command: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The new process ended without a word.
    #[error("the container's init was killed during set-up")]
    Died,
    /// The new process said nothing in time.
    #[error("the container's init did not get ready: {source}")]
    Silent {
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Why a created container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was started before.
    #[error("the container was started already")]
    Started,
    /// The kernel refused to execute the program.
    #[error("exec {command}: {}", reason(source))]
    Exec {
        /// The program, as the spec names it.
        command: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A start hook failed.
    #[error("error running startContainer hook #{index}: {reason}")]
    Hook {
        /// Its place among those of its kind.
        index: u32,
        /// How it ended.
        reason: String,
    },
    /// The init ended at the gate.
    #[error("the container's init was killed before it could start")]
    Died,
    /// Nothing was heard in time.
    #[error("the container's init did not start: {source}")]
    Silent {
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A failed step and what the child added.
pub(super) fn step_text(step: &str, errno: rustix::io::Errno, note: &str) -> String {
    match note {
        "" => step.to_owned(),
        call if errno == rustix::io::Errno::NOSYS => format!("{step}: this kernel has no {call}"),
        _ => format!("{step}: {note}"),
    }
}

/// As Docker says it.
fn not_found(command: &str) -> String {
    if command.contains('/') {
        format!("exec: {command:?}: stat {command}: no such file or directory")
    } else {
        format!("exec: {command:?}: executable file not found in $PATH")
    }
}

/// The error's text as Go and Docker write it: lower case, no number.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_ascii_lowercase(),
        None => error.to_string(),
    }
}

/// How a hook inside the container ended.
pub(super) fn hook_reason(status: i32, output: &str) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let ended = std::process::ExitStatus::from_raw(status);
    let mut reason = match (status, ended.signal()) {
        (-1, _) => "it was killed, its time was up".to_owned(),
        // As Go says it: mostly a seccomp filter's doing.
        (_, Some(libc::SIGSYS)) => "signal: bad system call".to_owned(),
        _ => ended.to_string(),
    };
    if !output.is_empty() {
        reason.push_str(": ");
        reason.push_str(output);
    }
    reason
}

/// Why a hook inside the container did not run, or not to its end.
pub(super) fn hook_not_run(errno: rustix::io::Errno) -> String {
    format!("it cannot be run: {}", io::Error::from(errno))
}

/// What became of the exec, by the init's last word.
pub(super) fn started(command: &str, last: Option<Message>) -> Result<(), StartError> {
    match last {
        // The pipe ends by exec. An init killed at the gate ends it too; that shows as its exit status.
        None => Ok(()),
        Some(Message::NotExecutable(errno)) => {
            Err(StartError::Exec { command: command.to_owned(), source: errno.into() })
        }
        Some(Message::HookFailed { index, status, note }) => {
            Err(StartError::Hook { index, reason: hook_reason(status, &note.text()) })
        }
        Some(Message::HookNotRun { index, errno }) => {
            Err(StartError::Hook { index, reason: hook_not_run(errno) })
        }
        Some(_) => Err(StartError::Died),
    }
}
