//! Targets without a fuzzer: random bytes for some time.

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

/// Runs each of them for `FUZZ_SECONDS`, from `FUZZ_SEED` on.
pub fn run(targets: &[super::targets::Target]) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64) | 1;
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    println!("seed {seed}");
    for (name, target) in targets {
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
