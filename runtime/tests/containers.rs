//! Real containers, run as root through a real keeper.
//!
//! This program is three: the tests, the keeper that they talk to (`keeper RUN STATE PARENT`), and, statically linked
//! as it is, the only file in the containers' root filesystem (`/probe`).

// The whole program is a test, but clippy knows only functions marked as such.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "containers/attacks.rs"]
mod attacks;
#[path = "containers/attributes.rs"]
mod attributes;
#[path = "containers/cases.rs"]
mod cases;
#[path = "containers/house.rs"]
mod house;
#[path = "containers/lives.rs"]
mod lives;
#[path = "containers/mounts.rs"]
mod mounts;
#[path = "containers/probe.rs"]
mod probe;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args[0] == "/probe" || args[0] == "probe" {
        return probe::main(&args[1..]);
    }
    if args.get(1).is_some_and(|word| word == "keeper") {
        return house::keeper(&args[2..]);
    }
    if args.get(1).is_some_and(|word| word == "fake-daemon") {
        return house::fake_daemon(&args[2..]);
    }
    if args.get(1).is_some_and(|word| word == "stranger") {
        return attacks::stranger(&args[2..]);
    }
    run_tests(&args[1..])
}

fn all_cases() -> impl Iterator<Item = &'static (&'static str, fn())> {
    cases::CASES
        .iter()
        .chain(lives::CASES)
        .chain(attributes::CASES)
        .chain(mounts::CASES)
        .chain(attacks::CASES)
}

/// As cargo's own runner: a filter, and `--list`.
fn run_tests(args: &[String]) -> ExitCode {
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in all_cases() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "these tests make containers and need root");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = Vec::new();
    let mut run = 0;
    for (name, case) in all_cases() {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        run += 1;
        let start = Instant::now();
        let passed = passes(name, *case);
        let word = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({} ms)", start.elapsed().as_millis());
        if !passed {
            failed.push(name);
        }
    }
    house::remove_layer();
    println!("\n{run} run, {} failed {failed:?}", failed.len());
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
