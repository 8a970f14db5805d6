//! Layers that try to get out, or to cost more than they should. Each row of the project's list of attacks that
//! a layer can try has its test; where the path rule is what stops it, the same layer is unpacked once more with
//! the rule off, to see that the attack is one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use tar::Header;

use super::tests::Place;
use super::*;
use crate::limits::PATH_DEPTH_MAX;
use crate::testing::Tar;

/// Unpacks by the rule and without it. `layer` gets the path of a folder outside the layer that holds a file
/// `secret`; `hit` says whether that folder was harmed.
fn stopped_only_by_the_rule(layer: impl Fn(&str) -> Vec<u8>, hit: impl Fn(&Path) -> bool) {
    for (rule, expect) in
        [(ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS, false), (ResolveFlags::empty(), true)]
    {
        let place = Place::new();
        let outside = place.folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        // Whether it is refused or lands inside does not matter here.
        let _ = place.unpack_by(&layer(outside.to_str().unwrap()), rule);
        assert_eq!(hit(&outside), expect, "with {rule:?}");
    }
}

fn names(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn file_through_symlinked_ancestor() {
    stopped_only_by_the_rule(
        |outside| Tar::default().symlink("l", outside).file("l/evil", b"").end(),
        |outside| outside.join("evil").exists(),
    );
    stopped_only_by_the_rule(
        |_| Tar::default().symlink("l", "../../outside").file("l/evil", b"").end(),
        |outside| outside.join("evil").exists(),
    );
}

#[test]
fn folders_made_through_symlink() {
    stopped_only_by_the_rule(
        |outside| Tar::default().symlink("l", outside).file("l/x/y/evil", b"").end(),
        |outside| outside.join("x").exists(),
    );
}

#[test]
fn hardlink_to_a_file_behind_a_symlink() {
    stopped_only_by_the_rule(
        |outside| Tar::default().symlink("l", outside).hardlink("mine", "l/secret").end(),
        |outside| outside.join("secret").metadata().unwrap().nlink() > 1,
    );
}

#[test]
fn hardlink_to_a_symlink_is_that_link() {
    let place = Place::new();
    let outside = place.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let link = outside.join("secret");
    let tar = Tar::default().symlink("s", link.to_str().unwrap()).hardlink("h", "s").hardlink("i", "h");
    place.unpack(&tar.clone().end()).unwrap();
    assert!(place.stat("h").is_symlink() && place.stat("i").is_symlink());
    // What is unpacked over one of its names replaces the name.
    place.unpack(&tar.file_mode("h", 0o777, b"evil").dir("i", 0o777).end()).unwrap();
    assert!(place.stat("h").is_file() && place.stat("i").is_dir());
    let stat = link.metadata().unwrap();
    assert_eq!((stat.nlink(), stat.mode() & 0o777, stat.len()), (1, 0o644, 6));
}

#[test]
fn whiteout_through_symlinked_ancestor() {
    stopped_only_by_the_rule(
        |outside| Tar::default().symlink("l", outside).file("l/.wh.evil", b"").end(),
        |outside| names(outside) > 1,
    );
    stopped_only_by_the_rule(
        |outside| Tar::default().symlink("l", outside).file("l/.wh..wh..opq", b"").end(),
        |outside| rustix::fs::lgetxattr(outside, OPAQUE_XATTR, &mut [0u8; 8][..]).is_ok(),
    );
}

#[test]
fn node_and_link_through_symlinked_ancestor() {
    stopped_only_by_the_rule(
        |outside| {
            let fifo = Tar::header(b"l/fifo", b'6', 0, 0o666, b"");
            Tar::default().symlink("l", outside).raw(&fifo, b"").symlink("l/sym", "x").end()
        },
        |outside| names(outside) > 1,
    );
}

#[test]
fn magic_links_are_never_followed() {
    stopped_only_by_the_rule(
        |outside| {
            let target = format!("/proc/self/root{outside}");
            Tar::default().symlink("l", &target).file("l/evil", b"").end()
        },
        |outside| outside.join("evil").exists(),
    );
}

#[test]
fn chmod_does_not_follow_a_symlink() {
    let place = Place::new();
    let outside = place.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::set_permissions(&outside, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let link = outside.to_str().unwrap();
    place.unpack(&Tar::default().symlink("l", link).dir("l", 0o777).dir("l/", 0o777).end()).unwrap();
    assert_eq!(outside.metadata().unwrap().mode() & 0o7777, 0o700);
    assert!(place.stat("l").is_dir());
    // The other way round: the link is last, and a time is due for the folder that it replaced.
    place.unpack(&Tar::default().dir("m", 0o777).symlink("m", link).end()).unwrap();
    assert_ne!(outside.metadata().unwrap().mtime(), 1_000_000_000);
    assert!(place.stat("m").is_symlink());
}

#[test]
fn the_root_of_a_layer_stays() {
    for name in ["", ".", "/", "./", "././/"] {
        let name = name.as_bytes();
        for kind in *b"012346" {
            let place = Place::new();
            let tar = Tar::default().raw(&Tar::header(name, kind, 0, 0o777, b"/tmp"), b"").end();
            let error = place.unpack(&tar).unwrap_err();
            assert!(matches!(error, LayerError::Entry { .. }), "{name:?} {kind}: {error}");
            assert!(place.stat("").is_dir());
        }
    }
}

#[test]
fn dots_and_hopeless_names_are_refused() {
    for bad in ["../evil", "a/../../evil", "a/..", "..", "/../evil", "a/.wh.", "a/.wh...", "a/.wh.."] {
        let place = Place::new();
        let error = place.unpack(&Tar::default().file(bad, b"").end()).unwrap_err();
        assert!(matches!(error, LayerError::Entry { .. }), "{bad}: {error}");
    }
    for bad in ["../evil", "/../../evil", ".", "", "d"] {
        let place = Place::new();
        let tar = Tar::default().dir("d", 0o755).hardlink("h", bad).end();
        let error = place.unpack(&tar).unwrap_err();
        assert!(matches!(error, LayerError::Entry { .. }), "{bad}: {error}");
    }
    let deep = "d/".repeat(PATH_DEPTH_MAX + 1);
    for (path, what) in
        [("n".repeat(256), "256"), ("n/".repeat(3000), "6000"), (deep, "deep"), ("a\0b".into(), "zero")]
    {
        let place = Place::new();
        let tar = Tar::default().pax(&[("path", path.as_bytes())]).file("x", b"").end();
        assert!(place.unpack(&tar).is_err(), "{what}");
        assert_eq!(names(&place.root), 0, "{what}");
    }
}

#[test]
fn marks_of_overlayfs_cannot_be_written() {
    let place = Place::new();
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.metacopy", b""),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.fine", b"1"),
        ])
        .dir("d", 0o755)
        .end();
    place.unpack(&tar).unwrap();
    for key in ["trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.redirect"] {
        assert_eq!(place.xattr("d", key), None, "{key}");
    }
    assert_eq!(place.xattr("d", "user.fine").unwrap(), b"1");
}

