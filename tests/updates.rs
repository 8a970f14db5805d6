//! Services change while they are called: more and fewer tasks, another image, other ports, and back again.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::swarm::{Task, text};
use crate::support::{Playground, wait_until};

const PORT: u16 = 8080;

/// Whether tasks start while requests come in. A task runs, and gets requests, from the moment at which its program is
/// started; a call that comes before the program listens is refused. Only a health check could tell, and there is none.
/// And where several tasks stop one after the other, each for its fixed time of grace, a node of an overloaded machine
/// may once take notice too late: one call in a hundred may be cut off then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Starts {
    Some,
    None,
}

/// Calls a port at all nodes all the while that `work` goes on; no call may fail but for what [`Starts`] says.
#[track_caller]
fn under_requests<T>(playground: &Playground, port: u16, starts: Starts, work: impl FnOnce() -> T) -> T {
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                for number in playground.numbers() {
                    let failed = playground.call(number, port).err();
                    let count = calls.fetch_add(1, Ordering::Relaxed);
                    let too_early = |error: &io::Error| {
                        starts == Starts::Some && error.kind() == io::ErrorKind::ConnectionRefused
                    };
                    let failed = failed.filter(|error| !too_early(error));
                    failures.extend(failed.map(|error| format!("call {count}, to node {number}: {error}")));
                }
            }
            failures
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("some calls", || calls.load(Ordering::Relaxed) > 20);
            let done = work();
            let so_far = calls.load(Ordering::Relaxed);
            wait_until("some more calls", || calls.load(Ordering::Relaxed) > so_far + 20);
            done
        }));
        stop.store(true, Ordering::Relaxed);
        let failures = caller.join().unwrap();
        let done = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let calls = calls.load(Ordering::Relaxed);
        let allowed = if starts == Starts::Some { calls / 100 } else { 0 };
        assert!(failures.len() <= allowed, "{} of {calls} calls failed: {failures:#?}", failures.len());
        done
    })
}

/// The containers of all nodes.
fn containers(playground: &Playground) -> BTreeSet<String> {
    playground.numbers().flat_map(|number| playground.containers(number)).map(|(id, _)| id).collect()
}

fn containers_of(tasks: &[Task]) -> BTreeSet<String> {
    tasks.iter().map(|task| task.container.clone()).collect()
}

/// A playground with a second name for the built-in image on every node, and three tasks of a service that answer.
fn with_web(theme: &str) -> (Playground, Vec<Task>) {
    let playground = Playground::up(theme, 3);
    playground.create_web(1, "web", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 3, |_| true);
    for number in playground.numbers() {
        playground.ok(number, &["image", "tag", "whoami", "web:2"]);
        playground.wait_for_answers(number, PORT, &tasks);
    }
    (playground, tasks)
}

#[test]
fn no_request_fails_while_a_service_is_scaled() {
    let (playground, before) = with_web("scale");
    let more = under_requests(&playground, PORT, Starts::Some, || {
        playground.ok(2, &["service", "scale", "-d", "web=6"]);
        playground.wait_for_tasks(2, "web", 6, |_| true)
    });
    assert!(before.iter().all(|task| more.contains(task)), "the first three run on: {more:#?}");
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &more);
    }
    let fewer = under_requests(&playground, PORT, Starts::None, || {
        playground.ok(3, &["service", "scale", "-d", "web=1"]);
        playground.wait_for_tasks(3, "web", 1, |_| true)
    });
    assert!(more.contains(&fewer[0]), "{fewer:#?}");
    wait_until("one container in all", || containers(&playground) == containers_of(&fewer));
    playground.ok(1, &["service", "scale", "-d", "web=0"]);
    wait_until("no container", || containers(&playground).is_empty());
    for number in playground.numbers() {
        wait_until("a port with no task refuses", || playground.call(number, PORT).is_err());
    }
}

#[test]
fn no_request_fails_while_an_image_is_updated_and_rolled_back() {
    let (playground, before) = with_web("update");
    let update = ["service", "update", "-d", "--image", "web:2", "--update-monitor", "1s", "web"];
    let second = under_requests(&playground, PORT, Starts::Some, || {
        playground.ok(2, &update);
        playground.wait_for_tasks(2, "web", 3, |task| task.image == "web:2")
    });
    assert!(containers_of(&before).is_disjoint(&containers_of(&second)));
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &second);
    }
    wait_until("the update is completed", || {
        text(&playground.get(2, "/services/web"), "/UpdateStatus/State") == "completed"
    });
    wait_until("the old containers are gone", || containers(&playground) == containers_of(&second));

    let third = under_requests(&playground, PORT, Starts::Some, || {
        playground.ok(3, &["service", "rollback", "-d", "web"]);
        playground.wait_for_tasks(3, "web", 3, |task| task.image == "whoami")
    });
    wait_until("the rollback is completed", || {
        text(&playground.get(1, "/services/web"), "/UpdateStatus/State") == "rollback_completed"
    });
    let service = playground.get(1, "/services/web");
    assert_eq!(text(&service, "/Spec/TaskTemplate/ContainerSpec/Image"), "whoami");
    wait_until("the old containers are gone", || containers(&playground) == containers_of(&third));
    playground.call_often(&[1, 2, 3], PORT, 30);
}

