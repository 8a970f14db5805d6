//! What tests ask of a cluster.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::playground::Playground;
use super::wait_for;

/// A task as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Task {
    /// Its ID.
    pub id: String,
    /// Its place in the service, from 1.
    pub slot: u64,
    /// The number of the node that it is on; 0 when on none, or on one that is not known any more.
    pub node: u8,
    /// As `running`.
    pub state: String,
    /// As `shutdown`.
    pub desired: String,
    /// Its image.
    pub image: String,
    /// Its container's ID; empty when it has none.
    pub container: String,
    /// What went wrong.
    pub error: String,
}

impl Task {
    /// Whether it runs and shall run.
    pub(crate) fn runs(&self) -> bool {
        self.state == "running" && self.desired == "running"
    }
}

/// A text in a JSON value; empty when there is none.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The number of the node with a host name as `node-2`.
pub(crate) fn number_of(hostname: &str) -> u8 {
    hostname.strip_prefix("node-").and_then(|number| number.parse().ok()).unwrap_or(0)
}

impl Playground {
    /// The nodes as a node knows them; nothing while it does not answer.
    pub(crate) fn nodes_seen_by(&self, number: u8) -> Option<Vec<Value>> {
        self.try_get(number, "/nodes")?.as_array().cloned()
    }

    /// A node as a manager knows it; nothing while it does not answer or knows no such node.
    pub(crate) fn try_node(&self, seen_by: u8, number: u8) -> Option<Value> {
        let hostname = format!("node-{number}");
        let nodes = self.nodes_seen_by(seen_by)?;
        nodes.into_iter().find(|node| text(node, "/Description/Hostname") == hostname)
    }

    /// A node as a manager knows it.
    #[track_caller]
    pub(crate) fn node(&self, seen_by: u8, number: u8) -> Value {
        wait_for(&format!("node-{number} in the list of node {seen_by}"), || self.try_node(seen_by, number))
    }

    /// A node's ID, as it knows it itself.
    #[track_caller]
    pub(crate) fn id(&self, number: u8) -> String {
        text(&self.get(number, "/info"), "/Swarm/NodeID")
    }

    /// As `active`, `locked`, `inactive`; empty while the node does not answer.
    pub(crate) fn local_state(&self, number: u8) -> String {
        self.try_get(number, "/info").map(|info| text(&info, "/Swarm/LocalNodeState")).unwrap_or_default()
    }

    /// The token for `worker` or `manager`.
    #[track_caller]
    pub(crate) fn token(&self, seen_by: u8, role: &str) -> String {
        self.ok(seen_by, &["swarm", "join-token", "-q", role]).trim().to_owned()
    }

    /// Joins by the command line, as a user would.
    #[track_caller]
    pub(crate) fn join(&self, number: u8, through: u8, role: &str) {
        let token = self.token(through, role);
        let address = format!("{}:2377", self.address(through));
        let told = self.ok(number, &["swarm", "join", "--token", &token, &address]);
        assert_eq!(told, format!("This node joined a swarm as a {role}.\n"));
    }

    /// Waits until a manager sees a node as what it shall be: a reachable manager, or a worker that is ready.
    #[track_caller]
    pub(crate) fn wait_for_role(&self, seen_by: u8, number: u8, role: &str) {
        wait_for(&format!("node-{number} a {role} as seen by node {seen_by}"), || {
            let node = self.try_node(seen_by, number)?;
            let reachable = text(&node, "/ManagerStatus/Reachability") == "reachable";
            let is_manager = node.get("ManagerStatus").is_some_and(|status| !status.is_null());
            let fits = if role == "manager" { reachable } else { !is_manager };
            let knows =
                self.try_get(number, "/info")?["Swarm"]["ControlAvailable"].as_bool() == Some(is_manager);
            (fits && knows && text(&node, "/Spec/Role") == role && text(&node, "/Status/State") == "ready")
                .then_some(())
        });
    }

    /// The leader as a manager knows it.
    pub(crate) fn leader_seen_by(&self, number: u8) -> Option<u8> {
        let nodes = self.nodes_seen_by(number)?;
        let mut leaders = nodes.iter().filter(|node| node["ManagerStatus"]["Leader"].as_bool() == Some(true));
        let leader = leaders.next().map(|node| number_of(&text(node, "/Description/Hostname")));
        assert!(leaders.next().is_none(), "node {number} sees more than one leader: {nodes:#?}");
        leader
    }

    /// Waits until these managers all know the same leader, not this one; its number.
    #[track_caller]
    pub(crate) fn wait_for_leader(&self, seen_by: &[u8], not: u8) -> u8 {
        wait_for("a leader that all managers know", || {
            let leaders: BTreeSet<Option<u8>> =
                seen_by.iter().map(|number| self.leader_seen_by(*number)).collect();
            match leaders.into_iter().collect::<Vec<_>>()[..] {
                [Some(leader)] => (leader != not).then_some(leader),
                _ => None,
            }
        })
    }

    /// Waits until a manager sees a node in a state, as `ready`; a manager must be reachable to be ready.
    #[track_caller]
    pub(crate) fn wait_for_node(&self, seen_by: u8, number: u8, state: &str) {
        let hostname = format!("node-{number}");
        wait_for(&format!("{hostname} {state} as seen by node {seen_by}"), || {
            let nodes = self.nodes_seen_by(seen_by)?;
            let node = nodes.iter().find(|node| text(node, "/Description/Hostname") == hostname)?;
            let reachable = text(node, "/ManagerStatus/Reachability");
            let fits = text(node, "/Status/State") == state;
            (fits && (state != "ready" || reachable.is_empty() || reachable == "reachable")).then_some(())
        });
    }

