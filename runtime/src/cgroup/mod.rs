//! Control groups: limits on a container's memory, CPU and processes, and the list of what runs in it.
//!
//! Which kernel interface is used is decided by what is mounted, never by configuration: version 1 (a directory per
//! controller), version 2, or hybrid (v1 controllers, with a v2 tree beside them that is used for `cgroup.kill`).
//! A container's cgroup is `PARENT/ID` in every hierarchy. Nothing outside of `PARENT` is ever touched, save that on v2
//! the controllers are enabled on the way down to it.

mod detect;
mod group;
mod limits;

pub use self::detect::Cgroups;
pub use self::group::{Cgroup, Usage};
pub use self::limits::Limits;

use std::io;
use std::path::{Path, PathBuf};

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup filesystem is mounted.
    #[error("no cgroup filesystem is mounted (see /proc/self/mountinfo)")]
    NotMounted,
    /// A parent or ID that would lead out of its place.
    #[error("{0:?} is not a cgroup name")]
    Name(String),
    /// A limit was asked for whose controller this host lacks.
    #[error("this host has no {controller} cgroup controller, which the container's limits need")]
    NoController {
        /// The controller.
        controller: &'static str,
    },
    /// A file or directory of the cgroup filesystem refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A limit was refused by the kernel.
    #[error("cannot set {} to {value:?}: {source}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// Writes one value to a file that exists.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
