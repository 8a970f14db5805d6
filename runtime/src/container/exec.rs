//! One more process in a running container.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Process as ProcessSpec, Spec};

use super::Stdio;
use crate::cgroup::Cgroup;
use crate::process::Process;

/// What [`super::exec`] needs.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// Name of the container.
    pub id: &'a str,
    /// Its init. Not by number: that could be another process's by now, and the host's namespaces be joined.
    pub init: &'a Process,
    /// Its bundle.
    pub bundle: &'a Path,
    /// Its spec. The namespaces that it names are joined; its seccomp profile holds for the process too.
    pub spec: &'a Spec,
    /// The process.
    pub process: &'a ProcessSpec,
    /// Standard descriptors.
    pub stdio: Stdio,
    /// As in [`super::CreateOptions::console`], if the process wants a terminal.
    pub console: Option<OwnedFd>,
    /// As in [`super::CreateOptions::preserve_fds`].
    pub preserve_fds: u32,
    /// As in [`super::CreateOptions::no_new_keyring`].
    pub no_new_keyring: bool,
    /// The group to run in.
    pub cgroup: Option<&'a Cgroup>,
}
