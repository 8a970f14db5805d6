//! OCI runtime specs as Docker makes them, bundles on disk, and users of an image.

mod defaults;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod lenient;
mod user;

pub use self::defaults::{confine, default_capabilities, default_spec};
pub use self::lenient::{parse_process, parse_spec};
pub use self::user::{ResolvedUser, UserError, resolve_user};

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The OCI types, so that callers need not name the crate's version.
pub use oci_spec::runtime as oci;

use oci_spec::runtime::Spec;

/// A bundle's file with the spec in it.
pub const CONFIG_NAME: &str = "config.json";

/// Largest `config.json` that is read. Docker's own are about 10 KiB; a long environment may add a lot.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a bundle could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any honest spec.
    #[error("{} is too large: {bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file is not an OCI runtime spec.
    #[error("{} is not an OCI runtime spec: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
}

/// Writes `config.json` into the directory `bundle`, which it makes if there is none. The file is replaced as a whole.
///
/// # Errors
/// [`BundleError::Write`].
pub fn write_bundle(bundle: &Path, spec: &Spec) -> Result<(), BundleError> {
    let path = bundle.join(CONFIG_NAME);
    let temporary = bundle.join(".config.json.new");
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(bundle)?;
        let mut file = io::BufWriter::new(std::fs::File::create(&temporary)?);
        serde_json::to_writer(&mut file, spec)?;
        file.flush()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|source| BundleError::Write { path: path.clone(), source })
}

/// Reads a bundle's spec.
///
/// # Errors
/// Every variant of [`BundleError`] but `Write`.
pub fn read_bundle(bundle: &Path) -> Result<Spec, BundleError> {
    read_bundle_warned(bundle).map(|(spec, _)| spec)
}

/// Reads a bundle's spec. The second part is what a person should know about it.
///
/// # Errors
/// Every variant of [`BundleError`] but `Write`.
pub fn read_bundle_warned(bundle: &Path) -> Result<(Spec, Vec<String>), BundleError> {
    let path = bundle.join(CONFIG_NAME);
    let read = || -> io::Result<(u64, Vec<u8>)> {
        let size = std::fs::metadata(&path)?.len();
        Ok((size, if size <= CONFIG_BYTES_MAX { std::fs::read(&path)? } else { Vec::new() }))
    };
    let (bytes, text) = read().map_err(|source| BundleError::Read { path: path.clone(), source })?;
    if bytes > CONFIG_BYTES_MAX {
        return Err(BundleError::TooLarge { path, bytes });
    }
    parse_spec(&text).map_err(|source| BundleError::Syntax { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let spec = default_spec();
        write_bundle(&dir.path().join("b"), &spec).unwrap();
        assert_eq!(read_bundle(&dir.path().join("b")).unwrap(), spec);
    }

    #[test]
    fn a_broken_bundle_says_where() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG_NAME), "{\"ociVersion\": 7}").unwrap();
        let text = read_bundle(dir.path()).unwrap_err().to_string();
        assert!(text.contains("config.json") && text.contains("line 1"), "{text}");
    }
}
