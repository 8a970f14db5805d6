//! What needs mounts: unpacked layers under overlayfs, and a disk that is full. Each test has a mount namespace
//! of its own (of one thread), so the host sees none of it and nothing is left.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::testing::{Layout, Tar, TestStore, docker_save, gzip};
use crate::*;

/// Runs `test` on a thread whose mounts are its own.
fn with_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root: it makes a mount namespace");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            test();
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn layers_work_under_overlayfs() {
    with_own_mounts(|| {
        let test = TestStore::new();
        let lower = Tar::default()
            .file("gone", b"")
            .file("kept", b"low")
            .file("changed", b"low")
            .file("opaque/old", b"")
            .file("again/old", b"")
            .file("merged/low", b"");
        let middle = Tar::default().file("middle", b"");
        let upper = Tar::default()
            .file(".wh.gone", b"")
            .file("changed", b"high")
            .file("opaque/.wh..wh..opq", b"")
            .file("opaque/new", b"")
            .file(".wh.again", b"")
            .file("again/new", b"")
            .file("merged/high", b"");
        test.load(&docker_save(&["a:1"], &[lower.end(), middle.end(), upper.end()])).unwrap();
        let folders = test.store.rootfs(&test.store.resolve("a:1").unwrap()).unwrap();
        let merged = test.folder.path().join("merged");
        std::fs::create_dir(&merged).unwrap();
        let lowerdir: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        let options = format!("lowerdir={}", lowerdir.join(":"));
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        assert_eq!(names(&merged), ["again", "changed", "kept", "merged", "middle", "opaque"]);
        assert_eq!(std::fs::read_to_string(merged.join("changed")).unwrap(), "high");
        assert_eq!(names(&merged.join("opaque")), ["new"]);
        assert_eq!(names(&merged.join("again")), ["new"]);
        assert_eq!(names(&merged.join("merged")), ["high", "low"]);
        nix::mount::umount(&merged).unwrap();
    });
}

#[test]
fn a_full_disk_while_loading_changes_nothing() {
    with_own_mounts(|| {
        let test = TestStore::new();
        let disk = test.folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        let folder = tempfile::tempdir_in(&disk).unwrap();
        let small = TestStore { store: Store::open(&folder.path().join("store")).unwrap(), folder };
        small.load(&docker_save(&["a:1"], &[Tar::default().file("a", b"1").end()])).unwrap();
        let before = small.listing();

        let noise: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let error =
            small.load(&docker_save(&["b:1"], &[Tar::default().file("b", &noise).end()])).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        assert_eq!(error.kind(), Kind::System);
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert_eq!(small.listing(), before);
        assert!(small.store.resolve("b:1").is_err());

        // A layer that fits packed but not unpacked.
        let plain = Tar::default().file("zeros", &vec![0; 3_000_000]).end();
        let mut layout = Layout::default();
        let image = layout.image(&[(gzip(&plain), plain)]);
        small.load(&layout.named(image, "org.opencontainers.image.ref.name", "c:1").tar()).unwrap();
        let before = small.listing();
        let error = small.store.rootfs(&small.store.resolve("c:1").unwrap()).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        assert_eq!(small.listing(), before);
        drop(small);
        nix::mount::umount(&disk).unwrap();
    });
}
