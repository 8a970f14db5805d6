#![no_main]

use skep_runtime_fuzz::{RECORD, document};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_runtime::fuzzing::record(&document(RECORD, bytes)));
