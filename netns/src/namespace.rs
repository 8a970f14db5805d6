//! Network namespaces as owned descriptors, and a small pool of fresh ones.
//!
//! A thread that enters a namespace stays in it for as long as somebody remembers to bring it back, so no function here
//! ever moves the caller's thread: work inside a namespace is done by a helper thread that ends there.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// The largest number of namespaces a [`NamespacePool`] keeps warm: each costs the kernel some 100 KiB.
pub const POOL_SIZE_MAX: usize = 32;

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Why a namespace could not be made, opened or entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The helper thread could not be started.
    #[error("cannot start a thread to work in a network namespace")]
    Thread(#[source] io::Error),
    /// `unshare(CLONE_NEWNET)` was refused; it needs `CAP_SYS_ADMIN`.
    #[error("cannot create a network namespace")]
    Create(#[source] Errno),
    /// The namespace file could not be opened.
    #[error("cannot open the network namespace {}", path.display())]
    Open {
        /// The file asked for.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// `setns` was refused, for instance because the descriptor is not a network namespace.
    #[error("cannot enter the network namespace")]
    Enter(#[source] Errno),
    /// The namespace could not be asked for its number.
    #[error("cannot read the number of the network namespace")]
    Stat(#[source] Errno),
    /// The descriptor could not be duplicated.
    #[error("cannot duplicate the descriptor of the network namespace")]
    Duplicate(#[source] io::Error),
}

/// A network namespace, held alive by a descriptor.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a new, empty namespace: a loopback that is down and nothing else.
    pub fn create() -> Result<Self, NamespaceError> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(NamespaceError::Create)?;
            Self::open(OWN_NAMESPACE)
        })?
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(OWN_NAMESPACE)
    }

    /// The namespace of the process `pid`, as seen in the caller's `/proc`.
    pub fn from_pid(pid: u32) -> Result<Self, NamespaceError> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// Takes over a descriptor of a namespace (a file under `/proc/PID/ns`, or a bind mount of one).
    #[must_use]
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a namespace file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NamespaceError> {
        let path = path.as_ref();
        let file =
            File::open(path).map_err(|source| NamespaceError::Open { path: path.to_path_buf(), source })?;
        Ok(Self { fd: file.into() })
    }

    /// A second descriptor of the same namespace.
    pub fn try_clone(&self) -> Result<Self, NamespaceError> {
        Ok(Self { fd: self.fd.try_clone().map_err(NamespaceError::Duplicate)? })
    }

    /// The inode of the namespace: equal for two descriptors of one namespace, for as long as either is open.
    pub fn id(&self) -> Result<u64, NamespaceError> {
        Ok(nix::sys::stat::fstat(&self.fd).map_err(NamespaceError::Stat)?.st_ino)
    }

    /// Runs `work` on a helper thread inside the namespace and waits for it.
    ///
    /// Sockets made by `work` belong to the namespace for good, wherever they are used later. A panic in `work` is
    /// carried to the caller.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, NamespaceError> {
        on_thread(|| {
            setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(NamespaceError::Enter)?;
            Ok(work())
        })?
    }

    /// Like [`Namespace::run`], but without the helper thread when the caller is in this namespace already.
    pub fn run_here_or_inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, NamespaceError> {
        if Self::current()?.id()? == self.id()? { Ok(work()) } else { self.run(work) }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn on_thread<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, NamespaceError> {
    thread::scope(|scope| {
        let helper = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(NamespaceError::Thread)?;
        match helper.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Namespaces made ahead of time, because making one takes some 350 µs and a container start should not.
///
/// [`NamespacePool::take`] hands one out and starts a thread that fills the pool again; a failed refill is not an error,
/// the next `take` makes its own and reports.
#[derive(Debug)]
pub struct NamespacePool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    state: Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    ready: VecDeque<Namespace>,
    refilling: bool,
}

impl NamespacePool {
    /// A pool that keeps `size` namespaces ready (at most [`POOL_SIZE_MAX`]), filled in the background from now on.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let shared = Arc::new(Shared { size: size.min(POOL_SIZE_MAX), state: Mutex::default() });
        refill_in_background(&shared);
        Self { shared }
    }

    /// A fresh namespace: a warm one if there is one, else made now.
    pub fn take(&self) -> Result<Namespace, NamespaceError> {
        let warm = self.shared.lock().ready.pop_front();
        refill_in_background(&self.shared);
        warm.map_or_else(Namespace::create, Ok)
    }

    /// How many namespaces are ready now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refill_in_background(shared: &Arc<Shared>) {
    {
        let mut state = shared.lock();
        if state.refilling || state.ready.len() >= shared.size {
            return;
        }
        state.refilling = true;
    }
    // The thread holds the pool weakly: a pool that is dropped takes its warm namespaces with it.
    let weak = Arc::downgrade(shared);
    let started = thread::Builder::new().name("netns-pool".to_owned()).spawn(move || {
        while let Some(shared) = weak.upgrade() {
            let made = Namespace::create();
            let mut state = shared.lock();
            match made {
                Ok(namespace) => state.ready.push_back(namespace),
                Err(error) => {
                    tracing::warn!(%error, "cannot fill the pool of network namespaces");
                    state.refilling = false;
                    return;
                }
            }
            if state.ready.len() >= shared.size {
                state.refilling = false;
                return;
            }
        }
    });
    if started.is_err() {
        shared.lock().refilling = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        let home = Namespace::current().unwrap().id().unwrap();
        let other = Namespace::create().unwrap();
        assert_ne!(home, other.id().unwrap());
        let inside = other.run(|| Namespace::current().unwrap().id().unwrap()).unwrap();
        assert_eq!(inside, other.id().unwrap());
        assert_eq!(Namespace::current().unwrap().id().unwrap(), home);
        assert_eq!(Namespace::from_pid(std::process::id()).unwrap().id().unwrap(), home);
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let file = File::open("/proc/self/status").unwrap();
        let wrong = Namespace::from_fd(file.into());
        assert!(matches!(wrong.run(|| ()), Err(NamespaceError::Enter(Errno::EINVAL))));
        assert!(matches!(Namespace::open("/no/such"), Err(NamespaceError::Open { .. })));
    }

    #[test]
    fn the_pool_hands_out_different_namespaces_and_fills_again() {
        let pool = NamespacePool::new(3);
        let deadline = Instant::now() + Duration::from_secs(20);
        let wait_full = || {
            while pool.ready() < 3 {
                assert!(Instant::now() < deadline, "the pool does not fill");
                thread::yield_now();
            }
        };
        wait_full();
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_ne!(first.id().unwrap(), second.id().unwrap());
        wait_full();
        assert_eq!(pool.ready(), 3);
    }
}
