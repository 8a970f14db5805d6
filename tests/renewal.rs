//! Certificates that last for seconds: they are renewed again and again, and no connection notices.

use std::time::{Duration, Instant};

use crate::support::load::{Calls, Writes};
use crate::support::{Playground, wait_until};

const PORT: u16 = 8080;
/// How long a certificate lasts, seconds; the least that there is.
const LIFE: u64 = 10;
/// How many of its own each node shall get.
const RENEWALS: usize = 4;

/// Lines in a node's log that have all of these words.
fn said(playground: &Playground, number: u8, words: &[&str]) -> usize {
    let log = std::fs::read_to_string(playground.disk(number).join("log")).unwrap();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn renewals(playground: &Playground, number: u8) -> usize {
    said(playground, number, &["this node has a new certificate"])
}

fn lost(playground: &Playground, number: u8) -> usize {
    said(playground, number, &["disconnected"])
}

#[test]
fn certificates_renew_in_time_and_no_connection_drops() {
    let environment =
        [("SKEP_CERT_LIFE_MOST", &*LIFE.to_string()), ("SKEP_LOG", "info,openraft=off,skep_mesh=debug")];
    let playground = Playground::up_where("renew", 4, &[], &environment);
    playground.create_web(1, "web", 4, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let before: Vec<(usize, usize)> = playground
        .numbers()
        .map(|number| (renewals(&playground, number), lost(&playground, number)))
        .collect();
    let started = Instant::now();
    let writes = Writes::start(&playground, &[1, 2, 3], 50);
    let calls = Calls::start(&playground, &[1, 2, 3, 4], PORT);
    wait_until("each node has had new certificates", || {
        playground
            .numbers()
            .zip(&before)
            .all(|(number, (had, _))| renewals(&playground, number) >= had + RENEWALS)
    });
    let took = started.elapsed();
    for (number, (had, broken)) in playground.numbers().zip(&before) {
        assert_eq!(lost(&playground, number), *broken, "node {number} lost a connection");
        // At 50 to 80 % of a life, after which a new one begins: not more often.
        let most = took.as_secs_f64() / (0.5 * Duration::from_secs(LIFE).as_secs_f64()) + 1.0;
        let renewed = renewals(&playground, number) - had;
        assert!(renewed as f64 <= most, "node {number}: {renewed} in {took:?}");
    }
    writes.finish(&playground, &[1, 2, 3]);
    calls.none_failed();
    assert_eq!(playground.wait_for_leader(&[1, 2, 3], 0), leader, "nobody else had to lead");
}
