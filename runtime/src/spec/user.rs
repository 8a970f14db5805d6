//! Who `user[:group]` is, by the image's own `/etc/passwd` and `/etc/group`.
//!
//! The image is hostile: files are opened with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` below a layer's
//! directory, must be regular, and are read up to a bound. IDs are at most `i32::MAX` (containerd's CVE-2024-40635 was a
//! wrap to root), and a number is never looked up as another number (crun's CVE-2026-30892).

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Largest passwd or group file that is read; larger ones are refused.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Largest user or group ID (as Docker's and containerd's limit).
const ID_MAX: u32 = i32::MAX as u32;

/// Most supplementary groups taken from `/etc/group` (NGROUPS_MAX, limits.h).
const GROUPS_MAX: usize = 65536;

/// A user as a process gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User ID.
    pub uid: u32,
    /// Primary group ID.
    pub gid: u32,
    /// Groups that name the user in `/etc/group`; empty when a group was given explicitly.
    pub additional_gids: Vec<u32>,
    /// Home directory by `/etc/passwd`, if the user has an entry.
    pub home: Option<PathBuf>,
}

/// Why a user could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name without an entry.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// A group name without an entry.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number outside of the range.
    #[error("uids and gids must be in range 0-2147483647, not {0}")]
    OutOfRange(String),
    /// The image's file could not be read.
    #[error("cannot read {file} of the image in {}", root.display())]
    Read {
        /// The layer or root.
        root: PathBuf,
        /// The file in it.
        file: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Resolves `user[:group]`, each a name or a number; the empty string is root.
///
/// `roots` are the directories of an overlay, topmost first (upper, then lower), or one root directory. The first that
/// has the file counts; a whiteout (a character device 0:0) means that the file is not there.
///
/// # Errors
/// See [`UserError`].
pub fn resolve_user(roots: &[PathBuf], user: &str) -> Result<ResolvedUser, UserError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (user, None),
    };
    resolve_in(&read(roots, "etc/passwd")?, &read(roots, "etc/group")?, user, group)
}

/// The user by the texts of the two files.
pub(super) fn resolve_in(
    passwd: &str,
    group_file: &str,
    user: &str,
    group: Option<&str>,
) -> Result<ResolvedUser, UserError> {
    let mut resolved = ResolvedUser::default();
    let number = number(user)?;
    let entry = entries(passwd, 6).find(|fields| match number {
        Some(uid) => parse_id(fields[2]) == Some(uid),
        None => fields[0] == if user.is_empty() { "root" } else { user },
    });
    match (&entry, number) {
        (Some(fields), _) => {
            resolved.uid = parse_id(fields[2]).ok_or_else(|| UserError::OutOfRange(fields[2].to_owned()))?;
            resolved.gid = parse_id(fields[3]).ok_or_else(|| UserError::OutOfRange(fields[3].to_owned()))?;
            resolved.home = Some(PathBuf::from(fields[5]));
        }
        (None, Some(uid)) => resolved.uid = uid,
        (None, None) if user.is_empty() || user == "root" => {}
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    }
    match group {
        Some(group) => resolved.gid = resolve_group(group_file, group)?,
        None => {
            if let Some(fields) = &entry {
                resolved.additional_gids = entries(group_file, 4)
                    .filter(|group| group[3].split(',').any(|member| member == fields[0]))
                    .filter_map(|group| parse_id(group[2]))
                    .take(GROUPS_MAX)
                    .collect();
            }
        }
    }
    Ok(resolved)
}

fn resolve_group(file: &str, group: &str) -> Result<u32, UserError> {
    if let Some(gid) = number(group)? {
        return Ok(gid);
    }
    let fields = entries(file, 3).find(|fields| fields[0] == group);
    let fields = fields.ok_or_else(|| UserError::NoGroup(group.to_owned()))?;
    parse_id(fields[2]).ok_or_else(|| UserError::OutOfRange(fields[2].to_owned()))
}

/// A word of digits alone (or a negative number) is a number and never a name.
fn number(word: &str) -> Result<Option<u32>, UserError> {
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    parse_id(word).map(Some).ok_or_else(|| UserError::OutOfRange(word.to_owned()))
}

