//! The store as its callers use it: archives in, names, removal, directories out.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder, RootFsBuilder};
use serde_json::json;

use crate::error::LayerError;
use crate::testing::{Layout, Tar, TestStore, config_json, docker_save, gzip};
use crate::*;

fn layer(name: &str, text: &str) -> Vec<u8> {
    Tar::default().file(name, text.as_bytes()).end()
}

fn free(_: &ImageId) -> Option<ImageUse> {
    None
}

fn image_layout(names: &[(&str, &str)]) -> Vec<u8> {
    let mut layout = Layout::default();
    let (a, b) = (layer("a", "1"), layer("b", "2"));
    let image = layout.image(&[(gzip(&a), a.clone()), (zstd::encode_all(&b[..], 1).unwrap(), b)]);
    for (annotation, name) in names {
        layout = layout.named(image.clone(), annotation, name);
    }
    layout.tar()
}

#[test]
fn docker_save_archive() {
    let test = TestStore::new();
    let archive = docker_save(&["nginx:1", "me/web:x"], &[layer("a", "1"), layer("b", "2")]);
    let mut bytes = 0;
    let loaded = test
        .store
        .load(&archive[..], &mut |p| {
            if let LoadProgress::Received { bytes: n } = p {
                bytes = n
            }
        })
        .unwrap();
    assert_eq!(bytes, archive.len() as u64);
    assert_eq!(loaded[0].names, ["nginx:1", "me/web:x"]);
    let image = test.store.resolve("docker.io/library/nginx:1").unwrap();
    assert_eq!(image.id, loaded[0].id);
    assert_eq!(image.repo_tags(), ["nginx:1", "me/web:x"], "in order of the full names");
    let summary = &test.store.list()[0];
    assert_eq!(summary.labels["a"], "b");
    assert_eq!(summary.created.as_deref(), Some("2024-01-02T03:04:05Z"));
    assert!(test.store.read_config(&image).unwrap().starts_with(b"{"));
    let folders = test.store.rootfs(&image).unwrap();
    assert_eq!(std::fs::read_to_string(folders[0].join("b")).unwrap(), "2", "topmost first");
    assert_eq!(std::fs::read_to_string(folders[1].join("a")).unwrap(), "1");
    // The made manifest is an image like any other: by its digest, with all blobs readable.
    let by_digest = test.store.resolve(&image.repo_digests()[0]).unwrap();
    assert_eq!(by_digest.manifest_digest, image.manifest_digest);
    for blob in image.blobs() {
        assert_eq!(test.store.open_blob(&blob.digest).unwrap().metadata().unwrap().len(), blob.size);
    }
    let usage = test.store.usage().unwrap();
    assert_eq!((usage.images, usage.blobs, usage.layers, usage.layer_bytes), (1, 4, 2, 2));
    // Another store agrees about the digest of the manifest.
    let other = TestStore::new();
    other.load(&gzip(&archive)).unwrap();
    assert_eq!(other.store.resolve("nginx:1").unwrap().manifest_digest, image.manifest_digest);
}

#[test]
fn links_of_old_archives() {
    let test = TestStore::new();
    let base = layer("a", "1");
    let config = config_json(&[Digest::of(&base), Digest::of(&base)]);
    let manifest = json!([{"Config": "c.json", "RepoTags": null, "Layers": ["x/layer.tar", "y/layer.tar"]}]);
    let archive = Tar::default()
        .file("./c.json", &config)
        .symlink("y/layer.tar", "../x/layer.tar")
        .file("x/layer.tar", &base)
        .file("manifest.json", manifest.to_string().as_bytes());
    let loaded = test.load(&archive.clone().end()).unwrap();
    let image = test.store.resolve(&loaded[0].id.to_string()).unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(test.store.rootfs(&image).unwrap().len(), 1, "overlayfs refuses one directory twice");
    for target in ["../../x/layer.tar", "/x/layer.tar", "layer.tar", "../nowhere"] {
        let error = TestStore::new().load(&archive.clone().symlink("x/layer.tar", target).end()).unwrap_err();
        assert!(matches!(error, Error::Archive(_)), "{target}: {error}");
    }
}

