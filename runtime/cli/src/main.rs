//! `skep-runtime`: an OCI runtime with runc's command line, its state document, its messages and its exit codes, so
//! that podman, containerd and Docker use it in runc's place. The work is done by the library of the same name.
//!
//! No threads and no event loop: a command builds, asks or ends one container and is gone.
// See `start`: what the standard library does before `main` is for programs with threads.
#![cfg_attr(not(test), no_main)]

mod app;
mod attend;
mod bundle;
mod commands;
mod create;
mod error;
mod events;
mod exec;
mod features;
mod flags;
mod groups;
mod help;
mod hooks;
mod lifecycle;
mod log;
mod notify;
mod record;
mod show;
mod signals;
mod sockets;
mod spec;
mod start;
mod store;
mod terminal;
mod update;
mod watch;

/// Carries out the command line; the exit code.
#[cfg_attr(test, allow(dead_code, reason = "the tests have another entry"))]
fn program() -> u8 {
    // The kernel allows other bytes; nothing of an OCI specification does.
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let code = app::run(&words);
    // Nobody is left to do it, and nobody to tell if it fails.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    code
}