fn parse_id(word: &str) -> Option<u32> {
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    word.parse().ok().filter(|id| *id <= ID_MAX)
}

/// Lines with at least `fields` fields.
fn entries(file: &str, fields: usize) -> impl Iterator<Item = Vec<&str>> {
    file.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(move |line| line.len() >= fields)
}

/// The file in the topmost root that has it; empty if none.
fn read(roots: &[PathBuf], file: &'static str) -> Result<String, UserError> {
    for root in roots {
        let error = |source: io::Error| UserError::Read { root: root.clone(), file, source };
        match open(root, file) {
            Ok(None) => return Ok(String::new()),
            Ok(Some(fd)) => {
                let mut bytes = Vec::new();
                let mut limited = std::fs::File::from(fd).take(FILE_BYTES_MAX + 1);
                limited.read_to_end(&mut bytes).map_err(error)?;
                if bytes.len() as u64 > FILE_BYTES_MAX {
                    return Err(error(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes"))));
                }
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(error(errno.into())),
        }
    }
    Ok(String::new())
}

/// `None`: something that is no regular file stands there (a whiteout).
fn open(root: &Path, file: &str) -> Result<Option<OwnedFd>, Errno> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Looked at before it is opened for reading: opening a device or a named pipe may have effects.
    let seen = openat2(&root, file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&seen)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let opened = openat2(
        &root,
        file,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
        flags,
    )?;
    let regular = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) == FileType::RegularFile;
    Ok(regular.then_some(opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n# no:x:1:1::/:\nweb:x:33:34:w:/var/www:/bin/false\nhuge:x:4294967296:0::/:/\n",
        )
        .unwrap();
        std::fs::write(
            dir.path().join("etc/group"),
            "root:x:0:\nweb:x:34:\ntape:x:26:web,other\nadm:x:4:web\n",
        )
        .unwrap();
        dir
    }

    fn resolve(user: &str) -> Result<ResolvedUser, UserError> {
        let dir = image();
        resolve_user(&[dir.path().to_path_buf()], user)
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(resolve("").unwrap().uid, 0);
        let web = resolve("web").unwrap();
        assert_eq!((web.uid, web.gid, web.additional_gids), (33, 34, vec![26, 4]));
        assert_eq!(web.home, Some(PathBuf::from("/var/www")));
        let web = resolve("33:tape").unwrap();
        assert_eq!((web.uid, web.gid, web.additional_gids), (33, 26, vec![]));
        let nobody = resolve("1234").unwrap();
        assert_eq!((nobody.uid, nobody.gid, nobody.home), (1234, 0, None));
        assert_eq!(resolve(":5").unwrap().gid, 5);
    }

    #[test]
    fn what_is_not_there_or_out_of_range_is_refused() {
        assert!(matches!(resolve("nobody"), Err(UserError::NoUser(_))));
        assert!(matches!(resolve("web:none"), Err(UserError::NoGroup(_))));
        for user in ["-1", "2147483648", "4294967296", "18446744073709551616", "0:-5", "huge", "+1"] {
            assert!(matches!(resolve(user), Err(UserError::OutOfRange(_))), "{user}");
        }
    }

    #[test]
    fn the_topmost_layer_counts_and_links_stay_inside() {
        let base = image();
        let top = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("passwd"), "web:x:0:0::/:/\n").unwrap();
        std::fs::create_dir(top.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("passwd"), top.path().join("etc/passwd")).unwrap();
        let roots = [top.path().to_path_buf(), base.path().to_path_buf()];
        // The link leads to nothing inside the layer, so the layer below answers.
        assert_eq!(resolve_user(&roots, "web").unwrap().uid, 33);
        std::fs::remove_file(top.path().join("etc/passwd")).unwrap();
        std::fs::write(top.path().join("etc/passwd"), "web:x:99:99::/:/\n").unwrap();
        assert_eq!(resolve_user(&roots, "web").unwrap().uid, 99);
    }

    proptest! {
        #[test]
        fn a_number_is_itself_or_refused(number in any::<u64>()) {
            match resolve(&number.to_string()) {
                Ok(user) => prop_assert_eq!(u64::from(user.uid), number),
                Err(_) => prop_assert!(number > u64::from(ID_MAX)),
            }
        }
    }
}
