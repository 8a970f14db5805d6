//! Where tasks are placed, and the reasons why they are not.

use skep_state::TaskState;
use skep_state::spec::{PlacementPreference, Platform, PortConfig, PublishMode, Resources, SpreadOver};

use super::*;

fn reserve(spec: &mut ServiceSpec, memory_bytes: i64) {
    let resources = Resources { memory_bytes, ..Resources::default() };
    spec.task_template.resources.get_or_insert_default().reservations = Some(resources);
}

fn label(sim: &mut Sim, node: &str, name: &str, value: &str) {
    let mut node = sim.state.nodes[node].clone();
    node.spec.labels.insert(name.to_owned(), value.to_owned());
    sim.commit(vec![Change::PutNode(Box::new(node))]);
}

fn reasons(sim: &Sim, service: &str) -> Vec<String> {
    let pending = sim.state.tasks_of(service).filter(|task| task.status.state == TaskState::Pending);
    pending.map(|task| task.status.err.clone()).collect()
}

#[test]
fn reservations_fill_nodes_and_the_rest_waits() {
    let mut sim = Sim::new(2);
    let mut spec = web(5);
    reserve(&mut spec, 4 << 30);
    let web = sim.create(spec);
    sim.settle();
    assert_eq!(sim.spread(&web), [2, 2]);
    assert_eq!(reasons(&sim, &web), ["no suitable node (insufficient resources on 2 nodes)"]);
    sim.add_node("n3");
    sim.settle();
    assert_eq!(sim.spread(&web), [2, 2, 1]);
}

#[test]
fn host_ports_and_replica_limits_keep_tasks_apart() {
    let mut sim = Sim::new(2);
    let mut spec = web(3);
    let port = PortConfig {
        target_port: 80,
        published_port: 80,
        publish_mode: PublishMode::Host,
        ..PortConfig::default()
    };
    spec.endpoint_spec.get_or_insert_default().ports = vec![port];
    let web_id = sim.create(spec);
    sim.settle();
    assert_eq!(sim.spread(&web_id), [1, 1]);
    assert_eq!(reasons(&sim, &web_id), ["no suitable node (host-mode port already in use on 2 nodes)"]);

    let mut spec = web(3);
    spec.name = "few".to_owned();
    spec.task_template.placement.get_or_insert_default().max_replicas = 1;
    let few = sim.create(spec);
    sim.settle();
    assert_eq!(reasons(&sim, &few), ["no suitable node (max replicas per node limit exceed)"]);
}

#[test]
fn the_platform_must_suit() {
    let mut sim = Sim::new(1);
    let mut node = sim.state.nodes["n1"].clone();
    node.description.platform = Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() };
    sim.commit(vec![Change::PutNode(Box::new(node))]);
    let on = |architecture: &str| {
        let mut spec = web(1);
        architecture.clone_into(&mut spec.name);
        let platform = Platform { architecture: architecture.to_owned(), os: "linux".to_owned() };
        spec.task_template.placement.get_or_insert_default().platforms = vec![platform];
        spec
    };
    let amd = sim.create(on("amd64"));
    let arm = sim.create(on("arm64"));
    sim.settle();
    assert_eq!(sim.running(&amd).len(), 1);
    assert_eq!(reasons(&sim, &arm), ["no suitable node (unsupported platform on 1 node)"]);
}

#[test]
fn preferences_spread_over_racks() {
    let mut sim = Sim::new(4);
    for (node, rack) in [("n1", "a"), ("n2", "b"), ("n3", "b"), ("n4", "b")] {
        label(&mut sim, node, "rack", rack);
    }
    let mut spec = web(6);
    let spread = SpreadOver { spread_descriptor: "node.labels.rack".to_owned() };
    spec.task_template.placement.get_or_insert_default().preferences =
        vec![PlacementPreference { spread: Some(spread) }];
    let web = sim.create(spec);
    sim.settle();
    assert_eq!(sim.spread(&web), [3, 1, 1, 1]);
}

#[test]
fn a_node_where_a_service_keeps_failing_is_avoided() {
    let mut sim = Sim::new(2);
    // Fill n2, so that n1 is the better choice by number of tasks.
    let mut other = web(3);
    other.name = "other".to_owned();
    other.task_template.placement.get_or_insert_default().constraints = vec!["node.id==n2".to_owned()];
    sim.create(other);
    let mut spec = web(1);
    restart_policy(&mut spec).delay = Some(0);
    restart_policy(&mut spec).max_attempts = Some(100);
    let web = sim.create(spec);
    sim.settle();
    let mut nodes = Vec::new();
    for _ in 0..6 {
        let task = sim.running(&web)[0];
        nodes.push(task.node_id.clone());
        let id = task.meta.id.clone();
        sim.end_task(&id, TaskState::Failed);
        sim.settle();
    }
    assert_eq!(nodes, ["n1", "n1", "n1", "n1", "n1", "n2"]);
}

#[test]
fn one_task_services_take_turns() {
    let mut sim = Sim::new(4);
    for number in 0..20 {
        let mut spec = web(1);
        spec.name = format!("s{number}");
        sim.create(spec);
        sim.settle();
    }
    let on = |node: &String| sim.state.tasks.values().filter(|task| task.node_id == *node).count();
    assert_eq!(sim.state.nodes.keys().map(on).collect::<Vec<_>>(), [5; 4]);
}

#[test]
fn an_exhausted_network_is_told_in_the_task() {
    let mut sim = Sim::new(1);
    let mut network = sim.state.networks["ingress-id"].clone();
    network.ipam[0].subnet = "10.255.0.0/29".to_owned();
    sim.commit(vec![Change::PutNetwork(Box::new(network))]);
    let web = sim.create(web(6));
    sim.settle();
    assert_eq!(sim.running(&web).len(), 5);
    let reason = "no available IP addresses on network ingress (10.255.0.0/29)";
    assert_eq!(reasons(&sim, &web), [reason]);
    let first = sim.running(&web)[0].meta.id.clone();
    sim.end_task(&first, TaskState::Failed);
    sim.settle();
    assert_eq!(reasons(&sim, &web).len(), 1, "the freed address goes to one of the two that wait");
}

#[test]
fn a_freed_address_is_not_used_again_at_once() {
    let mut sim = Sim::new(1);
    let mut spec = web(1);
    restart_policy(&mut spec).delay = Some(0);
    let web = sim.create(spec);
    let mut addresses = BTreeSet::new();
    for _ in 0..20 {
        sim.settle();
        let task = sim.running(&web)[0];
        assert!(addresses.insert(task.address()), "{:?} again", task.address());
        let id = task.meta.id.clone();
        sim.end_task(&id, TaskState::Failed);
    }
}
