//! Every way in which a request about a service is refused, and what the ones that are not do.

use skep_state::spec::{
    EndpointSpec, GlobalService, PortConfig, ReplicatedService, ResolutionMode, ServiceMode,
};

use super::super::RefusalKind;
use super::*;

fn spec(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.to_owned(), ..ServiceSpec::default() };
    spec.mode.replicated = Some(ReplicatedService { replicas: Some(replicas) });
    spec.task_template.container_spec.image = "whoami".to_owned();
    spec
}

fn publish(spec: &mut ServiceSpec, target: u16, published: u16) {
    let port = PortConfig { target_port: target, published_port: published, ..PortConfig::default() };
    spec.endpoint_spec.get_or_insert_with(EndpointSpec::default).ports.push(port);
}

fn create(state: &State, spec: ServiceSpec) -> Result<Transaction, Refusal> {
    create_service(state, "id2".to_owned(), spec, Timestamp::from_nanos(5))
}

/// A state with one service `web`, ID `id1`, at version 10.
fn state() -> State {
    let mut state = State::default();
    let transaction = create_service(&state, "id1".to_owned(), spec("web", 2), Timestamp::default()).unwrap();
    state.apply(10, &transaction).unwrap();
    state
}

fn update(state: &State, spec: ServiceSpec) -> Result<Transaction, Refusal> {
    let version = state.services["id1"].meta.version.index;
    update_service(state, "web", version, spec, Rollback::No, Timestamp::default())
}

fn apply(state: &mut State, transaction: Transaction) -> Service {
    state.apply(state.index + 5, &transaction).unwrap();
    state.services["id1"].clone()
}

#[track_caller]
fn refused(result: Result<Transaction, Refusal>, kind: RefusalKind, words: &str) {
    let refusal = result.unwrap_err();
    assert!(refusal.message.contains(words), "{refusal}");
    assert_eq!(refusal.kind, kind, "{refusal}");
    assert!(!refusal.message.contains('\n'));
}

#[test]
fn a_new_service_has_its_ports_and_one_replica_by_default() {
    let mut asked = spec("api", 1);
    asked.mode = ServiceMode::default();
    publish(&mut asked, 80, 0);
    let transaction = create(&state(), asked).unwrap();
    let [Change::PutService(service)] = transaction.changes.as_slice() else { panic!("{transaction:?}") };
    assert_eq!(service.spec.mode.replicated, Some(ReplicatedService { replicas: Some(1) }));
    assert_eq!((service.meta.id.as_str(), service.spec_version), ("id2", SPEC_VERSION_FIRST));
    assert_eq!(service.ports[0].published_port, super::super::DYNAMIC_PORT_FIRST);
    assert_eq!(service.spec.ports()[0].published_port, 0, "the spec stays as it was given");
}

#[test]
fn names_are_dns_labels_and_unique() {
    let state = state();
    refused(
        create(&state, spec("web", 1)),
        RefusalKind::Conflict,
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists",
    );
    refused(create(&state, spec("", 1)), RefusalKind::Invalid, "meta: name must be provided");
    refused(create(&state, spec("a.b", 1)), RefusalKind::Invalid, "valid as a DNS name component");
    refused(create(&state, spec("-a", 1)), RefusalKind::Invalid, "valid as a DNS name component");
    refused(create(&state, spec("a-", 1)), RefusalKind::Invalid, "valid as a DNS name component");
    refused(create(&state, spec(&"a".repeat(64), 1)), RefusalKind::Invalid, "63 characters or fewer");
    assert!(create(&state, spec(&"a".repeat(63), 1)).is_ok());
    assert!(create(&state, spec("stack_web--1", 1)).is_ok());
}

#[test]
fn ports_are_checked() {
    let state = state();
    let mut twice = spec("api", 1);
    publish(&mut twice, 80, 8080);
    publish(&mut twice, 81, 8080);
    refused(create(&state, twice), RefusalKind::Invalid, "EndpointSpec: duplicate published ports provided");

    let mut round_robin = spec("api", 1);
    publish(&mut round_robin, 80, 8080);
    if let Some(endpoint) = &mut round_robin.endpoint_spec {
        endpoint.mode = Some(ResolutionMode::Dnsrr);
    }
    refused(
        create(&state, round_robin),
        RefusalKind::Invalid,
        "port published with ingress mode can't be used with dnsrr mode",
    );

    let mut nowhere = spec("api", 1);
    publish(&mut nowhere, 0, 8080);
    refused(create(&state, nowhere), RefusalKind::Invalid, "target port");
}

