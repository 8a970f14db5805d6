//! Tells each task's runner when its container has ended, whatever happens to the connection to the keeper.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use skep_runtime::keeper::{ClientError, ContainerStatus, Event, Exit, KeeperEvents};
use tokio::sync::oneshot;

use crate::keeper::Keeper;

/// Pause before the keeper is asked again after its event stream broke.
const RECONNECT: Duration = Duration::from_millis(200);

/// Who waits for which container. Bounded by the number of tasks of the node.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    waiting: Mutex<HashMap<String, oneshot::Sender<Exit>>>,
}

impl Exits {
    /// A receiver for the end of a container. Ask before it is started, so that no end is missed.
    pub(crate) fn expect(&self, container_id: &str) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert(container_id.to_owned(), sender);
        receiver
    }

    /// Nobody waits for a container any more.
    pub(crate) fn forget(&self, container_id: &str) {
        self.waiting.lock().remove(container_id);
    }

    fn deliver(&self, container_id: &str, exit: Exit) {
        if let Some(waiting) = self.waiting.lock().remove(container_id) {
            // A runner that has gone does not care any more.
            let _ = waiting.send(exit);
        }
    }

    /// Follows the keeper for as long as the process lives, on a thread of its own. After each (re)connection the list
    /// of containers is compared with who waits, so that an end in between is delivered too.
    pub(crate) fn follow(self: Arc<Self>, keeper: Arc<Keeper>) -> std::io::Result<()> {
        let follow = move || {
            let mut told = false;
            loop {
                let followed = keeper.ensure().and_then(|()| self.follow_once(&keeper, &mut told));
                if let Err(error) = followed
                    && !std::mem::replace(&mut told, true)
                {
                    tracing::warn!(%error, "lost the keeper; looking for it");
                }
                std::thread::sleep(RECONNECT);
            }
        };
        std::thread::Builder::new().name("keeper-events".to_owned()).spawn(follow).map(drop)
    }

    fn follow_once(&self, keeper: &Keeper, told: &mut bool) -> Result<(), ClientError> {
        let mut events = KeeperEvents::connect(keeper.run_dir())?;
        *told = false;
        for container in keeper.list()? {
            if let ContainerStatus::Exited(exit) = container.status {
                self.deliver(&container.id, exit);
            }
        }
        loop {
            match events.next()? {
                Some(Event::Exited { id, exit }) => self.deliver(&id, exit),
                None => {
                    let mut readable = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut readable, PollTimeout::NONE) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(ClientError::Wire(error.to_string())),
                    }
                }
            }
        }
    }
}
