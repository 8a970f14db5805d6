//! The vault's files: how they look, and how they are replaced.
//!
//! Both are text: `skep-vault/1 <kind>`, the bytes in hexadecimal, the SHA-256 of all that stands before it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::{VaultError, Wrap};
use crate::Key;
use crate::key::KEY_BYTES;

const VAULT: &str = "vault";
const NODE_KEY: &str = "key";
const HEAD: &str = "skep-vault/1 ";
/// The largest file that is read: the real ones have below 300 bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Called between any two changes of the folder: a test copies the folder there, as a crash would leave it.
pub(super) struct Steps<'a>(Option<&'a mut dyn FnMut()>);

impl<'a> Steps<'a> {
    pub(super) const fn unseen() -> Self {
        Self(None)
    }

    #[cfg(test)]
    pub(super) fn seen(by: &'a mut dyn FnMut()) -> Self {
        Self(Some(by))
    }

    fn step(&mut self) {
        if let Some(see) = &mut self.0 {
            see();
        }
    }
}

pub(super) fn vault_path(dir: &Path) -> PathBuf {
    dir.join(VAULT)
}

pub(super) fn make_folder(dir: &Path) -> Result<(), VaultError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make folder", dir))?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io("restrict folder", dir))
}

pub(super) fn exists(dir: &Path) -> Result<bool, VaultError> {
    let path = vault_path(dir);
    path.try_exists().map_err(io("look for", &path))
}

pub(super) fn read_vault(dir: &Path) -> Result<(Wrap, Vec<u8>), VaultError> {
    let path = vault_path(dir);
    let (kind, bytes) = read(&path)?.ok_or_else(|| VaultError::Missing { dir: dir.to_owned() })?;
    let wrap = match kind.as_str() {
        "wrapped by node-key" => Wrap::NodeKey,
        "wrapped by unlock-key" => Wrap::UnlockKey,
        _ => return Err(VaultError::Damaged { path, reason: "it is wrapped in an unknown way" }),
    };
    Ok((wrap, bytes.to_vec()))
}

pub(super) fn read_node_key(dir: &Path) -> Result<Key, VaultError> {
    let path = dir.join(NODE_KEY);
    let damaged = |reason| VaultError::Damaged { path: path.clone(), reason };
    let (kind, bytes) = read(&path)?.ok_or_else(|| damaged("it is missing"))?;
    if kind != "node-key" {
        return Err(damaged("it is no key"));
    }
    let exact: &[u8; KEY_BYTES] =
        bytes.as_slice().try_into().map_err(|_| damaged("the key has another length"))?;
    Ok(Key::from_bytes(*exact))
}

pub(super) fn write_node_key(dir: &Path, key: &Key, steps: &mut Steps<'_>) -> Result<(), VaultError> {
    replace(&dir.join(NODE_KEY), &encode("node-key", key.bytes()), steps, || ())
}

/// `replaced` is called as soon as the new file has the name.
pub(super) fn write_vault(
    dir: &Path,
    wrap: Wrap,
    wrapped: &[u8],
    steps: &mut Steps<'_>,
    replaced: impl FnOnce(),
) -> Result<(), VaultError> {
    let kind = match wrap {
        Wrap::NodeKey => "wrapped by node-key",
        Wrap::UnlockKey => "wrapped by unlock-key",
    };
    replace(&vault_path(dir), &encode(kind, wrapped), steps, replaced)
}

/// Overwrites and removes the key file, if there is one.
pub(super) fn erase_node_key(dir: &Path, steps: &mut Steps<'_>) -> Result<(), VaultError> {
    let path = dir.join(NODE_KEY);
    let mut file = match OpenOptions::new().write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("open", &path)(error)),
    };
    let length = usize::try_from(file.metadata().map_err(io("look at", &path))?.len().min(FILE_BYTES_MAX));
    file.write_all(&vec![b'0'; length.unwrap_or(0)]).map_err(io("overwrite", &path))?;
    file.sync_all().map_err(io("sync", &path))?;
    steps.step();
    std::fs::remove_file(&path).map_err(io("remove", &path))?;
    steps.step();
    sync_folder(dir)
}

/// Removes what a crash left. That it is there hurts nobody who can read the folder: see the module's drawing.
pub(super) fn clean(dir: &Path, wrap: Wrap) {
    for name in [VAULT, NODE_KEY] {
        let _ = std::fs::remove_file(temporary(&dir.join(name)));
    }
    if wrap == Wrap::UnlockKey {
        let _ = erase_node_key(dir, &mut Steps::unseen());
    }
}

fn replace(
    path: &Path,
    bytes: &[u8],
    steps: &mut Steps<'_>,
    replaced: impl FnOnce(),
) -> Result<(), VaultError> {
    let temporary = temporary(path);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("remove", &temporary)(error)),
        _ => steps.step(),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("create", &temporary))?;
    steps.step();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    for half in [first, rest] {
        file.write_all(half).map_err(io("write", &temporary))?;
        steps.step();
    }
    file.sync_all().map_err(io("sync", &temporary))?;
    std::fs::rename(&temporary, path).map_err(io("rename into place", path))?;
    replaced();
    steps.step();
    path.parent().map_or(Ok(()), sync_folder)
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn sync_folder(dir: &Path) -> Result<(), VaultError> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(io("sync folder", dir))
}

fn encode(kind: &str, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    // As large as it gets, so that no copy of it is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(HEAD.len() + kind.len() + 2 * bytes.len() + 2 * 32 + 3));
    text.extend_from_slice(HEAD.as_bytes());
    text.extend_from_slice(kind.as_bytes());
    text.push(b'\n');
    let mut digits = hex::encode(bytes);
    text.extend_from_slice(digits.as_bytes());
    digits.zeroize();
    text.push(b'\n');
    let checksum = hex::encode(Sha256::digest(text.as_slice()));
    text.extend_from_slice(checksum.as_bytes());
    text.push(b'\n');
    text
}

/// What a file holds: its kind and its bytes.
type Parts = (String, Zeroizing<Vec<u8>>);

/// None when the file is not there.
fn read(path: &Path) -> Result<Option<Parts>, VaultError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open", path)(error)),
    };
    let mut text = Zeroizing::new(String::with_capacity(512));
    let damaged = |reason| VaultError::Damaged { path: path.to_owned(), reason };
    match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => decode(&text).map(Some).map_err(damaged),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(damaged("it is not text")),
        Err(error) => Err(io("read", path)(error)),
    }
}

fn decode(text: &str) -> Result<Parts, &'static str> {
    let body = text.strip_suffix('\n').ok_or("it is cut short")?;
    let (before, checksum) = body.rsplit_once('\n').ok_or("it is cut short")?;
    let summed = text.get(..=before.len()).ok_or("it is cut short")?;
    if hex::encode(Sha256::digest(summed.as_bytes())) != checksum {
        return Err("its checksum does not fit");
    }
    let (head, digits) = before.split_once('\n').ok_or("it is cut short")?;
    let kind = head.strip_prefix(HEAD).ok_or("it is of another version")?;
    let bytes = hex::decode(digits).map_err(|_| "it is not hexadecimal")?;
    Ok((kind.to_owned(), Zeroizing::new(bytes)))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::Io { action, path, source }
}