#[test]
fn pax_size_leaves_no_gap() {
    // The ustar size says 0, the PAX size covers a whole inner archive.
    let inner = Tar::default().file("smuggled", b"evil").end();
    let size = inner.len().to_string();
    let mut header = Tar::header(b"outer", b'0', 0, 0o644, b"");
    header.set_cksum();
    let tar = Tar::default().pax(&[("size", size.as_bytes())]).raw(&header, &inner).file("after", b"").end();
    // Who goes by the ustar size finds the inner archive's entries.
    let naive = |bytes: &[u8]| {
        let mut names = Vec::new();
        let mut at = 0;
        while bytes[at] != 0 {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[at..at + 512]);
            names.push(header.path_bytes().into_owned());
            at += 512 + (header.size().unwrap() as usize).next_multiple_of(512);
        }
        names
    };
    assert!(naive(&tar).contains(&b"smuggled".to_vec()));
    let place = Place::new();
    place.unpack(&tar).unwrap();
    assert!(!place.root.join("smuggled").exists());
    assert_eq!(place.stat("outer").len(), inner.len() as u64);
    assert!(place.root.join("after").exists());

    // The other way: the ustar size covers it, the PAX size says 0. Then it is not data, as GNU tar reads it too.
    let header = Tar::header(b"outer", b'0', inner.len() as u64, 0o644, b"");
    let tar = Tar::default().pax(&[("size", b"0")]).raw(&header, &inner).end();
    let place = Place::new();
    place.unpack(&tar).unwrap();
    assert_eq!(place.stat("outer").len(), 0);
}

