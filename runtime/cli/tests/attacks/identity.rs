//! Who the program is, what it is called, and what of the caller's it and the hooks get.

use rustix::process::Gid;
use serde_json::{Value, json};

use super::Attack;
use super::house::House;

/// A group that only this test's caller is in.
const GROUP: u32 = 77_777;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "nothing_is_inheritable_unless_the_specification_says_so",
        seen: "CVE-2022-29162, CVE-2022-27650, CVE-2022-24769, CVE-2025-27612",
        weakness: "inheritable",
        attempt: inheritable,
    },
    Attack {
        name: "the_callers_groups_are_not_the_programs",
        seen: "CVE-2022-36109, CVE-2023-25173",
        weakness: "groups",
        attempt: groups,
    },
    Attack {
        name: "the_hosts_hooks_do_not_get_the_containers_environment",
        seen: "CVE-2025-23266, CVE-2024-0132",
        weakness: "hooks",
        attempt: hooks,
    },
    Attack {
        name: "a_containers_name_is_no_path",
        seen: "CVE-2024-5154, GHSA-x7pf-2jmj-pgcq",
        weakness: "names",
        attempt: names,
    },
];

/// The first report with something wrong in one of its lines.
fn wrong(reports: &[String], line: &str, is_wrong: impl Fn(&str) -> bool) -> Option<String> {
    let values = reports.iter().map(|report| {
        let report: Value = serde_json::from_str(report).unwrap();
        report[line].as_str().unwrap().to_owned()
    });
    values.filter(|value| is_wrong(value)).map(|value| format!("{line} {value}")).next()
}

/// What the probe reports as the init, as another user, and when it joins in the given ways.
fn reports(house: &House, joins: &[&[&str]]) -> Vec<String> {
    house.probe(&["report"]);
    let mut reports = vec![house.run(&["run", "one"]).fine()];
    house.change(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
    reports.push(house.run(&["run", "one"]).fine());
    house.probe(&["sleep"]);
    house.run(&["run", "--detach", "two"]).fine();
    for words in joins {
        reports.push(house.run(&[&["exec"], *words, &["two", "/probe", "report"]].concat()).fine());
    }
    house.run(&["delete", "--force", "two"]).fine();
    reports
}

fn inheritable(house: &House) -> Option<String> {
    let joins: [&[&str]; 4] = [
        &[],
        &["--cap", "CAP_KILL"],
        &["--cap", "CAP_CHOWN", "-u", "1000"],
        &["--cap", "CAP_CHOWN", "-u", "0"],
    ];
    wrong(&reports(house, &joins), "CapInh", |set| set.contains(|digit| digit != '0'))
}

fn groups(house: &House) -> Option<String> {
    let before = nix::unistd::getgroups().unwrap();
    rustix::thread::set_thread_groups(&[Gid::ROOT, Gid::from_raw(GROUP)]).unwrap();
    let reports = reports(house, &[&[], &["-u", "1000"], &["-u", "0:0"], &["-u", "1000:1000"]]);
    let before: Vec<Gid> = before.iter().map(|group| Gid::from_raw(group.as_raw())).collect();
    rustix::thread::set_thread_groups(&before).unwrap();
    wrong(&reports, "Groups", |groups| groups.contains(&GROUP.to_string()))
}

fn hooks(house: &House) -> Option<String> {
    let program = std::env::current_exe().unwrap();
    // Without startContainer: that is a program of the container's own.
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    house.change(|config| {
        config["process"]["env"].as_array_mut().unwrap().push(json!("LD_PRELOAD=/evil.so"));
        for kind in kinds {
            let args = json!(["/probe", "environment", house.path(kind)]);
            config["hooks"][kind] = json!([{ "path": program, "args": args }]);
        }
    });
    house.run(&["run", "one"]).fine();
    kinds.into_iter().find_map(|kind| {
        let text = std::fs::read_to_string(house.path(kind)).unwrap();
        text.contains("LD_PRELOAD").then(|| format!("{kind} was given LD_PRELOAD"))
    })
}

fn names(house: &House) -> Option<String> {
    for id in ["../outside/evil", "a/../../outside/evil", "/../outside/evil"] {
        house.run(&["create", id]).any();
    }
    let harm = house.harm_outside();
    house.run(&["delete", "--force", "../outside/evil"]).any();
    if harm.is_some() {
        // What comes next would take this attempt's own directories away.
        return harm;
    }
    for id in ["", ".", "..", "../outside", "../outside/"] {
        house.run(&["delete", "--force", id]).any();
    }
    house.harm_outside()
}
