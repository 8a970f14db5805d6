//! Nodes are promoted and demoted, the leader too, while the swarm is written to and called: nothing is lost.

use crate::support::Playground;
use crate::support::load::{Calls, Writes};
use crate::support::swarm::text;

const PORT: u16 = 8080;

/// Writes each second, as long as the machine can.
const RATE: u32 = 500;

fn promote(playground: &Playground, through: u8, number: u8) {
    let name = format!("node-{number}");
    let told = playground.ok(through, &["node", "promote", &name]);
    assert_eq!(told, format!("Node {name} promoted to a manager in the swarm.\n"));
    playground.wait_for_role(through, number, "manager");
}

fn demote(playground: &Playground, through: u8, number: u8) {
    let name = format!("node-{number}");
    let told = playground.ok(through, &["node", "demote", &name]);
    assert_eq!(told, format!("Manager {name} demoted in the swarm.\n"));
    playground.wait_for_role(through, number, "worker");
}

#[test]
fn promotions_and_demotions_lose_no_acknowledged_write_and_no_call() {
    let playground = Playground::up("roles", 5);
    playground.create_web(1, "web", 5, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 5, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    let processes = playground.all_containers();
    let ids: Vec<String> = playground.numbers().map(|number| playground.id(number)).collect();
    let writes = Writes::start(&playground, &[1, 2, 3, 4, 5], RATE);
    let calls = Calls::start(&playground, &[1, 2, 3, 4, 5], PORT);

    promote(&playground, 1, 4);
    writes.wait_for_more(100);
    promote(&playground, 4, 5);
    writes.wait_for_more(100);
    // A follower goes, then whoever leads, twice; each through another manager.
    let leader = playground.wait_for_leader(&[1, 2, 3, 4, 5], 0);
    let follower = playground.numbers().find(|number| *number != leader).unwrap();
    let mut managers: Vec<u8> = playground.numbers().collect();
    demote(&playground, leader, follower);
    managers.retain(|number| *number != follower);
    writes.wait_for_more(100);
    for _ in 0..2 {
        let leader = playground.wait_for_leader(&managers, 0);
        managers.retain(|number| *number != leader);
        demote(&playground, managers[0], leader);
        playground.wait_for_leader(&managers, leader);
        writes.wait_for_more(100);
    }
    assert_eq!(managers.len(), 2);
    // And all come back.
    for number in playground.numbers().filter(|number| !managers.contains(number)) {
        promote(&playground, managers[0], number);
        writes.wait_for_more(100);
    }
    let everybody: Vec<u8> = playground.numbers().collect();
    playground.wait_for_leader(&everybody, 0);
    calls.none_failed();
    writes.finish(&playground, &everybody);

    assert_eq!(playground.all_containers(), processes, "a role is no reason for another process");
    let now: Vec<String> = playground.numbers().map(|number| playground.id(number)).collect();
    assert_eq!(now, ids);
    assert_eq!(playground.running(2, "web"), tasks);
}

#[test]
fn a_demoted_manager_keeps_nothing_of_what_managers_know_and_restarts_as_a_worker() {
    let playground = Playground::up("demoted", 3);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    let processes = playground.all_containers();
    demote(&playground, 1, 2);
    playground.skep(2, &["node", "ls"]).is_refused_with("This node is not a swarm manager");
    playground.restart_daemon(2);
    playground.wait_for_node(1, 2, "ready");
    playground.skep(2, &["service", "ls"]).is_refused_with("This node is not a swarm manager");
    assert_eq!(playground.all_containers(), processes);
    assert_eq!(playground.running(1, "web"), tasks);
    // What it had as a manager does not come back with it: two managers are left, and both are needed.
    playground.power("kill", 3);
    playground.wait_for_no_leader(1);
    playground.power("start", 3);
    playground.wait_for_leader(&[1, 3], 0);
    promote(&playground, 3, 2);
    playground.restart_daemon(2);
    playground.wait_for_role(1, 2, "manager");
    playground.wait_for_leader(&[1, 2, 3], 0);
    // Now one may be missing.
    playground.power("kill", 3);
    playground.wait_for_leader(&[1, 2], 3);
    playground.ok(2, &["service", "scale", "-d", "web=2"]);
}

#[test]
fn a_node_may_ask_for_its_own_demotion_and_an_unreachable_one_is_demoted_without_it() {
    let playground = Playground::up("own", 4);
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    // The leader through itself: the command has ended well before its manager part goes.
    playground.ok(leader, &["node", "update", "--role", "worker", "self"]);
    let others: Vec<u8> = [1, 2, 3].into_iter().filter(|number| *number != leader).collect();
    playground.wait_for_role(others[0], leader, "worker");
    playground.ok(others[0], &["node", "update", "--role", "manager", &format!("node-{leader}")]);
    playground.wait_for_role(others[0], leader, "manager");

    // One without power is taken out of Raft at once, and learns of it when it boots.
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let gone = [1, 2, 3].into_iter().find(|number| *number != leader).unwrap();
    playground.power("kill", gone);
    playground.wait_for_node(leader, gone, "down");
    playground.ok(leader, &["node", "demote", &format!("node-{gone}")]);
    crate::support::wait_until("it is no manager any more", || {
        playground.try_node(leader, gone).is_some_and(|node| text(&node, "/ManagerStatus/Addr").is_empty())
    });
    playground.power("start", gone);
    playground.wait_for_role(leader, gone, "worker");
}

#[test]
fn what_would_lose_the_quorum_is_refused_and_says_why() {
    let playground = Playground::up_with("quorum", 4, &["--managers", "3"]);
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let others: Vec<u8> = [1, 2, 3].into_iter().filter(|number| *number != leader).collect();
    playground.power("kill", others[0]);
    playground.wait_for_node(leader, others[0], "down");
    // Two of three are up: taking one that is up leaves one of two.
    let refused = playground.skep(leader, &["node", "demote", &format!("node-{}", others[1])]);
    refused.is_refused_with("quorum");
    let refused = playground.skep(leader, &["node", "rm", &format!("node-{}", others[0])]);
    refused.is_refused_with("demoted");
    // The one that is gone may go.
    playground.ok(leader, &["node", "demote", &format!("node-{}", others[0])]);
    crate::support::wait_until("it is no manager any more", || {
        playground
            .try_node(leader, others[0])
            .is_some_and(|node| text(&node, "/ManagerStatus/Addr").is_empty())
    });
    playground.ok(leader, &["node", "rm", &format!("node-{}", others[0])]);
    playground.ok(leader, &["node", "demote", &format!("node-{}", others[1])]);
    playground.wait_for_role(leader, others[1], "worker");
    let refused = playground.skep(leader, &["node", "demote", &format!("node-{leader}")]);
    refused.is_refused_with("last manager");
    // And the one that was removed is refused, whatever its certificate says.
    playground.power("start", others[0]);
    crate::support::wait_until("the removed node has been told", || {
        let info = playground.try_get(others[0], "/info");
        info.is_some_and(|info| text(&info, "/Swarm/LocalNodeState") != "active")
    });
    assert!(playground.try_node(leader, others[0]).is_none());
}
