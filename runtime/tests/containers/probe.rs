//! What runs inside the containers: words in, facts out.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use nix::sys::signal::{SigSet, Signal};

pub(crate) fn main(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap()),
        ["sleep"] => loop {
            std::thread::park();
        },
        // PID 1 gets no signal that it does not ask for.
        ["wait-term", code] => {
            let set = SigSet::from(Signal::SIGTERM);
            set.thread_block().unwrap();
            println!("ready");
            set.wait().unwrap();
            return ExitCode::from(code.parse::<u8>().unwrap());
        }
        ["abort"] => std::process::abort(),
        ["say", stdout, stderr] => {
            println!("{stdout}");
            eprintln!("{stderr}");
        }
        ["lines", count] => {
            for number in 0..count.parse::<u32>().unwrap() {
                println!("line {number}");
            }
        }
        ["ticks"] => {
            for number in 0.. {
                println!("tick {number}");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        ["eat", megabytes] => {
            let mut eaten = Vec::new();
            for _ in 0..megabytes.parse::<u32>().unwrap() {
                eaten.push(vec![7_u8; 1 << 20]);
            }
            println!("ate {}", std::hint::black_box(eaten).len());
        }
        ["fork", count] => {
            let mut children = Vec::new();
            for _ in 0..count.parse::<u32>().unwrap() {
                match Command::new("/proc/self/exe").arg0_probe().arg("sleep").spawn() {
                    Ok(child) => children.push(child),
                    Err(error) => {
                        println!("stopped at {} by {:?}", children.len(), error.kind());
                        break;
                    }
                }
            }
            println!("forked {}", children.len());
            for child in &mut children {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        ["read", path] => match std::fs::read_to_string(path) {
            Ok(text) => print!("{text}"),
            Err(error) => println!("error {:?}", error.raw_os_error()),
        },
        ["write", path, text] => match std::fs::write(path, text) {
            Ok(()) => println!("written"),
            Err(error) => println!("error {:?}", error.raw_os_error()),
        },
        ["list", path] => {
            let mut names: Vec<_> = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            println!("{}", serde_json::to_string(&names).unwrap());
        }
        ["attributes"] => {
            println!("{}", serde_json::to_string(&crate::attributes::report()).unwrap());
        }
        ["report"] => println!("{}", serde_json::to_string(&report()).unwrap()),
        other => {
            eprintln!("probe: what is {other:?}?");
            return ExitCode::from(99);
        }
    }
    ExitCode::SUCCESS
}

fn report() -> BTreeMap<String, String> {
    let mut report = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(report.insert(key.to_owned(), value));
    put("self", std::process::id().to_string());
    put("hostname", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned());
    put("cwd", std::env::current_dir().unwrap().display().to_string());
    put("env", std::env::vars().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" "));
    for name in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        put(name, std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string());
    }
    for line in std::fs::read_to_string("/proc/self/status").unwrap().lines() {
        if let Some((key, value)) = line.split_once(':') {
            put(key, value.trim().to_owned());
        }
    }
    for (key, path) in
        [("mounts", "/proc/self/mountinfo"), ("limits", "/proc/self/limits"), ("groups", "/proc/self/cgroup")]
    {
        put(key, std::fs::read_to_string(path).unwrap());
    }
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    // The one that reads the directory is one of them.
    put("fds", (fds - 1).to_string());
    report
}

trait ArgZero {
    fn arg0_probe(&mut self) -> &mut Self;
}

impl ArgZero for Command {
    fn arg0_probe(&mut self) -> &mut Self {
        use std::os::unix::process::CommandExt as _;
        self.arg0("/probe")
    }
}
