//! What the black-box tests share. They drive the built binary alone; what it leaves behind they read from `/proc` and
//! `/sys` themselves.
//!
//! | module | what it is for |
//! |---|---|
//! | [`playground`] | a cluster of one test, removed when the test ends, with a look for what it left |
//! | [`swarm`] | what tests ask of a cluster: its tasks, nodes, services |
//! | [`http`] | requests over TCP and over the API's socket |
//! | [`processes`] | processes, their cgroups and their namespaces |
//! | [`leftovers`] | what must be gone when a playground is |
//! | [`load`] | writes and calls that go on all the while that a test changes something |
//! | [`nat`] | a router before hosts that can only dial out |
//! | [`network`] | links, rules and tables of a host |
//! | [`archive`] | image archives made from nothing |
//! | [`helper`] | the test program itself as a program inside hosts and containers |

#![allow(clippy::expect_used, reason = "the lint knows tests, not their helpers")]

pub(crate) mod archive;
pub(crate) mod helper;
pub(crate) mod http;
pub(crate) mod leftovers;
pub(crate) mod load;
pub(crate) mod nat;
pub(crate) mod network;
pub(crate) mod playground;
pub(crate) mod processes;
pub(crate) mod swarm;

use std::time::{Duration, Instant};

pub(crate) use http::Answer;
pub(crate) use playground::Playground;

/// How long a condition may take to come true. Far more than anything takes; no test measures time.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until a condition gives something; fails the test when it does not.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK);
    }
}

/// Waits until a condition is true; fails the test when it does not come true.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Fails unless the test runs as root.
#[track_caller]
pub(crate) fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes namespaces, links and cgroups: run it as root"
    );
}