#[test]
fn oci_layouts_and_their_names() {
    const CONTAINERD: &str = "io.containerd.image.name";
    const REF: &str = "org.opencontainers.image.ref.name";
    for (names, want) in [
        (vec![(CONTAINERD, "docker.io/library/web:1")], vec!["web:1"]),
        (vec![(REF, "web:1")], vec!["web:1"]),
        (vec![(REF, "redis")], vec!["redis:latest"]),
        (vec![(REF, "latest")], vec![]),
        (vec![(REF, "1.25")], vec![]),
        (vec![(REF, "not a name!")], vec![]),
        (vec![(CONTAINERD, "web:1"), (CONTAINERD, "host.io/web:2")], vec!["web:1", "host.io/web:2"]),
    ] {
        let test = TestStore::new();
        let loaded = test.load(&zstd::encode_all(&image_layout(&names)[..], 1).unwrap()).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names, want, "{names:?}");
        let image = test.store.resolve(&loaded[0].id.hex()[..8]).unwrap();
        let folders = test.store.rootfs(&image).unwrap();
        assert_eq!(std::fs::read_to_string(folders[0].join("b")).unwrap(), "2");
    }
    assert!(TestStore::new().load(&image_layout(&[(CONTAINERD, "Not A Name")])).is_err());
}

#[test]
fn the_right_platform_is_taken() {
    let mut layout = Layout::default();
    let (mine, other) = (layer("a", "mine"), layer("a", "other"));
    let mut mine = layout.image(&[(mine.clone(), mine)]);
    let mut other = layout.image(&[(other.clone(), other)]);
    mine["platform"] = json!({"os": "linux", "architecture": manifest::host_architecture()});
    other["platform"] = json!({"os": "linux", "architecture": "mips"});
    // The blobs of another platform may be absent.
    let absent = json!({"digest": Digest::of(b"absent"), "size": 6, "platform": {"os": "windows", "architecture": "amd64"}});
    let index = |entries: serde_json::Value| {
        json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes()
    };
    let inner = layout.blob(index(json!([absent, other, mine])));
    let archive = layout.clone().named(inner, "org.opencontainers.image.ref.name", "a:b").tar();
    let test = TestStore::new();
    test.load(&archive).unwrap();
    let folders = test.store.rootfs(&test.store.resolve("a:b").unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(folders[0].join("a")).unwrap(), "mine");

    let inner = layout.blob(index(json!([absent, other])));
    let error = TestStore::new().load(&layout.clone().named(inner, "x", "").tar()).unwrap_err();
    assert!(matches!(error, Error::NoPlatform { .. }), "{error}");
    assert!(error.to_string().contains("linux/mips"), "{error}");

    // Indexes inside each other, and wide ones.
    let mut deep = mine.clone();
    for _ in 0..limits::INDEX_DEPTH_MAX {
        deep = layout.blob(index(json!([deep])));
    }
    assert!(TestStore::new().load(&layout.clone().named(deep, "x", "").tar()).is_err());
    let wide = layout.blob(index(json!(vec![mine; limits::INDEX_ENTRIES_MAX])));
    assert!(TestStore::new().load(&layout.clone().named(wide, "x", "").tar()).is_err());
}

