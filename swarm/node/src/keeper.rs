//! The node's way to its keeper: one connection that says who the daemon is, made anew when it breaks, and the keeper
//! itself started anew when it is gone.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use skep_runtime::keeper::{ClientError, ContainerInfo, CreateContainer, KeeperClient, KeeperOptions};

/// The node's keeper. Its calls block: not for async threads.
pub(crate) struct Keeper {
    options: KeeperOptions,
    command: Vec<OsString>,
    client: RwLock<Arc<KeeperClient>>,
    reconnecting: Mutex<()>,
}

impl Keeper {
    /// Finds the keeper, or starts one.
    pub(crate) fn start(options: KeeperOptions, command: Vec<OsString>) -> Result<Self, ClientError> {
        let client = RwLock::new(Arc::new(introduce(&options, &command)?));
        Ok(Self { options, command, client, reconnecting: Mutex::new(()) })
    }

    /// Where the keeper's socket is.
    pub(crate) fn run_dir(&self) -> &Path {
        &self.options.run_dir
    }

    /// One container.
    pub(crate) fn get(&self, id: &str) -> Result<ContainerInfo, ClientError> {
        self.ask(|client| client.get(id))
    }

    /// All containers.
    pub(crate) fn list(&self) -> Result<Vec<ContainerInfo>, ClientError> {
        self.ask(KeeperClient::list)
    }

    /// Sends a signal.
    pub(crate) fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), ClientError> {
        self.ask(|client| client.kill(id, signal, all))
    }

    /// Makes a container. Not asked twice: a keeper that was lost on the way may have made it.
    pub(crate) fn create(
        &self,
        container: &CreateContainer,
        netns: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<i32, ClientError> {
        let client = self.client.read().clone();
        let made = client.create(container, netns);
        if let Err(error) = &made
            && is_broken(error)
        {
            self.reconnect(&client)?;
        }
        made
    }

    /// Removes a container, over a connection of its own: the kernel may take long, and starts and stops shall not
    /// wait for it.
    pub(crate) fn delete(&self, id: &str) -> Result<(), ClientError> {
        KeeperClient::connect(self.run_dir())?.delete(id)
    }

    /// The daemon ends on purpose.
    pub(crate) fn daemon_stopping(&self) -> Result<(), ClientError> {
        self.client.read().clone().daemon_stopping()
    }

    /// Whether the keeper answers; if not it is found or started anew.
    pub(crate) fn ensure(&self) -> Result<(), ClientError> {
        self.ask(KeeperClient::ping).map(drop)
    }

    fn ask<T>(&self, question: impl Fn(&KeeperClient) -> Result<T, ClientError>) -> Result<T, ClientError> {
        let client = self.client.read().clone();
        match question(&client) {
            Err(error) if is_broken(&error) => question(&*self.reconnect(&client)?),
            answered => answered,
        }
    }

    /// A connection in place of a broken one; whoever comes second finds it made.
    fn reconnect(&self, broken: &Arc<KeeperClient>) -> Result<Arc<KeeperClient>, ClientError> {
        let _one = self.reconnecting.lock();
        let current = self.client.read().clone();
        if !Arc::ptr_eq(&current, broken) {
            return Ok(current);
        }
        let fresh = Arc::new(introduce(&self.options, &self.command)?);
        tracing::warn!("connected to the keeper anew");
        *self.client.write() = Arc::clone(&fresh);
        Ok(fresh)
    }
}

fn introduce(options: &KeeperOptions, command: &[OsString]) -> Result<KeeperClient, ClientError> {
    let mut client = KeeperClient::connect_or_spawn(options, command)?;
    if runs_another_program(client.ping()?) {
        tracing::info!("the keeper runs another program than this daemon: it replaces itself");
        client.reexec()?;
        client = KeeperClient::connect_or_spawn(options, command)?;
    }
    client.hello_daemon()?;
    Ok(client)
}

/// Whether a process was started from another file than this one: from before an upgrade, most likely. In doubt not.
fn runs_another_program(pid: u32) -> bool {
    let file = |process: &str| std::fs::metadata(format!("/proc/{process}/exe"));
    match (file(&pid.to_string()), file("self")) {
        (Ok(theirs), Ok(ours)) => (theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino()),
        _ => false,
    }
}

fn is_broken(error: &ClientError) -> bool {
    matches!(error, ClientError::Closed | ClientError::Wire(_))
}
