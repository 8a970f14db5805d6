//! Settings of the swarm that are more than shown: the address pools.

use crate::support::swarm::text;
use crate::support::{Playground, wait_for};
use serde_json::Value;

const PORT: u16 = 8080;

#[test]
fn networks_take_their_addresses_from_the_pool_that_was_given() {
    let playground = Playground::up_with("pool", 2, &["--no-swarm"]);
    let init = ["swarm", "init", "--default-addr-pool-mask-length", "24"];
    let overlapping = ["--default-addr-pool", "172.30.0.0/16", "--default-addr-pool", "172.30.8.0/24"];
    playground.skep(1, &[&init[..], &overlapping].concat()).is_refused_with("overlap");
    playground.ok(1, &[&init[..], &["--default-addr-pool", "172.30.0.0/16"]].concat());
    let token = playground.ok(1, &["swarm", "join-token", "-q", "worker"]);
    let manager = format!("{}:2377", playground.address(1));
    playground.ok(2, &["swarm", "join", "--token", token.trim(), &manager]);

    playground.create_web(1, "web", 4, PORT);
    let tasks = playground.wait_for_tasks(1, "web", 4, |_| true);
    let shown = playground.get(1, "/networks/ingress");
    assert_eq!(text(&shown, "/IPAM/Config/0/Subnet"), "172.30.0.0/24");
    assert_eq!(text(&shown, "/IPAM/Config/0/Gateway"), "172.30.0.1");
    assert!(!shown.to_string().contains("10.255."), "{shown}");
    let attached = wait_for("the tasks' addresses", || {
        let all = playground.try_get(1, "/tasks")?;
        let addresses: Vec<String> = all.as_array()?.iter().flat_map(addresses).collect();
        (addresses.len() >= 4).then_some(addresses)
    });
    assert!(attached.iter().all(|address| address.starts_with("172.30.0.")), "{attached:?}");
    for number in playground.numbers() {
        playground.wait_for_answers(number, PORT, &tasks);
    }
}

fn addresses(task: &Value) -> Vec<String> {
    let networks = task["NetworksAttachments"].as_array().cloned().unwrap_or_default();
    let lists = networks.iter().filter_map(|network| network["Addresses"].as_array());
    lists.flatten().filter_map(|address| address.as_str().map(str::to_owned)).collect()
}
