#![no_main]

use skep_runtime_fuzz::{SECCOMP, document};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_runtime::fuzzing::seccomp(&document(SECCOMP, bytes)));
