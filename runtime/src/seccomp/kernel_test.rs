//! Filters in the running kernel: in a forked child, and in containers made of the host's own root. Needs root.
//!
//! # Safety
//! A forked child here makes system calls with numbers for arguments and ends by `_exit`.
#![allow(unsafe_code)]

use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use libc::c_long;
use oci_spec::runtime::{Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall, Mount, Spec};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::{Filter, Machine, default_profile, kernel_version, load_filter};
use crate::container::{CreateError, CreateOptions, Gate, Rootfs, Stdio, create};
use crate::spec::{confine, default_capabilities, default_spec};
use crate::sys;

/// Loads the filter in a child and has it make a call: its errno, 0 if it worked.
fn errno_under(profile: &LinuxSeccomp, number: c_long, first: c_long) -> WaitIdStatus {
    let filter = Filter::compile(profile).unwrap();
    let child = sys::clone_child(0, None, || {
        if load_filter(filter.program(), filter.flags()).is_err() {
            sys::exit_now(200);
        }
        // SAFETY: see the module.
        let returned = unsafe { libc::syscall(number, first, 0, 0, 0) };
        // SAFETY: errno is this thread's own.
        sys::exit_now(if returned == -1 { unsafe { *libc::__errno_location() } } else { 0 })
    });
    let child = child.unwrap();
    waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&child.pidfd)), WaitIdOptions::EXITED).unwrap().unwrap()
}

fn rule(name: &str, action: Action, errno: Option<u32>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec![name.to_owned()]).set_action(action).set_errno_ret(errno);
    rule
}

#[test]
fn the_kernel_does_what_the_program_says() {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActAllow);
    profile.set_syscalls(Some(vec![
        rule("getppid", Action::ScmpActErrno, Some(77)),
        rule("getuid", Action::ScmpActKillProcess, None),
        rule("getgid", Action::ScmpActTrap, None),
        rule("geteuid", Action::ScmpActLog, None),
    ]));
    assert_eq!(errno_under(&profile, libc::SYS_getppid, 0).exit_status(), Some(77));
    assert_eq!(errno_under(&profile, libc::SYS_getuid, 0).terminating_signal(), Some(libc::SIGSYS));
    assert_eq!(errno_under(&profile, libc::SYS_getgid, 0).terminating_signal(), Some(libc::SIGSYS));
    assert_eq!(errno_under(&profile, libc::SYS_geteuid, 0).exit_status(), Some(0));
    assert_eq!(errno_under(&profile, libc::SYS_getegid, 0).exit_status(), Some(0));
}

#[test]
fn dockers_profile_in_the_kernel() {
    let profile = default_profile(&default_capabilities(), kernel_version(), Machine::native().unwrap());
    let errno = |number, first| errno_under(&profile, number, first).exit_status();
    assert_eq!(errno(libc::SYS_unshare, c_long::from(libc::CLONE_NEWUSER)), Some(libc::EPERM));
    assert_eq!(errno(libc::SYS_keyctl, 0), Some(libc::EPERM));
    assert_eq!(errno(libc::SYS_mount, 0), Some(libc::EPERM));
    assert_eq!(errno(libc::SYS_socket, 38), Some(libc::EPERM), "AF_ALG");
    assert_eq!(errno(libc::SYS_clone3, 0), Some(libc::ENOSYS));
    assert_eq!(errno(600, 0), Some(libc::ENOSYS));
    assert_eq!(errno(libc::SYS_getpid, 0), Some(0));
    // Without a filter these fail otherwise, so the answers above are the filter's.
    let mut none = LinuxSeccomp::default();
    none.set_default_action(Action::ScmpActAllow);
    assert_eq!(errno_under(&none, libc::SYS_mount, 0).exit_status(), Some(libc::EFAULT));
    assert_eq!(
        errno_under(&none, libc::SYS_unshare, c_long::from(libc::CLONE_NEWUSER)).exit_status(),
        Some(0)
    );
}

/// A container of the host's root with nothing of its own mounted in it, that runs a shell script.
fn host_spec(script: &str) -> Spec {
    let mut spec = default_spec();
    // Bound, or the host's own /dev would be given a container's nodes and links.
    let mut dev = Mount::default();
    dev.set_destination("/dev".into()).set_source(Some("/dev".into())).set_typ(Some("bind".to_owned()));
    dev.set_options(Some(vec!["rbind".to_owned()]));
    spec.set_mounts(Some(vec![dev]));
    let mut process = spec.process().clone().unwrap();
    process.set_args(Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()));
    spec.set_process(Some(process));
    let mut linux = spec.linux().clone().unwrap();
    linux.set_masked_paths(None).set_readonly_paths(None);
    spec.set_linux(Some(linux));
    spec
}

fn run(spec: &Spec) -> Result<String, CreateError> {
    let bundle = tempfile::tempdir().unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let copy = || OwnedFd::from(output.try_clone().unwrap());
    let mut container = create(CreateOptions {
        id: "box",
        bundle: bundle.path(),
        spec,
        rootfs: &Rootfs::Directory("/".into()),
        netns: None,
        stdio: Stdio { stdin: copy(), stdout: copy(), stderr: copy() },
        console: None,
        no_pivot: false,
        preserve_fds: 0,
        no_new_keyring: false,
        gate: Gate::Owner,
        cgroup: None,
        placement: None,
        root: None,
        filter: None,
        meanwhile: None,
    })?;
    container.start().unwrap();
    container.wait().unwrap();
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    Ok(text)
}

