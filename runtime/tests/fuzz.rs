//! A short run of every fuzz target, with random bytes and no fuzzer: what continuous integration has time for.
//! `just fuzz` runs them with one.
//!
//! Run by `cargo test -p skep-runtime --features fuzzing --test fuzz`. The seed is printed; `FUZZ_SEED` repeats a run,
//! `FUZZ_SECONDS` is the time of each target.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, reason = "a crate's own file, of which the table alone is used here")]
mod targets;

use std::time::{Duration, Instant};

/// Longest input. A change of a document takes a few bytes, so this is a dozen of them.
const BYTES_MAX: u64 = 48;

/// A run that takes longer has found a hang.
const RUN_MAX: Duration = Duration::from_secs(10);

/// xorshift64*: good enough to be irregular.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % BYTES_MAX;
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }
}

fn main() {
    assert!(rustix::process::geteuid().is_root(), "the plans of containers are made here, which needs root");
    // Nothing is mounted or moved; if that were wrong, it would not be the host's.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64) | 1;
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    println!("seed {seed}");
    for (name, target) in targets::TARGETS {
        let mut random = Random(seed);
        let (start, mut runs) = (Instant::now(), 0_u64);
        while start.elapsed() < time {
            let bytes = random.bytes();
            let began = Instant::now();
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                eprintln!("{name} fell over {bytes:?}");
                std::process::exit(1);
            }
            assert!(began.elapsed() < RUN_MAX, "{name} hung for {:?} over {bytes:?}", began.elapsed());
            runs += 1;
        }
        println!("{name}: {runs} runs");
        assert!(runs > 0);
    }
}
