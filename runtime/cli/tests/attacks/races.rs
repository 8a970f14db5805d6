//! The same attacks with the last check outrun: a thread exchanges two names in a directory that the container mounts,
//! as a second container with the same volume could, as fast as the kernel does it.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev};
use serde_json::{Value, json};

use super::Attack;
use super::house::House;

/// Rounds within one container, where a container has many.
const BATCH: u32 = 200;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "mount_targets_stay_inside_while_links_come_and_go",
        seen: "CVE-2021-30465, CVE-2024-45310; raced",
        weakness: "paths",
        attempt: mount_targets,
    },
    Attack {
        name: "masks_are_dev_null_while_links_come_and_go",
        seen: "CVE-2025-31133; raced",
        weakness: "masks",
        attempt: false_null,
    },
    Attack {
        name: "kernel_settings_are_written_to_the_kernel_while_proc_comes_and_goes",
        seen: "CVE-2025-52881; raced",
        weakness: "procfs",
        attempt: settings,
    },
    Attack {
        name: "procfs_is_not_mounted_behind_a_link_that_comes_and_goes",
        seen: "CVE-2019-19921, CVE-2023-27561; raced",
        weakness: "procfs",
        attempt: proc_link,
    },
    Attack {
        name: "the_console_is_the_terminal_while_its_name_comes_and_goes",
        seen: "CVE-2025-52565; raced",
        weakness: "terminal",
        attempt: console,
    },
];

/// Exchanges two names until it is stopped.
struct Flipper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flipper {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut flips = 0;
            while !seen.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                flips += 1;
            }
            flips
        });
        Self { stop, thread }
    }

    /// How often it has.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A volume has a directory and a link out of the container that change places; each round mounts behind one of them.
fn mount_targets(house: &House) -> Option<String> {
    let (volume, empty, file) = (house.path("volume"), house.path("empty"), house.path("file"));
    std::fs::create_dir_all(volume.join("x")).unwrap();
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(&file, "").unwrap();
    symlink(house.outside(), volume.join("l")).unwrap();
    // Where the link leads to for a runtime that stays inside: so every round ends with a mount.
    let inside = house.rootfs().join(house.outside().strip_prefix("/").unwrap());
    std::fs::create_dir_all(&inside).unwrap();
    house.add_mount(json!({ "destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"] }));
    let mounts = std::fs::read(house.bundle().join("config.json")).unwrap();
    let flipper = Flipper::start(volume.join("x"), volume.join("l"));
    let count = |directory: PathBuf| std::fs::read_dir(directory).map_or(0, Iterator::count) as u32;
    let direct = || count(volume.join("x")).max(count(volume.join("l")));
    let by_link = || count(inside.clone());
    // A container that loses the race is refused, so what was mounted counts and not what was asked for.
    let (mut rounds, mut refused) = (0, 0);
    while direct() + by_link() < house.rounds(1) && house.harm_outside().is_none() {
        house.change(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            for round in rounds..rounds + BATCH {
                let source = if round % 2 == 0 { &empty } else { &file };
                let to = format!("/vol/x/made{round}");
                mounts.push(
                    json!({ "destination": to, "type": "bind", "source": source, "options": ["bind"] }),
                );
            }
        });
        refused += u32::from(house.run(&["run", "one"]).code != 0);
        rounds += BATCH;
        std::fs::write(house.bundle().join("config.json"), &mounts).unwrap();
    }
    let flips = flipper.stop();
    let (direct, by_link) = (direct(), by_link());
    house.note(&format!(
        "{} mounts, {flips} flips, {direct} by the directory, {by_link} by the link, {refused} containers refused",
        direct + by_link
    ));
    if !house.is_weakened() {
        assert!(direct > 0 && by_link > 0, "this was no race");
    }
    house.harm_outside()
}

