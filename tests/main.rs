//! The black-box tests of the whole program, each file a question. They are one program, for linking is what takes time,
//! and tests that mostly wait run beside each other.

#![allow(clippy::unwrap_used, reason = "the lint knows tests, not their helpers")]

mod addresses;
mod autolock;
mod bad_input;
mod certificates;
mod daemon_restart;
mod leader_loss;
mod leave;
mod limits;
mod linearizability;
mod nat;
mod network_cut;
mod recover;
mod renewal;
mod roles;
mod rotation;
mod service_everywhere;
mod settings;
mod support;
mod updates;
mod workers;

/// What hosts and containers run in place of a test: see [`support::helper`].
#[test]
fn the_helper_does_nothing_by_itself() {
    support::helper::run();
}
