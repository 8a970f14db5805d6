//! The cases about mounts and devices: what `/proc/self/mountinfo` shows inside, and what is refused.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use skep_runtime::keeper::{RefusalKind, Rootfs};
use skep_runtime::spec::oci::{LinuxDevice, LinuxDeviceType, LinuxIdMappingBuilder, Mount, Spec};

use super::cases::{Case, add_mount, mount, plain, refusal, report};
use super::house::House;

pub(crate) const CASES: &[Case] = &[
    ("mount_options_are_seen_inside", mount_options_are_seen_inside),
    ("recursive_attributes_reach_below", recursive_attributes_reach_below),
    ("propagation_is_as_asked", propagation_is_as_asked),
    ("tmpcopyup_copies_what_is_below", tmpcopyup_copies_what_is_below),
    ("ids_are_mapped", ids_are_mapped),
    ("files_of_proc_may_be_bound", files_of_proc_may_be_bound),
    ("refused_mounts_say_why", refused_mounts_say_why),
    ("devices_of_the_spec", devices_of_the_spec),
    ("a_dev_that_is_a_link_leads_nowhere", a_dev_that_is_a_link_leads_nowhere),
];

fn filesystem(kind: &str, destination: &str, options: &[&str]) -> Mount {
    let mut made = mount(destination, Path::new("mine"), options);
    made.set_typ(Some(kind.to_owned()));
    made
}

/// The fields of the mount at a path: its options, its propagation, and the filesystem's part.
fn line(mounts: &str, at: &str) -> (String, String, String) {
    let found = mounts.lines().rev().find(|line| line.split(' ').nth(4) == Some(at));
    let (left, right) =
        found.unwrap_or_else(|| panic!("no mount at {at}: {mounts}")).split_once(" -").unwrap();
    let fields: Vec<&str> = left.split(' ').collect();
    (fields[5].to_owned(), fields[6..].join(" "), right.trim().to_owned())
}

/// A tmpfs on the host with flags of its own, unmounted at the end.
struct HostMount(PathBuf);