#[test]
fn an_update_that_fails_is_paused_and_serves_on() {
    let (playground, before) = with_web("broken");
    let update = ["service", "update", "--args", "--port 70000", "--update-monitor", "2s", "web"];
    // A task that fails counts as running until it has: a call may meet it before.
    playground.skep(1, &update).is_refused_with("service update paused");
    let serving = playground.running(1, "web");
    let kept = before.iter().filter(|task| serving.contains(task)).count();
    assert!(kept > 0, "the update went on though it failed: {serving:#?}");
    playground.ok(1, &["service", "rollback", "-d", "web"]);
    let after = playground.wait_for_tasks(2, "web", 3, |_| true);
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &after);
    }
}

#[test]
fn ports_come_and_go_with_updates_and_all_goes_with_the_service() {
    let (playground, before) = with_web("ports");
    let second = PORT + 1;
    playground.ok(1, &["service", "update", "-d", "--publish-add", "8081:80", "web"]);
    for number in playground.numbers() {
        playground.wait_for_answers(number, second, &before);
    }
    assert_eq!(playground.running(2, "web"), before, "a port is no reason for new tasks");
    playground.call_often(&[1, 2, 3], PORT, 30);
    let row = &playground.rows(3, &["service", "ls"])[0];
    let ports = text(row, "/Ports");
    assert!(ports.contains("*:8080->80/tcp") && ports.contains("*:8081->80/tcp"), "{ports}");

    let publish_rm = ["service", "update", "-d", "--publish-rm", "80", "--publish-add", "8081:80", "web"];
    playground.ok(2, &publish_rm);
    for number in playground.numbers() {
        wait_until("the first port is gone", || playground.call(number, PORT).is_err());
        playground.wait_for_answers(number, second, &before);
    }

    playground.ok(3, &["service", "rm", "web"]);
    for number in playground.numbers() {
        wait_until("the second port is gone", || playground.call(number, second).is_err());
    }
    wait_until("no container", || containers(&playground).is_empty());
    wait_until("no task", || playground.get(1, "/tasks").as_array().is_some_and(Vec::is_empty));
    for number in playground.numbers() {
        let folder = playground.disk(number).join("root/containers");
        wait_until("no folder of a container", || {
            std::fs::read_dir(&folder).map_or(0, |entries| entries.count()) == 0
        });
    }
    playground.create_web(2, "again", 3, PORT);
    let tasks = playground.wait_for_tasks(1, "again", 3, |_| true);
    playground.wait_for_answers(3, PORT, &tasks);
}

#[test]
fn a_command_that_waits_returns_when_the_service_has_converged() {
    let playground = Playground::up("waits", 2);
    let create = ["service", "create", "--name", "web", "--replicas", "4", "-p", "8080:80", "whoami"];
    let told = playground.ok(1, &create);
    assert!(told.lines().last().unwrap().ends_with(" converged"), "{told}");
    assert_eq!(playground.running(1, "web").len(), 4);
    playground.call_often(&[1, 2], PORT, 20);
    let told = playground.ok(2, &["service", "scale", "web=2"]);
    assert!(told.starts_with("web scaled to 2\n"), "{told}");
    let row = &playground.rows(1, &["service", "ls"])[0];
    assert_eq!(text(row, "/Replicas"), "2/2");
}

#[test]
fn a_drained_node_gives_its_tasks_away_without_a_failed_request() {
    let (playground, _) = with_web("drain");
    let after = under_requests(&playground, PORT, Starts::Some, || {
        playground.ok(1, &["node", "update", "--availability", "drain", "node-2"]);
        playground.wait_for_tasks(1, "web", 3, |task| task.node != 2)
    });
    wait_until("no container on the drained node", || playground.containers(2).is_empty());
    playground.wait_for_answers(2, PORT, &after);
    playground.ok(1, &["node", "update", "--availability", "active", "node-2"]);
    playground.ok(1, &["service", "scale", "-d", "web=5"]);
    let tasks = playground.wait_for_tasks(1, "web", 5, |_| true);
    assert!(tasks.iter().any(|task| task.node == 2), "{tasks:#?}");
}
