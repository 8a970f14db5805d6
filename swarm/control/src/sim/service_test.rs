//! Services over nodes that come, go and are emptied.

use skep_state::spec::{Availability, RestartCondition};
use skep_state::{Kind, NodeState, TaskState, Timestamp};

use super::*;
use crate::service_status;

#[test]
fn three_replicas_spread_over_three_nodes_in_one_tick() {
    let mut sim = Sim::new(3);
    let web = sim.create(web(3));
    let before = sim.commits;
    assert!(sim.tick());
    assert_eq!(sim.commits, before + 1);
    let tasks: Vec<_> = sim.state.tasks_of(&web).collect();
    assert!(tasks.iter().all(|task| task.status.state == TaskState::Assigned
        && task.desired_state == TaskState::Running
        && task.address().is_some()));
    sim.settle();
    assert_eq!(sim.spread(&web), [1, 1, 1]);
    assert_eq!(
        sim.running(&web).iter().map(|task| task.name()).collect::<Vec<_>>(),
        ["web.1", "web.2", "web.3"]
    );
}

#[test]
fn a_dead_nodes_tasks_are_placed_elsewhere_in_one_tick() {
    let mut sim = Sim::new(3);
    let web = sim.create(web(3));
    sim.settle();
    sim.kill_node("n2");
    assert!(sim.tick());
    let placed = sim
        .state
        .tasks_of(&web)
        .filter(|task| task.desired_state == TaskState::Running && task.node_id != "n2")
        .count();
    assert_eq!(placed, 3);
    let status = service_status(&sim.state, &sim.state.services[&web]);
    assert_eq!((status.running, status.desired), (2, 3));
    sim.settle();
    let mut spread = sim.spread(&web);
    assert_eq!(spread[1], 0);
    spread.sort_unstable();
    assert_eq!(spread, [0, 1, 2]);

    // The node comes back: nothing moves, and its old task is stopped.
    let running: Vec<String> = sim.running(&web).iter().map(|task| task.meta.id.clone()).collect();
    sim.revive_node("n2");
    sim.pass(60.0);
    assert_eq!(sim.running(&web).iter().map(|task| task.meta.id.clone()).collect::<Vec<_>>(), running);
    assert_eq!(sim.state.tasks.values().filter(|task| task.status.state == TaskState::Shutdown).count(), 1);
}

#[test]
fn tasks_of_a_node_that_stays_down_are_orphaned_after_a_day() {
    let mut sim = Sim::new(2);
    let web = sim.create(web(2));
    sim.settle();
    sim.kill_node("n1");
    let orphans =
        |sim: &Sim| sim.state.tasks_of(&web).filter(|task| task.status.state == TaskState::Orphaned).count();
    sim.pass(23.0 * 3600.0);
    assert_eq!(orphans(&sim), 0);
    sim.pass(3700.0);
    assert_eq!(orphans(&sim), 1);
}

#[test]
fn a_removed_nodes_tasks_are_replaced() {
    let mut sim = Sim::new(2);
    let web = sim.create(web(2));
    sim.settle();
    sim.commit(vec![Change::Remove(Kind::Node, "n1".to_owned())]);
    sim.settle();
    assert_eq!(sim.spread(&web), [2]);
}

#[test]
fn scaling_adds_the_lowest_slots_and_takes_from_the_fullest_nodes() {
    let mut sim = Sim::new(3);
    let web = sim.create(web(2));
    sim.settle();
    sim.scale(&web, 7);
    sim.settle();
    let slots: Vec<u64> = sim.running(&web).iter().map(|task| task.slot).collect();
    assert_eq!(slots, [1, 2, 3, 4, 5, 6, 7]);
    sim.scale(&web, 3);
    sim.settle();
    assert_eq!(sim.spread(&web), [1, 1, 1]);
    assert_eq!(sim.state.tasks.len(), 3, "tasks taken away by scaling are forgotten");
    sim.scale(&web, 0);
    sim.settle();
    assert!(sim.state.tasks.is_empty());
}