    /// All tasks of a service as a manager knows them; nothing while it does not answer or knows no such service.
    pub(crate) fn try_tasks(&self, seen_by: u8, service: &str) -> Option<Vec<Task>> {
        let id = text(&self.try_get(seen_by, &format!("/services/{service}"))?, "/ID");
        let nodes = self.nodes_seen_by(seen_by)?;
        let numbers: BTreeMap<String, u8> = nodes
            .iter()
            .map(|node| (text(node, "/ID"), number_of(&text(node, "/Description/Hostname"))))
            .collect();
        let all = self.try_get(seen_by, "/tasks")?;
        let mut tasks: Vec<Task> = all
            .as_array()?
            .iter()
            .filter(|task| text(task, "/ServiceID") == id)
            .map(|task| Task {
                id: text(task, "/ID"),
                slot: task["Slot"].as_u64().unwrap_or(0),
                node: numbers.get(&text(task, "/NodeID")).copied().unwrap_or(0),
                state: text(task, "/Status/State"),
                desired: text(task, "/DesiredState"),
                image: text(task, "/Spec/ContainerSpec/Image"),
                container: text(task, "/Status/ContainerStatus/ContainerID"),
                error: text(task, "/Status/Err"),
            })
            .collect();
        tasks.sort_by(|a, b| (a.slot, &a.id).cmp(&(b.slot, &b.id)));
        Some(tasks)
    }

    /// All tasks of a service.
    #[track_caller]
    pub(crate) fn tasks(&self, seen_by: u8, service: &str) -> Vec<Task> {
        wait_for(&format!("the tasks of {service}"), || self.try_tasks(seen_by, service))
    }

    /// The tasks of a service that run and shall run.
    #[track_caller]
    pub(crate) fn running(&self, seen_by: u8, service: &str) -> Vec<Task> {
        self.tasks(seen_by, service).into_iter().filter(Task::runs).collect()
    }

    /// Waits until a service has so many running tasks that fit, and no other that shall run; these tasks.
    #[track_caller]
    pub(crate) fn wait_for_tasks(
        &self,
        seen_by: u8,
        service: &str,
        count: usize,
        fits: impl Fn(&Task) -> bool,
    ) -> Vec<Task> {
        wait_for(&format!("{count} running tasks of {service} as wished, seen by node {seen_by}"), || {
            let mut tasks = self.try_tasks(seen_by, service)?;
            tasks.retain(|task| task.desired == "running");
            (tasks.len() == count && tasks.iter().all(|task| task.runs() && fits(task))).then_some(tasks)
        })
    }

    /// The IDs of all services as a manager knows them.
    pub(crate) fn services(&self, seen_by: u8) -> Option<BTreeSet<String>> {
        let services = self.try_get(seen_by, "/services")?;
        Some(services.as_array()?.iter().map(|service| text(service, "/ID")).collect())
    }

    /// Calls a port at a node's address until each of these tasks has answered; no call may fail on the way.
    ///
    /// A node hears of a task a moment after the managers, so the first answers may come from older tasks.
    #[track_caller]
    pub(crate) fn wait_for_answers(&self, number: u8, port: u16, tasks: &[Task]) {
        let wanted: BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
        let mut heard = BTreeSet::new();
        wait_for(&format!("answers of all tasks at node {number}, port {port}: heard {heard:?}"), || {
            let answer = self.call(number, port).ok()?;
            heard.insert(answer.task_id);
            wanted.iter().all(|id| heard.contains(*id)).then_some(())
        });
    }

    /// Calls a port at these nodes' addresses in turn, so many times in all; none may fail. The answers.
    #[track_caller]
    pub(crate) fn call_often(&self, numbers: &[u8], port: u16, times: usize) -> Vec<super::Answer> {
        (0..times)
            .map(|round| {
                let number = numbers[round % numbers.len()];
                self.call(number, port)
                    .unwrap_or_else(|error| panic!("request {round}, to node {number}: {error}"))
            })
            .collect()
    }

    /// Tries to make services through a manager that has lost the others until it says that there is no leader; the
    /// name that was refused for that. A request that is under way when the leader is lost is told so: nobody can know
    /// then what became of it.
    #[track_caller]
    pub(crate) fn wait_for_no_leader(&self, number: u8) -> String {
        let mut attempts = 0;
        wait_for(&format!("node {number} says that there is no leader"), || {
            attempts += 1;
            let name = format!("refused-{attempts}");
            let outcome =
                self.skep(number, &["service", "create", "-d", "--name", &name, "--replicas", "0", "whoami"]);
            outcome.is_refused_with("Error response from daemon: ");
            let no_leader = outcome.stderr.contains("The swarm does not have a leader");
            let in_between = outcome.stderr.contains("may or may not have been made");
            assert!(no_leader || in_between, "{outcome:?}");
            no_leader.then_some(name)
        })
    }

    /// Makes a service of the built-in image and returns at once.
    #[track_caller]
    pub(crate) fn create_web(&self, number: u8, name: &str, replicas: u8, port: u16) {
        let publish = format!("{port}:80");
        let replicas = replicas.to_string();
        self.ok(
            number,
            &[
                "service",
                "create",
                "--detach",
                "--name",
                name,
                "--replicas",
                &replicas,
                "--publish",
                &publish,
                "whoami",
            ],
        );
    }
}
