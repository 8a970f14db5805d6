//! Control groups: limits on a container's memory, CPU, processes, devices and I/O, and the list of what runs in it.
//!
//! Which kernel interface is used is decided by what is mounted, never by configuration: version 1 (a directory per
//! controller), version 2, or hybrid (v1 controllers, with a v2 tree beside them that is used for `cgroup.kill`).
//!
//! There are two ways to a group. The keeper's containers are in `PARENT/ID` ([`Cgroups::create`]), in as few v1
//! hierarchies as their limits need. The OCI command line has them where `linux.cgroupsPath` says
//! ([`Cgroups::place`], [`Cgroup::make`]), in every hierarchy that is mounted, as runc does. Nothing outside of a
//! group is touched, save that its parents are made, and on v2 the controllers are enabled on the way down to it.
//!
//! - `resources`: what a spec's limits mean in each interface's files; `devices`: its device rules. Pure, but for bpf(2).
//! - `create`: makes and changes groups; `freeze`, `oom`, `stats`: what is done to them and read from them later.
//! - `systemd`: the driver that has systemd make the group; `owner`: to whom it then belongs.

mod create;
mod detect;
mod devices;
mod error;
mod freeze;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod group;
mod limits;
mod oom;
mod owner;
mod place;
mod resources;
mod stats;
mod systemd;

pub use self::detect::Cgroups;
pub use self::error::CgroupError;
pub use self::group::{Cgroup, Usage};
pub(crate) use self::group::{Directory, V1};
pub use self::limits::Limits;
pub use self::oom::{OomEvent, OomEvents};
pub use self::owner::owner;
pub use self::place::Driver;
pub use self::stats::*;
pub use self::systemd::SystemdUnit;

use std::io;
use std::path::Path;

/// Writes one value to a file that exists.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
