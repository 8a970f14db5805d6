#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_runtime_fuzz::run("bus", bytes));
