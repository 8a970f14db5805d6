//! Jobs.

use skep_state::spec::{GlobalJob, ReplicatedJob};

use super::*;
use crate::service_status;

fn job(total: u64, max_concurrent: u64) -> ServiceSpec {
    let mut spec = web(0);
    set_image(&mut spec, "exit");
    spec.mode.replicated = None;
    spec.mode.replicated_job =
        Some(ReplicatedJob { max_concurrent: Some(max_concurrent), total_completions: Some(total) });
    spec
}

#[test]
fn a_job_completes_and_runs_again_when_forced() {
    let mut sim = Sim::new(2);
    let id = sim.create(job(5, 2));
    sim.tick();
    assert_eq!(sim.state.tasks.len(), 2);
    sim.settle();
    let status = service_status(&sim.state, &sim.state.services[&id]);
    assert_eq!((status.running, status.desired, status.completed), (0, 2, 5));
    sim.pass(100.0);
    assert_eq!(sim.seen.len(), 5);
    sim.update(&id, |spec| spec.task_template.force_update += 1);
    sim.pass(100.0);
    assert_eq!(sim.seen.len(), 10);
}

#[test]
fn a_failed_job_task_is_tried_again() {
    let mut sim = Sim::new(1);
    let mut spec = job(1, 1);
    set_image(&mut spec, "crash");
    restart_policy(&mut spec).max_attempts = Some(2);
    let id = sim.create(spec);
    sim.pass(100.0);
    assert_eq!(sim.state.tasks_of(&id).count(), 3);
    assert_eq!(service_status(&sim.state, &sim.state.services[&id]).completed, 0);
}

#[test]
fn a_global_job_completes_on_every_node() {
    let mut sim = Sim::new(3);
    let mut spec = job(0, 0);
    spec.mode.replicated_job = None;
    spec.mode.global_job = Some(GlobalJob {});
    let id = sim.create(spec);
    sim.pass(10.0);
    assert_eq!(service_status(&sim.state, &sim.state.services[&id]).completed, 3);
    sim.add_node("n4");
    sim.pass(10.0);
    let status = service_status(&sim.state, &sim.state.services[&id]);
    assert_eq!((status.completed, status.desired), (4, 4));
    assert_eq!(sim.seen.len(), 4);
}
