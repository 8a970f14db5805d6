//! A published port answers on every node, and every task sees the real client.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::support::{Playground, helper};

const PORT: u16 = 8080;

/// Three nodes and a service with a task on each, made through node 2.
fn with_web(theme: &str) -> (Playground, Vec<crate::support::swarm::Task>) {
    let playground = Playground::up(theme, 3);
    let publish = format!("{PORT}:80");
    let create =
        ["skep", "service", "create", "-d", "--name", "web", "--replicas", "3", "-p", &publish, "whoami"];
    playground.exec(2, &create).went_well();
    let tasks = playground.wait_for_tasks(3, "web", 3, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    (playground, tasks)
}

#[test]
fn no_request_fails_and_all_tasks_answer_and_see_the_caller() {
    let (playground, tasks) = with_web("everywhere");
    let nodes: BTreeSet<u8> = tasks.iter().map(|task| task.node).collect();
    assert_eq!(nodes, BTreeSet::from([1, 2, 3]), "not spread: {tasks:#?}");

    let mut pairs = BTreeSet::new();
    for round in 0..300_u32 {
        let number = u8::try_from(round % 3 + 1).unwrap();
        let answer = playground.call(number, PORT).unwrap_or_else(|error| panic!("request {round}: {error}"));
        assert_eq!(
            answer.client.ip(),
            IpAddr::V4(playground.machine()),
            "request {round} to {number}: {answer:?}"
        );
        let task = tasks.iter().find(|task| task.id == answer.task_id).unwrap();
        assert_eq!(answer.task, format!("web.{}", task.slot));
        assert_eq!(answer.node, format!("node-{}", task.node));
        pairs.insert((number, task.slot));
    }
    assert_eq!(pairs.len(), 9, "every task must have answered at every address: {pairs:?}");
}

#[test]
fn a_host_is_seen_by_its_own_address_and_may_call_itself() {
    let (playground, tasks) = with_web("hosts");
    let slots = |answers: &[crate::support::Answer]| {
        answers.iter().map(|answer| answer.task.clone()).collect::<BTreeSet<_>>()
    };
    for (from, to) in [(3, 1), (1, 3), (2, 2)] {
        let target = (playground.address(to), PORT);
        let answers: Vec<_> = (0..30).map(|_| playground.call_from(from, target).unwrap()).collect();
        for answer in &answers {
            assert_eq!(
                answer.client.ip(),
                IpAddr::V4(playground.address(from)),
                "from {from} to {to}: {answer:?}"
            );
        }
        assert_eq!(slots(&answers).len(), tasks.len(), "from {from} to {to}");
    }
    for number in playground.numbers() {
        let target = (Ipv4Addr::LOCALHOST, PORT);
        let answers: Vec<_> = (0..30).map(|_| playground.call_from(number, target).unwrap()).collect();
        assert_eq!(slots(&answers).len(), tasks.len(), "127.0.0.1 on node {number}");
    }
}

#[test]
fn exec_runs_a_command_in_the_hosts_network() {
    let (playground, _) = with_web("exec");
    let program = helper::program();
    let task = format!("{}=call {}:{PORT}", helper::TASK, playground.address(1));
    let (program, variable) = (program.to_str().unwrap(), task.as_str());
    // `env` is no part of the toolchain's promise; the variable is handed down by `playground exec` itself.
    let (name, value) = variable.split_once('=').unwrap();
    let mut command = std::process::Command::new(crate::support::playground::SKEP);
    command.args(["playground", "exec", "--name", &playground.name, "3", program]).args(helper::ARGUMENTS);
    let told = crate::support::playground::Outcome::of(command.env(name, value)).went_well();
    let client = told.lines().find_map(|line| line.strip_prefix("Client: ")).unwrap();
    assert!(client.starts_with(&format!("{}:", playground.address(3))), "{told}");

    assert_eq!(playground.exec(1, &["skep", "swarm", "join-token", "-q", "nobody"]).code, 1);
    let hosts = playground.exec(2, &["skep", "info", "--format", "{{.Name}}"]).went_well();
    assert_eq!(hosts.trim(), "node-2");
}
