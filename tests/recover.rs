//! Quorum lost for good: a survivor makes a new control plane, and the old managers that come back cannot split the swarm.

use crate::support::swarm::text;
use crate::support::{Playground, wait_until};
use serde_json::json;

const PORT: u16 = 8080;

/// What a recovery must keep: the CA, the node IDs, the tokens.
fn identity(playground: &Playground, seen_by: u8) -> (String, Vec<String>, String, String) {
    let swarm = playground.get(seen_by, "/swarm");
    let mut nodes: Vec<String> =
        playground.nodes_seen_by(seen_by).unwrap().iter().map(|node| text(node, "/ID")).collect();
    nodes.sort();
    let root = text(&swarm, "/TLSInfo/TrustRoot");
    (root, nodes, playground.token(seen_by, "worker"), playground.token(seen_by, "manager"))
}

fn service_names(playground: &Playground, seen_by: u8) -> Vec<String> {
    let services = playground.get(seen_by, "/services");
    services.as_array().unwrap().iter().map(|service| text(service, "/Spec/Name")).collect()
}

fn has(playground: &Playground, seen_by: u8, service: &str) -> bool {
    service_names(playground, seen_by).iter().any(|name| name == service)
}

#[test]
fn the_last_of_three_goes_on_and_the_two_that_come_back_follow_it() {
    let playground = Playground::up_with("recover", 4, &["--managers", "3"]);
    playground.create_web(1, "web", 4, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    let before = identity(&playground, 1);
    playground.skep(1, &["service", "ls"]);
    playground.skep(1, &["swarm", "recover", "--force"]).is_refused_with("nothing to recover");
    playground.skep(1, &["swarm", "recover"]).is_refused_with("--force");

    let kept: Vec<_> =
        playground.all_containers().into_iter().filter(|(number, ..)| *number == 1 || *number == 4).collect();
    assert_eq!(kept.len(), 2);
    playground.power("kill", 2);
    playground.power("kill", 3);
    playground.wait_for_no_leader(1);
    let told = playground.ok(1, &["swarm", "recover", "--force"]);
    assert!(told.contains("only manager") && told.contains("3 other node(s)"), "{told}");
    assert_eq!(identity(&playground, 1), before);
    playground.wait_for_leader(&[1], 0);
    for number in [2, 3] {
        let node = playground.node(1, number);
        assert_eq!((text(&node, "/Spec/Role"), node.get("ManagerStatus")), ("worker".to_owned(), None));
        playground.wait_for_node(1, number, "down");
    }
    let tasks = playground.wait_for_tasks(1, "web", 4, |task| task.node == 1 || task.node == 4);
    playground.wait_for_answers(1, PORT, &tasks);
    playground.wait_for_answers(4, PORT, &tasks);
    let now = playground.all_containers();
    assert!(kept.iter().all(|container| now.contains(container)), "{kept:?} in {now:?}");
    playground.create_web(1, "after", 1, PORT + 1);

    // Together they are a majority of what they know; they must not be heard by anybody for as long as that lasts.
    playground.power("start", 2);
    playground.power("start", 3);
    for number in [2, 3] {
        wait_until("a manager of before is a worker now", || {
            let info = playground.try_get(number, "/info").unwrap_or_default();
            info["Swarm"]["ControlAvailable"] == json!(false)
                && text(&info, "/Swarm/LocalNodeState") == "active"
        });
        playground.wait_for_node(1, number, "ready");
        playground.skep(number, &["service", "ls"]).is_refused_with("not a swarm manager");
    }
    assert_eq!(identity(&playground, 1), before);
    assert!(has(&playground, 1, "after"));
    playground.wait_for_leader(&[1], 0);
    // They may become managers again.
    playground.ok(1, &["node", "update", "--role", "manager", "node-2"]);
    playground.wait_for_role(1, 2, "manager");
    wait_until("the old manager serves again", || playground.try_get(2, "/services").is_some());
    assert!(has(&playground, 2, "after"));
}

#[test]
fn old_managers_that_meet_first_are_fenced_when_the_network_heals() {
    let playground = Playground::up("fence", 3);
    playground.create_web(1, "web", 3, PORT);
    playground.wait_for_tasks(1, "web", 3, |_| true);
    // The one that is cut off is taken for the last one; the other two know nothing of it and go on.
    playground.power("cut", 1);
    playground.wait_for_no_leader(1);
    playground.ok(1, &["swarm", "recover", "--force"]);
    playground.create_web(1, "new", 1, PORT + 1);
    playground.wait_for_leader(&[2, 3], 1);
    playground.create_web(2, "old", 1, PORT + 2);
    playground.power("heal", 1);
    for number in [2, 3] {
        wait_until("a manager of before is a worker now", || {
            playground
                .try_get(number, "/info")
                .is_some_and(|info| info["Swarm"]["ControlAvailable"] == json!(false))
        });
        playground.wait_for_node(1, number, "ready");
    }
    assert!(has(&playground, 1, "new") && has(&playground, 1, "web"));
    assert!(!has(&playground, 1, "old"), "what managers of before decided does not count");
    playground.wait_for_tasks(1, "web", 3, |_| true);
}

#[test]
fn a_worker_with_a_copy_recovers_a_swarm_whose_managers_are_all_gone() {
    let playground = Playground::up_with("copy", 3, &["--managers", "1"]);
    playground.create_web(1, "web", 3, PORT);
    playground.wait_for_tasks(1, "web", 3, |_| true);
    let recover = |key: &str| {
        playground.skep_with_input(2, &["swarm", "recover", "--force", "--unlock-key"], &format!("{key}\n"))
    };
    playground.skep(2, &["swarm", "recover", "--force"]).is_refused_with("");
    let swarm = playground.get(1, "/swarm");
    let mut spec = swarm["Spec"].clone();
    spec["EncryptionConfig"]["AutoLockManagers"] = true.into();
    let version = &swarm["Version"]["Index"];
    playground.post(1, &format!("/swarm/update?version={version}"), &spec);
    let key = text(&playground.get(1, "/swarm/unlockkey"), "/UnlockKey");
    let copy = playground.disk(2).join("root/swarm/backup.sealed");
    wait_until("the worker has its copy", || copy.exists());
    let before = identity(&playground, 1);
    let kept: Vec<_> = playground.all_containers().into_iter().filter(|(number, ..)| *number != 1).collect();
    playground.power("kill", 1);
    let other = "SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    recover(other).is_refused_with("invalid key");
    recover(&key).went_well();
    assert_eq!(identity(&playground, 2), before);
    playground.wait_for_leader(&[2], 0);
    playground.wait_for_node(2, 3, "ready");
    playground.wait_for_tasks(2, "web", 3, |task| task.node != 1);
    let now = playground.all_containers();
    assert!(kept.iter().all(|container| now.contains(container)), "{kept:?} in {now:?}");
    // It is a manager like any other: locked after a restart.
    playground.daemon(2).unwrap().kill();
    wait_until("locked", || {
        playground.try_get(2, "/info").is_some() && playground.local_state(2) == "locked"
    });
    let body = json!({ "UnlockKey": key }).to_string();
    assert_eq!(playground.request(2, "POST", "/swarm/unlock", &body).unwrap().status, 200);
    playground.wait_for_leader(&[2], 0);
}
