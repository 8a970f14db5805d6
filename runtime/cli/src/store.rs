//! The root directory: one directory a container, with its record, its specification and its gate.
//!
//! ```text
//!   mkdir, lock --> record without init --> record with init --> deleted: record first, then the directory
//!        |                   |
//!        | killed            | killed
//!        v                   v
//!   no record: left over     no init: left over; its cgroup is known and is emptied
//! ```
//!
//! The directory itself carries the lock. Who gets the lock looks whether the name still leads to what was locked: the
//! one before may have deleted it. What is left over is taken on by the next `create` or `delete --force`.
//!
//! Whoever creates a container holds the lock until its init is in the record, and hooks in between may take for ever:
//! other commands do not wait for that, and `delete --force` ends it. All else that is done under the lock is short.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags, flock, statx};
use rustix::io::Errno;
use skep_runtime::spec::oci::Spec;
use skep_runtime::weak::{self, Weakness};

use crate::error::Failure;
use crate::lifecycle::ends_within;
use crate::record::{Init, Record};

/// Name of the record.
const RECORD_NAME: &str = "state.json";

/// Largest record that is read: annotations are all that has no size of its own in it, and the kernel's limit on what
/// can be passed to a program bounds those that a caller makes from its own command line.
const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Longest container ID: one name in a directory (NAME_MAX).
const ID_BYTES_MAX: usize = 255;

/// Longest wait for the lock. The longest that is done under it is to wait for a killed init and to remove its cgroup.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);

/// Pause between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// A root directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// A container's directory, locked.
#[derive(Debug)]
pub(crate) struct Slot {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Store {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A container's directory, there or not.
    pub(crate) fn directory(&self, id: &str) -> Result<PathBuf, Failure> {
        check_id(id)?;
        Ok(self.root.join(id))
    }

    /// A container's record.
    pub(crate) fn load(&self, id: &str) -> Result<Record, Failure> {
        read(&self.directory(id)?)?.ok_or(Failure::NoContainer)
    }

    /// Takes an ID that nobody has, with the record of what a killed command left over under it.
    pub(crate) fn claim(&self, id: &str) -> Result<(Slot, Option<Record>), Failure> {
        let path = self.directory(id)?;
        let make = |path: &Path, deep| fs::DirBuilder::new().mode(0o700).recursive(deep).create(path);
        make(&self.root, true).map_err(Failure::path("mkdir", &self.root))?;
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        while Instant::now() < deadline {
            match make(&path, false) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Failure::path("mkdir", &path)(error));
                }
                _ => {}
            }
            match lock(&path) {
                // Somebody deleted it, or another in its place.
                Err(Errno::NOENT) | Ok(None) => {}
                Err(Errno::WOULDBLOCK) => match read(&path)? {
                    Some(record) if record.is_left_over() => end_left_over(&path, &record)?,
                    // Another command is at work on it.
                    _ => return Err(Failure::Exists),
                },
                Err(errno) => return Err(Failure::path("lock", &path)(errno.into())),
                Ok(Some(slot)) => match read(&path)? {
                    Some(record) if record.init.is_some() => return Err(Failure::Exists),
                    left => return Ok((slot, left)),
                },
            }
        }
        Err(Failure::Exists)
    }

    /// Waits until no other command is at work on a container.
    pub(crate) fn lock(&self, id: &str) -> Result<Slot, Failure> {
        let path = self.directory(id)?;
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        while Instant::now() < deadline {
            match lock(&path) {
                Ok(Some(slot)) => return Ok(slot),
                Ok(None) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => return Err(Failure::NoContainer),
                Err(Errno::WOULDBLOCK) => match read(&path)? {
                    Some(record) if record.is_left_over() => end_left_over(&path, &record)?,
                    Some(record) if record.init.is_none() => return Err(Failure::Creating),
                    _ => std::thread::sleep(LOCK_PAUSE),
                },
                Err(errno) => return Err(Failure::path("lock", &path)(errno.into())),
            }
        }
        Err(Failure::Busy(LOCK_WAIT_MAX))
    }

    /// As [`Self::lock`], and ends a command that is creating the container.
    pub(crate) fn seize(&self, id: &str) -> Result<Slot, Failure> {
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match self.lock(id) {
                Err(Failure::Creating) if Instant::now() < deadline => {}
                locked => return locked,
            }
            let record = read(&self.directory(id)?)?;
            let creator = record.filter(|record| record.init.is_none()).and_then(|record| record.creator);
            if let Some(creator) = creator.and_then(Init::open) {
                // One that has just ended is no error. Its init, which has the lock too, is met as left over then.
                let _ = creator.signal(libc::SIGKILL);
                ends_within(creator.pidfd(), LOCK_PAUSE)?;
            }
        }
    }

    /// The names of all containers' directories, sorted.
    pub(crate) fn ids(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Ok(name) = entry.file_name().into_string()
            {
                ids.push(name);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

impl Slot {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The record, if there is one.
    pub(crate) fn read(&self) -> Result<Option<Record>, Failure> {
        read(&self.path)
    }

    /// Writes the record, as a whole or not at all.
    pub(crate) fn write(&self, record: &Record) -> Result<(), Failure> {
        let text = serde_json::to_vec(record)
            .map_err(|source| Failure::Json { what: "cannot write the state".to_owned(), source })?;
        replace(&self.path.join(RECORD_NAME), &text)
    }

    /// Keeps the specification as the container was made from it: the bundle's may change.
    pub(crate) fn keep_spec(&self, spec: &Spec) -> Result<(), Failure> {
        let written = skep_runtime::spec::write_bundle(&self.path, spec);
        written.map_err(|error| Failure::Refused(error.to_string()))
    }

    /// Removes what lies in the directory, for another beginning.
    pub(crate) fn empty(&self) -> Result<(), Failure> {
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(Failure::path("empty", &self.path))
    }

    /// Removes the directory: the record first, so that a kill in between leaves what counts as left over.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        match fs::remove_file(self.path.join(RECORD_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::path("remove", &self.path)(error));
            }
            _ => {}
        }
        fs::remove_dir_all(&self.path).map_err(Failure::path("remove", &self.path))
    }
}