#[test]
fn ambiguous_tars_are_refused() {
    let plain = || Tar::default().file("a", b"data");
    let mut wrong_sum = plain().end();
    wrong_sum[0] ^= 1;
    let mut lone_zero = plain().0;
    lone_zero.resize(lone_zero.len() + 512, 0);
    lone_zero.extend_from_slice(&plain().end());
    for (what, bytes) in [
        ("wrong checksum", wrong_sum),
        ("zero block inside", lone_zero),
        ("data of a link", Tar::default().raw(&Tar::header(b"l", b'2', 5, 0o777, b"x"), b"12345").end()),
        ("data of a hard link", plain().raw(&Tar::header(b"l", b'1', 5, 0o777, b"a"), b"12345").end()),
        ("data of a folder", Tar::default().raw(&Tar::header(b"l", b'5', 5, 0o777, b""), b"12345").end()),
        (
            "two PAX headers",
            Tar::default().pax(&[("path", b"x")]).pax(&[("path", b"y")]).file("a", b"").end(),
        ),
        ("PAX without entry", Tar::default().pax(&[("path", b"x")]).end()),
        ("sparse", Tar::default().raw(&Tar::header(b"s", b'S', 0, 0o777, b""), b"").end()),
        ("PAX sparse", Tar::default().pax(&[("GNU.sparse.major", b"1")]).file("a", b"").end()),
        ("unknown kind", Tar::default().raw(&Tar::header(b"s", b'Q', 0, 0o777, b""), b"").end()),
        ("huge extension", Tar::default().raw(&Tar::header(b"s", b'L', 1 << 30, 0o777, b""), b"").end()),
        ("cut in data", plain().0[..514].to_vec()),
        ("cut in header", plain().end()[..100].to_vec()),
        (
            "record too long",
            Tar::default().raw(&Tar::header(b"p", b'x', 9, 0, b""), b"99 a=b\n\0\0").file("a", b"").end(),
        ),
        ("owner out of range", Tar::default().pax(&[("uid", b"4294967295")]).file("a", b"").end()),
        ("owner beyond 32 bits", Tar::default().pax(&[("gid", b"4294967296")]).file("a", b"").end()),
        ("negative owner", Tar::default().pax(&[("uid", b"-1")]).file("a", b"").end()),
    ] {
        let place = Place::new();
        assert!(place.unpack(&bytes).is_err(), "{what}");
    }
}

#[test]
fn a_file_is_no_folder_and_a_broken_link_is_none() {
    for tar in [
        Tar::default().file("f", b"").file("f/x", b"").end(),
        Tar::default().symlink("l", "nowhere").file("l/x", b"").end(),
        Tar::default().symlink("l", "l").file("l/x", b"").end(),
        Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b"").end(),
    ] {
        assert!(Place::new().unpack(&tar).is_err());
    }
}

#[test]
fn repeated_opaque_markers_are_linear() {
    let layer = |count: usize| {
        let mut tar = Tar::default();
        for i in 0..1000 {
            tar = tar.file(&format!("d/f{i}"), b"");
        }
        for _ in 0..count {
            tar = tar.file("d/.wh..wh..opq", b"");
        }
        tar.end()
    };
    let time = |count| {
        let (place, bytes) = (Place::new(), layer(count));
        let start = Instant::now();
        place.unpack(&bytes).unwrap();
        assert!(place.stat("d/f999").is_file());
        start.elapsed()
    };
    let (few, many) = (time(10_000), time(100_000));
    // Ten times the markers; a quadratic reading takes a hundred times as long, and minutes.
    assert!(many < few * 40 && many.as_secs() < 30, "{few:?} for 1e4, {many:?} for 1e5");
}

