//! What can go wrong with a command. The texts are those that callers of runc look for, where there are such.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_runtime::cgroup::CgroupError;
use skep_runtime::container::hooks::HookError;
use skep_runtime::container::{CreateError, StartError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("container does not exist")]
    NoContainer,
    #[error("container with given ID already exists")]
    Exists,
    /// Its hooks may take as long as they like.
    #[error("container is being created")]
    Creating,
    #[error("another command has been at work on the container for {} s", .0.as_secs())]
    Busy(Duration),
    #[error("invalid container ID format")]
    IdFormat,
    #[error("container id cannot be empty")]
    NoId,
    #[error("container not running")]
    NotRunning,
    #[error("container not paused")]
    NotPaused,
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped { id: String, status: &'static str },
    #[error("container init still running")]
    StillRunning,
    #[error("{count} process(es) in the container's cgroup are not known to be its own: the cgroup stays")]
    Strangers { count: usize },
    /// The command line or the specification asks for what cannot be.
    #[error("{0}")]
    Refused(String),
    #[error("JSON specification file config.json not found")]
    NoConfig,
    #[error("invalid rootfs: stat {}: {}", path.display(), reason(source))]
    Rootfs { path: PathBuf, source: io::Error },
    /// A system call on a path failed, as Go words it.
    #[error("{action} {}: {}", path.display(), reason(source))]
    Path { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{what}: {source}")]
    Json { what: String, source: serde_json::Error },
    #[error("unable to start container process: {0}")]
    Create(#[from] CreateError),
    #[error("unable to start container process: {0}")]
    Start(#[from] StartError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("unable to signal init: {}", reason(.0))]
    Signal(io::Error),
    #[error("{what}: {}", reason(source))]
    System { what: &'static str, source: io::Error },
}

impl Failure {
    /// For `map_err`.
    pub(crate) fn path(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Path { action, path: path.to_path_buf(), source }
    }

    /// For `map_err`.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}

/// An error's text as Go writes it: lower case, no number.
pub(crate) fn reason(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    nix::errno::Errno::from_raw(number).desc().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_worded_as_gos() {
        let error = Failure::path("chdir", Path::new("/x"))(io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "chdir /x: no such file or directory");
    }
}