#[test]
fn bad_archives_change_nothing() {
    let good = image_layout(&[("org.opencontainers.image.ref.name", "web:1")]);
    let saved = docker_save(&["new:1"], &[layer("n", "n")]);
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("zeros", vec![0; 4096]),
        ("no tar", b"this is not a tar at all".repeat(100)),
        ("no documents", Tar::default().file("x", b"").end()),
        ("cut gzip", gzip(&saved)[..200].to_vec()),
        ("xz", b"\xfd7zXZ\0 and more".to_vec()),
        ("upward name", Tar::default().file("../x", b"").end()),
        ("bad digest name", Tar::default().file("blobs/sha256/../../x", b"").end()),
        ("bad digest", Tar::default().file(&format!("blobs/sha256/{}", "A".repeat(64)), b"").end()),
        ("wrong digest", Tar::default().file(&format!("blobs/sha256/{}", "a".repeat(64)), b"x").end()),
        ("bad tag", docker_save(&["Bad Tag"], &[layer("n", "n")])),
        ("no image", Tar::default().file("manifest.json", b"[]").end()),
    ];
    for at in (0..saved.len() - 1536).step_by(512) {
        cases.push(("cut", saved[..at + 100].to_vec()));
        cases.push(("cut at a header", saved[..at].to_vec()));
    }
    // A bit of any member changed.
    for (what, path) in [("layer", "layer0/layer.tar"), ("config", ".json")] {
        let mut changed = saved.clone();
        let header = changed.chunks(512).position(|b| {
            let name = b[..100].split(|&c| c == 0).next().unwrap();
            name.ends_with(path.as_bytes()) && name != b"manifest.json"
        });
        let at = (header.unwrap() + 1) * 512 + 20;
        changed[at] ^= 1;
        cases.push((what, changed));
    }
    let mut both = Layout::default();
    let plain = layer("a", "1");
    both.image(&[(plain.clone(), plain.clone())]);
    let config = json!({"digest": Digest::of(&both.blobs[0]), "size": both.blobs[0].len()});
    let ambiguous = both.blob(
        json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []}).to_string().into_bytes(),
    );
    cases.push(("both manifest and index", both.clone().named(ambiguous, "x", "").tar()));
    let mut lacking = Layout::default();
    let image = lacking.image(&[(plain.clone(), plain.clone())]);
    let mut lacking = lacking.named(image.clone(), "x", "");
    lacking.blobs.remove(1);
    cases.push(("missing layer", lacking.tar()));
    let mut liar = Layout::default();
    let image = liar.image(&[(gzip(&plain), layer("a", "other"))]);
    cases.push(("wrong diff ID", liar.named(image, "x", "").tar()));
    let mut sized = Layout::default();
    let mut image = sized.image(&[(plain.clone(), plain)]);
    image["size"] = json!(3);
    cases.push(("wrong size", sized.named(image, "x", "").tar()));

    let test = TestStore::new();
    test.load(&good).unwrap();
    let before = test.listing();
    for (what, bytes) in cases {
        let error = match test.load(&bytes) {
            Ok(loaded) => panic!("{what} was loaded: {loaded:?}"),
            Err(error) => error,
        };
        assert!(!error.to_string().contains('\n'), "one line: {error}");
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        assert_eq!(test.listing(), before, "{what}");
    }
    // The same store still takes the good ones, with what it has already.
    test.load(&good).unwrap();
    assert_eq!(test.listing(), before);
    test.load(&saved).unwrap();
}

#[test]
fn everything_is_there_after_opening_again() {
    let test = TestStore::new();
    test.load(&docker_save(&["a:1"], &[layer("a", "1")])).unwrap();
    let image = test.store.resolve("a:1").unwrap();
    test.store.rootfs(&image).unwrap();
    assert!(matches!(Store::open(&test.root()), Err(Error::Locked(_))));
    let TestStore { store, folder } = test;
    drop(store);
    let root = folder.path().join("store");
    // What a crash leaves: unfinished work, blobs and layers that no image has.
    std::fs::create_dir_all(root.join("temp/layer-7/fs/a/b")).unwrap();
    std::fs::write(root.join("temp/blob-3"), "x").unwrap();
    std::fs::write(root.join("blobs/sha256").join("a".repeat(64)), "x").unwrap();
    std::fs::create_dir_all(root.join("layers").join("b".repeat(64)).join("fs")).unwrap();
    let test = TestStore { store: Store::open(&root).unwrap(), folder };
    assert_eq!(test.store.resolve("a:1").unwrap().manifest_digest, image.manifest_digest);
    let usage = test.store.usage().unwrap();
    assert_eq!((usage.blobs, usage.layers), (3, 1));
    assert_eq!(std::fs::read_dir(root.join("temp")).unwrap().count(), 0);
    drop(test.store);
    std::fs::write(root.join("images.json"), "{").unwrap();
    assert!(matches!(Store::open(&root), Err(Error::Record { .. })));
    assert!(
        root.join("blobs/sha256").join(image.id.hex()).exists(),
        "nothing is swept by a record that is damaged"
    );
}

