//! What an honest layer asks for comes out.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::*;
use crate::testing::Tar;

/// A layer directory beside its trash, in a folder of its own.
pub(super) struct Place {
    pub(super) folder: tempfile::TempDir,
    pub(super) root: PathBuf,
}

impl Place {
    pub(super) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test needs root: it sets owners and makes devices"
        );
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("layer/fs");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir(folder.path().join("layer/trash")).unwrap();
        Self { folder, root }
    }

    pub(super) fn unpack(&self, tar: &[u8]) -> Result<Unpacked, LayerError> {
        self.unpack_by(tar, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    pub(super) fn unpack_by(&self, tar: &[u8], rule: ResolveFlags) -> Result<Unpacked, LayerError> {
        let root = File::open(&self.root).unwrap();
        let trash = File::open(self.folder.path().join("layer/trash")).unwrap();
        Unpacker::new(root.as_fd(), trash.as_fd(), rule).run(&mut TarStream::new(tar))
    }

    pub(super) fn stat(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(super) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(super) fn xattr(&self, path: &str, key: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 256];
        let n = rustix::fs::lgetxattr(self.root.join(path), key, &mut value[..]).ok()?;
        value.truncate(n);
        Some(value)
    }

    pub(super) fn whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }
}

#[test]
fn all_kinds_with_their_metadata() {
    let place = Place::new();
    let mut owned = Tar::header(b"a/owned", b'0', 2, 0o6755, b"");
    owned.set_uid(1234);
    owned.set_gid(2_000_000_000);
    owned.set_cksum();
    let mut device = Tar::header(b"a/null", b'3', 0, 0o666, b"");
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    device.set_cksum();
    let tar = Tar::default()
        .dir("./", 0o751)
        .dir("a/", 0o1777)
        .pax(&[("mtime", b"1234567890.987654321"), ("SCHILY.xattr.user.k", b"v\0\n=")])
        .raw(&owned, b"hi")
        .raw(&device, b"")
        .raw(&Tar::header(b"a/fifo", b'6', 0, 0o600, b""), b"")
        .symlink("a/link", "../etc/passwd")
        .hardlink("b/hard", "a/owned")
        .hardlink("b/hardlink-to-link", "/a/link")
        .pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0")])
        .file_mode("cap", 0o755, b"x")
        .file("implied/deep/file", b"")
        .end();
    place.unpack(&tar).unwrap();

    assert_eq!(place.stat("").mode() & 0o7777, 0o751);
    assert_eq!(place.stat("").mtime(), 1_000_000_000);
    assert_eq!(place.stat("a").mode() & 0o7777, 0o1777);
    assert_eq!(place.stat("a").mtime(), 1_000_000_000, "set after its entries were made");
    let owned = place.stat("a/owned");
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (1234, 2_000_000_000, 0o6755));
    assert_eq!((owned.mtime(), owned.mtime_nsec()), (1_234_567_890, 987_654_321));
    assert_eq!(place.read("a/owned"), "hi");
    assert_eq!(place.xattr("a/owned", "user.k").unwrap(), b"v\0\n=");
    let null = place.stat("a/null");
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o7777, null.mtime()), (makedev(1, 3), 0o666, 1_000_000_000));
    assert!(place.stat("a/fifo").file_type().is_fifo());
    assert_eq!(std::fs::read_link(place.root.join("a/link")).unwrap(), PathBuf::from("../etc/passwd"));
    assert_eq!(place.stat("a/link").mtime(), 1_000_000_000);
    assert_eq!(place.stat("b/hard").ino(), owned.ino());
    assert_eq!(place.stat("b/hardlink-to-link").ino(), place.stat("a/link").ino());
    assert_eq!(place.xattr("cap", "security.capability").unwrap().len(), 20);
    assert_eq!(place.stat("implied/deep").permissions().mode() & 0o7777, 0o755);
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let place = Place::new();
    let tar = Tar::default()
        .file("d/.wh.gone", b"")
        .file("o/kept", b"1")
        .file("o/.wh..wh..opq", b"")
        .file("o/later", b"2")
        .file("x/.wh..wh.plnk/1", b"")
        .file(".wh..wh.aufs", b"")
        // A whiteout and an entry of one layer: the entry wins, and a directory hides the lower one.
        .file(".wh.both", b"")
        .file("both", b"file")
        .file("first", b"file")
        .file(".wh.first", b"")
        .file(".wh.dir", b"")
        .file("dir/new", b"")
        .dir("dir2", 0o755)
        .file(".wh.dir2", b"")
        .end();
    place.unpack(&tar).unwrap();
    assert!(place.whiteout("d/gone"));
    assert_eq!(place.xattr("o", OPAQUE_XATTR).unwrap(), b"y");
    assert_eq!(place.read("o/kept") + &place.read("o/later"), "12");
    assert!(!place.root.join(".wh..wh.aufs").exists());
    assert_eq!(place.read("both"), "file");
    assert_eq!(place.read("first"), "file");
    assert_eq!(place.xattr("dir", OPAQUE_XATTR).unwrap(), b"y");
    assert!(place.stat("dir/new").is_file());
    assert_eq!(place.xattr("dir2", OPAQUE_XATTR).unwrap(), b"y");
    assert_eq!(place.xattr("d", OPAQUE_XATTR), None);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let place = Place::new();
    let tar = Tar::default()
        .file("f", b"one")
        .file("f", b"two")
        .file("d/x/y", b"")
        .symlink("d", "f")
        .symlink("s", "f")
        .dir("s", 0o700)
        .dir("keep", 0o700)
        .file("keep/in", b"")
        .dir("keep", 0o711)
        .hardlink("f", "f")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read("f"), "two");
    assert!(place.stat("d").is_symlink());
    assert!(place.stat("s").is_dir());
    assert_eq!(place.stat("keep").mode() & 0o777, 0o711);
    assert!(place.stat("keep/in").is_file());
}