#[test]
fn scaling_down_takes_what_does_not_run_first() {
    let mut sim = Sim::new(2);
    let web = sim.create(web(2));
    sim.settle();
    sim.availability("n1", Availability::Pause);
    sim.availability("n2", Availability::Pause);
    sim.scale(&web, 3);
    sim.settle();
    let waiting = sim.state.tasks_of(&web).find(|task| task.slot == 3).unwrap();
    assert_eq!(waiting.status.state, TaskState::Pending);
    assert_eq!(waiting.status.err, "no suitable node (2 nodes not available for new tasks)");
    sim.scale(&web, 2);
    sim.settle();
    assert_eq!(sim.running(&web).len(), 2);
    assert_eq!(sim.state.tasks.len(), 2);
}

#[test]
fn a_removed_services_tasks_are_stopped_and_forgotten() {
    let mut sim = Sim::new(3);
    let web = sim.create(web(3));
    sim.settle();
    sim.kill_node("n3");
    sim.settle();
    sim.remove_service(&web);
    sim.settle();
    assert!(sim.state.tasks.is_empty(), "{:#?}", sim.state.tasks);
}

#[test]
fn drain_moves_tasks_without_delay_and_active_moves_none_back() {
    let mut sim = Sim::new(3);
    let web = sim.create(web(3));
    sim.settle();
    let start = sim.now;
    sim.availability("n1", Availability::Drain);
    sim.settle();
    assert_eq!(sim.spread(&web)[0], 0);
    assert_eq!(sim.running(&web).len(), 3);
    assert!(sim.now.since(start).as_millis() < 1);
    sim.availability("n1", Availability::Active);
    sim.pass(100.0);
    assert_eq!(sim.spread(&web)[0], 0);
}

#[test]
fn a_drained_nodes_successor_waits_until_the_old_task_has_stopped_but_not_for_ever() {
    let mut sim = Sim::new(2);
    let web = sim.create(web(2));
    sim.settle();
    sim.stubborn.insert("n1".to_owned());
    sim.availability("n1", Availability::Drain);
    sim.pass(59.0);
    assert_eq!(sim.running(&web).len(), 1);
    assert!(sim.state.tasks_of(&web).any(|task| task.status.state == TaskState::Ready));
    sim.pass(2.0);
    assert_eq!(sim.spread(&web), [0, 2]);
}

#[test]
fn an_ended_task_is_replaced_after_the_delay() {
    let mut sim = Sim::new(1);
    let web = sim.create(web(1));
    sim.settle();
    let first = sim.running(&web)[0].meta.id.clone();
    sim.end_task(&first, TaskState::Failed);
    sim.settle();
    let waiting = sim.state.tasks_of(&web).find(|task| task.meta.id != first).unwrap();
    // Ready to start, and not started.
    assert_eq!((waiting.status.state, waiting.desired_state), (TaskState::Ready, TaskState::Ready));
    sim.pass(4.9);
    assert!(sim.running(&web).is_empty());
    sim.pass(0.2);
    assert_eq!(sim.running(&web).len(), 1);
}

#[test]
fn the_restart_condition_decides() {
    for (condition, state, again) in [
        (RestartCondition::Any, TaskState::Complete, true),
        (RestartCondition::OnFailure, TaskState::Complete, false),
        (RestartCondition::OnFailure, TaskState::Failed, true),
        (RestartCondition::None, TaskState::Failed, false),
    ] {
        let mut sim = Sim::new(1);
        let mut spec = web(1);
        restart_policy(&mut spec).condition = Some(condition);
        let web = sim.create(spec);
        sim.settle();
        let first = sim.running(&web)[0].meta.id.clone();
        sim.end_task(&first, state);
        sim.pass(10.0);
        assert_eq!(sim.running(&web).len(), usize::from(again), "{condition:?} after {state:?}");
    }
}

#[test]
fn max_attempts_ends_a_crash_loop_and_the_history_keeps_count() {
    let mut sim = Sim::new(1);
    let mut spec = web(1);
    set_image(&mut spec, "crash");
    restart_policy(&mut spec).max_attempts = Some(7);
    restart_policy(&mut spec).delay = Some(1_000_000_000);
    let web = sim.create(spec);
    sim.pass(100.0);
    // The first and seven restarts, more than the history limit of 5.
    assert_eq!(sim.state.tasks_of(&web).count(), 8);
    let all_failed = sim.state.tasks_of(&web).all(|task| task.status.state == TaskState::Failed);
    assert!(all_failed);
}

