//! The test program itself as a program inside hosts and containers, where nothing else can be assumed to be.
//!
//! The program is static. Started with [`TASK`] in its environment and the name of the test that calls [`run`], it does
//! that task in place of the test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{archive, http};

/// Says what to do: `call ADDRESS`, `eat`, `fork`.
pub(crate) const TASK: &str = "SKEP_TEST_TASK";

/// The test that has to exist in a test program that uses this, and must call [`run`].
pub(crate) const TEST: &str = "the_helper_does_nothing_by_itself";

/// The exit code of `fork` when the limit stopped it.
pub(crate) const STOPPED: i32 = 42;

/// Threads that `fork` tries to start.
const THREADS: usize = 200;

/// Bytes that `eat` takes before it gives up.
const MEAL: usize = 1 << 30;

/// Arguments that make the program do its task.
pub(crate) const ARGUMENTS: [&str; 4] = ["--exact", TEST, "--nocapture", "--test-threads=1"];

/// This very program.
pub(crate) fn program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// An image that runs this program.
pub(crate) fn image(name: &str) -> Vec<u8> {
    let program = std::fs::read(program()).unwrap();
    archive::image(name, &program, &serde_json::json!({ "Entrypoint": ["/program"], "Cmd": ARGUMENTS }))
}

/// Does the task that the environment names; nothing without one.
pub(crate) fn run() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (verb, argument) = task.split_once(' ').unwrap_or((&task, ""));
    match verb {
        "call" => {
            let target: SocketAddr = argument.parse().unwrap();
            let answer = http::get(target).unwrap_or_else(|error| panic!("{target}: {error}"));
            println!("\n{answer}");
        }
        "eat" => {
            let mut meal: Vec<Vec<u8>> = Vec::new();
            while meal.len() < MEAL >> 20 {
                meal.push(vec![1; 1 << 20]);
            }
            std::hint::black_box(&meal);
            std::process::exit(0);
        }
        "fork" => {
            for _ in 0..THREADS {
                let sleeper = std::thread::Builder::new()
                    .stack_size(16 * 1024)
                    .spawn(|| std::thread::sleep(Duration::from_secs(600)));
                if sleeper.is_err() {
                    std::process::exit(STOPPED);
                }
            }
            std::process::exit(0);
        }
        other => panic!("unknown task {other:?}"),
    }
}
