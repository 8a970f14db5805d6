//! A short run of every fuzz target, with random bytes and no fuzzer: what continuous integration has time for.
//! `just fuzz` runs them with one.
//!
//! Run by `cargo test -p skep-runtime --features fuzzing --test fuzz`. The seed is printed; `FUZZ_SEED` repeats a run,
//! `FUZZ_SECONDS` is the time of each target.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a crate's own file, of which the table alone is used here")]
mod targets;

#[path = "../fuzz/src/brief.rs"]
#[allow(unreachable_pub, reason = "a file that others use too")]
mod brief;

fn main() {
    assert!(rustix::process::geteuid().is_root(), "the plans of containers are made here, which needs root");
    // Nothing is mounted or moved; if that were wrong, it would not be the host's.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    brief::run(&targets::TARGETS);
}