impl HostMount {
    fn new(dir: &Path) -> Self {
        let path = dir.join("flagged");
        std::fs::create_dir(&path).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, None).unwrap();
        Self(path)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn mount_options_are_seen_inside() {
    let house = House::new();
    let source = house.dir.path().to_path_buf();
    let flagged = HostMount::new(house.dir.path());
    let seen = report(&house, "a", |spec| {
        add_mount(spec, filesystem("tmpfs", "/a", &["nosuid", "noexec", "ro", "mode=700", "size=1m"]));
        add_mount(
            spec,
            filesystem("tmpfs", "/b/c/d", &["nodev", "noatime", "nosymfollow", "sync", "dirsync"]),
        );
        add_mount(spec, filesystem("tmpfs", "e", &["silent", "strictatime"]));
        add_mount(spec, mount("/f", &source, &["bind", "ro", "nosuid", "noexec"]));
        add_mount(spec, mount("/g", &flagged.0, &["bind"]));
        add_mount(spec, mount("/h", &flagged.0, &["bind", "ro"]));
        add_mount(spec, filesystem("tmpfs", "/a", &["remount", "nosuid", "size=2m"]));
    });
    let mounts = &seen["mounts"];
    let (a, _, a_fs) = line(mounts, "/a");
    assert!(a.starts_with("ro,nosuid") && a_fs.contains("size=2048k,mode=700"), "{a} {a_fs}");
    assert!(a_fs.starts_with("tmpfs mine "), "{a_fs}");
    let (b, _, b_fs) = line(mounts, "/b/c/d");
    for word in ["nodev", "noatime", "nosymfollow"] {
        assert!(b.contains(word), "{word}: {b}");
    }
    assert!(b_fs.contains("sync,dirsync"), "{b_fs}");
    assert_eq!(line(mounts, "/e").0, "rw");
    assert!(line(mounts, "/f").0.starts_with("ro,nosuid,noexec"));
    // Without flags a bind keeps its source's; with some it has only those.
    assert_eq!(line(mounts, "/g").0, "rw,nosuid,nodev,noexec,relatime");
    assert_eq!(line(mounts, "/h").0, "ro,relatime");
    drop(flagged);
    house.close();
}

fn recursive_attributes_reach_below() {
    let house = House::new();
    let below = |mounts: &str, at: &str| -> Vec<bool> {
        let prefix = format!("{at}/");
        let lines = mounts.lines().filter(|line| line.split(' ').nth(4).unwrap().starts_with(&prefix));
        lines.map(|line| line.split(' ').nth(5).unwrap().starts_with("ro")).collect()
    };
    let seen = report(&house, "a", |spec| {
        add_mount(spec, mount("/all", Path::new("/dev"), &["rbind", "rro", "rnoexec", "rnoatime"]));
        add_mount(spec, mount("/top", Path::new("/dev"), &["rbind", "ro"]));
    });
    let mounts = &seen["mounts"];
    let (all, _, _) = line(mounts, "/all");
    assert!(all.starts_with("ro") && all.contains("noexec") && all.contains("noatime"), "{all}");
    let all = below(mounts, "/all");
    assert!(!all.is_empty() && all.iter().all(|ro| *ro), "{mounts}");
    assert!(line(mounts, "/top").0.starts_with("ro"));
    assert!(below(mounts, "/top").contains(&false), "{mounts}");
    house.close();
}

fn propagation_is_as_asked() {
    let house = House::new();
    let shared = |text: &str| text.contains("shared:");
    let seen = report(&house, "a", |spec| {
        add_mount(spec, filesystem("tmpfs", "/s", &["shared"]));
        add_mount(spec, filesystem("tmpfs", "/p", &["shared", "private"]));
        add_mount(spec, filesystem("tmpfs", "/u", &["unbindable"]));
        add_mount(spec, mount("/one", Path::new("/dev"), &["rbind", "rprivate", "shared"]));
    });
    let mounts = &seen["mounts"];
    assert!(shared(&line(mounts, "/s").1) && !shared(&line(mounts, "/p").1), "{mounts}");
    assert_eq!(line(mounts, "/u").1.trim(), "unbindable");
    // Not recursive: only the mount itself.
    assert!(shared(&line(mounts, "/one").1) && !shared(&line(mounts, "/one/shm").1), "{mounts}");
    assert!(!shared(&line(mounts, "/").1));
    for (word, mark) in [("rshared", "shared:"), ("unbindable", "unbindable")] {
        let seen = report(&house, word, |spec| {
            spec.linux_mut().as_mut().unwrap().set_rootfs_propagation(Some(word.to_owned()));
        });
        assert!(line(&seen["mounts"], "/").1.contains(mark), "{word}");
        assert_eq!(line(&seen["mounts"], "/proc").1.contains(mark), word == "rshared", "{word}");
    }
    house.close();
}

fn tmpcopyup_copies_what_is_below() {
    let house = House::new();
    let over = |options: &'static [&'static str]| {
        move |spec: &mut Spec| {
            add_mount(spec, filesystem("tmpfs", "/etc", options));
        }
    };
    let passwd = "root:x:0:0:r:/root:/probe\n";
    assert_eq!(house.run("a", &["read", "/etc/passwd"], over(&["tmpcopyup"])).1, passwd);
    assert_eq!(house.run("b", &["list", "/etc"], over(&[])).1, "[]\n");
    let (_, _, filesystem) = line(&report(&house, "c", over(&[]))["mounts"], "/etc");
    assert!(filesystem.contains("mode=755"), "the covered directory's mode: {filesystem}");
    house.close();
}

fn mapped(mut mount: Mount) -> Mount {
    let map =
        LinuxIdMappingBuilder::default().container_id(0_u32).host_id(1000_u32).size(10_u32).build().unwrap();
    mount.set_uid_mappings(Some(vec![map])).set_gid_mappings(Some(vec![map]));
    mount
}

