//! What the keeper knows of its containers, on disk: one file a container, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use super::protocol::{ContainerInfo, ContainerStatus};

/// End of a record's name.
const SUFFIX: &str = ".json";

/// End of the name of one that is being written.
const TEMPORARY: &str = ".json.new";

/// One container's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) info: ContainerInfo,
    /// The init, even after its end.
    pub(super) pid: i32,
    /// When it started, in ticks since boot (proc(5), stat, field 22): with `boot` it tells the init from another
    /// process that got its number later.
    pub(super) pid_start: u64,
    /// The kernel's boot ID.
    pub(super) boot: String,
    /// The spec's `linux.intelRdt`: what there is to remove in resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resctrl: Option<LinuxIntelRdt>,
}

impl Record {
    pub(super) fn alive(&self) -> bool {
        !matches!(self.info.status, ContainerStatus::Exited(_))
    }
}

/// The directory of records.
#[derive(Debug)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("containers");
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// Reads all. A record that cannot be read is given back as a complaint; it is left where it is.
    pub(super) fn load(&self) -> io::Result<(BTreeMap<String, Record>, Vec<String>)> {
        let mut records = BTreeMap::new();
        let mut complaints = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(TEMPORARY) && entry.file_type()?.is_file() {
                // A crash left it; it is written over when its turn comes if it cannot be removed.
                let _ = std::fs::remove_file(&path);
                continue;
            }
            // What else lies there is somebody else's.
            let Some(id) = name.strip_suffix(SUFFIX) else { continue };
            let read = std::fs::read(&path).map_err(|error| error.to_string());
            let record = read.and_then(|bytes| {
                serde_json::from_slice::<Record>(&bytes).map_err(|error| error.to_string())
            });
            match record {
                Ok(record) if record.info.id == id => drop(records.insert(id.to_owned(), record)),
                Ok(record) => complaints.push(format!("{}: of {:?}", path.display(), record.info.id)),
                Err(error) => complaints.push(format!("{}: {error}", path.display())),
            }
        }
        Ok((records, complaints))
    }

    /// Writes one. With `durable` it survives a power cut when this returns; a container's creation need not, for the
    /// container does not either.
    pub(super) fn save(&self, record: &Record, durable: bool) -> io::Result<()> {
        let path = self.path(&record.info.id);
        let temporary = self.directory.join(format!("{}{TEMPORARY}", record.info.id));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, &path)?;
        if durable {
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(())
    }

    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}{SUFFIX}"))
    }
}

/// This boot's ID.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_broken_records_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("containers/a.json.new"), "half").unwrap();
        std::fs::write(dir.path().join("containers/b.json"), "{").unwrap();
        std::fs::create_dir_all(dir.path().join("containers/c.json.new/d")).unwrap();
        std::fs::create_dir_all(dir.path().join("containers/e/f")).unwrap();
        std::fs::write(dir.path().join("containers/notes"), "keep").unwrap();
        std::fs::create_dir(dir.path().join("containers/g.json")).unwrap();
        let (found, complaints) = records.load().unwrap();
        assert!(found.is_empty());
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(dir.path().join("containers/notes").exists());
        assert!(!dir.path().join("containers/a.json.new").exists());
    }
}