#[test]
fn replacing_deep_trees_is_cheap() {
    let mut tar = Tar::default();
    for _ in 0..200 {
        tar = tar.file("a/b/c/d/e/f/g", b"").symlink("a", "x");
        tar = tar.raw(&Tar::header(b"a", b'0', 0, 0o644, b""), b"").dir("b", 0o755);
        tar = tar.dir("a", 0o755);
    }
    let place = Place::new();
    place.unpack(&tar.end()).unwrap();
    assert!(place.stat("a").is_dir());
}

/// One entry of a random layer, from names that meet each other often.
fn entries() -> impl Strategy<Value = Vec<(u8, usize, usize, u16)>> {
    prop::collection::vec((0u8..12, 0usize..NAMES.len(), 0usize..NAMES.len(), any::<u16>()), 1..40)
}

const NAMES: &[&str] = &[
    "a",
    "b",
    "a/b",
    "a/b/c",
    "b/a",
    "l",
    "l/a",
    "l/l",
    "../outside/x",
    "/",
    ".",
    "..",
    "a/../b",
    "l/secret",
    "OUT",
    "OUT/secret",
    "OUT/new",
    "../../outside",
    "../../../outside/new",
    "a/.wh.b",
    ".wh.a",
    "l/.wh..wh..opq",
    ".wh..wh..opq",
    "/proc/self/root/tmp",
    "/proc/self/cwd",
    "/proc/self/fd/3",
    "",
    "a//b/",
    "l/../x",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn random_layers_stay_inside(list in entries(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<Option<prop::sample::Index>>()) {
        let place = Place::new();
        let outside = place.folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        let name = |i: usize| NAMES[i].replace("OUT", outside.to_str().unwrap());
        let mut tar = Tar::default();
        for (kind, path, link, mode) in list {
            let (path, link, mode) = (name(path), name(link), u32::from(mode));
            tar = match kind {
                0..=2 => tar.file_mode(&path, mode, b"data"),
                3 | 4 => tar.dir(&path, mode),
                5..=7 => tar.symlink(&path, &link),
                8 => tar.hardlink(&path, &link),
                9 => tar.raw(&Tar::header(path.as_bytes(), b'6', 0, mode, b""), b""),
                10 => tar.pax(&[("path", path.as_bytes()), ("linkpath", link.as_bytes()), ("mtime", b"1.5")]),
                _ => tar.pax(&[("SCHILY.xattr.user.x", b"1")]).file(&path, b""),
            };
        }
        let mut bytes = tar.end();
        for (at, to) in flips {
            let at = at.index(bytes.len());
            bytes[at] = to;
            // A flip in a header only matters if its checksum is right.
            let start = at / 512 * 512;
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[start..start + 512]);
            if header.as_bytes()[257..262] == *b"ustar" {
                header.set_cksum();
                bytes[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        if let Some(cut) = cut {
            let at = cut.index(bytes.len());
            bytes.truncate(at);
        }
        let before = outside.metadata().unwrap();
        let _ = place.unpack(&bytes);
        let after = outside.metadata().unwrap();
        prop_assert_eq!(names(&outside), 1);
        prop_assert_eq!((before.mode(), before.mtime(), before.ctime_nsec()), (after.mode(), after.mtime(), after.ctime_nsec()));
        let secret = outside.join("secret").metadata().unwrap();
        prop_assert_eq!((secret.nlink(), secret.len()), (1, 6));
        prop_assert_eq!(names(place.folder.path()), 2);
        prop_assert_eq!(names(&place.folder.path().join("layer")), 2);
        prop_assert!(place.root.symlink_metadata().unwrap().is_dir());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let place = Place::new();
        let _ = place.unpack(&bytes);
        prop_assert_eq!(names(place.folder.path()), 1);
    }
}
