#![no_main]

use skep_runtime_fuzz::{REQUESTS, document};

// One client: its own bytes, or one of the requests there are, changed.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    match REQUESTS.get(usize::from(*first)) {
        Some(request) => skep_runtime::fuzzing::keeper(&document(request, rest)),
        None => skep_runtime::fuzzing::keeper(bytes),
    }
});
