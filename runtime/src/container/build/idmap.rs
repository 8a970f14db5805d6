//! User namespaces that exist only to carry a mount's ID maps.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::LinuxIdMapping;
use rustix::process::{Signal, WaitIdOptions, pidfd_send_signal, waitid};

use crate::container::CreateError;
use crate::sys;

/// A user namespace with these maps. It lives as long as the descriptor, or a mount that uses it.
pub(super) fn user_namespace(
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<OwnedFd, CreateError> {
    let fail = |step: &'static str| move |source: io::Error| CreateError::IdMaps { step, source };
    // A process is needed to write the maps of; it does nothing and dies with this thread.
    let child = sys::clone_child(libc::CLONE_NEWUSER as u64, None, wait_for_the_end);
    let child = child.map_err(|errno| fail("make a user namespace")(errno.into()))?;
    let path = |name: &str| format!("/proc/{}/{name}", child.pid);
    let made = std::fs::write(path("uid_map"), map_text(uids))
        .map_err(fail("write uid_map"))
        .and_then(|()| std::fs::write(path("gid_map"), map_text(gids)).map_err(fail("write gid_map")))
        .and_then(|()| std::fs::File::open(path("ns/user")).map_err(fail("open the user namespace")));
    // Both can only fail if the child is gone already.
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| {
        waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
    });
    made.map(OwnedFd::from)
}

fn wait_for_the_end() -> Infallible {
    if sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).is_err() {
        sys::exit_now(1);
    }
    loop {
        // A signal wakes it, the last of which kills.
        sys::pause();
    }
}

/// user_namespaces(7)'s lines: ID inside, ID outside, count.
fn map_text(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, map| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", map.container_id(), map.host_id(), map.size());
        text
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxIdMappingBuilder;

    use super::*;

    fn map(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
        let map = LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(size);
        map.build().unwrap()
    }

    #[test]
    fn a_namespace_is_made_and_its_process_is_gone() {
        let maps = [map(0, 100_000, 10), map(10, 0, 1)];
        assert_eq!(map_text(&maps), "0 100000 10\n10 0 1\n");
        user_namespace(&maps, &maps).unwrap();
        let overlapping = [map(0, 1, 10), map(5, 100, 10)];
        let error = user_namespace(&overlapping, &maps).unwrap_err().to_string();
        assert!(error.contains("uid_map"), "{error}");
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        assert_eq!(children.trim(), "");
    }
}