/// Whether the filesystem is a memory of the kernel's, as that of a machine without a disk.
fn in_memory(path: &Path) -> bool {
    const RAMFS: u64 = 0x8584_58f6;
    const TMPFS: u64 = 0x0102_1994;
    [RAMFS, TMPFS].contains(&(rustix::fs::statfs(path).unwrap().f_type as u64))
}

/// Linux 6.3 brought idmapped mounts of tmpfs. The first root filesystem of a kernel can have none.
fn tmpfs_maps_ids() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

fn ids_are_mapped() {
    let house = House::new();
    let memory = in_memory(house.dir.path());
    let place = tempfile::tempdir_in(if memory { Path::new("/dev/shm") } else { house.dir.path() }).unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    if memory && !tmpfs_maps_ids() {
        let request = house.request("a", &["exit", "0"], |spec| {
            add_mount(spec, mapped(mount("/data", &source, &["bind", "idmap"])));
        });
        let (_, text) = refusal(house.client.create(&request, None));
        assert!(text.contains("idmapped mounts of tmpfs"), "{text}");
        return house.close();
    }
    let (exit, output) = house.run("a", &["write", "/data/file", "x"], |spec| {
        add_mount(spec, mapped(mount("/data", &source, &["bind", "idmap"])));
    });
    // Root inside is 0; on the mount 0 shows as 1000, and there is no ID inside the map for it to be made with.
    assert_eq!((exit.code(), output.as_str()), (0, "error Some(75)\n"));
    let seen =
        report(&house, "b", |spec| add_mount(spec, mapped(mount("/data", &source, &["rbind", "ridmap"]))));
    assert!(line(&seen["mounts"], "/data").0.contains("idmapped"), "{}", seen["mounts"]);
    let request = house.request("c", &["exit", "0"], |spec| {
        add_mount(spec, mapped(mount("/data", Path::new("/proc"), &["bind", "idmap"])));
    });
    let (_, text) = refusal(house.client.create(&request, None));
    assert!(text.contains("idmapped mounts of proc"), "{text}");
    let request = house.request("c", &["exit", "0"], |spec| {
        add_mount(spec, mount("/data", &source, &["bind", "idmap"]));
    });
    assert!(refusal(house.client.create(&request, None)).1.contains("ID mappings"));
    house.close();
}

fn files_of_proc_may_be_bound() {
    let house = House::new();
    let source = house.dir.path().join("cpuinfo");
    std::fs::write(&source, "one processor\n").unwrap();
    let bind = |at: &'static str| {
        let source = source.clone();
        move |spec: &mut Spec| add_mount(spec, mount(at, &source, &["bind"]))
    };
    assert_eq!(house.run("a", &["read", "/proc/cpuinfo"], bind("/proc/cpuinfo")).1, "one processor\n");
    for at in ["/proc/self/attr/exec", "/proc/sys/kernel/core_pattern", "/proc/version", "/proc"] {
        let request = house.request("b", &["exit", "0"], bind(at));
        assert_eq!(refusal(house.client.create(&request, None)).0, RefusalKind::Invalid, "{at}");
    }
    // By way of a link the same.
    let request = house.request("c", &["exit", "0"], bind("/way/version"));
    let Rootfs::Overlay { upper, .. } = &request.rootfs else { panic!() };
    symlink("proc", upper.join("way")).unwrap();
    let (_, text) = refusal(house.client.create(&request, None));
    assert!(text.contains("/way/version") && text.contains("denied"), "{text}");
    house.close();
}

