//! Starting a keeper so that it outlives whoever starts it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::client::{ClientError, KeeperClient};
use super::options::KeeperOptions;
use crate::sys;

/// A fresh keeper's socket answers within a few ms; a host that needs longer than this is in trouble.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// The keeper's own messages, inside the run directory.
const LOG_NAME: &str = "keeper.log";

/// Runs `exe args…` as a keeper: in a session of its own, as nobody's child (its parent is init or the nearest
/// subreaper), stdin from `/dev/null`, stdout and stderr appended to `log`. Returns when the program was executed; it
/// may still be on its way to its socket.
///
/// # Errors
/// The log file's, or the exec's.
pub fn spawn_keeper<A: AsRef<OsStr>>(
    exe: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
    log: &Path,
) -> io::Result<()> {
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(exe);
    command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    sys::detach(&mut command, true);
    // The child is the middle process, which ends at once.
    command.spawn()?.wait()?;
    Ok(())
}

pub(super) fn connect_or_spawn(
    options: &KeeperOptions,
    command: &[OsString],
) -> Result<KeeperClient, ClientError> {
    match answering(options) {
        Err(ClientError::Connect { .. } | ClientError::Closed) => {}
        other => return other,
    }
    let log = options.run_dir.join(LOG_NAME);
    let Some((exe, args)) = command.split_first() else {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(ClientError::Spawn { command: OsString::new(), source });
    };
    let spawned = std::fs::create_dir_all(&options.run_dir).and_then(|()| spawn_keeper(exe, args, &log));
    spawned.map_err(|source| ClientError::Spawn { command: exe.clone(), source })?;
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match answering(options) {
            // Not there yet, or the last one on its way out.
            Err(ClientError::Connect { .. } | ClientError::Closed) if start.elapsed() < ANSWER_WAIT_MAX => {}
            Err(ClientError::Connect { path, .. }) => {
                return Err(ClientError::NoAnswer { path, log, waited: ANSWER_WAIT_MAX });
            }
            other => return other,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A connection to a keeper that answers. One in the middle of replacing itself closes what it had, and keeps what
/// waits at its door for its next self.
fn answering(options: &KeeperOptions) -> Result<KeeperClient, ClientError> {
    let connect = || {
        let client = KeeperClient::connect(&options.run_dir)?;
        client.ping().map(|_| client)
    };
    match connect() {
        Err(ClientError::Closed) => connect(),
        other => other,
    }
}
