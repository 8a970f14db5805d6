//! The tick must not be felt.

use std::time::Instant;

use super::*;

/// 10 nodes, 1,000 tasks. The bound is far above what it takes (the measured time is printed), so that a busy machine
/// does not fail it, and far below what would delay a heartbeat.
#[test]
fn a_tick_over_a_thousand_tasks_is_short() {
    let mut sim = Sim::new(10);
    for number in 0..10 {
        let mut spec = web(100);
        spec.name = format!("s{number}");
        spec.task_template.placement.get_or_insert_default().constraints =
            vec!["node.role!=manager".to_owned()];
        sim.create(spec);
    }
    sim.settle();
    assert_eq!(sim.state.tasks.len(), 1_000);
    let measure = |sim: &Sim| {
        let mut best = Duration::MAX;
        let mut changes = 0;
        for _ in 0..20 {
            let mut random = 1 << 100;
            let before = Instant::now();
            let plan =
                tick(&sim.state, &TickInput { now: sim.now, awaited_since: &BTreeMap::new() }, &mut || {
                    random += 1;
                    random
                });
            best = best.min(before.elapsed());
            changes = plan.changes.len();
        }
        (best, changes)
    };
    let (idle, _) = measure(&sim);
    sim.kill_node("n1");
    let (node_down, changes) = measure(&sim);
    println!(
        "tick over 10 nodes and 1,000 tasks: idle {idle:?}, a node down {node_down:?} ({changes} changes)"
    );
    assert!(idle < Duration::from_millis(10), "{idle:?}");
    assert!(node_down < Duration::from_millis(10), "{node_down:?}");
}
