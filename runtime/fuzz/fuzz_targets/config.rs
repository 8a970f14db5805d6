#![no_main]

use skep_runtime_fuzz::{CONFIG, document};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_runtime::fuzzing::config(&document(CONFIG, bytes)));
