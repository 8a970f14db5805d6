//! What a keeper is told when it starts.

use std::ffi::OsString;
use std::path::PathBuf;

/// The keeper's socket, inside the run directory.
pub const SOCKET_NAME: &str = "keeper.sock";

/// Options of one keeper. One keeper owns one `run_dir`; a second one on the same directory refuses to start.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// Socket, lock, named pipes. May vanish on reboot. Its path must leave room for [`SOCKET_NAME`] in the 107 bytes
    /// that a unix socket's address has (unix(7)).
    pub run_dir: PathBuf,
    /// Records and exit statuses. Must last.
    pub state_dir: PathBuf,
    /// Parent of all containers' cgroups, relative to each hierarchy's root, as `skep/n1`. Everything directly below
    /// it belongs to this keeper: strangers there are killed and removed when the keeper starts.
    pub cgroup_parent: String,
    /// The daemon's command line, run when the daemon's connection closes without
    /// [`Request::DaemonStopping`](super::Request::DaemonStopping) before. `None`: never.
    pub respawn: Option<Vec<OsString>>,
    /// Where a respawned daemon's stdout and stderr are appended. `None`: `daemon.log` in the run directory.
    pub daemon_log: Option<PathBuf>,
}

impl KeeperOptions {
    /// Options without respawn.
    pub fn new(
        run_dir: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
        cgroup_parent: impl Into<String>,
    ) -> Self {
        Self {
            run_dir: run_dir.into(),
            state_dir: state_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            respawn: None,
            daemon_log: None,
        }
    }

    /// Path of the keeper's socket.
    pub fn socket_path(&self) -> PathBuf {
        self.run_dir.join(SOCKET_NAME)
    }
}
