//! One more process in a running container.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};

use super::Stdio;
use crate::cgroup::Cgroup;

/// What [`super::exec`] needs.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// Name of the container.
    pub id: &'a str,
    /// Process ID of its init.
    pub init: i32,
    /// Its bundle.
    pub bundle: &'a Path,
    /// Its spec. The namespaces that it names are joined; its seccomp profile holds for the process too.
    pub spec: &'a Spec,
    /// The process.
    pub process: &'a Process,
    /// Standard descriptors.
    pub stdio: Stdio,
    /// As in [`super::CreateOptions::console`], if the process wants a terminal.
    pub console: Option<OwnedFd>,
    /// As in [`super::CreateOptions::preserve_fds`].
    pub preserve_fds: u32,
    /// The group to run in.
    pub cgroup: Option<&'a Cgroup>,
}
