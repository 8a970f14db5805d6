//! Files that survive a power cut.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::StoreError;

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(StoreError::io("sync folder", folder))
}

/// Puts `bytes` at `path`, whole or not at all, and returns the file, open for reading and writing at its end.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<File, StoreError> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600) // sealed, but nobody else's business
        .open(&temporary)
        .map_err(StoreError::io("create", &temporary))?;
    file.write_all(bytes).map_err(StoreError::io("write", &temporary))?;
    file.sync_all().map_err(StoreError::io("sync", &temporary))?;
    std::fs::rename(&temporary, path).map_err(StoreError::io("rename into place", path))?;
    if let Some(folder) = path.parent() {
        sync_folder(folder)?;
    }
    Ok(file)
}
