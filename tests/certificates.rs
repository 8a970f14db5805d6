//! Nodes whose certificate has ended, whose clock is wrong, or which were removed.

use crate::support::swarm::Task;
use crate::support::{Playground, wait_until};

const PORT: u16 = 8080;

/// Seconds to add to a host's clock: see `skep daemon --clock-offset`.
const OFFSET: &str = "SKEP_CLOCK_OFFSET";

/// Longer than a certificate of 90 days lasts.
const LATER: &str = "10000000";

#[test]
fn a_node_with_a_wrong_clock_comes_back() {
    let playground = Playground::up_with("clock", 4, &["--managers", "3"]);
    playground.create_web(1, "web", 4, PORT);
    playground.wait_for_tasks(1, "web", 4, |_| true);
    for (number, offset) in [(4, LATER), (3, "-10000000"), (4, "-10000000"), (3, LATER)] {
        playground.power("kill", number);
        playground.wait_for_node(1, number, "down");
        playground.start_with(number, OFFSET, offset);
        playground.wait_for_node(1, number, "ready");
        let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
        playground.wait_for_answers(number, PORT, &tasks);
    }
    wait_until("manager 3 to serve", || playground.try_get(3, "/nodes").is_some());
}

/// As after a swarm was switched off for longer than certificates last: whoever holds the CA's key needs nobody, and the
/// worker's old key is enough.
#[test]
fn a_swarm_that_slept_past_all_its_certificates_wakes_up() {
    let playground = Playground::up_with("asleep", 4, &["--managers", "3"]);
    playground.create_web(1, "web", 4, PORT);
    let lost = playground.wait_for_tasks(1, "web", 4, |_| true);
    for number in playground.numbers() {
        playground.power("kill", number);
    }
    for number in playground.numbers() {
        playground.start_with(number, OFFSET, LATER);
    }
    playground.wait_for_leader(&[1, 2, 3], 0);
    for number in playground.numbers() {
        playground.wait_for_node(1, number, "ready");
    }
    // What the managers remember is true until each node has said that its containers are gone.
    let is_new = |task: &Task| lost.iter().all(|old| old.id != task.id);
    let tasks = playground.wait_for_tasks(1, "web", 4, is_new);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
}

#[test]
fn a_node_that_was_removed_does_not_come_back_whatever_its_certificate_says() {
    let playground = Playground::up_with("removed", 3, &["--managers", "1"]);
    let gone = playground.id(3);
    playground.power("kill", 3);
    playground.wait_for_node(1, 3, "down");
    playground.ok(1, &["node", "rm", &gone]);
    // Once with a certificate that is good, once with one that has ended, so that it must re-enrol.
    for offset in ["0", LATER] {
        playground.start_with(3, OFFSET, offset);
        let log = playground.disk(3).join("log");
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        wait_until("it is told", || {
            said().matches("removed").count() + said().matches("refused").count() > 0
        });
        let nodes = playground.nodes_seen_by(1).unwrap();
        assert_eq!(nodes.len(), 2, "{nodes:#?}");
        playground.power("kill", 3);
        std::fs::write(&log, "").unwrap();
    }
}