#[test]
fn names_follow_docker() {
    let test = TestStore::new();
    test.load(&docker_save(&["a:1"], &[layer("a", "1")])).unwrap();
    test.load(&docker_save(&["b:1"], &[layer("b", "1")])).unwrap();
    let (a, b) = (test.store.resolve("a:1").unwrap(), test.store.resolve("b:1").unwrap());
    assert_eq!(test.store.resolve(&a.id.to_string()).unwrap().id, a.id);
    assert!(matches!(test.store.resolve("a"), Err(Error::NoSuchImage(_))), "a:latest is not there");
    assert!(matches!(test.store.resolve("sha256:"), Err(Error::Reference(_))));
    assert_eq!(test.store.resolve("A b").unwrap_err().kind(), Kind::Invalid);
    test.store.tag(&a.id, &"c:x".parse().unwrap()).unwrap();
    test.store.tag(&b.id, &"c:x".parse().unwrap()).unwrap();
    assert_eq!(test.store.resolve("c:x").unwrap().id, b.id, "the name moved");
    assert!(test.store.tag(&Digest::of(b"?"), &"d".parse().unwrap()).is_err());
    // A tag taken over by another image leaves the first without a name.
    test.load(&docker_save(&["a:1"], &[layer("a", "2")])).unwrap();
    assert_eq!(test.store.resolve(&a.id.hex()).unwrap().repo_tags().len(), 0);
    assert_eq!(test.store.list().len(), 3);
}

