//! The built command, driven as podman and containerd drive it, on real containers; needs root.
//!
//! This program is the tests and, statically linked as it is, the only file in the containers' root filesystem
//! (`/probe`).

// The whole program is a test, but clippy knows only functions marked as such.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "commands/cases.rs"]
mod cases;
#[path = "commands/conformance.rs"]
mod conformance;
#[path = "commands/engines.rs"]
mod engines;
#[path = "commands/hangs.rs"]
mod hangs;
#[path = "commands/house.rs"]
mod house;
#[path = "commands/probe.rs"]
mod probe;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// A test: its name and what it does.
type Case = (&'static str, fn());

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args[0] == "/probe" {
        return probe::main(&args[1..]);
    }
    run_tests(&args[1..])
}

fn all() -> impl Iterator<Item = &'static Case> {
    cases::CASES.iter().chain(hangs::CASES).chain(conformance::CASES).chain(engines::CASES)
}

/// As cargo's own runner: a filter, and `--list`.
fn run_tests(args: &[String]) -> ExitCode {
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in all() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "these tests make containers and need root");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut failed = Vec::new();
    for (name, case) in all().filter(|case| chosen(case.0)) {
        let passed = passes(name, *case);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    println!("\n{} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Longest a case may take, under emulation too. Nothing else could end one that hangs, or would tell which it is.
const CASE_MAX: Duration = Duration::from_secs(180);

/// Whether the case passes. One that hangs ends the whole program.
fn passes(name: &'static str, case: fn()) -> bool {
    let (running, ended) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(CASE_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("test {name} ... FAILED (it hangs)");
            std::process::exit(1);
        }
    });
    let passed = std::panic::catch_unwind(AssertUnwindSafe(case)).is_ok();
    drop(running);
    watch.join().is_ok() && passed
}
