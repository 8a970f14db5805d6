#![no_main]

use skep_runtime_fuzz::{DEVICES, document};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_runtime::fuzzing::devices(&document(DEVICES, bytes)));