#[test]
fn an_update_needs_the_version_the_name_and_the_mode() {
    let state = state();
    let stale = update_service(&state, "web", 9, spec("web", 3), Rollback::No, Timestamp::default());
    refused(stale, RefusalKind::OutOfSequence, "update out of sequence");
    let gone = update_service(&state, "nope", 9, spec("web", 3), Rollback::No, Timestamp::default());
    refused(gone, RefusalKind::NotFound, "service nope not found");
    refused(update(&state, spec("api", 3)), RefusalKind::Unimplemented, "renaming services is not supported");
    let mut global = spec("web", 3);
    global.mode = ServiceMode { global: Some(GlobalService {}), ..ServiceMode::default() };
    refused(update(&state, global), RefusalKind::Unimplemented, "service mode change is not allowed");
    let both = ServiceMode {
        global: Some(GlobalService {}),
        replicated: Some(ReplicatedService::default()),
        ..ServiceMode::default()
    };
    refused(update(&state, ServiceSpec { mode: both, ..spec("web", 1) }), RefusalKind::Invalid, "one mode");
}

#[test]
fn the_spec_version_follows_the_task_template() {
    let mut state = state();
    let scaled = update(&state, spec("web", 5)).unwrap();
    let service = apply(&mut state, scaled);
    assert_eq!(service.spec_version, SPEC_VERSION_FIRST, "scaling replaces no task");
    assert_eq!(service.previous_spec.as_ref().and_then(ServiceSpec::replicas), Some(2));

    let mut forced = spec("web", 5);
    forced.task_template.force_update = 1;
    let transaction = update(&state, forced).unwrap();
    let service = apply(&mut state, transaction);
    assert!(service.spec_version > SPEC_VERSION_FIRST);
    assert_eq!(service.previous_spec_version, SPEC_VERSION_FIRST);
}

#[test]
fn a_rollback_swaps_the_specs() {
    let mut state = state();
    let nothing_before =
        update_service(&state, "web", 10, spec("web", 9), Rollback::Previous, Timestamp::default());
    refused(nothing_before, RefusalKind::FailedPrecondition, "service web does not have a previous spec");

    let mut second = spec("web", 2);
    second.task_template.container_spec.image = "whoami:2".to_owned();
    publish(&mut second, 80, 8080);
    let transaction = update(&state, second.clone()).unwrap();
    let updated = apply(&mut state, transaction);

    let version = updated.meta.version.index;
    let back =
        update_service(&state, "id1", version, second, Rollback::Previous, Timestamp::from_nanos(8)).unwrap();
    let back = apply(&mut state, back);
    assert_eq!(back.spec.task_template.container_spec.image, "whoami");
    assert_eq!(back.spec_version, SPEC_VERSION_FIRST);
    assert_eq!(back.previous_spec_version, updated.spec_version);
    assert!(back.ports.is_empty());
    let status = back.update_status.clone().unwrap();
    assert_eq!(
        (status.state, status.message.as_str()),
        (UpdateState::RollbackStarted, "manually requested rollback")
    );

    let mut third = spec("web", 2);
    third.task_template.container_spec.image = "whoami:3".to_owned();
    let transaction = update(&state, third).unwrap();
    let third = apply(&mut state, transaction);
    assert!(third.spec_version > updated.spec_version, "a version is never used twice");
    assert_eq!(third.update_status, None);
}

#[test]
fn removal_finds_what_was_meant() {
    let transaction = remove_service(&state(), "web", Timestamp::default()).unwrap();
    assert_eq!(transaction.changes, vec![Change::Remove(Kind::Service, "id1".to_owned())]);
    refused(
        remove_service(&state(), "nope", Timestamp::default()),
        RefusalKind::NotFound,
        "service nope not found",
    );
}
