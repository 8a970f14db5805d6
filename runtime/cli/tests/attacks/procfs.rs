//! What a container must not see of the kernel, and what it must not make the runtime write.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use skep_runtime::spec::oci::Spec;

use super::Attack;
use super::house::House;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "masked_files_are_dev_null_whatever_the_image_calls_so",
        seen: "CVE-2025-31133, CVE-2025-62161",
        weakness: "masks",
        attempt: false_null,
    },
    Attack {
        name: "proc_and_sys_that_are_links_are_refused",
        seen: "CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867",
        weakness: "procfs",
        attempt: links,
    },
    Attack {
        name: "a_volume_over_proc_gets_no_kernel_setting",
        seen: "CVE-2019-16884, CVE-2025-52881",
        weakness: "procfs",
        attempt: volume_over_proc,
    },
    Attack {
        name: "a_volume_inside_proc_gets_no_kernel_setting",
        seen: "CVE-2019-16884, CVE-2025-52881",
        weakness: "procfs",
        attempt: volume_inside_proc,
    },
    Attack {
        name: "no_cgroup_above_the_containers_own_can_be_written",
        seen: "CVE-2023-25809, CVE-2022-0492",
        weakness: "cgroups",
        attempt: cgroup_above,
    },
    Attack {
        name: "the_default_profile_allows_no_user_namespace",
        seen: "CVE-2022-0492",
        weakness: "seccomp",
        attempt: user_namespace,
    },
];

fn false_null(house: &House) -> Option<String> {
    house.without_mounts(|at| at.starts_with("/dev"));
    symlink("/proc/sys/kernel/core_pattern", house.rootfs().join("dev/null")).unwrap();
    let masked = ["/proc/keys", "/proc/timer_list", "/vol/masked"];
    std::fs::write(house.rootfs().join("vol/masked"), "hidden").unwrap();
    house.probe(&[&["not-null"], &masked[..]].concat());
    house.change(|config| config["linux"]["maskedPaths"] = json!(masked));
    let shown = house.run(&["run", "one"]).fine();
    let first = shown.lines().next()?;
    Some(format!("{first} shows something else than /dev/null"))
}

fn links(house: &House) -> Option<String> {
    for name in ["proc", "sys"] {
        for to in ["vol", "/vol", "../../../../vol"] {
            let path = house.rootfs().join(name);
            std::fs::remove_dir(&path).unwrap();
            symlink(to, &path).unwrap();
            let came_up = house.run(&["run", "one"]).code == 0;
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            if came_up {
                return Some(format!("a container came up whose /{name} is a link to {to}"));
            }
        }
    }
    None
}

/// A directory that looks like procfs where the setting is; the setting's file leads to the host's.
fn false_proc(house: &House) -> std::path::PathBuf {
    let fake = house.path("fake");
    std::fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
    symlink(house.outside().join("secret"), fake.join("sys/net/ipv4/ip_forward")).unwrap();
    house.change(|config| config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" }));
    fake
}

fn volume_over_proc(house: &House) -> Option<String> {
    let fake = false_proc(house);
    house.without_mounts(|at| at == "/proc");
    house.add_mount(json!({ "destination": "/proc", "type": "bind", "source": fake, "options": ["rbind"] }));
    house.run(&["run", "one"]).any();
    house.harm_outside()
}

fn volume_inside_proc(house: &House) -> Option<String> {
    let fake = false_proc(house).join("sys/net");
    let to = "/proc/sys/net";
    house.add_mount(json!({ "destination": to, "type": "bind", "source": fake, "options": ["rbind"] }));
    house.run(&["run", "one"]).any();
    house.harm_outside()
}

/// With root of the container being root of the host, whom no mode of a file stops.
fn cgroup_above(house: &House) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut hierarchies = text.lines().filter(|line| line.contains(" - cgroup "));
    let v1 = hierarchies.find(|line| line.ends_with(",pids"));
    let place = v1.map_or("/sys/fs/cgroup", |line| line.split(' ').nth(4).unwrap());
    let inside = if v1.is_some() { "/sys/fs/cgroup/pids" } else { "/sys/fs/cgroup" };
    house.probe(&["below", inside, "evil"]);
    house.change(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        for mount in config["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/sys/fs/cgroup" {
                mount["options"] = json!(["nosuid", "noexec", "nodev"]);
            }
        }
    });
    let done = house.run(&["run", "one"]);
    let above = Path::new(place).join(house.parent()).join("evil");
    let harmed = std::fs::remove_dir(&above).is_ok();
    if !house.is_weakened() {
        // It came up, and could have done it.
        assert_eq!(done.code, 0, "{done:?}");
    }
    harmed.then(|| format!("{} made", above.display()))
}

fn user_namespace(house: &House) -> Option<String> {
    house.probe(&["user-namespace"]);
    house.change(|config| {
        let mut spec: Spec = serde_json::from_value(config.clone()).unwrap();
        skep_runtime::spec::confine(&mut spec).unwrap();
        let whole: Value = serde_json::to_value(&spec).unwrap();
        config["linux"]["seccomp"] = whole["linux"]["seccomp"].clone();
    });
    let said = house.run(&["run", "one"]).fine();
    said.contains("unshared").then(|| "a user and a cgroup namespace made in the container".to_owned())
}
