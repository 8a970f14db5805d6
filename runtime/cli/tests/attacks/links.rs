//! Links in an image or a volume that lead to the host.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::Attack;
use super::house::House;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "mount_targets_behind_links_are_not_made_on_the_host",
        seen: "CVE-2019-18837, CVE-2021-30465, CVE-2024-45310",
        weakness: "paths",
        attempt: mount_targets,
    },
    Attack {
        name: "files_that_are_mounted_in_do_not_follow_a_dangling_link",
        seen: "CVE-2025-24965, CVE-2024-45310",
        weakness: "paths",
        attempt: dangling_links,
    },
    Attack {
        name: "a_dev_that_is_a_link_gets_no_nodes_on_the_host",
        seen: "CVE-2026-41579, CVE-2026-47766",
        weakness: "paths",
        attempt: dev_link,
    },
    Attack {
        name: "device_nodes_behind_links_are_not_made_on_the_host",
        seen: "CVE-2024-45310",
        weakness: "paths",
        attempt: device_nodes,
    },
    Attack {
        name: "a_working_directory_behind_a_link_is_not_made_on_the_host",
        seen: "CVE-2024-45310",
        weakness: "paths",
        attempt: working_directory,
    },
    Attack {
        name: "a_console_that_is_a_link_is_not_made_on_the_host",
        seen: "CVE-2025-52565",
        weakness: "paths",
        attempt: console,
    },
];

fn mount_targets(house: &House) -> Option<String> {
    let file = house.path("file");
    std::fs::write(&file, "").unwrap();
    for link in house.links_out() {
        for (name, file_too) in [("one", false), ("two", true), ("deep/er/one", false), ("deep/er/two", true)]
        {
            let to = format!("/{link}/{link}-{name}");
            let mounts = std::fs::read(house.bundle().join("config.json")).unwrap();
            house.add_mount(if file_too {
                json!({ "destination": to, "type": "bind", "source": file, "options": ["bind"] })
            } else {
                json!({ "destination": to, "type": "tmpfs", "source": "tmpfs" })
            });
            house.run(&["run", "one"]).any();
            std::fs::write(house.bundle().join("config.json"), mounts).unwrap();
        }
    }
    house.harm_outside()
}

fn dangling_links(house: &House) -> Option<String> {
    let file = house.path("file");
    std::fs::write(&file, "").unwrap();
    std::fs::create_dir(house.rootfs().join("etc")).unwrap();
    for (name, to) in
        [("hosts", house.outside().display().to_string()), ("hostname", "../../../outside".into())]
    {
        symlink(format!("{to}/{name}"), house.rootfs().join("etc").join(name)).unwrap();
        let to = format!("/etc/{name}");
        house.add_mount(json!({ "destination": to, "type": "bind", "source": file, "options": ["bind"] }));
    }
    house.run(&["run", "one"]).any();
    house.harm_outside()
}

fn dev_link(house: &House) -> Option<String> {
    for link in house.links_out() {
        drop(std::fs::remove_file(house.rootfs().join("dev")));
        drop(std::fs::remove_dir(house.rootfs().join("dev")));
        std::fs::rename(house.rootfs().join(link), house.rootfs().join("dev")).unwrap();
        house.run(&["run", "one"]).any();
        // An image may count on a /dev of its own.
        house.without_mounts(|at| at.starts_with("/dev"));
        house.run(&["run", "one"]).any();
    }
    house.harm_outside()
}

fn device_nodes(house: &House) -> Option<String> {
    for link in house.links_out() {
        house.change(|config| {
            let path = format!("/{link}/{link}-null");
            config["linux"]["devices"] = json!([
                { "path": path, "type": "c", "major": 1, "minor": 3 },
                { "path": format!("{path}-fifo"), "type": "p" },
            ]);
        });
        house.run(&["run", "one"]).any();
    }
    house.harm_outside()
}

fn working_directory(house: &House) -> Option<String> {
    for link in house.links_out() {
        house.change(|config| config["process"]["cwd"] = format!("/{link}/{link}-made").into());
        house.run(&["run", "one"]).any();
    }
    house.harm_outside()
}

fn console(house: &House) -> Option<String> {
    house.without_mounts(|at| at == "/dev" || at == "/dev/shm" || at == "/dev/mqueue");
    symlink(house.outside().join("console"), house.rootfs().join("dev/console")).unwrap();
    drop(house.run_in_terminal());
    house.harm_outside()
}
