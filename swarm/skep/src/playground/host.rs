//! One host of a playground: a process 1 in namespaces of its own, with a daemon under it.
//!
//! ```text
//! playground up ── spawns ──> boot: unshares, spawns ──> init: process 1 of the host ── waits for its network
//!        │                     └─ tells init's number and exits      │
//!        ├─ lays the cable into init's network namespace             │
//!        └─ writes a line to init's standard input ────────────────> starts the daemon, then reaps for ever
//! ```
//!
//! When process 1 is killed, the kernel kills everything in the host: that is the power cut.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, sethostname};
use skep_netns::Namespace;
use skep_netns::fabric::{self, Leg};

use super::Error;
use super::layout::{Process, Record};

/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// Longest wait for a host's process 1.
const BOOT: Duration = Duration::from_secs(10);

/// The namespaces of a host, in the order in which they are joined; the mount namespace last, because the others are
/// found by paths.
const NAMESPACES: [&str; 6] = ["uts", "ipc", "net", "cgroup", "pid", "mnt"];

/// Starts a host: its process 1, its cable, its daemon.
pub(super) fn boot(record: &Record, number: u8) -> Result<Process, Error> {
    let sockets = record.sockets(number);
    // What was under /run is gone after a power cut.
    let _ = std::fs::remove_dir_all(&sockets);
    for folder in [&sockets, &record.disk(number)] {
        std::fs::create_dir_all(folder).map_err(|source| Error::File {
            what: "make",
            path: folder.clone(),
            source,
        })?;
    }
    let failed = |source| Error::Boot { number, source };
    let mut booter = this_program()
        .args(["playground", "boot", "--name", &record.name, &number.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut go = booter.stdin.take().ok_or_else(|| failed(std::io::Error::other("no pipe")))?;
    let mut told = String::new();
    if let Some(output) = booter.stdout.take() {
        BufReader::new(output).read_line(&mut told).map_err(failed)?;
    }
    let _ = booter.wait();
    let pid: i32 =
        told.trim().parse().map_err(|_| failed(std::io::Error::other("its first process did not start")))?;
    let init =
        Process::now(pid).ok_or_else(|| failed(std::io::Error::other("its first process ended at once")))?;
    let cabled = plug(record, number, pid).and_then(|()| writeln!(go, "go").map_err(failed));
    if let Err(error) = cabled {
        let _ = power_off(init);
        return Err(error);
    }
    Ok(init)
}

/// Lays a host's cable.
fn plug(record: &Record, number: u8, pid: i32) -> Result<(), Error> {
    let switch = namespace_of(record.fabric)?;
    let host =
        Namespace::from_pid(pid.unsigned_abs()).map_err(|error| Error::Network(crate::describe(&error)))?;
    let port = port(number);
    let network = |error: fabric::FabricError| Error::Network(crate::describe(&error));
    // A port of an earlier life of this host may not be gone yet.
    fabric::disconnect(&switch, &port).map_err(network)?;
    let leg = Leg { port: &port, ifname: "eth0", address: IpAddr::V4(record.address(number)), prefix: 24 };
    fabric::connect(&switch, &host, &leg).map_err(network)?;
    if record.node(number)?.cut {
        fabric::set_link(&switch, &port, false).map_err(network)?;
    }
    Ok(())
}

/// Cuts or heals a host's cable.
pub(super) fn set_cable(record: &Record, number: u8, up: bool) -> Result<(), Error> {
    fabric::set_link(&namespace_of(record.fabric)?, &port(number), up)
        .map_err(|error| Error::Network(crate::describe(&error)))
}

/// The name of a host's port on the switch.
pub(super) fn port(number: u8) -> String {
    format!("node{number}")
}

/// The network namespace of a process that is known to live.
pub(super) fn namespace_of(process: Process) -> Result<Namespace, Error> {
    Namespace::from_pid(process.pid.unsigned_abs()).map_err(|error| Error::Network(crate::describe(&error)))
}

/// Kills a process and waits until it is gone.
pub(super) fn power_off(process: Process) -> Result<(), Error> {
    if process.lives() {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    wait_until(DEATH, || !process.lives()).map_err(|_| Error::WillNotDie(process.pid))
}

/// Waits for a condition; an error when it does not come true in time.
pub(super) fn wait_until(most: Duration, mut condition: impl FnMut() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + most;
    while !condition() {
        if Instant::now() > deadline {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// `playground boot`: makes the namespaces and starts process 1 in them.
pub(super) fn run_boot(record: &Record, number: u8) -> Result<ExitCode, Error> {
    let failed = |source: nix::Error| Error::Boot { number, source: source.into() };
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID,
    )
    .map_err(failed)?;
    // Not the caller's standard error: who reads it to its end would wait for this host's end.
    let log = open_log(record, number).map_err(|source| Error::Boot { number, source })?;
    let init = this_program()
        .args(["playground", "init", "--name", &record.name, &number.to_string()])
        .stdin(Stdio::inherit())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Boot { number, source })?;
    println!("{}", init.id());
    Ok(ExitCode::SUCCESS)
}

/// `playground init`: process 1 of a host.
pub(super) fn run_init(record: &Record, number: u8) -> Result<ExitCode, Error> {
    let failed = |source: nix::Error| Error::Boot { number, source: source.into() };
    sethostname(format!("node-{number}")).map_err(failed)?;
    // Mounts made in the host stay in it; those made outside later still come in.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(failed)?;
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).map_err(|source| Error::Boot { number, source })?;
    if read == 0 {
        // Whoever boots this host is gone, and with it the cable.
        return Ok(ExitCode::FAILURE);
    }
    start_daemon(record, number).map_err(|source| Error::Boot { number, source })?;
    loop {
        match wait() {
            Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR) => {}
            Ok(_) => {}
            // No children for the moment; a process may yet be handed down to process 1.
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Starts a host's daemon; to be called inside the host.
pub(super) fn start_daemon(record: &Record, number: u8) -> std::io::Result<()> {
    let disk = record.disk(number);
    let log = open_log(record, number)?;
    this_program()
        .arg("daemon")
        .arg("--root")
        .arg(disk.join("root"))
        .arg("--run")
        .arg(record.sockets(number))
        .args(["--hostname", &format!("node-{number}")])
        .args(["--cgroup-parent", &record.cgroup_parent(number)])
        .arg("--respawn")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map(drop)
}

/// What a host's daemon says.
fn open_log(record: &Record, number: u8) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().create(true).append(true).open(record.disk(number).join("log"))
}

/// `playground hold`: the process that keeps the switch.
pub(super) fn run_hold() -> Result<ExitCode, Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|source| Error::Network(source.to_string()))?;
    let own = Namespace::current().map_err(|error| Error::Network(crate::describe(&error)))?;
    fabric::create_in(&own).map_err(|error| Error::Network(crate::describe(&error)))?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// Starts the process that keeps the switch.
pub(super) fn start_fabric() -> Result<Process, Error> {
    let failed = |source: std::io::Error| Error::Network(format!("cannot start the switch: {source}"));
    let mut holder = this_program()
        .args(["playground", "hold"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut told = String::new();
    if let Some(output) = holder.stdout.take() {
        BufReader::new(output).read_line(&mut told).map_err(failed)?;
    }
    let process = i32::try_from(holder.id()).ok().and_then(Process::now);
    match process {
        Some(process) if told.trim() == "ready" => Ok(process),
        _ => {
            let _ = holder.kill();
            let _ = holder.wait();
            let mut reason = String::new();
            if let Some(mut errors) = holder.stderr.take() {
                let _ = errors.read_to_string(&mut reason);
            }
            Err(Error::Network(format!("the switch did not come up: {}", reason.trim())))
        }
    }
}

/// Runs a command inside a host and returns how it ended. The calling process is inside the host from then on, so
/// this is the last thing that it does; it must have one thread only.
pub(super) fn enter_and_run(
    record: &Record,
    number: u8,
    init: Process,
    command: &mut Command,
) -> Result<ExitStatus, Error> {
    let failed = |source: std::io::Error| Error::Enter { number, source };
    let here = std::env::current_dir().ok();
    // Asked before: this process does not exist in the /proc of the host that it enters.
    let path = path_with_this_program();
    enter(init).map_err(failed)?;
    if let Some(here) = here.filter(|here| here.exists()) {
        // Entering a mount namespace moves the process to its root.
        let _ = std::env::set_current_dir(here);
    }
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .env("SKEP_HOST", record.host(number))
        .env("DOCKER_HOST", record.host(number))
        .env("PATH", path)
        .status()
        .map_err(|source| Error::Run { program, source })
}

/// Starts the daemon of a host whose process 1 lives but whose daemon does not.
pub(super) fn restart_daemon(record: &Record, number: u8, init: Process) -> Result<(), Error> {
    enter(init).and_then(|()| start_daemon(record, number)).map_err(|source| Error::Enter { number, source })
}

fn enter(init: Process) -> std::io::Result<()> {
    let folder = format!("/proc/{}/ns", init.pid);
    let mut namespaces = Vec::new();
    for name in NAMESPACES {
        namespaces.push(std::fs::File::open(Path::new(&folder).join(name))?);
    }
    for namespace in namespaces {
        setns(namespace, CloneFlags::empty())?;
    }
    Ok(())
}

/// So that `playground exec 1 skep …` finds this very program.
fn path_with_this_program() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let folders = folder.into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}

fn this_program() -> Command {
    Command::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()))
}

/// How long a host may take to boot.
pub(super) const fn boot_time() -> Duration {
    BOOT
}
