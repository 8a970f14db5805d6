//! The CA, the tokens and the unlock key are rotated while the swarm is written to and called: nothing drops.

use crate::support::load::{Calls, Writes};
use crate::support::swarm::text;
use crate::support::{Playground, wait_until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

const PORT: u16 = 8080;

/// Writes each second, as long as the machine can.
const RATE: u32 = 500;

/// The root that the nodes of the swarm trust, PEM.
fn root(playground: &Playground, seen_by: u8) -> String {
    text(&playground.get(seen_by, "/swarm"), "/TLSInfo/TrustRoot").trim().to_owned()
}

fn rotating(playground: &Playground, seen_by: u8) -> bool {
    playground
        .try_get(seen_by, "/swarm")
        .is_none_or(|swarm| swarm["RootRotationInProgress"].as_bool() != Some(false))
}

/// Whether all nodes have said that they trust this root and have a certificate by it.
fn all_trust(playground: &Playground, seen_by: u8, root: &str) -> bool {
    let nodes = playground.nodes_seen_by(seen_by).unwrap_or_default();
    !nodes.is_empty() && nodes.iter().all(|node| text(node, "/Description/TLSInfo/TrustRoot").trim() == root)
}

/// A CA of somebody else's: certificate and key, PEM.
fn foreign_root(name: &str) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn everything_is_rotated_under_load() {
    let playground = Playground::up("rotate", 4);
    playground.create_web(1, "web", 4, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
    let processes = playground.all_containers();
    let first = root(&playground, 1);
    let (worker, manager) = (playground.token(1, "worker"), playground.token(1, "manager"));
    let writes = Writes::start(&playground, &[1, 2, 3], RATE);
    let calls = Calls::start(&playground, &[1, 2, 3, 4], PORT);

    // The CA: the command stays until every node has re-issued, and shows the new certificate.
    let told = playground.ok(2, &["swarm", "ca", "--rotate"]);
    assert!(told.contains("-----BEGIN CERTIFICATE-----"), "{told}");
    wait_until("the end of the rotation", || !rotating(&playground, 3));
    let second = root(&playground, 3);
    assert_ne!(second, first);
    assert!(told.contains(&second), "not the new root: {told}");
    wait_until("all trust the new root", || all_trust(&playground, 1, &second));
    writes.wait_for_more(100);
    let (second_worker, second_manager) = (playground.token(2, "worker"), playground.token(3, "manager"));
    assert_ne!(second_worker, worker, "a token names the root");
    assert_ne!(second_manager, manager);

    // The tokens, one by one.
    playground.ok(1, &["swarm", "join-token", "--rotate", "-q", "worker"]);
    assert_ne!(playground.token(2, "worker"), second_worker);
    assert_eq!(playground.token(2, "manager"), second_manager);
    playground.ok(3, &["swarm", "join-token", "--rotate", "-q", "manager"]);
    assert_ne!(playground.token(2, "manager"), second_manager);
    writes.wait_for_more(100);

    // The unlock key: on, another, off.
    playground.ok(2, &["swarm", "update", "--autolock=true"]);
    let key = playground.ok(1, &["swarm", "unlock-key", "-q"]);
    assert!(key.starts_with("SWMKEY-1-"), "{key}");
    let next = playground.ok(3, &["swarm", "unlock-key", "--rotate", "-q"]);
    assert_ne!(next, key);
    assert_eq!(playground.ok(1, &["swarm", "unlock-key", "-q"]), next);
    writes.wait_for_more(100);
    playground.ok(1, &["swarm", "update", "--autolock=false"]);

    // A second rotation of the CA right after the first, by a restarted leader's successor.
    let leader = playground.wait_for_leader(&[1, 2, 3], 0);
    playground.ok(leader, &["swarm", "ca", "--rotate", "--detach"]);
    wait_until("the end of the second rotation", || !rotating(&playground, leader));
    assert_ne!(root(&playground, leader), second);

    calls.none_failed();
    writes.finish(&playground, &[1, 2, 3]);
    assert_eq!(playground.all_containers(), processes);
    assert_eq!(playground.running(1, "web"), tasks);
    // All restart with what they have got meanwhile.
    for number in playground.numbers() {
        playground.daemon(number).unwrap().kill();
    }
    playground.wait_for_leader(&[1, 2, 3], 0);
    for number in playground.numbers() {
        playground.wait_for_node(2, number, "ready");
    }
    assert_eq!(playground.all_containers(), processes);
}

#[test]
fn an_old_token_is_dead_at_once_and_the_new_one_admits() {
    let playground = Playground::up_with("tokens", 4, &["--no-swarm"]);
    playground.ok(1, &["swarm", "init"]);
    playground.join(2, 1, "manager");
    let old = playground.token(1, "worker");
    let told = playground.ok(2, &["swarm", "join-token", "--rotate", "worker"]);
    assert!(told.starts_with("Successfully rotated worker join token.\n\n"), "{told}");
    let new = playground.token(1, "worker");
    assert!(told.contains(&new) && new != old, "{told}");
    // By any manager's address, also that of a follower.
    for through in [1, 2] {
        let address = format!("{}:2377", playground.address(through));
        let refused = playground.skep(3, &["swarm", "join", "--token", &old, &address]);
        refused.is_refused_with("A valid join token is necessary to join this cluster");
        assert_eq!(playground.local_state(3), "inactive");
    }
    // Several addresses, of which only the last is a manager's.
    let nobody = format!("{}:2377", playground.address(200));
    let address = format!("{}:2377", playground.address(2));
    let told = playground.ok(3, &["swarm", "join", "--token", &new, &nobody, &address]);
    assert_eq!(told, "This node joined a swarm as a worker.\n");
    for number in [1, 2, 3] {
        playground.wait_for_node(1, number, "ready");
    }
    // After the CA has changed, neither the old digest nor the old secret is any good.
    playground.ok(1, &["swarm", "ca", "--rotate", "-d"]);
    wait_until("the end of the rotation", || !rotating(&playground, 1));
    let refused = playground.skep(4, &["swarm", "join", "--token", &new, &address]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(playground.local_state(4), "inactive");
    playground.join(4, 2, "worker");
    playground.wait_for_node(1, 4, "ready");
}

#[test]
fn a_node_that_is_away_holds_the_end_of_a_rotation_up_and_brings_it() {
    let playground = Playground::up("away", 4);
    playground.create_web(1, "web", 4, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    playground.wait_for_answers(1, PORT, &tasks);
    let first = root(&playground, 1);
    let away: [u8; 2] = [4, 3];
    playground.power("cut", away[0]);
    playground.power("kill", away[1]);
    for number in away {
        playground.wait_for_node(1, number, "down");
    }
    let calls = Calls::start(&playground, &[1, 2], PORT);
    playground.ok(1, &["swarm", "ca", "--rotate", "-d"]);
    // Those that are there have re-issued, and the swarm still waits for the others.
    let issuer = |number: u8| text(&playground.node(1, number), "/Description/TLSInfo/CertIssuerPublicKey");
    let old = issuer(away[0]);
    wait_until("nodes 1 and 2 have new certificates", || issuer(1) != old && issuer(2) == issuer(1));
    assert!(rotating(&playground, 1), "two nodes have not re-issued");
    let info = playground.ok(2, &["info"]);
    assert!(info.contains("Root Rotation In Progress: true"), "{info}");
    // Meanwhile a manager may restart.
    playground.restart_daemon(2);
    playground.wait_for_leader(&[1, 2], 0);
    playground.power("heal", away[0]);
    playground.wait_for_node(1, away[0], "ready");
    wait_until("node 4 has a new certificate", || issuer(away[0]) == issuer(1));
    assert!(rotating(&playground, 1), "one node has not re-issued");
    playground.power("start", away[1]);
    wait_until("the end of the rotation", || !rotating(&playground, 1));
    let second = root(&playground, 1);
    assert_ne!(second, first);
    wait_until("all trust the new root", || all_trust(&playground, 2, &second));
    for number in playground.numbers() {
        playground.wait_for_node(1, number, "ready");
    }
    calls.none_failed();
}

#[test]
fn a_node_that_does_not_come_back_is_removed_to_end_a_rotation() {
    let playground = Playground::up_with("gone", 2, &["--managers", "1"]);
    playground.power("kill", 2);
    playground.wait_for_node(1, 2, "down");
    playground.ok(1, &["swarm", "ca", "--rotate", "-d"]);
    assert!(rotating(&playground, 1));
    playground.ok(1, &["node", "rm", "node-2"]);
    wait_until("the end of the rotation", || !rotating(&playground, 1));
}

#[test]
fn a_given_root_is_taken_and_one_that_is_none_is_refused() {
    let playground = Playground::up("given", 3);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    playground.wait_for_answers(1, PORT, &tasks);
    let processes = playground.all_containers();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = foreign_root("somebody's own CA");
    let (_, other_key) = foreign_root("another CA");
    let (cert_file, key_file) = (write("ca.pem", &certificate), write("ca-key.pem", &key));
    let other_file = write("other-key.pem", &other_key);
    let before = root(&playground, 1);

    let rotate = ["swarm", "ca", "--rotate", "--ca-cert", &cert_file, "--ca-key"];
    let refused = playground.skep(1, &[&rotate[..], &[&other_file]].concat());
    assert_eq!(refused.code, 1, "a key that is not the certificate's: {refused:?}");
    let refused = playground.skep(1, &["swarm", "ca", "--ca-cert", &cert_file, "--ca-key", &key_file]);
    refused.is_refused_with("--rotate");
    let nonsense = write("nonsense.pem", "nonsense");
    let refused =
        playground.skep(1, &["swarm", "ca", "--rotate", "--ca-cert", &nonsense, "--ca-key", &key_file]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(!rotating(&playground, 1));
    assert_eq!(root(&playground, 1), before);

    let calls = Calls::start(&playground, &[1, 2, 3], PORT);
    playground.ok(1, &[&rotate[..], &[&key_file]].concat());
    wait_until("the end of the rotation", || !rotating(&playground, 2));
    assert_eq!(root(&playground, 2), certificate.trim());
    assert_eq!(playground.ok(3, &["swarm", "ca"]).trim(), certificate.trim());
    wait_until("all trust it", || all_trust(&playground, 3, certificate.trim()));
    calls.none_failed();
    assert_eq!(playground.all_containers(), processes);
    // The key never comes out again.
    for number in playground.numbers() {
        let swarm = playground.get(number, "/swarm").to_string();
        assert!(!swarm.contains("PRIVATE KEY"), "{swarm}");
    }
}
