//! A cluster of one test.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use skep_netns::Namespace;

use super::http::{self, Answer, Response};
use super::processes::{self, Process};
use super::{leftovers, need_root};

/// The built binary.
pub(crate) const SKEP: &str = env!("CARGO_BIN_EXE_skep");

/// The last byte of this machine's address on a playground's network.
const MACHINE: u8 = 254;

/// Lines of each daemon's log that a failed test shows.
const LOG_LINES: usize = 25;

/// How long a command may take. Far more than any takes; a hanging one must fail its test.
const COMMAND: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::with_input(command, "")
    }

    /// Runs a command to its end; this is what it reads from standard input.
    #[track_caller]
    pub(crate) fn with_input(command: &mut Command, input: &str) -> Self {
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not want it has closed its end.
            let _ = stdin.write_all(input.as_bytes());
        }
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let output = receiver.recv_timeout(COMMAND).unwrap_or_else(|_| {
            panic!("{command:?} has not ended, or somebody holds its output, after {} s", COMMAND.as_secs())
        });
        output.unwrap().into()
    }

    /// Fails unless this is how bad input ends: exit code 1 and one line on standard error that says this.
    #[track_caller]
    pub(crate) fn is_refused_with(&self, words: &str) {
        assert_eq!(self.code, 1, "{self:?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "not one line: {self:?}");
        assert!(self.stderr.contains(words), "does not say {words:?}: {self:?}");
    }

    /// Fails unless it went well; its standard output.
    #[track_caller]
    pub(crate) fn went_well(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the binary, as a user would.
#[track_caller]
pub(crate) fn skep(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(SKEP);
    Outcome::of(command.args(arguments).env_remove("SKEP_HOST").env_remove("DOCKER_HOST"))
}

/// A cluster that is removed when it is dropped; the test fails if anything of it is left then.
#[derive(Debug)]
pub(crate) struct Playground {
    /// Its name, unique on this machine.
    pub name: String,
    subnet: u8,
    nodes: u8,
}

impl Playground {
    /// Nodes that form a swarm, three of them (or all of fewer) managers.
    #[track_caller]
    pub(crate) fn up(theme: &str, nodes: u8) -> Self {
        Self::up_with(theme, nodes, &[])
    }

    /// Nodes, with further flags of `playground up`.
    #[track_caller]
    pub(crate) fn up_with(theme: &str, nodes: u8, flags: &[&str]) -> Self {
        Self::up_where(theme, nodes, flags, &[])
    }

    /// The same with something in the environment of all that the hosts run.
    #[track_caller]
    pub(crate) fn up_where(theme: &str, nodes: u8, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::up_by(Path::new(SKEP), theme, nodes, flags, environment)
    }

    /// The same by a copy of the binary somewhere else, which the hosts run too.
    #[track_caller]
    pub(crate) fn up_by(
        program: &Path,
        theme: &str,
        nodes: u8,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        need_root();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("t-{theme}-{}-{number}", std::process::id());
        let count = nodes.to_string();
        let arguments = ["playground", "up", "--name", &name, "--nodes", &count];
        let mut command = Command::new(program);
        command.args(arguments).args(flags).envs(environment.iter().copied());
        let told = Outcome::of(&mut command).went_well();
        let subnet =
            told.lines().find_map(|line| line.split("10.77.").nth(1)?.split('.').next()?.parse().ok());
        Self { name, subnet: subnet.unwrap_or_else(|| panic!("no address in {told:?}")), nodes }
    }

    /// A node's address.
    pub(crate) fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, number)
    }

    /// This machine's address on the playground's network.
    pub(crate) fn machine(&self) -> Ipv4Addr {
        self.address(MACHINE)
    }

    /// The numbers of its nodes.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.nodes
    }

    /// A node's API socket.
    pub(crate) fn socket(&self, number: u8) -> PathBuf {
        PathBuf::from(format!("/run/skep-playground/{}/{number}/skep.sock", self.name))
    }

    /// A node's disk.
    pub(crate) fn disk(&self, number: u8) -> PathBuf {
        PathBuf::from(format!("/var/lib/skep-playground/{}/{number}", self.name))
    }

    /// Runs a command as if on a host.
    #[track_caller]
    pub(crate) fn exec(&self, number: u8, arguments: &[&str]) -> Outcome {
        let number = number.to_string();
        skep(&[&["playground", "exec", "--name", &self.name, &number], arguments].concat())
    }

    /// Runs the command line against a node's daemon.
    #[track_caller]
    pub(crate) fn skep(&self, number: u8, arguments: &[&str]) -> Outcome {
        let host = format!("unix://{}", self.socket(number).display());
        skep(&[&["-H", &host], arguments].concat())
    }

    /// Runs the command line against a node's daemon; it must go well.
    #[track_caller]
    pub(crate) fn ok(&self, number: u8, arguments: &[&str]) -> String {
        self.skep(number, arguments).went_well()
    }

    /// Runs the command line against a node's daemon with something to read.
    #[track_caller]
    pub(crate) fn skep_with_input(&self, number: u8, arguments: &[&str], input: &str) -> Outcome {
        let mut command = Command::new(SKEP);
        command.arg("-H").arg(format!("unix://{}", self.socket(number).display())).args(arguments);
        Outcome::with_input(command.env_remove("SKEP_HOST").env_remove("DOCKER_HOST"), input)
    }

    /// `POST` to a node's API; it must go well. The answer, null when there is no body.
    #[track_caller]
    pub(crate) fn post(&self, number: u8, path: &str, body: &Value) -> Value {
        let response = self.request(number, "POST", path, &body.to_string());
        let response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!((200..300).contains(&response.status), "{path}: {}", response.text());
        serde_json::from_slice(&response.body).unwrap_or(Value::Null)
    }

    /// `start` with something in the environment of all that the host runs then.
    #[track_caller]
    pub(crate) fn start_with(&self, number: u8, name: &str, value: &str) {
        let mut command = Command::new(SKEP);
        command.args(["playground", "start", "--name", &self.name, &number.to_string()]).env(name, value);
        Outcome::of(&mut command).went_well();
    }

    /// `kill`, `cut`, `heal` or `start`; it must go well.
    #[track_caller]
    pub(crate) fn power(&self, verb: &str, number: u8) {
        skep(&["playground", verb, "--name", &self.name, &number.to_string()]).went_well();
    }

    /// The rows of a list that is asked for with `--format json`.
    #[track_caller]
    pub(crate) fn rows(&self, number: u8, arguments: &[&str]) -> Vec<Value> {
        let text = self.ok(number, &[arguments, &["--format", "json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A request to a node's API.
    pub(crate) fn request(&self, number: u8, method: &str, path: &str, body: &str) -> io::Result<Response> {
        http::request(&self.socket(number), method, path, body.as_bytes())
    }

    /// `GET` of a node's API; nothing while the daemon is away or says no.
    pub(crate) fn try_get(&self, number: u8, path: &str) -> Option<Value> {
        let response =
            self.request(number, "GET", path, "").ok().filter(|response| response.status == 200)?;
        serde_json::from_slice(&response.body).ok()
    }

    /// `GET` of a node's API.
    #[track_caller]
    pub(crate) fn get(&self, number: u8, path: &str) -> Value {
        let response =
            self.request(number, "GET", path, "").unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    }

    /// Calls a `whoami` service at a node's address, from this machine.
    pub(crate) fn call(&self, number: u8, port: u16) -> io::Result<Answer> {
        http::call(SocketAddr::from((self.address(number), port)))
    }

    /// Calls a `whoami` service from a host.
    pub(crate) fn call_from(&self, from: u8, target: (Ipv4Addr, u16)) -> io::Result<Answer> {
        self.network(from).run(|| http::call(SocketAddr::from(target))).map_err(io::Error::other)?
    }

    /// Process 1 of a host.
    #[track_caller]
    pub(crate) fn init(&self, number: u8) -> Process {
        let number = number.to_string();
        self.find(&["playground", "init", "--name", &self.name, &number])
            .unwrap_or_else(|| panic!("host {number} has no process 1"))
    }

    /// The network of a host.
    #[track_caller]
    pub(crate) fn network(&self, number: u8) -> Namespace {
        Namespace::from_pid(self.init(number).pid.unsigned_abs()).unwrap()
    }

    /// The network of the switch that all hosts are plugged into.
    pub(crate) fn switch(&self) -> Namespace {
        let record = std::fs::read(self.disk(1).with_file_name("playground.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        Namespace::from_pid(record["fabric"]["pid"].as_u64().unwrap().try_into().unwrap()).unwrap()
    }

    /// Kills a node's daemon and waits until the one that its keeper starts answers.
    #[track_caller]
    pub(crate) fn restart_daemon(&self, number: u8) {
        let old = self.daemon(number).unwrap();
        old.kill();
        super::wait_until("the next daemon", || self.daemon(number).is_some_and(|next| next != old));
        super::wait_until("its API", || self.try_get(number, "/info").is_some());
    }

    /// A node's daemon, if it runs.
    pub(crate) fn daemon(&self, number: u8) -> Option<Process> {
        self.find(&["daemon", "--root", &format!("{}/root", self.disk(number).display())])
    }

    /// A node's keeper, if it runs.
    pub(crate) fn keeper(&self, number: u8) -> Option<Process> {
        self.find(&["keeper", "--run", &format!("/run/skep-playground/{}/{number}", self.name)])
    }

    fn find(&self, arguments: &[&str]) -> Option<Process> {
        processes::all().into_iter().find(|process| {
            process.arguments().get(1..=arguments.len()).is_some_and(|given| given == arguments)
        })
    }

    /// The processes in containers of a node, with the container's ID.
    pub(crate) fn containers(&self, number: u8) -> Vec<(String, Process)> {
        let parent = format!("/skep-playground/{}/{number}/", self.name);
        let inside = processes::all().into_iter().filter_map(|process| {
            let cgroups = process.cgroups();
            let path = cgroups.values().find_map(|path| path.split_once(&parent))?.1;
            Some((path.split('/').next()?.to_owned(), process))
        });
        inside.collect()
    }

    /// Every process in a container of any node, with the node and the container: for before and after.
    pub(crate) fn all_containers(&self) -> BTreeSet<(u8, String, Process)> {
        let of =
            |number: u8| self.containers(number).into_iter().map(move |(id, process)| (number, id, process));
        self.numbers().flat_map(of).collect()
    }

    /// The one process of a container.
    #[track_caller]
    pub(crate) fn container(&self, number: u8, id: &str) -> Process {
        let found: Vec<_> =
            self.containers(number).into_iter().filter(|(container, _)| container == id).collect();
        assert_eq!(found.len(), 1, "container {id} of node {number}: {found:?}");
        found[0].1
    }

    /// The ends of the daemons' logs, for a test that failed.
    fn logs(&self) -> String {
        let mut text = String::new();
        for number in self.numbers() {
            let log = std::fs::read_to_string(self.disk(number).join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let _ = writeln!(text, "--- node {number} of {}:", self.name);
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.logs());
        }
        let inside = leftovers::inside(&self.name);
        let down = skep(&["playground", "down", "--name", &self.name]);
        let left = leftovers::of(&self.name, self.subnet, &inside);
        if failed {
            eprintln!("down: {down:?}, left: {left:#?}");
            return;
        }
        assert_eq!(down.code, 0, "{down:?}");
        assert!(left.is_empty(), "playground {} is down, but this is left: {left:#?}", self.name);
    }
}
