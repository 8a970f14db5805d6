//! Rolling updates.

use skep_state::TaskState;
use skep_state::object::UpdateState;
use skep_state::spec::{FailureAction, PortConfig, UpdateOrder};

use super::*;

fn rolling(replicas: u64, config: impl FnOnce(&mut UpdateConfig)) -> (Sim, String) {
    let mut sim = Sim::new(3);
    let mut spec = web(replicas);
    config(update_config(&mut spec));
    let id = sim.create(spec);
    sim.pass(60.0);
    (sim, id)
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn one_task_at_a_time_with_a_delay() {
    let (mut sim, web) = rolling(3, |config| config.delay = 10 * SECOND);
    sim.update(&web, |spec| set_image(spec, "good:2"));
    sim.settle();
    assert_eq!(sim.update_state(&web), Some(UpdateState::Updating));
    assert_eq!(sim.update_message(&web), "update in progress");
    for updated in 1..=3 {
        assert_eq!(sim.images(&web).get("good:2"), Some(&updated));
        assert_eq!(sim.running(&web).len(), 3);
        sim.pass(9.9);
        assert_eq!(sim.images(&web).get("good:2"), Some(&updated), "the delay is kept");
        sim.pass(0.2);
    }
    // The monitor is stretched to 11 s because the delay is longer than 5 s.
    sim.pass(10.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Updating));
    sim.pass(2.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
    assert_eq!(sim.update_message(&web), "update completed");
    sim.pass(100.0);
    assert_eq!(sim.seen.len(), 6);
}

#[test]
fn stop_first_never_runs_more_and_start_first_never_fewer() {
    for (order, low, high) in [(UpdateOrder::StopFirst, 2, 4), (UpdateOrder::StartFirst, 4, 6)] {
        let (mut sim, web) = rolling(4, |config| {
            config.order = order;
            config.parallelism = 2;
        });
        sim.update(&web, |spec| set_image(spec, "good:2"));
        loop {
            let ticked = sim.tick();
            let up = sim.state.tasks_of(&web).filter(|task| task.status.state == TaskState::Running).count();
            assert!((low..=high).contains(&up), "{order:?}: {up} running");
            if !sim.agents() && !ticked {
                break;
            }
        }
        assert_eq!(sim.images(&web).get("good:2"), Some(&4), "{order:?}");
        sim.pass(6.0);
        assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
        assert_eq!(sim.seen.len(), 8);
    }
}

#[test]
fn the_new_task_is_made_ready_while_the_old_one_stops() {
    let (mut sim, web) = rolling(1, |_| {});
    sim.stubborn.extend(["n1", "n2", "n3"].map(str::to_owned));
    sim.update(&web, |spec| set_image(spec, "good:2"));
    sim.settle();
    let states: Vec<_> =
        sim.state.tasks_of(&web).map(|task| (task.status.state, task.desired_state)).collect();
    assert!(states.contains(&(TaskState::Running, TaskState::Shutdown)), "{states:?}");
    assert!(states.contains(&(TaskState::Ready, TaskState::Ready)), "{states:?}");
    sim.stubborn.clear();
    sim.settle();
    assert_eq!(sim.images(&web).get("good:2"), Some(&1));
}

#[test]
fn a_failing_update_pauses() {
    let (mut sim, web) = rolling(3, |_| {});
    sim.update(&web, |spec| set_image(spec, "crash:2"));
    sim.pass(60.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Paused));
    let message = sim.update_message(&web);
    let failed = message.strip_prefix("update paused due to failure or early termination of task ").unwrap();
    assert!(sim.seen[failed].status.state == TaskState::Failed, "{message}");
    assert_eq!(sim.images(&web), [(GOOD, 2)].into());
    sim.update(&web, |spec| set_image(spec, "good:3"));
    sim.pass(60.0);
    assert_eq!(sim.images(&web), [("good:3", 3)].into());
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
}

#[test]
fn a_failing_update_rolls_back() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let (mut sim, web) = rolling(3, |config| {
            config.failure_action = FailureAction::Rollback;
            config.order = order;
        });
        sim.update(&web, |spec| set_image(spec, "crash:2"));
        sim.settle();
        if order == UpdateOrder::StopFirst {
            let message = sim.update_message(&web);
            let expected = "update rolled back due to failure or early termination of task ";
            assert!(message.starts_with(expected), "{message}");
        }
        sim.pass(60.0);
        assert_eq!(sim.images(&web), [(GOOD, 3)].into());
        assert_eq!(sim.update_state(&web), Some(UpdateState::RollbackCompleted));
        assert_eq!(sim.update_message(&web), "rollback completed");
        assert_eq!(sim.state.services[&web].previous_spec, None);
    }
}

#[test]
fn a_rollback_that_fails_pauses() {
    let (mut sim, web) = rolling(2, |config| config.failure_action = FailureAction::Rollback);
    sim.update(&web, |spec| set_image(spec, "good:2"));
    // The first new task fails in its first seconds, and the way back meets an image that has gone bad.
    sim.settle();
    let mut service = sim.state.services[&web].clone();
    set_image(service.previous_spec.as_mut().unwrap(), "crash:1");
    sim.commit(vec![Change::PutService(Box::new(service))]);
    let updated =
        sim.running(&web).into_iter().find(|task| task.spec.container_spec.image == "good:2").unwrap();
    let id = updated.meta.id.clone();
    sim.end_task(&id, TaskState::Failed);
    sim.pass(60.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::RollbackPaused));
    let message = sim.update_message(&web);
    assert!(message.starts_with("rollback paused due to failure or early termination of task "), "{message}");
}