const LOOK: &str =
    "grep -E '^(NoNewPrivs|Seccomp|Cap(Prm|Eff)):' /proc/self/status; unshare -U true && echo UNSHARED";

#[test]
fn a_container_is_confined_and_keeps_no_capability_for_it() {
    for (user, no_new_privileges) in [(0, false), (0, true), (1000, false), (1000, true)] {
        let mut spec = host_spec(LOOK);
        let mut process = spec.process().clone().unwrap();
        process.set_no_new_privileges(Some(no_new_privileges));
        let mut sets = process.capabilities().clone().unwrap();
        if user != 0 {
            sets.set_permitted(None).set_effective(None);
        }
        process.set_capabilities(Some(sets));
        let mut who = process.user().clone();
        who.set_uid(user).set_gid(user);
        process.set_user(who);
        spec.set_process(Some(process));
        if user == 0 {
            let free = run(&spec).unwrap();
            assert!(free.contains("UNSHARED") && free.contains("Seccomp:\t0"), "{free}");
        }
        confine(&mut spec).unwrap();
        let text = run(&spec).unwrap();
        assert!(text.contains("Seccomp:\t2") && !text.contains("UNSHARED"), "{text}");
        assert!(text.contains("Operation not permitted"), "{text}");
        assert!(text.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges))), "{text}");
        let have = if user == 0 { "00000000a80425fb" } else { "0000000000000000" };
        assert!(
            text.contains(&format!("CapPrm:\t{have}")) && text.contains(&format!("CapEff:\t{have}")),
            "{text}"
        );
    }
}

#[test]
fn a_profile_that_allows_almost_nothing_still_starts() {
    // What the exec needs, and capset for the capability that loading needs.
    let mut spec = host_spec("echo never");
    let mut process = spec.process().clone().unwrap();
    process.set_args(Some(vec!["/bin/true".to_owned()]));
    spec.set_process(Some(process));
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActKillProcess);
    let names = ["write", "read", "execve", "capset", "exit_group"];
    profile.set_syscalls(Some(names.map(|name| rule(name, Action::ScmpActAllow, None)).to_vec()));
    let mut linux = spec.linux().clone().unwrap();
    linux.set_seccomp(Some(profile));
    spec.set_linux(Some(linux));
    assert_eq!(run(&spec).unwrap(), "");
}

#[test]
fn an_unconfined_privileged_profile_allows_mounts() {
    let mut bounding = default_capabilities();
    bounding.insert(Capability::SysAdmin);
    let profile = default_profile(&bounding, kernel_version(), Machine::native().unwrap());
    assert_eq!(errno_under(&profile, libc::SYS_mount, 0).exit_status(), Some(libc::EFAULT));
}

/// `struct seccomp_notif` and `struct seccomp_notif_resp` (`linux/seccomp.h`).
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    data: [u64; 8],
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[test]
fn notifications_reach_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent");
    let socket = UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || {
        let (peer, _) = socket.accept().unwrap();
        let mut bytes = [0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [std::io::IoSliceMut::new(&mut bytes)];
        let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
        let length = rustix::net::recvmsg(&peer, &mut buffers, &mut control, flags).unwrap().bytes;
        let state: serde_json::Value = serde_json::from_slice(&bytes[..length]).unwrap();
        let listener = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let listener = listener.unwrap();
        let mut notification = Notification::default();
        // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one zeroed seccomp_notif, which this is.
        let received = unsafe { libc::ioctl(listener.as_raw_fd(), 0xc050_2100, &raw mut notification) };
        assert_eq!(received, 0);
        let response = Response { id: notification.id, value: 0, error: -libc::EDOM, flags: 0 };
        // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one seccomp_notif_resp.
        let sent = unsafe { libc::ioctl(listener.as_raw_fd(), 0xc018_2101, &raw const response) };
        assert_eq!(sent, 0);
        (state, notification.pid)
    });
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActAllow);
    let both = ["mkdir", "mkdirat"].map(|name| rule(name, Action::ScmpActNotify, None));
    profile.set_syscalls(Some(both.to_vec()));
    profile.set_listener_path(Some(path)).set_listener_metadata(Some("words".to_owned()));
    let mut spec = host_spec("mkdir /tmp/never-made");
    let mut linux = spec.linux().clone().unwrap();
    linux.set_seccomp(Some(profile));
    spec.set_linux(Some(linux));
    let text = run(&spec).unwrap();
    assert!(text.contains("Numerical argument out of domain"), "{text}");
    let (state, pid) = agent.join().unwrap();
    assert_eq!(state["fds"], serde_json::json!(["seccompFd"]));
    assert_eq!((&state["metadata"], &state["state"]["id"]), (&"words".into(), &"box".into()));
    assert_eq!(state["state"]["status"], "creating");
    assert!(state["pid"].as_i64().is_some_and(|init| init > 0) && pid > 0, "{state}");
    // Nobody listens: the container is not made.
    drop(folder);
    assert!(matches!(run(&spec), Err(CreateError::SeccompAgent { .. })));
}
