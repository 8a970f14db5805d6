//! Who may send what, message by message.

use super::*;

fn listed(manager: bool) -> Standing {
    Standing { listed: true, manager, removed: false, current: true, anything: true }
}

fn unlisted() -> Standing {
    Standing { current: true, anything: true, ..Standing::default() }
}

fn rule(message: Message) -> From {
    TABLE.iter().find(|(known, ..)| *known == message).unwrap().2
}

/// What a worker may send and what only managers may: the table spelled out, so that a change of it is seen.
#[test]
fn each_message_from_a_worker_and_from_a_manager() {
    for (message, name, from) in TABLE {
        let for_workers = match name {
            "raft" | "backup" => false,
            "image" | "leave" | "certificate" | "session" | "blob" | "datagram" => true,
            other => panic!("{other}: say here who may send it"),
        };
        assert_eq!(listed(false).may_send(Role::Worker, from).is_ok(), for_workers, "{message:?}");
        assert_eq!(listed(true).may_send(Role::Manager, from), Ok(()), "{message:?}");
    }
}

#[test]
fn the_committed_role_counts_and_not_the_certificates() {
    let raft = rule(Message::Request(rpc::RAFT));
    assert_eq!(listed(false).may_send(Role::Manager, raft), Err(Refused::NotManager), "demoted");
    assert_eq!(listed(true).may_send(Role::Worker, raft), Ok(()), "promoted, on a connection from before");
}

#[test]
fn a_node_that_is_not_listed_may_send_nothing() {
    for standing in
        [unlisted(), Standing { removed: true, ..unlisted() }, Standing { removed: true, ..listed(true) }]
    {
        for role in [Role::Worker, Role::Manager] {
            assert!(!standing.may_connect(role), "{standing:?}");
            for (message, _, from) in TABLE {
                assert!(standing.may_send(role, from).is_err(), "{message:?} {standing:?}");
            }
        }
    }
}

#[test]
fn a_manager_that_this_node_has_slept_through_may_connect_and_speak_raft() {
    let stale = Standing { current: false, ..unlisted() };
    assert!(stale.may_connect(Role::Manager) && !stale.may_connect(Role::Worker));
    for (message, name, from) in TABLE {
        assert_eq!(
            stale.may_send(Role::Manager, from).is_ok(),
            name == "raft" || name == "backup",
            "{message:?}"
        );
        assert!(stale.may_send(Role::Worker, from).is_err(), "{message:?}");
    }
    let removed = Standing { removed: true, ..stale };
    assert!(!removed.may_connect(Role::Manager), "but not if this node knows that it was removed");
    let demoted = Standing { current: false, ..listed(false) };
    assert!(demoted.may_send(Role::Manager, rule(Message::Request(rpc::RAFT))).is_err());
}

#[test]
fn a_node_that_knows_nobody_yet_goes_by_the_certificate() {
    let blank = Standing::default();
    assert!(blank.may_connect(Role::Worker) && blank.may_connect(Role::Manager));
    let raft = rule(Message::Request(rpc::RAFT));
    assert!(blank.may_send(Role::Manager, raft).is_ok() && blank.may_send(Role::Worker, raft).is_err());
}

#[test]
fn what_a_leader_tells_now_counts_more_than_an_old_state() {
    let old = Standing { current: false, ..listed(false) };
    assert!(best(old, listed(true)).manager);
    // Without a leader's word the state is the younger of the two.
    let once_told = Standing { current: false, ..listed(true) };
    assert!(!best(old, once_told).manager);
    assert!(best(Standing::default(), once_told).manager);
}