/// The specification that a container was made from.
pub(crate) fn kept_spec(directory: &Path) -> Result<Spec, Failure> {
    skep_runtime::spec::read_bundle(directory).map_err(|error| Failure::Refused(error.to_string()))
}

/// Writes a file under a temporary name that nobody can have foreseen, and renames it.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let temporary = path.with_file_name(format!(".skep-{:016x}", RandomState::new().hash_one(path)));
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o644).custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let mut file = options.open(&temporary)?;
        let written = file.write_all(text).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    };
    write().map_err(Failure::path("open", path))
}

/// The init of a killed command has its lock until that finds itself alone, and it may be at a hook that takes for ever.
///
/// Another may have been given the same group by now, or may be creating the same container: what is in the group is
/// killed only if one of it has the lock, and the record has not changed after that was seen.
fn end_left_over(path: &Path, record: &Record) -> Result<(), Failure> {
    if let Some(place) = &record.cgroup
        && place.pids().into_iter().any(|pid| has_open(pid, path))
        && read(path)?.as_ref() == Some(record)
    {
        place.kill();
    }
    std::thread::sleep(LOCK_PAUSE);
    Ok(())
}

/// Whether a process has a directory open. Of what else it has open nothing is asked: it may be a stranger's by now, and
/// on a filesystem that does not answer.
fn has_open(pid: i32, path: &Path) -> bool {
    let identity = |path: &Path, follow| {
        let flags = AtFlags::STATX_DONT_SYNC | follow;
        let found = statx(CWD, path, flags, StatxFlags::INO).ok()?;
        Some((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
    };
    let Some(wanted) = identity(path, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    // Where it stands depends on who looks; its name does not.
    let mut named = descriptors
        .map(|entry| entry.path())
        .filter(|entry| fs::read_link(entry).is_ok_and(|link| link.file_name() == path.file_name()));
    named.any(|entry| identity(&entry, AtFlags::empty()) == Some(wanted))
}

/// `None`: the directory was deleted, or replaced, before it was locked. `WOULDBLOCK`: another has the lock.
fn lock(path: &Path) -> Result<Option<Slot>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::io::retry_on_intr(|| flock(&directory, FlockOperation::NonBlockingLockExclusive))?;
    let locked = rustix::fs::fstat(&directory)?;
    match rustix::fs::lstat(path) {
        Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => {
            Ok(Some(Slot { path: path.to_path_buf(), _lock: directory }))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn read(directory: &Path) -> Result<Option<Record>, Failure> {
    let path = directory.join(RECORD_NAME);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > RECORD_BYTES_MAX => {
            return Err(Failure::Refused(format!("{} is too large", path.display())));
        }
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Failure::path("stat", &path)(error)),
    }
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Failure::path("open", &path))?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| Failure::Json { what: format!("cannot read {}", path.display()), source })
}

/// As runc: letters, digits and `_+-.`, and no name that is the directory itself or the one above.
fn check_id(id: &str) -> Result<(), Failure> {
    if id.is_empty() {
        return Err(Failure::NoId);
    }
    if weak::has(Weakness::Names) {
        return Ok(());
    }
    let fine = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
    if fine && id != "." && id != ".." && id.len() <= ID_BYTES_MAX { Ok(()) } else { Err(Failure::IdFormat) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_lead_out_of_the_root() {
        for bad in [".", "..", "../evil", "a/b", "/", "a b", "ä", "a\0", &"x".repeat(256)] {
            assert!(matches!(check_id(bad), Err(Failure::IdFormat)), "{bad:?}");
        }
        assert!(matches!(check_id(""), Err(Failure::NoId)));
        for good in ["a", "A_b+c-1.2", "...", &"x".repeat(255)] {
            assert!(check_id(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_file_is_replaced_through_nothing_that_somebody_planted() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("pid"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        fs::hard_link(&victim, dir.path().join(".pid")).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        replace(&path, b"42").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "42");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        fs::create_dir(dir.path().join("directory")).unwrap();
        assert!(replace(&dir.path().join("directory"), b"42").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left");
    }

    #[test]
    fn an_id_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("root"));
        let (slot, left) = store.claim("a").unwrap();
        assert!(left.is_none());
        assert!(matches!(store.claim("a"), Err(Failure::Exists)), "locked");
        drop(slot);
        let (slot, _) = store.claim("a").unwrap();
        slot.write(&Record::default()).unwrap();
        drop(slot);
        let (slot, left) = store.claim("a").unwrap();
        assert_eq!(left, Some(Record::default()), "no init yet: left over");
        let record = Record { init: Some(Init { pid: 1, start_time: 1 }), ..Record::default() };
        slot.write(&record).unwrap();
        drop(slot);
        assert!(matches!(store.claim("a"), Err(Failure::Exists)));
        store.lock("a").unwrap().remove().unwrap();
        assert!(matches!(store.lock("a"), Err(Failure::NoContainer)));
        assert!(store.claim("a").is_ok());
    }
}
