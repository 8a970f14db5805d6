//! `skep keeper`: the small process that owns this node's containers. No async runtime, no threads.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use skep_runtime::keeper::{KeeperError, KeeperOptions, main};

/// Flags of `skep keeper`.
#[derive(Debug, Args)]
pub(crate) struct Keeper {
    /// Socket, lock and pipes
    #[arg(long)]
    run: PathBuf,
    /// Records and exit statuses
    #[arg(long)]
    state: PathBuf,
    /// Parent of the containers' cgroups
    #[arg(long)]
    cgroup_parent: String,
    /// Start the daemon again when it dies without saying goodbye
    #[arg(long)]
    respawn: bool,
    /// The daemon's command line
    #[arg(last = true)]
    daemon: Vec<OsString>,
}

/// Runs the keeper until it is shut down.
pub(crate) fn run(flags: Keeper) -> Result<(), KeeperError> {
    let mut options = KeeperOptions::new(flags.run, flags.state, flags.cgroup_parent);
    options.respawn = flags.respawn.then_some(flags.daemon);
    main(options)
}
