//! Managers that are locked, and what the disk tells whoever takes it away.

use std::path::{Path, PathBuf};

use crate::support::swarm::text;
use crate::support::{Playground, wait_until};
use serde_json::{Value, json};

const PORT: u16 = 8080;

/// In the state of the swarm and in no container.
const LABEL: &str = "planted-label-8c1f";

fn set_autolock(playground: &Playground, through: u8, on: bool) {
    let swarm = playground.get(through, "/swarm");
    let mut spec = swarm["Spec"].clone();
    spec["EncryptionConfig"]["AutoLockManagers"] = on.into();
    let version = &swarm["Version"]["Index"];
    playground.post(through, &format!("/swarm/update?version={version}"), &spec);
}

fn unlock_key(playground: &Playground, through: u8) -> String {
    text(&playground.get(through, "/swarm/unlockkey"), "/UnlockKey")
}

fn try_unlock(playground: &Playground, number: u8, key: &str) -> u16 {
    let body = json!({ "UnlockKey": key }).to_string();
    playground.request(number, "POST", "/swarm/unlock", &body).unwrap().status
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().filter_map(Result::ok) {
        let kind = entry.file_type().unwrap();
        if entry.file_name() == "images" {
            continue;
        }
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Every file of a node that shows one of these, images left out: they are public.
fn shown(playground: &Playground, number: u8, secrets: &[Vec<u8>]) -> Vec<String> {
    let disk = playground.disk(number);
    let mut found = Vec::new();
    files(&disk, &mut found);
    assert!(found.len() > 5, "only {found:?}");
    let mut shown = Vec::new();
    for path in found {
        // A file may go away meanwhile.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            if bytes.windows(secret.len()).any(|window| window == secret) {
                shown.push(format!("{} shows {:?}", path.display(), String::from_utf8_lossy(secret)));
            }
        }
    }
    shown
}

/// Gives the swarm a CA of ours; its key in every form in which a careless program might write it down: the lines of
/// the PEM, what they encode, the scalar in it, and that in hexadecimal digits.
fn plant_authority(playground: &Playground) -> Vec<Vec<u8>> {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let key = rcgen::KeyPair::generate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = ["ca.crt", "ca.key"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    std::fs::write(&files[0], params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    let [certificate, key_file] = &files;
    playground.ok(1, &["swarm", "ca", "--rotate", "-q", "--ca-cert", certificate, "--ca-key", key_file]);
    let der = key.serialize_der();
    // SEC 1, C.4: version 1, then the private key as an octet string of 32 bytes.
    let at = der.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]).unwrap() + 5;
    let scalar = der[at..at + 32].to_vec();
    let hexadecimal: String = scalar.iter().map(|byte| format!("{byte:02x}")).collect();
    let pem = key.serialize_pem();
    let lines = pem.lines().filter(|line| !line.starts_with("---")).map(|line| line.as_bytes().to_vec());
    lines.chain([hexadecimal.into_bytes(), scalar, der[at..].to_vec()]).collect()
}

/// What must be in clear nowhere, beside `more`.
fn secrets(playground: &Playground, more: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let secret_of = |role: &str| playground.token(1, role).rsplit('-').next().unwrap().to_owned();
    let texts = [
        secret_of("worker"),
        secret_of("manager"),
        "PRIVATE KEY".to_owned(),
        LABEL.to_owned(),
        unlock_key(playground, 1),
    ];
    texts.into_iter().map(String::into_bytes).chain(more.iter().cloned()).collect()
}

fn nothing_shown(playground: &Playground, more: &[Vec<u8>]) {
    let secrets = secrets(playground, more);
    let shown: Vec<String> =
        playground.numbers().flat_map(|number| shown(playground, number, &secrets)).collect();
    assert!(shown.is_empty(), "{shown:#?}");
}

