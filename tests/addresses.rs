//! A node is its key, not its address: hosts get other addresses and ports while all runs, and nobody joins again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::support::load::{Calls, Writes};
use crate::support::nat::Router;
use crate::support::swarm::{Task, text};
use crate::support::{Playground, http, wait_until};
use skep_netns::Netlink;

const PORT: u16 = 8080;

/// The last byte of a host's second address: this and its number.
const MOVED: u8 = 150;

fn new_address(playground: &Playground, number: u8) -> Ipv4Addr {
    playground.address(MOVED + number)
}

/// Takes a host's address away and gives it another, as a DHCP server with a short memory would.
fn renumber(playground: &Playground, number: u8) {
    let (old, new) = (playground.address(number), new_address(playground, number));
    let mut netlink = Netlink::new_in(&playground.network(number)).unwrap();
    let link = netlink.link_index("eth0").unwrap();
    netlink.delete_address(link, old.into(), 24).unwrap();
    netlink.add_address(link, new.into(), 24).unwrap();
}

/// Waits until a port at an address is answered by each of these tasks.
fn wait_for_answers(address: Ipv4Addr, tasks: &[Task]) {
    let mut heard = BTreeMap::new();
    wait_until(&format!("answers of all tasks at {address}"), || {
        if let Ok(answer) = http::call((address, PORT).into()) {
            heard.insert(answer.task_id, ());
        }
        tasks.iter().all(|task| heard.contains_key(&task.id))
    });
}

/// Renumbers a host under writes and calls through the others; it must be known at its new address afterwards, with
/// the ID, the tasks and the processes that it had.
fn move_node(playground: &Playground, number: u8, tasks: &[Task]) {
    let others: Vec<u8> = playground.numbers().filter(|other| *other != number).collect();
    let id = playground.id(number);
    let processes = playground.containers(number);
    assert_eq!(processes.len(), 1, "{processes:?}");
    renumber(playground, number);
    let new = new_address(playground, number).to_string();
    let viewer = if others.contains(&2) { 2 } else { 3 };
    wait_until(&format!("node {viewer} knows node {number} at {new}"), || {
        playground.try_node(viewer, number).is_some_and(|node| {
            let manager = text(&node, "/ManagerStatus/Addr");
            text(&node, "/Status/Addr") == new && (manager.is_empty() || manager == format!("{new}:2377"))
        })
    });
    playground.wait_for_node(viewer, number, "ready");
    assert_eq!(playground.id(number), id, "it is the same node");
    assert_eq!(playground.containers(number), processes, "its container runs on");
    assert_eq!(text(&playground.get(number, "/info"), "/Swarm/NodeAddr"), new);
    let now = playground.wait_for_tasks(viewer, "web", tasks.len(), |_| true);
    assert!(now.iter().any(|task| task.node == number), "it has work: {now:#?}");
    wait_for_answers(new_address(playground, number), &now);
    for other in others {
        let moved = new_address(playground, other);
        let address =
            if http::call((moved, PORT).into()).is_ok() { moved } else { playground.address(other) };
        wait_for_answers(address, &now);
    }
}

