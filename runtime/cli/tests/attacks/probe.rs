//! What runs inside the containers, and as hooks: words in, facts out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use rustix::fs::OFlags;

/// Longest time that an attacker tries.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn main(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap()),
        ["sleep"] => {
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        ["report"] => println!("{}", serde_json::to_string(&report()).unwrap()),
        ["open-for-writing", paths @ ..] => opened_for_writing(paths),
        ["not-null", paths @ ..] => not_null(paths),
        ["overwrite-program", fifo] => {
            overwrite_program(fifo);
            println!("at last");
        }
        ["look-into", deadline] => look_into(Duration::from_millis(deadline.parse().unwrap())),
        ["user-namespace"] => user_namespace(),
        ["below", directory, name] => match std::fs::create_dir(Path::new(directory).join(name)) {
            Ok(()) => println!("made"),
            Err(error) => println!("error {:?}", error.raw_os_error()),
        },
        ["read", path] => print!("{}", std::fs::read_to_string(path).unwrap_or_default()),
        ["environment", file] => {
            let text: Vec<_> = std::env::vars().map(|(key, value)| format!("{key}={value}\n")).collect();
            std::fs::write(file, text.concat()).unwrap();
        }
        ["terminal"] => terminal(),
        ["procfs-mounts"] => procfs_mounts(),
        other => {
            eprintln!("probe: what is {other:?}?");
            return ExitCode::from(99);
        }
    }
    ExitCode::SUCCESS
}

/// Status lines, the working directory, and where every descriptor leads.
fn report() -> BTreeMap<String, String> {
    let mut report = BTreeMap::new();
    for line in std::fs::read_to_string("/proc/self/status").unwrap().lines() {
        if let Some((key, value)) = line.split_once(':') {
            report.insert(key.to_owned(), value.trim().to_owned());
        }
    }
    let cwd = std::fs::read_link("/proc/self/cwd").unwrap();
    report.insert("cwd".to_owned(), cwd.display().to_string());
    report.insert("secret".to_owned(), std::fs::read_to_string("secret").unwrap_or_default());
    for number in 3..64 {
        if let Ok(to) = std::fs::read_link(format!("/proc/self/fd/{number}")) {
            report.insert(format!("fd{number}"), to.display().to_string());
        }
    }
    report
}

/// Says which can be opened for writing. Nothing is written: they are the machine's.
fn opened_for_writing(paths: &[&str]) {
    for path in paths {
        if OpenOptions::new().write(true).open(path).is_ok() {
            println!("{path}");
        }
    }
}

/// Says which are not `/dev/null`.
fn not_null(paths: &[&str]) {
    let expand = |path: &&str| match path.split_once('*') {
        None => vec![(*path).to_owned()],
        Some((start, count)) => {
            (0..count.parse::<u32>().unwrap()).map(|number| format!("{start}{number}")).collect()
        }
    };
    for path in paths.iter().flat_map(expand) {
        let Ok(stat) = std::fs::metadata(&path) else { continue };
        if !stat.file_type().is_char_device() || stat.rdev() != rustix::fs::makedev(1, 3) {
            println!("{path}");
        }
    }
}

/// Processes in sight beside this one.
fn others() -> impl Iterator<Item = u32> {
    let names = std::fs::read_dir("/proc").unwrap();
    let numbers = names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|number| *number != std::process::id())
}

/// Waits for a process that runs the runtime's own program, which hangs at the pipe, keeps a hold of the program,
/// lets the process end, and writes to it.
fn overwrite_program(fifo: &str) {
    println!("ready");
    let start = Instant::now();
    let found = loop {
        let program = others().find_map(|pid| {
            let path = format!("/proc/{pid}/exe");
            let link = std::fs::read_link(&path).ok()?;
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let held = OpenOptions::new().read(true).custom_flags(OFlags::PATH.bits() as i32).open(path);
            (link != Path::new("/probe") && words.windows(4).any(|word| word == b"fifo"))
                .then_some(held.ok()?)
        });
        match program {
            Some(program) => break program,
            None if start.elapsed() > PATIENCE => return println!("nothing found"),
            None => {}
        }
    };
    // Somebody reads now: the process goes on and ends.
    let mut text = String::new();
    drop(File::open(fifo).and_then(|mut pipe| pipe.read_to_string(&mut text)));
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let error = loop {
        match OpenOptions::new().write(true).open(&again) {
            Ok(mut program) => {
                program.write_all(b"evil").unwrap();
                return println!("overwritten");
            }
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && start.elapsed() < PATIENCE => {}
            Err(error) => break error,
        }
    };
    println!("refused: {error}");
}

/// Tries to get hold of what a process of the runtime's has, until it has got it, or the time is over, or there is
/// a file `/stop`.
fn look_into(time: Duration) {
    println!("ready");
    let start = Instant::now();
    let mut seen = 0_u64;
    while start.elapsed() < time && !Path::new("/stop").exists() {
        for pid in others() {
            // The container's own programs are not the question.
            if std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|link| link == Path::new("/probe")) {
                continue;
            }
            seen += 1;
            let memory = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"));
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
            // It may have become the container's own program between the two looks.
            let still =
                std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|link| link != Path::new("/probe"));
            if still && (memory.is_ok() || descriptors.is_ok()) {
                return println!("looked: memory {}, descriptors {descriptors:?}", memory.is_ok());
            }
        }
    }
    println!("in vain, {seen} looks");
}

/// What opens most of the kernel's faults to a container (CVE-2022-0492).
fn user_namespace() {
    match nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWCGROUP) {
        Ok(()) => println!("unshared"),
        Err(errno) => println!("refused: {errno}"),
    }
}

/// Whether the terminal is one.
fn terminal() {
    let console = std::fs::metadata("/dev/console");
    let slave = console.as_ref().is_ok_and(|stat| {
        stat.file_type().is_char_device() && (136..144).contains(&rustix::fs::major(stat.rdev()))
    });
    println!("{}", if slave { "a terminal" } else { "something else" });
}

/// Where procfs is mounted, whatever it is called by now.
fn procfs_mounts() {
    let places = ["/proc", "/link", "/vol"].iter().cycle().take(100_000);
    let text =
        places.map(|place| std::fs::read_to_string(format!("{place}/self/mountinfo"))).find_map(Result::ok);
    for line in text.iter().flat_map(|text| text.lines()).filter(|line| line.contains(" - proc ")) {
        println!("{}", line.split(' ').nth(4).unwrap());
    }
}
