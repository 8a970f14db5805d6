#![no_main]

use skep_runtime_fuzz::{PROCESS, document};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_runtime::fuzzing::process(&document(PROCESS, bytes)));
