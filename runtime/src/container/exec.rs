//! One more process in a running container.

use std::path::Path;

use oci_spec::runtime::{Process, Spec};

use super::{Container, CreateError, Stdio};
use crate::cgroup::Cgroup;
use std::os::fd::OwnedFd;

/// What [`exec`] needs.
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

/// Prepares a process in a running container up to the point where only exec is missing: [`Container::start`].
///
/// # Errors
/// See [`CreateError`]. No process is left then.
pub fn exec(options: ExecOptions<'_>) -> Result<Container, CreateError> {
    let _ = options;
    Err(CreateError::Unsupported("exec".to_owned()))
}
