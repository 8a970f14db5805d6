//! Where a playground keeps its files, and what it remembers.
//!
//! ```text
//! /var/lib/skep-playground/NAME/playground.json    the record: addresses, processes
//!                               N/root             node N's disk: it outlives `kill`
//!                               N/log              what node N's daemon said
//! /run/skep-playground/NAME/N/                     node N's sockets: gone with its power
//! ```

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Error;

const DISKS: &str = "/var/lib/skep-playground";
const SOCKETS: &str = "/run/skep-playground";

/// The record of one playground.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its name.
    pub name: String,
    /// The third byte of its network, 10.77.SUBNET.0/24; 0 belongs to `default`.
    pub subnet: u8,
    /// The process that keeps the switch's namespace.
    pub fabric: Process,
    /// Its nodes, numbered from 1.
    pub nodes: Vec<NodeRecord>,
}

/// One node of a playground.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    /// From 1.
    pub number: u8,
    /// Process 1 of the host; none while it has no power.
    pub init: Option<Process>,
    /// Whether its network is cut.
    pub cut: bool,
}

/// A process that cannot be mistaken for another that got its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its number on this machine.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot (proc(5), field 22 of `stat`).
    pub started: u64,
}

impl Process {
    /// The process that has this number now.
    pub(super) fn now(pid: i32) -> Option<Self> {
        started(pid).map(|started| Self { pid, started })
    }

    /// Whether it still lives (a zombie does not).
    pub(super) fn lives(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything; the rest is plain.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

impl Record {
    /// A node's address.
    pub(super) fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, number)
    }

    /// This machine's own address on the playground's network.
    pub(super) fn own_address(&self) -> Ipv4Addr {
        self.address(super::OWN_NUMBER)
    }

    /// The name of this machine's link to the playground.
    pub(super) fn own_link(&self) -> String {
        format!("skpg{}", self.subnet)
    }

    /// A node's disk.
    pub(super) fn disk(&self, number: u8) -> PathBuf {
        folder(&self.name).join(number.to_string())
    }

    /// A node's sockets.
    pub(super) fn sockets(&self, number: u8) -> PathBuf {
        sockets(&self.name).join(number.to_string())
    }

    /// What clients connect to.
    pub(super) fn host(&self, number: u8) -> String {
        format!("unix://{}", self.sockets(number).join("skep.sock").display())
    }

    /// Parent of a node's cgroups.
    pub(super) fn cgroup_parent(&self, number: u8) -> String {
        format!("skep-playground/{}/{number}", self.name)
    }

    /// The node with this number.
    pub(super) fn node(&self, number: u8) -> Result<&NodeRecord, Error> {
        self.nodes.iter().find(|node| node.number == number).ok_or_else(|| Error::NoSuchNode {
            number,
            name: self.name.clone(),
            last: u8::try_from(self.nodes.len()).unwrap_or(u8::MAX),
        })
    }

    /// The node with this number, to change it.
    pub(super) fn node_mut(&mut self, number: u8) -> Result<&mut NodeRecord, Error> {
        self.node(number)?;
        self.nodes
            .iter_mut()
            .find(|node| node.number == number)
            .ok_or_else(|| Error::NoPlayground(String::new()))
    }

    /// Writes the record.
    pub(super) fn save(&self) -> Result<(), Error> {
        let path = record(&self.name);
        let failed = |source| Error::File { what: "write", path: path.clone(), source };
        fs::create_dir_all(folder(&self.name)).map_err(failed)?;
        let temporary = path.with_extension("new");
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(io::Error::other(error)))?;
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)).map_err(failed)
    }

    /// Reads the record of a playground.
    pub(super) fn load(name: &str) -> Result<Self, Error> {
        let path = record(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoPlayground(name.to_owned()));
            }
            Err(source) => return Err(Error::File { what: "read", path, source }),
        };
        serde_json::from_slice(&text).map_err(|error| Error::File {
            what: "read",
            path,
            source: io::Error::other(error),
        })
    }

    /// All playgrounds, by name.
    pub(super) fn all() -> Vec<Self> {
        let folders = fs::read_dir(DISKS).into_iter().flatten().flatten();
        let mut records: Vec<Self> =
            folders.filter_map(|folder| Self::load(&folder.file_name().to_string_lossy()).ok()).collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    }
}

/// Removes every file of a playground, and the common folders when it was the last.
pub(super) fn remove_files(name: &str) -> Result<(), Error> {
    for path in [sockets(name), folder(name)] {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File { what: "remove", path, source: error });
            }
            _ => {}
        }
    }
    for common in [SOCKETS, DISKS] {
        // Not empty: another playground is there.
        let _ = fs::remove_dir(common);
    }
    Ok(())
}

/// One change of playgrounds at a time. The lock is on `/run` itself, so that it leaves no file behind.
pub(super) fn lock() -> Result<Flock<OwnedFd>, Error> {
    let failed = |source| Error::File { what: "lock", path: PathBuf::from("/run"), source };
    let folder = File::open("/run").map_err(failed)?;
    Flock::lock(OwnedFd::from(folder), FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))
}

fn folder(name: &str) -> PathBuf {
    Path::new(DISKS).join(name)
}

fn sockets(name: &str) -> PathBuf {
    Path::new(SOCKETS).join(name)
}

fn record(name: &str) -> PathBuf {
    folder(name).join("playground.json")
}
