//! Bad input gets one clear line and exit code 1, and changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::playground::{Outcome, SKEP, skep};
use crate::support::swarm::text;
use crate::support::{Playground, archive, http, need_root, processes, wait_for, wait_until};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const PORT: u16 = 8080;

/// A user without any rights.
const NOBODY: u32 = 65534;

/// The size of the disk that is full.
const SMALL_DISK: &str = "size=24m";

/// All that a node knows and that bad input could change.
fn state(playground: &Playground, number: u8) -> Value {
    let info = playground.get(number, "/info");
    let mut state = json!({ "local": info["Swarm"]["LocalNodeState"], "node": info["Swarm"]["NodeID"] });
    for path in ["/images/json", "/swarm", "/nodes", "/services", "/tasks"] {
        state[path] = playground.request(number, "GET", path, "").unwrap().json();
    }
    state
}

/// The files below a folder with their sizes.
fn files(folder: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert((entry.path(), metadata.len()));
        }
    }
    found
}

/// A swarm of one with a service at rest.
fn at_rest(theme: &str) -> Playground {
    let playground = Playground::up(theme, 1);
    playground.create_web(1, "web", 1, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 1, |_| true);
    playground.wait_for_answers(1, PORT, &tasks);
    playground
}

#[test]
fn commands_that_cannot_be_carried_out_change_nothing() {
    let playground = at_rest("refused");
    let before = state(&playground, 1);
    let create =
        |flags: &[&'static str]| -> Vec<&'static str> { [&["service", "create", "-d"], flags].concat() };
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["swarm", "init"], "This node is already part of a swarm"),
        (
            vec!["swarm", "join", "--token", "SWMTKN-1-x-y", "127.0.0.1:2377"],
            "This node is already part of a swarm",
        ),
        (
            create(&["--name", "other", "-p", "8080:80", "whoami"]),
            "port '8080' is already in use by service 'web'",
        ),
        (create(&["--name", "web", "whoami"]), "already exists"),
        (create(&["--name", "none", "no-such-image:9"]), "No such image: no-such-image:9"),
        (create(&["--name", "minus", "--replicas", "-1", "whoami"]), "invalid replicas value \"-1\""),
        (create(&["--name", "minus", "--replicas=-1", "whoami"]), "invalid replicas value \"-1\""),
        (create(&["--name", "port", "-p", "99999:80", "whoami"]), "invalid port"),
        (create(&["--name", "bad name", "whoami"]), "name must be valid"),
        (create(&["--name", "image", "Not//An::Image"]), "is not a valid repository/tag"),
        (create(&["--name", "memory", "--limit-memory", "lots", "whoami"]), "lots"),
        (
            create(&["--name", "constraint", "--constraint", "nonsense", "whoami"]),
            "constraint expected one operator",
        ),
        (vec!["service", "scale", "-d", "web=-1"], "invalid replicas value \"-1\""),
        (vec!["service", "scale", "-d", "web"], "web"),
        (vec!["service", "scale", "-d", "ghost=1"], "service ghost not found"),
        (
            vec!["service", "update", "-d", "--image", "no-such-image:9", "web"],
            "No such image: no-such-image:9",
        ),
        (vec!["service", "update", "-d", "--replicas", "-3", "web"], "invalid replicas value \"-3\""),
        (vec!["service", "update", "-d", "--image", "whoami", "ghost"], "service ghost not found"),
        (vec!["service", "rollback", "-d", "web"], "does not have a previous spec"),
        (vec!["service", "rm", "ghost"], "service ghost not found"),
        (vec!["service", "ps", "ghost"], "service ghost not found"),
        (vec!["service", "inspect", "ghost"], "service ghost not found"),
        (vec!["node", "inspect", "ghost"], "node ghost not found"),
        (vec!["node", "rm", "ghost"], "node ghost not found"),
        (vec!["node", "rm", "node-1"], "must be demoted"),
        (vec!["node", "update", "--availability", "drain", "ghost"], "node ghost not found"),
        (vec!["node", "update", "--role", "worker", "node-1"], "demote the last manager"),
        (vec!["node", "update", "--availability", "sometimes", "node-1"], "sometimes"),
        (vec!["image", "rm", "ghost"], "No such image: ghost"),
        (vec!["image", "load", "-i", "/no/such/file.tar"], "cannot open /no/such/file.tar"),
        (vec!["swarm", "leave"], "You are attempting to leave the swarm"),
        (vec!["service", "create"], "IMAGE"),
        (vec!["service", "frobnicate"], "frobnicate"),
    ];
    let mut wrong = Vec::new();
    for (arguments, words) in cases {
        let outcome = playground.skep(1, &arguments);
        let lines = outcome.stderr.trim_end().lines().count();
        if outcome.code != 1 || lines != 1 || !outcome.stderr.contains(words) {
            wrong.push(format!("{arguments:?} should say {words:?}: {outcome:?}"));
        }
        let after = state(&playground, 1);
        if after != before {
            wrong.push(format!("{arguments:?} changed something: {before:#} to {after:#}"));
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    playground.call_often(&[1], PORT, 10);
}

#[test]
fn an_image_that_a_container_uses_is_not_removed() {
    let playground = at_rest("inuse");
    let before = state(&playground, 1);
    playground.skep(1, &["image", "rm", "whoami"]).is_refused_with("using");
    assert_eq!(state(&playground, 1), before);
}

#[test]
fn the_api_refuses_in_words_and_survives_garbage() {
    let playground = at_rest("garbage");
    let before = state(&playground, 1);
    let spec = |replicas: Value| {
        json!({
            "Name": "bad",
            "TaskTemplate": { "ContainerSpec": { "Image": "whoami" } },
            "Mode": { "Replicated": { "Replicas": replicas } },
        })
    };
    let huge = format!("{{\"Name\":\"{}\"}}", "x".repeat(8 << 20));
    let deep = format!("{{\"Labels\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let port_twice = json!({
        "Name": "bad",
        "TaskTemplate": { "ContainerSpec": { "Image": "whoami" } },
        "EndpointSpec": { "Ports": [{ "TargetPort": 80, "PublishedPort": PORT }] },
    });
    let cases: Vec<(&str, &str, String, u16, &str)> = vec![
        ("POST", "/services/create", spec(json!(-1)).to_string(), 400, "invalid replica count -1"),
        ("POST", "/services/create", spec(json!(1.5)).to_string(), 400, "invalid replica count 1.5"),
        ("POST", "/services/create", spec(json!("many")).to_string(), 400, "invalid JSON"),
        ("POST", "/services/create", "{".to_owned(), 400, "invalid JSON"),
        ("POST", "/services/create", "[]".to_owned(), 400, "must be an object"),
        ("POST", "/services/create", "\u{0}\u{1}\u{2}".to_owned(), 400, "invalid JSON"),
        ("POST", "/services/create", deep, 400, "invalid JSON"),
        ("POST", "/services/create", huge, 413, "larger than"),
        ("POST", "/services/create", port_twice.to_string(), 400, "port '8080' is already in use"),
        ("POST", "/services/web/update?version=1", spec(json!(1)).to_string(), 500, "update out of sequence"),
        ("POST", "/services/web/update", spec(json!(1)).to_string(), 400, "version"),
        ("POST", "/v9.99/services/create", "{}".to_owned(), 400, "too new"),
        ("GET", "/services?filters=nonsense", String::new(), 400, "filter"),
        ("GET", "/tasks?filters=%7B%22colour%22%3A%7B%22red%22%3Atrue%7D%7D", String::new(), 400, "colour"),
        ("GET", "/no/such/page", String::new(), 404, "page not found"),
        ("DELETE", "/nodes/ghost", String::new(), 404, "node ghost not found"),
        ("POST", "/swarm/init", "{}".to_owned(), 503, "already part of a swarm"),
    ];
    let mut wrong = Vec::new();
    for (method, path, body, status, words) in cases {
        let shown: String = body.chars().take(80).collect();
        match playground.request(1, method, path, &body) {
            Ok(response) => {
                let message =
                    serde_json::from_slice::<Value>(&response.body).map(|body| text(&body, "/message"));
                let said =
                    message.as_ref().is_ok_and(|message| message.contains(words) && !message.contains('\n'));
                if response.status != status || !said {
                    wrong.push(format!(
                        "{method} {path} {shown}: {} {:?}, not {status} {words:?}",
                        response.status,
                        response.text()
                    ));
                }
            }
            Err(error) => wrong.push(format!("{method} {path} {shown}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let daemon = playground.daemon(1).unwrap();
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello?\r\n\r\n",
        &[0xff; 100_000],
        b"GET /info HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /services/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n",
        b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"Name\":",
    ];
    for bytes in garbage {
        // Whatever it answers, or nothing: it must not take it for a request, nor hang, nor die.
        let answer = http::raw(&playground.socket(1), bytes).unwrap_or_default();
        let head = String::from_utf8_lossy(&answer).into_owned();
        assert!(!head.starts_with("HTTP/1.1 2"), "{bytes:?} was answered with {head}");
    }
    assert_eq!(playground.daemon(1), Some(daemon));
    assert_eq!(state(&playground, 1), before);
    playground.call_often(&[1], PORT, 10);
}

#[test]
fn tokens_that_are_wrong_or_of_another_swarm_admit_nobody() {
    let other = Playground::up("tokens", 1);
    let playground = Playground::up_with("tokens", 2, &["--no-swarm"]);
    playground.ok(1, &["swarm", "init"]);
    let token = playground.ok(1, &["swarm", "join-token", "-q", "worker"]).trim().to_owned();
    let of_other = other.ok(1, &["swarm", "join-token", "-q", "manager"]).trim().to_owned();
    let address = format!("{}:2377", playground.address(1));
    let (digest, secret) = token.rsplit_once('-').unwrap();
    let swapped: String = secret.chars().rev().collect();
    let wrong_secret = format!("{digest}-{swapped}");
    let other_secret = format!("{digest}-{}", of_other.rsplit_once('-').unwrap().1);
    let before = (state(&playground, 1), state(&playground, 2), state(&other, 1));
    let cases = [
        (wrong_secret.as_str(), "token"),
        (other_secret.as_str(), "token"),
        (of_other.as_str(), "token"),
        ("SWMTKN-1-nonsense", "invalid join token"),
        ("nonsense", "invalid join token"),
        ("", "token"),
    ];
    let mut wrong = Vec::new();
    for (token, words) in cases {
        let outcome = playground.skep(2, &["swarm", "join", "--token", token, &address]);
        let lines = outcome.stderr.trim_end().lines().count();
        if outcome.code != 1 || lines != 1 || !outcome.stderr.contains(words) {
            wrong.push(format!("token {token:?} should be refused with {words:?}: {outcome:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((state(&playground, 1), state(&playground, 2), state(&other, 1)), before);
    assert!(!playground.disk(2).join("root/swarm").exists());

    // A token that was replaced admits nobody any more, its successor does.
    let new = playground.ok(1, &["swarm", "join-token", "-q", "--rotate", "worker"]).trim().to_owned();
    playground.skep(2, &["swarm", "join", "--token", &token, &address]).is_refused_with("token");
    assert_eq!(playground.get(1, "/nodes").as_array().unwrap().len(), 1);
    // An address at which nobody listens.
    let nowhere = format!("{}:2377", playground.address(9));
    playground.skep(2, &["swarm", "join", "--token", &new, &nowhere]).is_refused_with("");
    playground.ok(2, &["swarm", "join", "--token", &new, &address]);
    playground.wait_for_node(1, 2, "ready");
}

#[test]
fn archives_that_are_broken_leave_no_image_and_no_file() {
    let playground = Playground::up_with("archives", 1, &["--no-swarm"]);
    let folder = tempfile::tempdir().unwrap();
    let program: Vec<u8> =
        (0..1_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let good = archive::image("good:1", &program, &json!({ "Entrypoint": ["/program"] }));
    let load = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        playground.skep(1, &["image", "load", "-i", file.to_str().unwrap()])
    };
    let store = playground.disk(1).join("root/images");
    let before = files(&store);
    // One bit of the layer, in the middle of the archive.
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    // A byte of the first header, which its checksum covers.
    let mut header = good.clone();
    header[10] ^= 1;
    let text = b"this is no tar archive at all, but a line of text\n".repeat(100);
    let cases: [(&str, &[u8]); 7] = [
        ("flipped", &flipped),
        ("header", &header),
        ("truncated", &good[..good.len() / 2]),
        ("cut-in-header", &good[..700]),
        ("text", &text),
        ("empty", b""),
        ("gzip", b"\x1f\x8b\x08\x00garbage that is no deflate stream"),
    ];
    let mut wrong = Vec::new();
    for (name, bytes) in cases {
        let outcome = load(name, bytes);
        let lines = outcome.stderr.trim_end().lines().count();
        if outcome.code != 1 || lines != 1 || !outcome.stdout.is_empty() {
            wrong.push(format!("{name}: {outcome:?}"));
        }
        let images = playground.get(1, "/images/json");
        if images != json!([]) {
            wrong.push(format!("{name}: left an image: {images}"));
        }
        let after = files(&store);
        if after != before {
            wrong.push(format!("{name}: left files: {:?}", after.difference(&before).collect::<Vec<_>>()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(load("good", &good).went_well(), "Loaded image: good:1\n");
}

/// A daemon of its own, whose disk is a small one that no other process sees.
struct SmallDisk {
    daemon: Child,
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn start() -> Self {
        need_root();
        let folder = tempfile::tempdir().unwrap();
        let (root, run) = (folder.path().join("root"), folder.path().join("run"));
        fs::create_dir(&root).unwrap();
        let cgroup = format!("skep-test-{}", std::process::id());
        // The mount is in a namespace of this thread and what it starts, and ends with them.
        let start = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            mount(Some("small"), &root, Some("tmpfs"), MsFlags::empty(), Some(SMALL_DISK)).unwrap();
            let mut command = Command::new(SKEP);
            command.arg("daemon").arg("--root").arg(&root).arg("--run").arg(&run);
            command.args(["--cgroup-parent", &cgroup]).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let daemon = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
        Self { daemon, folder }
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("run/skep.sock").display())
    }

    fn skep(&self, arguments: &[&str]) -> Outcome {
        skep(&[&["-H", &self.host()], arguments].concat())
    }

    /// What is on the small disk, seen through the daemon's own eyes.
    fn files(&self) -> BTreeSet<(PathBuf, u64)> {
        let root = self.folder.path().join("root/images");
        files(&PathBuf::from(format!("/proc/{}/root{}", self.daemon.id(), root.display())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // Its keeper outlives it, as it should.
        let path = self.folder.path().to_str().unwrap_or_default().to_owned();
        for process in processes::all() {
            if process.arguments().iter().any(|argument| argument.starts_with(&path)) {
                process.kill();
                wait_for("the keeper is gone", || (!process.lives()).then_some(()));
            }
        }
    }
}

#[test]
fn a_disk_that_is_full_is_said_and_nothing_stays_of_what_did_not_fit() {
    let disk = SmallDisk::start();
    wait_until("the daemon answers", || disk.skep(&["version"]).code == 0);
    let before = disk.files();
    let large = disk.folder.path().join("large.tar");
    let program: Vec<u8> =
        (0..(40_u32 << 20)).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&large, archive::image("large:1", &program, &json!({ "Entrypoint": ["/program"] }))).unwrap();
    for _ in 0..2 {
        let outcome = disk.skep(&["image", "load", "-i", large.to_str().unwrap()]);
        outcome.is_refused_with("No space left on device");
        assert_eq!(outcome.stdout, "");
        assert_eq!(disk.skep(&["image", "ls", "-q"]).went_well(), "");
        assert_eq!(disk.files(), before);
    }
    let small = disk.folder.path().join("small.tar");
    fs::write(&small, archive::image("small:1", b"a few bytes", &json!({ "Entrypoint": ["/program"] })))
        .unwrap();
    let told = disk.skep(&["image", "load", "-i", small.to_str().unwrap()]).went_well();
    assert_eq!(told, "Loaded image: small:1\n");
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = format!("unix://{}/skep.sock", folder.path().display());
    let words = format!("Cannot connect to the skep daemon at {missing}. Is the skep daemon running?");
    for command in [
        &["node", "ls"][..],
        &["service", "create", "whoami"],
        &["image", "ls"],
        &["swarm", "init"],
        &["info"],
    ] {
        let outcome = skep(&[&["-H", &missing], command].concat());
        outcome.is_refused_with(&words);
        assert_eq!(outcome.stdout, "");
    }
    skep(&["-H", "tcp://127.0.0.1:1", "node", "ls"]).is_refused_with("Cannot connect to the skep daemon");
    skep(&["-H", "gopher://x", "node", "ls"]).is_refused_with("gopher://x");
    // A file that is no socket, and a socket at which nobody listens any more.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    skep(&["-H", &format!("unix://{}", file.display()), "node", "ls"]).is_refused_with("Cannot connect");
    let dead = folder.path().join("dead");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    skep(&["-H", &format!("unix://{}", dead.display()), "node", "ls"]).is_refused_with("Cannot connect");
}

#[test]
fn without_root_it_says_so_and_makes_nothing() {
    let playground = Playground::up_with("nobody", 1, &["--no-swarm"]);
    // A copy that any user may run, wherever this checkout is.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.path().join("skep");
    fs::copy(SKEP, &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
        Outcome::of(command.env_remove("SKEP_HOST").env_remove("DOCKER_HOST"))
    };
    let root = folder.path().join("root");
    let socket = format!("unix://{}", playground.socket(1).display());
    run(&["daemon", "--root", root.to_str().unwrap(), "--run", root.to_str().unwrap()])
        .is_refused_with("must run as root");
    for command in
        [&["up", "--name", "t-nobody"][..], &["demo"], &["down", "--name", &playground.name], &["ls"]]
    {
        run(&[&["playground"], command].concat()).is_refused_with("must run as root");
    }
    run(&["-H", &socket, "swarm", "init"]).is_refused_with("ermission denied");
    assert!(!root.exists());
    assert!(!Path::new("/var/lib/skep-playground/t-nobody").exists());
    assert_eq!(text(&playground.get(1, "/info"), "/Swarm/LocalNodeState"), "inactive");
}

#[test]
fn playground_commands_that_make_no_sense_change_nothing() {
    let playground = Playground::up_with("sense", 1, &["--no-swarm"]);
    let name = playground.name.as_str();
    let init = playground.init(1);
    let ghost = format!("{name}-ghost");
    let cases: [(&[&str], &str); 12] = [
        (&["up", "--name", name], "is there already"),
        (&["up", "--name", &ghost, "--nodes", "0"], "--nodes 0"),
        (&["up", "--name", &ghost, "--nodes", "2", "--managers", "3"], "--managers 3"),
        (&["up", "--name", "../ghost"], "--name"),
        (&["kill", "--name", name, "2"], "has no node 2"),
        (&["cut", "--name", name, "0"], "has no node 0"),
        (&["exec", "--name", name, "9", "true"], "has no node 9"),
        (&["exec", "--name", &ghost, "1", "true"], "there is no playground"),
        (&["exec", "--name", name, "1", "/no/such/program"], "cannot run \"/no/such/program\""),
        (&["start", "--name", &ghost, "1"], "there is no playground"),
        (&["down", "--name", &ghost], "there is no playground"),
        (&["kill", "--name", name, "one"], "one"),
    ];
    for (arguments, words) in cases {
        skep(&[&["playground"], arguments].concat()).is_refused_with(words);
    }
    assert_eq!(playground.init(1), init);
    assert!(!Path::new("/var/lib/skep-playground").join(&ghost).exists());
    playground.power("kill", 1);
    skep(&["playground", "kill", "--name", name, "1"]).is_refused_with("has no power");
    skep(&["playground", "exec", "--name", name, "1", "true"]).is_refused_with("has no power");
    playground.power("start", 1);
    playground.ok(1, &["swarm", "init"]);
}