#[test]
fn a_worker_a_follower_and_the_leader_are_renumbered_while_running() {
    let playground = Playground::up("moved", 4);
    playground.create_web(1, "web", 4, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let follower = [3, 2, 1].into_iter().find(|number| *number != leader).unwrap();
    let writes = Writes::start(&playground, &[1, 2, 3], 100);
    for number in [4, follower] {
        move_node(&playground, number, &tasks);
        writes.wait_for_more(50);
    }
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    move_node(&playground, leader, &tasks);
    writes.wait_for_more(50);
    writes.finish(&playground, &[1, 2, 3]);
    // The swarm is as good as before: one that is told the new addresses may join, and one more may go.
    let told = playground.ok(1, &["swarm", "join-token", "worker"]);
    assert!(told.contains("10.77."), "{told}");
    assert!(!told.contains(&format!("{}:2377", playground.address(leader))), "an old address: {told}");
}

/// A manager goes to another port and back, under writes; the address given is the one that it keeps.
#[test]
fn a_manager_changes_its_port_while_running() {
    let playground = Playground::up("port", 3);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let viewer = if leader == 1 { 2 } else { 1 };
    let processes = playground.containers(leader);
    let writes = Writes::start(&playground, &[viewer], 50);
    for port in [2399, 2377] {
        let listen = format!("0.0.0.0:{port}");
        let said = playground.ok(leader, &["swarm", "address", "--listen-addr", &listen]);
        let new = format!("{}:{port}", playground.address(leader));
        assert!(said.contains(&listen) && said.contains(&new), "{said}");
        wait_until(&format!("node {viewer} knows node {leader} at {new}"), || {
            playground.try_node(viewer, leader).is_some_and(|node| text(&node, "/ManagerStatus/Addr") == new)
        });
        playground.wait_for_node(viewer, leader, "ready");
        writes.wait_for_more(50);
        for number in playground.numbers() {
            playground.wait_for_answers(number, PORT, &tasks);
        }
        let told = playground.ok(leader, &["swarm", "join-token", "worker"]);
        assert!(told.contains(&new), "{told}");
    }
    assert_eq!(playground.containers(leader), processes, "its container runs on");
    playground
        .skep(leader, &["swarm", "address", "--listen-addr", "198.51.100.1:2377"])
        .is_refused_with("198.51.100.1:2377");
    let same = playground.ok(leader, &["swarm", "address"]);
    assert!(same.contains("0.0.0.0:2377"), "{same}");
    writes.finish(&playground, &[viewer]);
}

/// A host that is carried to another network: another interface, another subnet, and a router between it and the rest.
#[test]
fn a_node_is_carried_to_another_network_while_running() {
    let playground = Playground::up("carried", 4);
    playground.create_web(1, "web", 4, PORT);
    playground.wait_for_tasks(1, "web", 4, |_| true);
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let follower = [1, 2, 3].into_iter().find(|number| *number != leader).unwrap();
    let viewer = [1, 2, 3].into_iter().find(|number| ![leader, follower].contains(number)).unwrap();
    let writes = Writes::start(&playground, &[viewer], 50);
    let mut routers = Vec::new();
    for number in [4, follower] {
        let id = playground.id(number);
        routers.push(Router::before(&playground, number));
        wait_until(&format!("node {viewer} knows where node {number} calls from"), || {
            let address = routers.last().unwrap().address.to_string();
            playground.try_node(viewer, number).is_some_and(|node| text(&node, "/Status/Addr") == address)
        });
        playground.wait_for_node(viewer, number, "ready");
        assert_eq!(playground.id(number), id, "it is the same node");
        writes.wait_for_more(50);
        let now = playground.wait_for_tasks(viewer, "web", 4, |_| true);
        playground.wait_for_answers(viewer, PORT, &now);
    }
    writes.finish(&playground, &[1, 2, 3]);
}

#[test]
fn a_restart_at_another_address_is_no_loss_either() {
    let playground = Playground::up("cold", 3);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    playground.wait_for_answers(1, PORT, &tasks);
    // All at once, and all daemons go with it: nobody knows an address of anybody that is still true.
    let ids: Vec<String> = playground.numbers().map(|number| playground.id(number)).collect();
    for number in [2, 3] {
        renumber(&playground, number);
        playground.daemon(number).unwrap().kill();
    }
    // Node 1 has kept its address: one that all know is enough.
    playground.wait_for_leader(&[1, 2, 3], 0);
    for number in playground.numbers() {
        playground.wait_for_node(1, number, "ready");
    }
    let now: Vec<String> = playground.numbers().map(|number| playground.id(number)).collect();
    assert_eq!(now, ids);
}

#[test]
fn calls_through_nodes_that_stay_do_not_fail_while_another_moves() {
    let playground = Playground::up_with("calm", 3, &["--managers", "1"]);
    playground.create_web(1, "web", 1, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 1, |_| true);
    let [home] = tasks.iter().map(|task| task.node).collect::<Vec<_>>()[..] else { unreachable!() };
    let moving = [3, 2].into_iter().find(|number| *number != home).unwrap();
    let staying: Vec<u8> = playground.numbers().filter(|number| *number != moving).collect();
    for number in &staying {
        playground.wait_for_answers(*number, PORT, &tasks);
    }
    let calls = Calls::start(&playground, &staying, PORT);
    renumber(&playground, moving);
    wait_for_answers(new_address(&playground, moving), &tasks);
    calls.none_failed();
    assert_eq!(playground.running(1, "web"), tasks);
}
