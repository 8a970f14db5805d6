//! OCI runtime specs as Docker makes them, bundles on disk, and users of an image.

mod defaults;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod lenient;
mod user;

pub use self::defaults::{confine, default_capabilities, default_spec, no_capabilities};
pub use self::lenient::{parse_process, parse_spec};
pub use self::user::{ResolvedUser, UserError, resolve_user};

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

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
    let text = read_text(&path)?;
    parse_spec(&text).map_err(|source| BundleError::Syntax { path, source })
}

/// What became of the seccomp profile in [`read_bundle_knowing`].
#[derive(Debug, PartialEq, Eq)]
pub enum ReadProfile<T> {
    /// There is none.
    None,
    /// It is in the spec. This is its text.
    New(String),
    /// Its text was known, and it is not in the spec.
    Known(T),
}

/// Reads a bundle's spec without its seccomp profile, by far the largest part, if `known` knows the profile's text.
///
/// # Errors
/// Every variant of [`BundleError`] but `Write`.
pub fn read_bundle_knowing<T>(
    bundle: &Path,
    known: impl FnOnce(&str) -> Option<T>,
) -> Result<(Spec, ReadProfile<T>), BundleError> {
    let path = bundle.join(CONFIG_NAME);
    let mut text = read_text(&path)?;
    let profile = match profile_range(&text) {
        None => ReadProfile::None,
        Some((range, profile)) => match known(profile) {
            None => ReadProfile::New(profile.to_owned()),
            Some(known) => {
                text.splice(range, *b"null");
                ReadProfile::Known(known)
            }
        },
    };
    let (spec, _) = parse_spec(&text).map_err(|source| BundleError::Syntax { path, source })?;
    Ok((spec, profile))
}

/// Where in a spec's text the seccomp profile stands. `None` also if the text is no spec.
fn profile_range(text: &[u8]) -> Option<(Range<usize>, &str)> {
    #[derive(Deserialize)]
    struct Outline<'a> {
        #[serde(borrow)]
        linux: Linux<'a>,
    }
    #[derive(Deserialize)]
    struct Linux<'a> {
        #[serde(borrow)]
        seccomp: &'a RawValue,
    }
    let outline: Outline<'_> = serde_json::from_slice(text).ok()?;
    let profile = outline.linux.seccomp.get();
    // It is a part of the text, borrowed.
    let start = (profile.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let is_profile = profile.starts_with('{') && start + profile.len() <= text.len();
    is_profile.then_some((start..start + profile.len(), profile))
}

fn read_text(path: &Path) -> Result<Vec<u8>, BundleError> {
    let read = || -> io::Result<(u64, Vec<u8>)> {
        let size = std::fs::metadata(path)?.len();
        Ok((size, if size <= CONFIG_BYTES_MAX { std::fs::read(path)? } else { Vec::new() }))
    };
    let (bytes, text) = read().map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    if bytes > CONFIG_BYTES_MAX {
        return Err(BundleError::TooLarge { path: path.to_owned(), bytes });
    }
    Ok(text)
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
    fn a_profile_whose_text_is_known_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = default_spec();
        write_bundle(dir.path(), &whole).unwrap();
        let read = |known: &dyn Fn(&str) -> Option<u8>| read_bundle_knowing(dir.path(), known).unwrap();
        assert_eq!(read(&|_| Some(1)), (whole.clone(), ReadProfile::None));
        confine(&mut whole).unwrap();
        write_bundle(dir.path(), &whole).unwrap();
        let (spec, profile) = read(&|_| None);
        assert_eq!(spec, whole);
        let ReadProfile::New(text) = profile else { panic!("{profile:?}") };
        let profile: oci::LinuxSeccomp = serde_json::from_str(&text).unwrap();
        assert_eq!(whole.linux().as_ref().unwrap().seccomp().as_ref(), Some(&profile));
        let (spec, profile) = read(&|seen| (seen == text).then_some(7));
        assert_eq!(profile, ReadProfile::Known(7));
        whole.linux_mut().as_mut().unwrap().set_seccomp(None);
        assert_eq!(spec, whole);
    }

    #[test]
    fn a_broken_bundle_says_where() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG_NAME), "{\"ociVersion\": 7}").unwrap();
        let text = read_bundle(dir.path()).unwrap_err().to_string();
        assert!(text.contains("config.json") && text.contains("line 1"), "{text}");
    }
}
