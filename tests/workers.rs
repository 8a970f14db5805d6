//! Workers run tasks and leave the rest to managers; images go from node to node.

use std::collections::BTreeSet;

use crate::support::swarm::text;
use crate::support::{Playground, archive, wait_until};

const PORT: u16 = 8080;

/// Docker's sentence.
const NOT_A_MANAGER: &str = "Error response from daemon: This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";

#[test]
fn workers_run_tasks_and_refuse_what_is_a_managers() {
    let playground = Playground::up_with("workers", 3, &["--managers", "1"]);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    assert_eq!(tasks.iter().map(|task| task.node).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    playground.call_often(&[1, 2, 3], PORT, 60);

    let commands: [&[&str]; 8] = [
        &["node", "ls"],
        &["service", "ls"],
        &["service", "ps", "web"],
        &["service", "create", "-d", "--name", "other", "whoami"],
        &["service", "scale", "-d", "web=1"],
        &["service", "rm", "web"],
        &["swarm", "join-token", "worker"],
        &["node", "update", "--availability", "drain", "node-2"],
    ];
    for command in commands {
        let refused = playground.skep(2, command);
        refused.is_refused_with(NOT_A_MANAGER);
        assert_eq!(refused.stdout, "", "{command:?}");
    }
    let rows = playground.rows(1, &["node", "ls"]);
    let status: Vec<(String, String)> =
        rows.iter().map(|row| (text(row, "/Hostname"), text(row, "/ManagerStatus"))).collect();
    let expected = [("node-1", "Leader"), ("node-2", ""), ("node-3", "")];
    assert_eq!(status, expected.map(|(name, status)| (name.to_owned(), status.to_owned())));
    let info = playground.get(2, "/info");
    assert_eq!(info["Swarm"]["LocalNodeState"], "active");
    assert_eq!(info["Swarm"]["ControlAvailable"], false);
    assert_eq!(playground.wait_for_tasks(1, "web", 3, |_| true), tasks, "nothing has changed");

    // A worker that dies and boots again gets work again.
    playground.power("kill", 3);
    playground.wait_for_tasks(1, "web", 3, |task| task.node != 3);
    playground.power("start", 3);
    playground.wait_for_node(1, 3, "ready");
    playground.ok(1, &["service", "scale", "-d", "web=5"]);
    let tasks = playground.wait_for_tasks(1, "web", 5, |_| true);
    assert!(tasks.iter().any(|task| task.node == 3), "{tasks:#?}");
    playground.wait_for_answers(3, PORT, &tasks);
}

#[test]
fn the_only_manager_comes_back_to_running_tasks() {
    let playground = Playground::up_with("manager", 2, &["--managers", "1"]);
    playground.create_web(1, "web", 2, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 2, |_| true);
    let on_worker = tasks.iter().find(|task| task.node == 2).unwrap();
    playground.wait_for_answers(2, PORT, &tasks);
    let before = playground.container(2, &on_worker.container);

    playground.power("kill", 1);
    wait_until("the worker's own task answers", || {
        playground.call(2, PORT).is_ok_and(|answer| answer.task_id == on_worker.id)
    });
    playground.power("start", 1);
    playground.wait_for_node(1, 2, "ready");
    // The worker is heard again before it is given up: what it has run all the while is not replaced.
    wait_until("the worker's task answers at the manager's address", || {
        playground.call(1, PORT).is_ok_and(|answer| answer.task_id == on_worker.id)
    });
    // What the manager itself had run was lost with its power, and is known to run until it is looked for.
    let lost = tasks.iter().find(|task| task.node == 1).unwrap();
    let now = playground.wait_for_tasks(1, "web", 2, |task| task.id != lost.id);
    assert!(now.iter().any(|task| task.id == on_worker.id), "the worker's task lived: {now:#?}");
    assert_eq!(playground.container(2, &on_worker.container), before);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &now);
    }
}

#[test]
fn an_image_loaded_on_one_node_runs_on_all() {
    let playground = Playground::up_with("images", 3, &["--managers", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.tar");
    std::fs::write(&file, archive::web_image("registry.test/team/web:1.0")).unwrap();

    let loaded = playground.ok(3, &["image", "load", "--input", file.to_str().unwrap()]);
    assert_eq!(loaded, "Loaded image: registry.test/team/web:1.0\n");
    let has = |number: u8| {
        let rows = playground.rows(number, &["image", "ls"]);
        rows.iter()
            .any(|row| text(row, "/Repository") == "registry.test/team/web" && text(row, "/Tag") == "1.0")
    };
    assert!(has(3));
    assert!(!has(1) && !has(2), "an image that nobody needs stays where it is");

    let publish = format!("{PORT}:80");
    let image = "registry.test/team/web:1.0";
    playground.ok(1, &["service", "create", "-d", "--name", "web", "--replicas", "3", "-p", &publish, image]);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    assert_eq!(tasks.iter().map(|task| task.node).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
        assert!(has(number), "node {number} has fetched the image");
    }

    // The node that had it first may go: the others have it.
    playground.power("kill", 3);
    let now = playground.wait_for_tasks(1, "web", 3, |task| task.node != 3);
    playground.wait_for_answers(1, PORT, &now);
}