#[test]
fn attempts_outside_the_window_are_forgiven() {
    let mut sim = Sim::new(1);
    let mut spec = web(1);
    let policy = restart_policy(&mut spec);
    policy.max_attempts = Some(2);
    policy.window = Some(60_000_000_000);
    let web = sim.create(spec);
    for _ in 0..10 {
        sim.pass(50.0);
        let task = sim.running(&web)[0].meta.id.clone();
        sim.end_task(&task, TaskState::Failed);
    }
    sim.pass(50.0);
    assert_eq!(sim.running(&web).len(), 1);
}

#[test]
fn a_crash_loop_leaves_five_tasks_of_history() {
    let mut sim = Sim::new(2);
    let mut spec = web(1);
    set_image(&mut spec, "crash");
    let web = sim.create(spec);
    sim.pass(300.0);
    assert_eq!(sim.state.tasks_of(&web).count(), 5);
    assert!(sim.seen.len() > 40);
}

#[test]
fn a_global_service_follows_the_nodes() {
    let mut sim = Sim::new(3);
    let mut spec = agent();
    spec.task_template.placement.get_or_insert_default().constraints = vec!["node.id!=n2".to_owned()];
    let agent = sim.create(spec);
    sim.settle();
    assert_eq!(sim.spread(&agent), [1, 0, 1]);
    sim.add_node("n4");
    sim.settle();
    assert_eq!(sim.spread(&agent), [1, 0, 1, 1]);
    sim.kill_node("n1");
    sim.settle();
    assert_eq!(sim.spread(&agent), [0, 0, 1, 1]);
    sim.revive_node("n1");
    sim.availability("n4", Availability::Drain);
    sim.settle();
    assert_eq!(sim.spread(&agent), [1, 0, 1, 0]);
    sim.availability("n4", Availability::Active);
    sim.settle();
    assert_eq!(sim.spread(&agent), [1, 0, 1, 1]);
    let name = sim.running(&agent)[0].name();
    assert!(name.starts_with("agent.n"), "{name}");
    sim.node_state("n3", NodeState::Unknown);
    sim.settle();
    assert_eq!(sim.spread(&agent), [1, 0, 1, 1], "a node of unknown state keeps its tasks");
    assert_eq!(service_status(&sim.state, &sim.state.services[&agent]).desired, 3);
}

#[test]
fn a_broken_constraint_sends_tasks_away() {
    let mut sim = Sim::new(2);
    let mut node = sim.state.nodes["n1"].clone();
    node.spec.labels.insert("disk".to_owned(), "ssd".to_owned());
    sim.commit(vec![Change::PutNode(Box::new(node.clone()))]);
    let mut spec = web(2);
    spec.task_template.placement.get_or_insert_default().constraints =
        vec!["node.labels.disk==ssd".to_owned()];
    let web = sim.create(spec);
    sim.settle();
    assert_eq!(sim.spread(&web), [2, 0]);
    let mut node = sim.state.nodes["n1"].clone();
    node.spec.labels.clear();
    sim.commit(vec![Change::PutNode(Box::new(node))]);
    sim.settle();
    assert_eq!(sim.spread(&web), [0, 0]);
    assert!(
        sim.state
            .tasks_of(&web)
            .any(|task| task.status.err
                == "no suitable node (scheduling constraints not satisfied on 2 nodes)")
    );
}

#[test]
fn a_big_service_comes_in_bounded_transactions() {
    let mut sim = Sim::new(10);
    let web = sim.create(web(450));
    for expected in [200, 400, 450] {
        assert!(sim.tick());
        assert_eq!(sim.state.tasks_of(&web).count(), expected);
    }
    sim.settle();
    assert_eq!(sim.spread(&web), [45; 10]);
    sim.remove_service(&web);
    sim.settle();
    assert!(sim.state.tasks.is_empty());
}

#[test]
fn a_wrong_clock_does_no_harm() {
    let mut sim = Sim::new(2);
    let web = sim.create(web(2));
    sim.settle();
    // A new leader whose clock is an hour behind.
    sim.now = Timestamp::from_nanos(sim.now.nanos() - 3_600_000_000_000);
    sim.kill_node("n1");
    sim.settle();
    assert_eq!(sim.spread(&web), [0, 2]);
}
