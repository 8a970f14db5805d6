//! Random histories: nothing forbidden ever happens, and when all is well again everything runs.

use proptest::prelude::*;
use proptest::sample::Index;

use skep_state::spec::{Availability, FailureAction, UpdateOrder};
use skep_state::{Kind, NodeState, TaskState};

use super::*;
use crate::service_status;

/// What may happen to a swarm.
#[derive(Debug, Clone)]
enum Event {
    Tick,
    Agents,
    Pass(u8),
    Kill(Index),
    Revive(Index),
    Cut(Index),
    Availability(Index, Availability),
    RemoveNode(Index),
    AddNode,
    Scale(Index, u8),
    Image(Index, u8, bool),
    Order(Index, bool, u8, u8, u8),
    EndTask(Index, bool),
    Create(bool, u8),
    RemoveService(Index),
    Stubborn(Index),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Tick),
        6 => Just(Event::Agents),
        3 => (0..20_u8).prop_map(Event::Pass),
        2 => any::<Index>().prop_map(Event::Kill),
        2 => any::<Index>().prop_map(Event::Revive),
        1 => any::<Index>().prop_map(Event::Cut),
        2 => (any::<Index>(), prop_oneof![
            Just(Availability::Active), Just(Availability::Pause), Just(Availability::Drain)
        ]).prop_map(|(node, to)| Event::Availability(node, to)),
        1 => any::<Index>().prop_map(Event::RemoveNode),
        1 => Just(Event::AddNode),
        2 => (any::<Index>(), 0..8_u8).prop_map(|(service, replicas)| Event::Scale(service, replicas)),
        3 => (any::<Index>(), 0..3_u8, prop::bool::weighted(0.2))
            .prop_map(|(service, version, bad)| Event::Image(service, version, bad)),
        1 => (any::<Index>(), any::<bool>(), 0..3_u8, 0..4_u8, 0..3_u8).prop_map(
            |(service, start_first, parallelism, delay, action)| {
                Event::Order(service, start_first, parallelism, delay, action)
            }
        ),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(task, failed)| Event::EndTask(task, failed)),
        2 => (any::<bool>(), 0..6_u8).prop_map(|(global, replicas)| Event::Create(global, replicas)),
        1 => any::<Index>().prop_map(Event::RemoveService),
        1 => any::<Index>().prop_map(Event::Stubborn),
    ]
}

fn pick<T: Clone>(index: &Index, from: Vec<T>) -> Option<T> {
    (!from.is_empty()).then(|| from[index.index(from.len())].clone())
}

fn run(sim: &mut Sim, event: Event) {
    let nodes: Vec<String> = sim.state.nodes.keys().cloned().collect();
    let services: Vec<String> = sim.state.services.keys().cloned().collect();
    match event {
        Event::Tick => drop(sim.tick()),
        Event::Agents => drop(sim.agents()),
        Event::Pass(seconds) => sim.pass(f64::from(seconds)),
        Event::Kill(node) => pick(&node, nodes).into_iter().for_each(|node| sim.kill_node(&node)),
        Event::Revive(node) => pick(&node, nodes).into_iter().for_each(|node| sim.revive_node(&node)),
        // Cut off and not noticed yet.
        Event::Cut(node) => drop(pick(&node, nodes).map(|node| sim.silent.insert(node))),
        Event::Availability(node, to) => {
            pick(&node, nodes).into_iter().for_each(|node| sim.availability(&node, to));
        }
        Event::RemoveNode(node) => {
            // As the API: only a node that is down.
            if let Some(node) = pick(&node, nodes)
                && sim.state.nodes[&node].status.state == NodeState::Down
            {
                sim.commit(vec![Change::Remove(Kind::Node, node)]);
            }
        }
        Event::AddNode => {
            let number = (1..).find(|number| !sim.state.nodes.contains_key(&format!("m{number}"))).unwrap();
            if number < 6 {
                sim.add_node(&format!("m{number}"));
            }
        }
        Event::Scale(service, replicas) => {
            if let Some(service) = pick(&service, services)
                && sim.state.services[&service].spec.mode.global.is_none()
            {
                sim.scale(&service, u64::from(replicas));
            }
        }
        Event::Image(service, version, bad) => {
            if let Some(service) = pick(&service, services) {
                let image = format!("{}:{version}", if bad { "crash" } else { "good" });
                sim.update(&service, |spec| set_image(spec, &image));
            }
        }
        Event::Order(service, start_first, parallelism, delay, action) => {
            if let Some(service) = pick(&service, services) {
                sim.update(&service, |spec| {
                    let config = update_config(spec);
                    config.order = if start_first { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst };
                    config.parallelism = u64::from(parallelism);
                    config.delay = u64::from(delay) * 1_000_000_000;
                    config.failure_action =
                        [FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback]
                            [usize::from(action)];
                });
            }
        }
        Event::EndTask(task, failed) => {
            let running: Vec<String> = sim
                .state
                .tasks
                .values()
                .filter(|task| task.status.state == TaskState::Running)
                .map(|task| task.meta.id.clone())
                .collect();
            if let Some(task) = pick(&task, running) {
                sim.end_task(&task, if failed { TaskState::Failed } else { TaskState::Complete });
            }
        }
        Event::Create(global, replicas) => {
            if services.len() < 4 {
                let mut spec = if global { agent() } else { web(u64::from(replicas)) };
                spec.name = format!("service-{}", sim.commits);
                sim.create(spec);
            }
        }
        Event::RemoveService(service) => {
            pick(&service, services).into_iter().for_each(|service| sim.remove_service(&service));
        }
        Event::Stubborn(node) => drop(pick(&node, nodes).map(|node| sim.stubborn.insert(node))),
    }
}

/// Everything works again, and every service asks for an image that runs.
fn heal(sim: &mut Sim) {
    sim.stubborn.clear();
    let nodes: Vec<String> = sim.state.nodes.keys().cloned().collect();
    for node in nodes {
        sim.revive_node(&node);
        sim.availability(&node, Availability::Active);
    }
    let services: Vec<String> = sim.state.services.keys().cloned().collect();
    for service in services {
        sim.update(&service, |spec| set_image(spec, "good:9"));
    }
    sim.pass(600.0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_end_well(events in prop::collection::vec(event(), 1..80)) {
        let mut sim = Sim::new(3);
        sim.create(web(3));
        for event in events {
            run(&mut sim, event);
        }
        heal(&mut sim);
        if sim.state.nodes.is_empty() {
            return Ok(());
        }
        for (id, service) in &sim.state.services {
            let status = service_status(&sim.state, service);
            let tasks: Vec<Change> =
                sim.state.tasks_of(id).map(|task| Change::PutTask(Box::new(task.clone()))).collect();
            prop_assert_eq!(status.running, status.desired, "{:#?} {:?}", brief(&tasks), service.update_status);
            let images = sim.images(id);
            prop_assert!(images.keys().all(|image| *image == "good:9"), "{:?} {:?}", images, service.update_status);
        }
        let alive = sim.state.tasks.values().filter(|task| !task.status.state.is_terminal()).count() as u64;
        let wanted: u64 = sim.state.services.values().map(|service| service_status(&sim.state, service).desired).sum();
        prop_assert_eq!(alive, wanted, "tasks are left over");
        let orphans = sim.state.tasks.values().any(|task| !sim.state.services.contains_key(&task.service_id));
        prop_assert!(!orphans, "tasks of removed services are left over");
        let calm = sim.commits;
        sim.pass(3600.0);
        prop_assert_eq!(sim.commits, calm, "it does not come to rest");
    }
}
