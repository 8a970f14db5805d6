//! The keeper: one small single-threaded process per node that owns the node's containers and outlives the daemon.
//!
//! It is the parent and subreaper of every container, writes exit statuses to disk before it tells anybody (flushed,
//! unless somebody waits for that very container to be deleted, record and all), pumps
//! stdout and stderr to bounded log files, and starts the daemon again when that dies without saying goodbye.
//!
//! # One container, as the keeper sees it
//!
//! ```text
//!             Create ok                Start ok                 init ends (status on disk first)
//!  (nothing) ----------> Created ---------------> Running ----------------------------------> Exited
//!      ^  ^                 |  |                     |                                          |
//!      |  +-- Create fails: |  +-- exec fails:       +-- keeper died and came back, the pid is  |
//!      |      all undone    |      Exited(126/127)       gone: Exited(Unknown)                  |
//!      |                    +-- keeper died: init sees its gate close and ends: Exited(Unknown) |
//!      +---------------- Delete (kills first if asked of a living one) -------------------------+
//! ```
//!
//! # Surviving the keeper's own death
//!
//! A container's stdout and stderr are named pipes under the run directory, and the container holds them open for
//! reading too. So a container that writes while no keeper lives blocks when the pipe is full instead of dying of
//! SIGPIPE, and the next keeper reads on where the last one stopped. Records on disk hold the pid, its start time and
//! the boot ID; a keeper that starts adopts what still matches. An adopted container is not the new keeper's child, so
//! its exit code cannot be known ([`Outcome::Unknown`]), unless the keeper replaced itself by exec ([`Request::Reexec`]).

mod client;
mod door;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod logs;
mod managed;
mod options;
mod protocol;
mod records;
mod refusals;
mod requests;
mod respawn;
mod server;
mod spawn;
mod wire;

pub use self::client::{ClientError, KeeperClient};
pub use self::error::KeeperError;
pub use self::events::KeeperEvents;
pub use self::options::{KeeperOptions, SOCKET_NAME};
pub use self::protocol::{
    ContainerInfo, ContainerStatus, CreateContainer, Event, Exit, LogOptions, Outcome, Refusal, RefusalKind,
    Reply, Request, Rootfs,
};
pub use self::server::main;
pub use self::spawn::spawn_keeper;
