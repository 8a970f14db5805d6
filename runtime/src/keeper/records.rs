//! What the keeper knows of its containers, on disk: one file a container, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::protocol::{ContainerInfo, ContainerStatus};

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
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // A temporary file that a crash left.
                std::fs::remove_file(&path)?;
                continue;
            }
            let read = std::fs::read(&path).map_err(|error| error.to_string());
            match read
                .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(|error| error.to_string()))
            {
                Ok(record) => drop(records.insert(record.info.id.clone(), record)),
                Err(error) => complaints.push(format!("{}: {error}", path.display())),
            }
        }
        Ok((records, complaints))
    }

    /// Writes one. With `durable` it survives a power cut when this returns; a container's creation need not, for the
    /// container does not either.
    pub(super) fn save(&self, record: &Record, durable: bool) -> io::Result<()> {
        let path = self.path(&record.info.id);
        let temporary = path.with_extension("json.new");
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
        self.directory.join(format!("{id}.json"))
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
        let (found, complaints) = records.load().unwrap();
        assert!(found.is_empty());
        assert_eq!(complaints.len(), 1);
        assert!(!dir.path().join("containers/a.json.new").exists());
    }
}