#[test]
fn removal_follows_docker() {
    let test = TestStore::new();
    let empty = test.listing();
    let base = layer("base", "1");
    test.load(&docker_save(&["a:1", "a:2"], &[base.clone(), layer("a", "1")])).unwrap();
    test.load(&docker_save(&["b:1"], &[base, layer("b", "1")])).unwrap();
    let (a, b) = (test.store.resolve("a:1").unwrap(), test.store.resolve("b:1").unwrap());
    test.store.rootfs(&a).unwrap();
    test.store.rootfs(&b).unwrap();
    let used = |running| move |_: &ImageId| Some(ImageUse { container: "0123456789abcdef".into(), running });
    let conflict = |result: Result<Vec<Removed>>| match result {
        Err(Error::Conflict(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(matches!(test.store.remove("nope", true, &free), Err(Error::NoSuchImage(_))));

    let text = conflict(test.store.remove(&a.id.to_string(), false, &free));
    assert_eq!(
        text,
        format!(
            "unable to delete {} (must be forced) - image is referenced in multiple repositories",
            a.id.short()
        )
    );
    assert_eq!(test.store.remove("a:1", false, &used(true)).unwrap(), [Removed::Untagged("a:1".into())]);
    let text = conflict(test.store.remove("a:2", false, &used(true)));
    assert_eq!(
        text,
        format!(
            "unable to remove repository reference \"a:2\" (must force) - container 0123456789ab is using its referenced image {}",
            a.id.short()
        )
    );
    let text = conflict(test.store.remove(&a.id.short(), true, &used(true)));
    assert_eq!(
        text,
        format!(
            "unable to delete {} (cannot be forced) - image is being used by running container 0123456789ab",
            a.id.short()
        )
    );
    let text = conflict(test.store.remove(&a.id.short(), false, &used(false)));
    assert_eq!(
        text,
        format!(
            "unable to delete {} (must be forced) - image is being used by stopped container 0123456789ab",
            a.id.short()
        )
    );

    // The last name goes, the image goes, the layer that another image has stays.
    let removed = test.store.remove("a:2", false, &free).unwrap();
    assert_eq!(removed[..2], [Removed::Untagged("a:2".into()), Removed::Deleted(a.id)]);
    assert_eq!(removed[2..], [Removed::Deleted(a.layers[1].diff_id)]);
    assert!(test.store.has_blob(&a.layers[0].digest) && !test.store.has_blob(&a.layers[1].digest));
    assert_eq!(test.store.rootfs(&b).unwrap().len(), 2);
    assert_eq!(test.store.usage().unwrap().layers, 2);

    // Forced away from a running container: only the name goes.
    assert_eq!(test.store.remove("b:1", true, &used(true)).unwrap(), [Removed::Untagged("b:1".into())]);
    // A lease keeps what the record has lost.
    let lease = test.store.hold(&b);
    assert_eq!(test.store.remove(&b.id.short(), false, &free).unwrap().len(), 3);
    assert!(b.blobs().iter().all(|blob| test.store.has_blob(&blob.digest)));
    drop(lease);
    let after: Vec<_> = test.listing().into_iter().filter(|(name, _)| name != "images.json").collect();
    assert_eq!(after, empty);
}

#[test]
fn images_travel_by_blobs() {
    let (from, to) = (TestStore::new(), TestStore::new());
    from.load(&docker_save(&["web:1"], &[layer("a", "1"), layer("b", "2")])).unwrap();
    let image = from.store.resolve("web:1").unwrap();
    let before = to.listing();
    let send = |lease: &mut Lease, skip: usize| {
        for blob in image.blobs().iter().skip(skip) {
            if lease.hold(&blob.digest) {
                continue;
            }
            let mut writer = lease.ingest(&blob.digest, blob.size).unwrap();
            std::io::copy(&mut from.store.open_blob(&blob.digest).unwrap(), &mut writer).unwrap();
            writer.commit().unwrap();
        }
    };
    // Given up half-way: nothing is left.
    {
        let mut lease = to.store.lease();
        send(&mut lease, 1);
        let error = lease.import(None, &image.manifest_digest).unwrap_err();
        assert!(matches!(error, Error::MissingBlob { .. }), "{error}");
        let config = &image.id;
        assert!(
            matches!(lease.import(None, config), Err(Error::Document { .. })),
            "a configuration is no manifest"
        );
    }
    assert_eq!(to.listing(), before);
    // Wrong content, too short, too long.
    {
        let mut lease = to.store.lease();
        let mut writer = lease.ingest(&image.id, 3).unwrap();
        assert!(writer.write_all(b"four").is_err());
        writer.write_all(b"abc").unwrap();
        assert!(matches!(writer.commit(), Err(Error::DigestMismatch { .. })));
        let writer = lease.ingest(&image.id, 3).unwrap();
        assert!(matches!(writer.commit(), Err(Error::SizeMismatch { .. })));
    }
    assert_eq!(to.listing(), before);

    let mut lease = to.store.lease();
    send(&mut lease, 0);
    let wrong = "web".parse::<Reference>().unwrap().with_digest(image.id);
    assert!(matches!(lease.import(Some(&wrong), &image.manifest_digest), Err(Error::DigestMismatch { .. })));
    let imported = lease.import(Some(&"web:1".parse().unwrap()), &image.manifest_digest).unwrap();
    drop(lease);
    assert_eq!((imported.id, imported.repo_tags()), (image.id, vec!["web:1".to_owned()]));
    assert_eq!(to.store.rootfs(&imported).unwrap().len(), 2);
}

#[test]
fn one_image_with_two_manifests_is_found_by_both() {
    let test = TestStore::new();
    let plain = layer("a", "1");
    test.load(&docker_save(&["web:1"], std::slice::from_ref(&plain))).unwrap();
    let first = test.store.resolve("web:1").unwrap();
    let mut layout = Layout::default();
    let image = layout.image(&[(gzip(&plain), plain)]);
    test.load(&layout.named(image, "org.opencontainers.image.ref.name", "web:2").tar()).unwrap();
    let second = test.store.resolve("web:2").unwrap();
    assert_eq!(first.id, second.id);
    assert_ne!(first.manifest_digest, second.manifest_digest);
    let by_digest = test.store.resolve(&format!("web@{}", first.manifest_digest)).unwrap();
    assert_eq!(by_digest.layers, first.layers);
}

#[test]
fn a_wrong_layer_is_noticed_when_it_is_unpacked() {
    let test = TestStore::new();
    test.load(&docker_save(&["a:1"], &[layer("a", "1"), layer("b", "1")])).unwrap();
    let image = test.store.resolve("a:1").unwrap();
    // The disk changes a byte of the upper layer.
    let blob = test.root().join("blobs/sha256").join(image.layers[1].digest.hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[512] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let error = test.store.rootfs(&image).unwrap_err();
    assert!(matches!(error, Error::Layer { source: LayerError::DiffId(_), .. }), "{error}");
    assert_eq!(std::fs::read_dir(test.root().join("temp")).unwrap().count(), 0);
    assert!(!test.root().join("layers").join(image.layers[1].diff_id.hex()).exists());
}

#[test]
fn many_callers_unpack_once() {
    let test = TestStore::new();
    let layers: Vec<_> = (0..6).map(|i| layer(&format!("f{i}"), &"x".repeat(200_000))).collect();
    test.load(&docker_save(&["a:1"], &layers)).unwrap();
    let image = test.store.resolve("a:1").unwrap();
    let inodes = |folders: &[std::path::PathBuf]| -> HashMap<String, u64> {
        use std::os::unix::fs::MetadataExt;
        folders.iter().map(|f| (f.display().to_string(), f.metadata().unwrap().ino())).collect()
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| inodes(&test.store.rootfs(&image).unwrap()))).collect();
        callers.into_iter().map(|c| c.join().unwrap()).collect()
    });
    assert!(all.iter().all(|seen| seen.len() == 6 && *seen == all[0]));
    assert_eq!(std::fs::read_dir(test.root().join("temp")).unwrap().count(), 0);
}

#[test]
fn loads_removals_and_starts_at_once() {
    let test = TestStore::new();
    let base = layer("base", &"x".repeat(50_000));
    let archives: Vec<_> = (0..4)
        .map(|i| docker_save(&[&format!("i{i}:1")], &[base.clone(), layer("own", &i.to_string())]))
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for (i, archive) in archives.iter().enumerate() {
            let (test, stop) = (&test, &stop);
            workers.push(scope.spawn(move || {
                for _ in 0..15 {
                    test.load(archive).unwrap();
                    let image = test.store.resolve(&format!("i{i}:1")).unwrap();
                    let lease = test.store.hold(&image);
                    let folders = test.store.rootfs(&image).unwrap();
                    assert!(
                        folders[1].join("base").exists(),
                        "the shared layer stays while one image has it"
                    );
                    assert!(folders[0].join("own").exists());
                    test.store.remove(&format!("i{i}:1"), false, &free).unwrap();
                    assert!(folders[1].join("base").exists(), "and while a lease has it");
                    drop(lease);
                }
                stop.store(true, Ordering::Relaxed);
            }));
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
    let usage = test.store.usage().unwrap();
    assert_eq!(usage, Usage::default());
}

fn some_config() -> ImageConfiguration {
    let labels = (0..20).map(|i| (format!("k{i}"), "v".to_owned())).collect::<HashMap<_, _>>();
    ImageConfigurationBuilder::default()
        .architecture("amd64")
        .os("linux")
        .config(ConfigBuilder::default().entrypoint(vec!["/skep".to_owned()]).labels(labels).build().unwrap())
        .rootfs(RootFsBuilder::default().diff_ids(Vec::<String>::new()).build().unwrap())
        .build()
        .unwrap()
}

#[test]
fn built_images_are_the_same_everywhere() {
    let (one, two) = (TestStore::new(), TestStore::new());
    let name: Reference = "whoami".parse().unwrap();
    let binary = one.folder.path().join("binary");
    std::fs::write(&binary, "program").unwrap();
    let files = [
        FileEntry { path: "/usr/bin/skep".into(), mode: 0o755, source: Source::Path(binary.clone()) },
        FileEntry {
            path: "etc/passwd".into(),
            mode: 0o644,
            source: Source::Bytes(b"root:x:0:0::/:/skep\n".to_vec()),
        },
    ];
    let image = one.store.build_single_layer(&name, "v1", &files, some_config()).unwrap();
    let [a, b] = files.clone();
    let again = two.store.build_single_layer(&name, "other stamp", &[b, a], some_config()).unwrap();
    assert_eq!((image.id, image.manifest_digest), (again.id, again.manifest_digest));
    let folders = one.store.rootfs(&image).unwrap();
    assert_eq!(std::fs::read_to_string(folders[0].join("usr/bin/skep")).unwrap(), "program");
    // The same stamp: no file is read.
    std::fs::remove_file(&binary).unwrap();
    let cheap = one.store.build_single_layer(&name, "v1", &files, some_config()).unwrap();
    assert_eq!(cheap.id, image.id);
    assert!(one.store.build_single_layer(&name, "v2", &files, some_config()).is_err());
    let bytes = |path: &str| [FileEntry { path: path.into(), mode: 0o644, source: Source::Bytes(vec![]) }];
    for bad in ["", "/", "../x", "a/../b", "a//b", ".wh.x", "a/.wh..wh..opq"] {
        assert!(one.store.build_single_layer(&name, "v3", &bytes(bad), some_config()).is_err(), "{bad}");
    }
    let both = [bytes("a")[0].clone(), bytes("a/b")[0].clone()];
    assert!(one.store.build_single_layer(&name, "v3", &both, some_config()).is_err());
}
