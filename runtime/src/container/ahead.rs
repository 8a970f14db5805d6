//! What can be made for a container on another processor while its plan is still being built.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::{Builder, JoinHandle};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::plan::RootMount;
use super::{CreateError, Rootfs, rootfs};
use crate::sys;

/// A network namespace on its way, its loopback device up: by far the dearest of the new ones (half of what a clone
/// into all of them takes).
#[derive(Debug)]
pub struct NetworkAhead(JoinHandle<io::Result<OwnedFd>>);

impl NetworkAhead {
    /// Begins to make it, in a thread. `None`: the container gets none of its own, or one that has to be made by its
    /// own clone, or there is one processor only, or no thread to be had.
    pub fn begin(spec: &Spec) -> Option<Self> {
        if !can_be_made_ahead(spec) || !has_another_processor() {
            return None;
        }
        Builder::new().spawn(make).ok().map(Self)
    }

    /// The namespace. `None`: it could not be made; the container's clone will meet the same reason and tell it.
    pub fn finish(self) -> Option<OwnedFd> {
        self.0.join().ok()?.ok()
    }
}

/// Whether a new network namespace can come from elsewhere: not if a user namespace is to own it, or if devices are moved
/// to it by the init's number.
fn can_be_made_ahead(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return false };
    let mut own = false;
    for namespace in linux.namespaces().iter().flatten() {
        match namespace.typ() {
            LinuxNamespaceType::User => return false,
            LinuxNamespaceType::Network => own = super::build::joined_path(namespace).is_none(),
            _ => {}
        }
    }
    own && linux.net_devices().as_ref().is_none_or(|devices| devices.is_empty())
}

/// The thread takes its namespace to the grave, but for the descriptor.
fn make() -> io::Result<OwnedFd> {
    sys::unshare(UnshareFlags::NEWNET)?;
    sys::loopback_up()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())?)
}

/// An overlay on its way: a good part of a millisecond on a disk, for the filesystem tries in `work` what the one below
/// can do. Dropping it waits for its end, so that the directories are free.
#[derive(Debug)]
pub struct RootAhead(Option<JoinHandle<Result<RootMount, CreateError>>>);

impl RootAhead {
    /// Begins to mount it, in a thread. `None`: it is no overlay, or there is one processor only, or no
    /// thread to be had.
    pub fn begin(rootfs: &Rootfs, bundle: &Path) -> Option<Self> {
        if !matches!(rootfs, Rootfs::Overlay { .. }) || !has_another_processor() {
            return None;
        }
        let (rootfs, bundle) = (rootfs.clone(), bundle.to_path_buf());
        // How the host's mounts are inherited is no question of overlays.
        let thread = Builder::new().spawn(move || rootfs::open(&rootfs, &bundle, None, false));
        Some(Self(Some(thread.ok()?)))
    }

    /// The mount. `None`: the thread is gone without a word.
    pub(super) fn finish(mut self) -> Option<Result<RootMount, CreateError>> {
        self.0.take()?.join().ok()
    }
}

impl Drop for RootAhead {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            drop(thread.join());
        }
    }
}

fn has_another_processor() -> bool {
    rustix::thread::sched_getaffinity(None).is_ok_and(|processors| processors.count() > 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(linux: &serde_json::Value) -> Spec {
        serde_json::from_value(json!({"ociVersion": "1.3.0", "linux": linux})).unwrap()
    }

    #[test]
    fn a_namespace_made_ahead_is_another_one_than_the_makers() {
        let wanted = spec(&json!({"namespaces": [{"type": "network"}]}));
        assert!(can_be_made_ahead(&wanted));
        let made =
            rustix::fs::fstat(NetworkAhead(Builder::new().spawn(make).unwrap()).finish().unwrap()).unwrap();
        let own = rustix::fs::stat("/proc/thread-self/ns/net").unwrap();
        assert_ne!(made.st_ino, own.st_ino);
        assert_eq!(made.st_dev, own.st_dev);
    }

    #[test]
    fn what_the_clone_has_to_make_is_not_made_ahead() {
        for linux in [
            json!({}),
            json!({"namespaces": [{"type": "pid"}]}),
            json!({"namespaces": [{"type": "network", "path": "/proc/self/ns/net"}]}),
            json!({"namespaces": [{"type": "network"}, {"type": "user"}]}),
            json!({"namespaces": [{"type": "network"}], "netDevices": {"eth0": {}}}),
        ] {
            assert!(!can_be_made_ahead(&spec(&linux)), "{linux}");
        }
    }
}
