//! What runs inside the containers: words in, facts out.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

pub(crate) fn main(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap()),
        ["sleep"] => loop {
            std::thread::park();
        },
        // PID 1 gets no signal that it does not ask for.
        ["wait-term", code] => {
            let set = SigSet::from(Signal::SIGTERM);
            set.thread_block().unwrap();
            println!("ready");
            set.wait().unwrap();
            ExitCode::from(code.parse::<u8>().unwrap())
        }
        ["say", stdout, stderr] => {
            println!("{stdout}");
            eprintln!("{stderr}");
            ExitCode::SUCCESS
        }
        ["complain", words] => {
            eprintln!("{words}");
            ExitCode::from(3)
        }
        ["touch", path] => {
            drop(std::fs::File::create(path).unwrap());
            ExitCode::SUCCESS
        }
        ["need-env", name, value] => ExitCode::from(u8::from(std::env::var(name).as_deref() != Ok(*value))),
        ["read", path] => {
            print!("{}", std::fs::read_to_string(path).unwrap());
            ExitCode::SUCCESS
        }
        ["namespace", name] => {
            println!("{}", std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display());
            ExitCode::SUCCESS
        }
        ["list", path] => {
            for entry in std::fs::read_dir(path).unwrap() {
                println!("{}", entry.unwrap().file_name().to_str().unwrap());
            }
            ExitCode::SUCCESS
        }
        // Tells a service manager, then lives on or not.
        ["notify", then] => {
            let path = std::env::var("NOTIFY_SOCKET").unwrap();
            let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
            for text in ["STATUS=not yet", "READY=1\nSTATUS=now"] {
                socket.send_to(text.as_bytes(), &path).unwrap();
            }
            match then.parse::<u8>() {
                // The runtime's end of the socket is gone only after it has read what was sent.
                Ok(code) => {
                    while socket.send_to(b"STATUS=still", &path).is_ok() {}
                    ExitCode::from(code)
                }
                Err(_) => loop {
                    std::thread::park();
                },
            }
        }
        ["variable", name, value] => {
            ExitCode::from(u8::from(std::env::var(name).unwrap_or_default() != *value))
        }
        // A descriptor that was handed in.
        ["read-fd", number] => {
            print!("{}", std::fs::read_to_string(format!("/proc/self/fd/{number}")).unwrap());
            ExitCode::SUCCESS
        }
        other => {
            eprintln!("probe: what is {other:?}?");
            ExitCode::from(99)
        }
    }
}