#[test]
fn long_names_and_links_in_both_dialects() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let gnu_name = [long.as_bytes(), b"\0"].concat();
    let tar = Tar::default()
        .raw(&Tar::header(b"././@LongLink", b'L', gnu_name.len() as u64, 0, b""), &gnu_name)
        .file("short", b"gnu")
        .pax(&[("path", b"p/a\xc3\xa9"), ("linkpath", long.as_bytes())])
        .hardlink("short", "short")
        .raw(&Tar::header(b"././@LongLink", b'K', gnu_name.len() as u64, 0, b""), &gnu_name)
        .symlink("s", "short")
        .end();
    place.unpack(&tar).unwrap();
    assert_eq!(place.read(&long), "gnu");
    assert_eq!(place.read("p/aé"), "gnu");
    assert_eq!(std::fs::read_link(place.root.join("s")).unwrap(), PathBuf::from(long));
    assert!(!place.root.join("short").exists());
}

#[test]
fn an_entry_below_a_link_of_the_same_layer_lands_where_it_leads() {
    let place = Place::new();
    let tar = Tar::default()
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr")
        .file("lib/a", b"1");
    place.unpack(&tar.file("abs/lib/b", b"2").end()).unwrap();
    assert_eq!(place.read("usr/lib/a") + &place.read("usr/lib/b"), "12");
}

#[test]
fn same_as_gnu_tar() {
    let source = tempfile::tempdir().unwrap();
    let base = source.path();
    std::fs::create_dir_all(base.join("a/b")).unwrap();
    std::fs::write(base.join("a/b/file"), "x".repeat(100_000)).unwrap();
    std::fs::write(base.join("a").join("n".repeat(180)), "long").unwrap();
    std::fs::hard_link(base.join("a/b/file"), base.join("hard")).unwrap();
    std::os::unix::fs::symlink("a/b", base.join("sym")).unwrap();
    std::fs::set_permissions(base.join("a/b/file"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    for format in ["gnu", "pax", "posix"] {
        let out = std::process::Command::new("tar")
            .args(["-c", &format!("--format={format}"), "-C"])
            .arg(base)
            .arg(".")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let place = Place::new();
        place.unpack(&out.stdout).unwrap();
        for name in ["a/b/file", "hard", "sym", "a", &format!("a/{}", "n".repeat(180))] {
            let (ours, theirs) = (place.stat(name), std::fs::symlink_metadata(base.join(name)).unwrap());
            assert_eq!((ours.mode(), ours.mtime()), (theirs.mode(), theirs.mtime()), "{format} {name}");
            assert!(ours.is_dir() || ours.len() == theirs.len(), "{format} {name}");
        }
        assert_eq!(place.stat("hard").ino(), place.stat("a/b/file").ino());
    }
}