fn refused_mounts_say_why() {
    let house = House::new();
    let refused = |made: Mount| {
        let request = house.request("a", &["exit", "0"], |spec| add_mount(spec, made));
        refusal(house.client.create(&request, None)).1
    };
    let text = refused(filesystem("nosuchfs", "/a", &[]));
    assert!(
        text.contains("mounting \"mine\" to rootfs at \"/a\": this kernel has no nosuchfs filesystem"),
        "{text}"
    );
    let text = refused(filesystem("tmpfs", "/a", &["size=many"]));
    assert!(text.contains("option size") && text.contains("Bad value for 'size'"), "{text}");
    assert!(refused(filesystem("tmpfs", "/../", &[])).contains("over the root"));
    assert!(refused(filesystem("tmpfs", "/proc", &[])).contains("tmpfs over /proc"));
    house.close();
}

fn devices_of_the_spec() {
    let house = House::new();
    let device = |path: &str, typ, minor| {
        let mut device = LinuxDevice::default();
        device.set_path(path.into()).set_typ(typ).set_major(1).set_minor(minor);
        device.set_uid(Some(7)).set_gid(Some(8)).set_file_mode(Some(0o640));
        device
    };
    let devices = [
        device("/dev/one/zero", LinuxDeviceType::C, 5),
        device("/dev/null", LinuxDeviceType::C, 3),
        device("/opt/pipe", LinuxDeviceType::P, 0),
    ];
    let request = house.request("a", &["list", "/dev/one"], |spec| {
        let mounts = spec.mounts().clone().unwrap();
        let kept = mounts.into_iter().filter(|mount| !mount.destination().starts_with("/dev")).collect();
        spec.set_mounts(Some(kept));
        spec.linux_mut().as_mut().unwrap().set_devices(Some(devices.to_vec()));
    });
    let Rootfs::Overlay { upper, .. } = &request.rootfs else { panic!() };
    let upper = upper.clone();
    house.client.create(&request, None).unwrap();
    house.wait_exit("a");
    assert_eq!(house.output("a", "stdout"), "[\"zero\"]\n");
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let made = |path: &str| std::fs::symlink_metadata(upper.join(path)).unwrap();
    let zero = made("dev/one/zero");
    assert_eq!((zero.mode() & 0o7777, zero.uid(), zero.gid(), zero.rdev()), (0o640, 7, 8, 0x105));
    assert_eq!((made("dev/null").mode() & 0o7777, made("dev/null").uid()), (0o640, 7));
    assert_eq!(made("dev/full").mode() & 0o7777, 0o666);
    assert!(made("opt/pipe").file_type().is_fifo());
    assert_eq!(std::fs::read_link(upper.join("dev/ptmx")).unwrap(), Path::new("pts/ptmx"));
    house.close();
}

fn a_dev_that_is_a_link_leads_nowhere() {
    let house = House::new();
    let outside = tempfile::tempdir().unwrap();
    let relative = format!("../../../../../../../../../..{}", outside.path().display());
    for (id, target) in [("a", outside.path().to_str().unwrap()), ("r", &relative)] {
        for (kind, with_tmpfs) in [("t", true), ("n", false)] {
            let request = house.request(&format!("{id}{kind}"), &["exit", "0"], |spec| {
                let mounts = spec.mounts().clone().unwrap();
                let keep = |mount: &Mount| with_tmpfs || !mount.destination().starts_with("/dev");
                spec.set_mounts(Some(mounts.into_iter().filter(keep).collect()));
            });
            let Rootfs::Overlay { upper, .. } = &request.rootfs else { panic!() };
            symlink(target, upper.join("dev")).unwrap();
            // Refused or made inside the root: the host is looked at below.
            drop(house.client.create(&request, None));
        }
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    // A link to a directory of the image is one more name for it.
    let request = house.request("i", &["write", "/real/null", "x"], plain);
    let Rootfs::Overlay { upper, .. } = &request.rootfs else { panic!() };
    std::fs::create_dir(upper.join("real")).unwrap();
    symlink("/real", upper.join("dev")).unwrap();
    house.client.create(&request, None).unwrap();
    house.wait_exit("i");
    assert_eq!(house.output("i", "stdout"), "written\n");
    house.close();
}