#[test]
fn the_ratio_and_continue_let_failures_pass() {
    let (mut sim, web) = rolling(4, |config| config.max_failure_ratio = 0.5);
    sim.update(&web, |spec| set_image(spec, "good:2"));
    sim.settle();
    let id = sim.running(&web)[0].meta.id.clone();
    sim.end_task(&id, TaskState::Failed);
    sim.pass(60.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));

    let (mut sim, web) = rolling(3, |config| config.failure_action = FailureAction::Continue);
    sim.update(&web, |spec| set_image(spec, "crash:2"));
    sim.pass(60.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
    assert!(sim.images(&web).is_empty());
}

#[test]
fn a_failure_after_the_monitor_does_not_count() {
    let (mut sim, web) = rolling(2, |config| config.delay = 60 * SECOND);
    update_config(&mut sim.state.services.get_mut(&web).unwrap().spec).monitor = SECOND;
    sim.update(&web, |spec| {
        set_image(spec, "good:2");
        update_config(spec).monitor = 2 * SECOND;
        update_config(spec).delay = 0;
    });
    sim.settle();
    sim.pass(1.5);
    // Within the monitor, but the update had not begun with this task's failure: still counted.
    let id = sim.running(&web)[0].meta.id.clone();
    sim.end_task(&id, TaskState::Failed);
    sim.settle();
    assert_eq!(sim.update_state(&web), Some(UpdateState::Paused));

    let (mut sim, web) = rolling(2, |_| {});
    sim.update(&web, |spec| set_image(spec, "good:2"));
    sim.pass(5.5);
    let id = sim.running(&web)[0].meta.id.clone();
    sim.end_task(&id, TaskState::Failed);
    sim.pass(20.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
}

#[test]
fn ports_replicas_and_update_settings_restart_nothing() {
    let (mut sim, web) = rolling(3, |_| {});
    let before: Vec<String> = sim.running(&web).iter().map(|task| task.meta.id.clone()).collect();
    sim.update(&web, |spec| {
        let port = PortConfig { target_port: 80, published_port: 8080, ..PortConfig::default() };
        spec.endpoint_spec.get_or_insert_default().ports = vec![port];
        update_config(spec).parallelism = 7;
        spec.labels.insert("a".to_owned(), "b".to_owned());
    });
    sim.scale(&web, 4);
    sim.pass(60.0);
    let after: Vec<String> = sim.running(&web).iter().map(|task| task.meta.id.clone()).collect();
    assert_eq!(after[..3], before);
    assert_eq!(sim.update_state(&web), None);
}

#[test]
fn a_new_update_overtakes_one_under_way() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let (mut sim, web) = rolling(4, |config| {
            config.order = order;
            config.delay = 20 * SECOND;
        });
        sim.update(&web, |spec| set_image(spec, "good:2"));
        for _ in 0..6 {
            sim.tick();
            sim.agents();
        }
        sim.update(&web, |spec| {
            set_image(spec, "good:3");
            update_config(spec).delay = 0;
        });
        sim.pass(30.0);
        assert_eq!(sim.images(&web), [("good:3", 4)].into());
        assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
        assert_eq!(sim.running(&web).len(), 4);
    }
}

#[test]
fn an_update_goes_on_when_a_node_dies() {
    let (mut sim, web) = rolling(6, |config| config.delay = 3 * SECOND);
    sim.update(&web, |spec| set_image(spec, "good:2"));
    sim.pass(4.0);
    sim.kill_node("n1");
    sim.pass(60.0);
    assert_eq!(sim.images(&web), [("good:2", 6)].into());
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
}

#[test]
fn scaling_up_within_an_update_does_not_hold_it_up() {
    let (mut sim, web) = rolling(2, |_| {});
    sim.update(&web, |spec| {
        set_image(spec, "good:2");
        spec.mode.replicated = Some(ReplicatedService { replicas: Some(5) });
    });
    sim.pass(30.0);
    assert_eq!(sim.images(&web), [("good:2", 5)].into());
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
}

#[test]
fn tasks_without_a_node_are_updated_too() {
    let mut sim = Sim::new(1);
    let mut spec = web(2);
    spec.task_template.placement.get_or_insert_default().constraints = vec!["node.id==nowhere".to_owned()];
    let web = sim.create(spec);
    sim.settle();
    assert_eq!(sim.running(&web).len(), 0);
    sim.update(&web, |spec| spec.task_template.placement = None);
    sim.pass(30.0);
    assert_eq!(sim.running(&web).len(), 2);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Completed));
}

#[test]
fn a_global_service_is_updated_node_by_node() {
    let mut sim = Sim::new(4);
    let agent = sim.create(agent());
    sim.pass(10.0);
    sim.availability("n4", Availability::Drain);
    sim.kill_node("n3");
    sim.settle();
    sim.update(&agent, |spec| set_image(spec, "good:2"));
    sim.tick();
    let stopping = |sim: &Sim| {
        let tasks = sim.state.tasks_of(&agent);
        tasks
            .filter(|task| {
                ["n1", "n2"].contains(&task.node_id.as_str()) && task.desired_state == TaskState::Shutdown
            })
            .count()
    };
    assert_eq!(stopping(&sim), 1);
    sim.pass(30.0);
    assert_eq!(sim.images(&agent), [("good:2", 2)].into());
    assert_eq!(sim.update_state(&agent), Some(UpdateState::Completed));
}

#[test]
fn history_of_one_does_not_confuse_the_updater() {
    let (mut sim, web) = rolling(2, |_| {});
    let mut cluster = sim.state.cluster.clone().unwrap();
    cluster.spec.orchestration.task_history_retention_limit = Some(0);
    sim.commit(vec![Change::PutCluster(Box::new(cluster))]);
    sim.update(&web, |spec| set_image(spec, "crash:2"));
    sim.pass(60.0);
    assert_eq!(sim.update_state(&web), Some(UpdateState::Paused));
}
