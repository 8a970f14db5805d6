//! The daemon dies or is stopped; its containers do not notice.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::processes::Process;
use crate::support::{Playground, wait_for, wait_until};
use nix::sys::signal::Signal;

const PORT: u16 = 8080;

fn containers(playground: &Playground, number: u8) -> BTreeSet<(String, Process)> {
    playground.containers(number).into_iter().collect()
}

/// Waits until another daemon than this one answers; its process.
fn wait_for_daemon(playground: &Playground, number: u8, dead: Process) -> Process {
    wait_for("the keeper starts the daemon again", || {
        let daemon = playground.daemon(number).filter(|daemon| *daemon != dead)?;
        playground.try_get(number, "/version")?;
        Some(daemon)
    })
}

#[test]
fn a_killed_daemon_is_started_again_and_finds_its_containers() {
    let playground = Playground::up("killed", 3);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    let victim = if leader == 2 { 3 } else { 2 };
    let others: Vec<u8> = playground.numbers().filter(|number| *number != victim).collect();
    let before = containers(&playground, victim);
    assert_eq!(before.len(), 1, "{before:?}");
    let keeper = playground.keeper(victim).unwrap();

    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                for number in &others {
                    failures.extend(playground.call(*number, PORT).err().map(|error| (*number, error)));
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }
            failures
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("some calls", || calls.load(Ordering::Relaxed) > 20);
            let daemon = playground.daemon(victim).unwrap();
            daemon.kill();
            wait_for_daemon(&playground, victim, daemon);
            for number in playground.numbers() {
                playground.wait_for_answers(number, PORT, &tasks);
            }
            let so_far = calls.load(Ordering::Relaxed);
            wait_until("some more calls", || calls.load(Ordering::Relaxed) > so_far + 20);
        }));
        stop.store(true, Ordering::Relaxed);
        let failures = caller.join().unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        failures
    });
    assert!(failures.is_empty(), "calls through the other nodes failed: {failures:?}");
    assert_eq!(containers(&playground, victim), before, "its containers are the same processes");
    assert_eq!(playground.keeper(victim), Some(keeper));
    assert_eq!(playground.wait_for_tasks(victim, "web", 3, |_| true), tasks);
    playground.call_often(&[1, 2, 3], PORT, 60);
}

#[test]
fn a_daemon_may_die_again_and_again() {
    let playground = Playground::up("again", 1);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    playground.wait_for_answers(1, PORT, &tasks);
    let before = containers(&playground, 1);
    assert_eq!(before.len(), 3, "{before:?}");
    for round in 0..5 {
        let daemon = wait_for("a daemon", || playground.daemon(1));
        daemon.kill();
        if round % 2 == 0 {
            wait_for_daemon(&playground, 1, daemon);
        } else {
            // The next one dies while it is still starting.
            let next = wait_for("the next daemon", || playground.daemon(1).filter(|next| *next != daemon));
            next.kill();
        }
        assert_eq!(containers(&playground, 1), before, "round {round}");
    }
    playground.wait_for_tasks(1, "web", 3, |_| true);
    playground.wait_for_answers(1, PORT, &tasks);
    assert_eq!(playground.wait_for_tasks(1, "web", 3, |_| true), tasks);
    assert_eq!(containers(&playground, 1), before);

    // It still does what it is told, with containers that an earlier daemon started.
    playground.ok(1, &["service", "rm", "web"]);
    wait_until("no containers", || playground.containers(1).is_empty());
}

#[test]
fn a_stopped_daemon_stays_away_and_its_containers_run() {
    let playground = Playground::up("stopped", 1);
    playground.create_web(1, "web", 2, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 2, |_| true);
    playground.wait_for_answers(1, PORT, &tasks);
    let before = containers(&playground, 1);
    let daemon = playground.daemon(1).unwrap();
    let keeper = playground.keeper(1).unwrap();

    daemon.signal(Signal::SIGTERM);
    wait_until("the daemon ends", || !daemon.lives());
    assert!(!playground.socket(1).exists(), "a daemon that ends well takes its socket along");
    playground.skep(1, &["node", "ls"]).is_refused_with("Cannot connect to the skep daemon");
    assert_eq!(containers(&playground, 1), before);
    // What is local is in the kernel and needs no daemon.
    playground.call_often(&[1], PORT, 20);
    assert!(keeper.lives());
    assert_eq!(playground.daemon(1), None, "a daemon that says goodbye is not started again");

    playground.power("start", 1);
    playground.wait_for_answers(1, PORT, &tasks);
    assert_eq!(playground.wait_for_tasks(1, "web", 2, |_| true), tasks);
    assert_eq!(containers(&playground, 1), before);
    assert_eq!(playground.keeper(1), Some(keeper));
}

#[test]
fn after_an_upgrade_the_keeper_is_new_too_and_the_containers_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("skep");
    std::fs::copy(env!("CARGO_BIN_EXE_skep"), &program).unwrap();
    let playground = Playground::up_by(&program, "upgraded", 1, &[], &[]);
    playground.create_web(1, "web", 2, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 2, |_| true);
    let before = containers(&playground, 1);
    let keeper = playground.keeper(1).unwrap();
    // As a package manager does it: another file under the same name.
    let next = folder.path().join("next");
    std::fs::copy(&program, &next).unwrap();
    std::fs::rename(&next, &program).unwrap();
    let installed = std::fs::metadata(&program).unwrap().ino();
    let runs = |process: Process| std::fs::metadata(process.path("exe")).map(|file| file.ino()).ok();
    assert_ne!(runs(keeper), Some(installed));
    playground.restart_daemon(1);
    wait_until("the keeper runs what is installed", || runs(keeper) == Some(installed));
    assert_eq!(runs(playground.daemon(1).unwrap()), Some(installed));
    assert_eq!(playground.keeper(1), Some(keeper), "the same process");
    assert_eq!(containers(&playground, 1), before);
    playground.wait_for_answers(1, PORT, &tasks);
    // It is still their parent, and makes new ones.
    playground.ok(1, &["service", "scale", "web=3"]);
    playground.wait_for_tasks(1, "web", 3, |_| true);
}
