//! Why a keeper ends.

use std::io;
use std::path::PathBuf;

use crate::cgroup::CgroupError;
use crate::selfexe::SealError;

/// Why a keeper could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A directory or file of the keeper's own.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another keeper owns the run directory.
    #[error("another keeper owns {}", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The keeper's own program.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The host's cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call that never fails on a healthy kernel.
    #[error("{call}: {source}")]
    System {
        /// Which.
        call: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Replacing the process failed.
    #[error("cannot execute {}: {source}", path.display())]
    Exec {
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}