/// `/dev/null` of the image and a link to a file of procfs change places; each round masks a file.
fn false_null(house: &House) -> Option<String> {
    house.without_mounts(|at| at.starts_with("/dev"));
    let dev = house.rootfs().join("dev");
    symlink("/proc/sys/kernel/core_pattern", dev.join("link")).unwrap();
    let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(CWD, dev.join("null"), kind, mode, makedev(1, 3)).unwrap();
    let masked: Vec<String> = (0..BATCH).map(|number| format!("/vol/m{number}")).collect();
    for path in &masked {
        std::fs::write(house.rootfs().join(&path[1..]), "hidden").unwrap();
    }
    house.probe(&["not-null", &format!("/vol/m*{BATCH}")]);
    house.change(|config| config["linux"]["maskedPaths"] = json!(masked));
    let flipper = Flipper::start(dev.join("null"), dev.join("link"));
    let (mut rounds, mut shown) = (0, 0);
    while rounds < house.rounds(1) && shown == 0 {
        shown = house.run(&["run", "one"]).fine().lines().count();
        rounds += BATCH;
    }
    house.note(&format!("{rounds} masks, {} flips", flipper.stop()));
    (shown > 0).then(|| format!("{shown} of {BATCH} masked files show something else"))
}

/// Settings of the network namespace that can be written as they are.
fn network_settings() -> serde_json::Map<String, Value> {
    let mut settings = serde_json::Map::new();
    for name in std::fs::read_dir("/proc/sys/net/ipv4/conf/default").unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        // This one is the kernel's to set.
        if name == "mc_forwarding" {
            continue;
        }
        for interface in ["all", "default", "lo"] {
            settings.insert(format!("net.ipv4.conf.{interface}.{name}"), "0".into());
        }
    }
    settings
}

/// The image's `/proc` and a directory that only looks like one change places; each round writes a setting.
fn settings(house: &House) -> Option<String> {
    let wanted = network_settings();
    let fake = house.rootfs().join("fake");
    for key in wanted.keys() {
        let path = fake.join("sys").join(key.replace('.', "/"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(house.outside().join("secret"), path).unwrap();
    }
    house.change(|config| {
        config["linux"]["sysctl"] = wanted.clone().into();
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let flipper = Flipper::start(house.rootfs().join("proc"), fake);
    let (mut rounds, mut refused) = (0, 0);
    while rounds < house.rounds(1) && house.harm_outside().is_none() {
        refused += u32::from(house.run(&["run", "one"]).code != 0);
        rounds += wanted.len() as u32;
    }
    house.note(&format!("{rounds} settings, {} flips, {refused} containers refused", flipper.stop()));
    house.harm_outside()
}

/// The image's `/proc` and a link change places; each round is a container.
fn proc_link(house: &House) -> Option<String> {
    let (proc, link) = (house.rootfs().join("proc"), house.rootfs().join("link"));
    symlink("/vol", &link).unwrap();
    house.probe(&["procfs-mounts"]);
    house.change(|config| {
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let flipper = Flipper::start(proc, link);
    let (mut rounds, mut refused, mut harm) = (0, 0, None);
    while rounds < house.rounds(5) && harm.is_none() {
        let done = house.run(&["run", "one"]);
        refused += u32::from(done.code != 0);
        harm = done.out.lines().find(|line| *line == "/vol").map(|_| "procfs is where a link led".to_owned());
        rounds += 1;
    }
    house.note(&format!("{rounds} containers, {} flips, {refused} refused", flipper.stop()));
    if !house.is_weakened() && raced() {
        assert!(refused > 0 && refused < rounds, "this was no race");
    }
    harm
}

/// The directory of the terminals and one with a file of a terminal's name change places; each round is a container.
fn console(house: &House) -> Option<String> {
    let volume = house.path("volume");
    for name in ["pts", "evil"] {
        std::fs::create_dir_all(volume.join(name)).unwrap();
        std::fs::write(volume.join(name).join("0"), "evil").unwrap();
    }
    let pts = json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts" });
    house.without_mounts(|at| at.starts_with("/dev"));
    house.add_mount(json!({ "destination": "/dev", "type": "bind", "source": volume, "options": ["rbind"] }));
    house.add_mount(pts);
    house.probe(&["terminal"]);
    let flipper = Flipper::start(volume.join("pts"), volume.join("evil"));
    let (mut rounds, mut refused, mut harm) = (0, 0, None);
    while rounds < house.rounds(5) && harm.is_none() {
        let said = house.run_in_terminal();
        refused += u32::from(said.is_none());
        harm = said.filter(|said| said.contains("something else"));
        rounds += 1;
    }
    house.note(&format!("{rounds} containers, {} flips, {refused} refused", flipper.stop()));
    if !house.is_weakened() && raced() {
        assert!(refused > 0 && refused < rounds, "this was no race");
    }
    harm.map(|_| "/dev/console is no terminal".to_owned())
}

/// On one processor the names only change places between the steps of a set-up.
fn raced() -> bool {
    std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1)
}