#[test]
fn a_restarted_manager_waits_for_the_key_and_its_tasks_go_on() {
    let playground = Playground::up_with("autolock", 4, &["--managers", "3"]);
    playground.create_web(1, "web", 4, PORT);
    let mut service = playground.get(1, "/services/web");
    let version = service["Version"]["Index"].clone();
    service["Spec"]["Labels"][LABEL] = Value::from(LABEL);
    playground.post(1, &format!("/services/web/update?version={version}"), &service["Spec"]);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    let processes = playground.all_containers();
    let mut planted = plant_authority(&playground);
    nothing_shown(&playground, &planted);

    assert_eq!(unlock_key(&playground, 2), "");
    set_autolock(&playground, 2, true);
    let key = unlock_key(&playground, 3);
    assert!(key.starts_with("SWMKEY-1-"), "{key}");
    assert_eq!(try_unlock(&playground, 2, &key), 409, "it is not locked yet");
    // A manager that has not heard yet restarts unlocked; all have within moments.
    let locked = |number: u8| {
        playground.daemon(number).unwrap().kill();
        wait_until("the daemon is back", || {
            playground.try_get(number, "/version").is_some() && playground.daemon(number).is_some()
        });
        playground.local_state(number) == "locked"
    };
    wait_until("manager 2 to be locked after a restart", || locked(2));
    playground.skep(2, &["node", "ls"]).is_refused_with("Swarm is encrypted and needs to be unlocked");
    playground.skep(2, &["service", "ls"]).is_refused_with("Swarm is encrypted and needs to be unlocked");
    assert_eq!(playground.all_containers(), processes, "a locked manager's tasks go on");
    let mut other = key.clone().into_bytes();
    let last = other.len() - 2;
    other[last] = if other[last] == b'A' { b'B' } else { b'A' };
    for wrong in [String::from_utf8(other).unwrap(), "nonsense".to_owned(), String::new()] {
        assert_eq!(try_unlock(&playground, 2, &wrong), 401, "{wrong:?}");
        assert_eq!(playground.local_state(2), "locked");
    }
    assert_eq!(try_unlock(&playground, 2, &key), 200);
    playground.wait_for_node(1, 2, "ready");
    wait_until("manager 2 to serve", || playground.try_get(2, "/nodes").is_some());
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    assert_eq!(playground.all_containers(), processes);
    planted.push(key.clone().into_bytes());
    nothing_shown(&playground, &planted);

    // A worker needs no key.
    playground.restart_daemon(4);
    playground.wait_for_node(1, 4, "ready");

    // Another key, and none.
    let swarm = playground.get(1, "/swarm");
    let path = format!("/swarm/update?version={}&rotateManagerUnlockKey=true", swarm["Version"]["Index"]);
    playground.post(1, &path, &swarm["Spec"]);
    let next = unlock_key(&playground, 1);
    assert_ne!(next, key);
    // A manager that was killed before it heard of the new key still opens with the old one, as in Docker.
    wait_until("manager 3 to be locked with the new key", || {
        if !locked(3) {
            return false;
        }
        let opened = try_unlock(&playground, 3, &next) == 200;
        if !opened {
            assert_eq!(try_unlock(&playground, 3, &key), 200, "neither key opens it");
            playground.wait_for_node(1, 3, "ready");
        }
        opened
    });
    playground.wait_for_node(1, 3, "ready");
    wait_until("manager 3 to serve", || playground.try_get(3, "/nodes").is_some());
    set_autolock(&playground, 3, false);
    wait_until("manager 2 to start without a key", || {
        let locked = locked(2);
        if locked {
            assert_eq!(try_unlock(&playground, 2, &next), 200);
        }
        !locked
    });
    playground.wait_for_node(1, 2, "ready");
    assert_eq!(playground.all_containers(), processes);
    planted.push(next.into_bytes());
    nothing_shown(&playground, &planted);
}

#[test]
fn a_swarm_may_be_locked_from_the_start_and_a_locked_manager_may_leave() {
    let playground = Playground::up_with("locked", 1, &["--no-swarm"]);
    playground.post(1, "/swarm/init", &json!({ "AutoLockManagers": true }));
    let key = unlock_key(&playground, 1);
    assert!(key.starts_with("SWMKEY-1-"), "{key}");
    playground.daemon(1).unwrap().kill();
    wait_until("locked", || {
        playground.try_get(1, "/info").is_some() && playground.local_state(1) == "locked"
    });
    playground.skep(1, &["swarm", "leave"]).is_refused_with("encrypted");
    playground.ok(1, &["swarm", "leave", "--force"]);
    assert_eq!(playground.local_state(1), "inactive");
    playground.ok(1, &["swarm", "init"]);
}
