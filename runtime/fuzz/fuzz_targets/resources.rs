#![no_main]

use skep_runtime_fuzz::{RESOURCES, document};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_runtime::fuzzing::resources(&document(RESOURCES, bytes)));
