//! Who outlives whom, and what many containers take.

use std::time::Instant;

use skep_runtime::keeper::{ContainerStatus, KeeperClient, Outcome};

use super::cases::{Case, plain};
use super::house::{House, alive, kill_9, wait};

pub(crate) const CASES: &[Case] = &[
    ("the_daemon_dies_and_containers_live", the_daemon_dies_and_containers_live),
    ("the_keeper_dies_and_containers_live", the_keeper_dies_and_containers_live),
    ("the_keeper_replaces_itself", the_keeper_replaces_itself),
    ("a_hundred_come_and_go", a_hundred_come_and_go),
    ("start_latency_and_memory", start_latency_and_memory),
];

fn the_daemon_dies_and_containers_live() {
    let mut house = House::with_respawn(&|dir| {
        let exe = std::env::current_exe().unwrap().display().to_string();
        let (run, pid) =
            (dir.join("run").display().to_string(), dir.join("daemon.pid").display().to_string());
        vec![exe, "fake-daemon".to_owned(), run, pid]
    });
    // This process is the first daemon, and dies as far as the keeper can tell: but it lives, so nothing is started.
    house.client.create(&house.request("a", &["sleep"], plain), None).unwrap();
    let pid_file = house.dir.path().join("daemon.pid");
    let start = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["fake-daemon".as_ref(), house.options.run_dir.as_os_str(), pid_file.as_os_str()]);
        command.spawn().unwrap()
    };
    let read = || std::fs::read_to_string(&pid_file).ok()?.parse::<i32>().ok();
    let mut first = start();
    let mut last = wait("the first daemon", read);
    assert_eq!(last, first.id() as i32);
    for _ in 0..3 {
        kill_9(last);
        let _ = first.wait();
        last = wait("the next daemon", || read().filter(|pid| *pid != last && alive(*pid)));
    }
    assert_eq!(house.info("a").status, ContainerStatus::Running);
    // A goodbye: not started again.
    let client = KeeperClient::connect(&house.options.run_dir).unwrap();
    client.daemon_stopping().unwrap();
    kill_9(last);
    wait("the last daemon's end", || (!alive(last)).then_some(()));
    house.reconnect();
    assert_eq!(read(), Some(last));
    house.close();
}

fn ticks(house: &House) -> usize {
    house.output("a", "stdout").lines().count()
}

fn the_keeper_dies_and_containers_live() {
    let mut house = House::new();
    let pid = house.client.create(&house.request("a", &["ticks"], plain), None).unwrap();
    let (_, _) = house.run("ended", &["exit", "5"], plain);
    let mut gated = house.request("gated", &["sleep"], plain);
    gated.start = false;
    house.client.create(&gated, None).unwrap();
    wait("output", || (ticks(&house) > 10).then_some(()));
    let keeper = house.client.ping().unwrap() as i32;
    kill_9(keeper);
    wait("the keeper's end", || (!alive(keeper)).then_some(()));
    house.reconnect();
    assert_ne!(house.client.ping().unwrap() as i32, keeper);
    let info = house.info("a");
    assert_eq!((info.pid, info.status), (Some(pid), ContainerStatus::Running));
    assert_eq!(house.wait_exit("ended").code(), 5);
    assert_eq!(house.wait_exit("gated").outcome, Outcome::Unknown);
    let seen = ticks(&house);
    wait("more output", || (ticks(&house) > seen + 100).then_some(()));
    // No line is lost but what the dead keeper had read and not written.
    let output = house.output("a", "stdout");
    let numbers: Vec<u32> =
        output.lines().map(|line| line.strip_prefix("tick ").unwrap().parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] > pair[0]));
    assert!(numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() <= 1, "lines are missing");
    house.client.kill("a", 9, false).unwrap();
    let exit = house.wait_exit("a");
    assert_eq!((exit.outcome, exit.code()), (Outcome::Unknown, 255));
    house.client.delete("a").unwrap();
    house.close();
}

fn the_keeper_replaces_itself() {
    let mut house = House::new();
    let pid = house.client.create(&house.request("a", &["ticks"], plain), None).unwrap();
    house.client.create(&house.request("b", &["wait-term", "9"], plain), None).unwrap();
    wait("ready", || (house.output("b", "stdout") == "ready\n").then_some(()));
    let keeper = house.client.ping().unwrap();
    house.client.reexec().unwrap();
    wait("the old connection's end", || house.client.ping().err());
    house.reconnect();
    assert_eq!(house.client.ping().unwrap(), keeper, "the same process");
    assert_eq!(house.info("a").pid, Some(pid));
    house.client.kill("b", 15, false).unwrap();
    assert_eq!(house.wait_exit("b").outcome, Outcome::Code(9), "still its parent");
    let seen = ticks(&house);
    wait("more output", || (ticks(&house) > seen + 10).then_some(()));
    house.close();
}

fn a_hundred_come_and_go() {
    let house = House::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let house = &house;
            scope.spawn(move || {
                let client = KeeperClient::connect(&house.options.run_dir).unwrap();
                for number in 0..25 {
                    let id = format!("c{thread}-{number}");
                    client.create(&house.request(&id, &["sleep"], plain), None).unwrap();
                    if number % 2 == 0 {
                        client.kill(&id, 9, true).unwrap();
                    }
                    client.delete(&id).unwrap();
                }
            });
        }
    });
    assert!(house.client.list().unwrap().is_empty());
    house.close();
}

/// Not a benchmark: bounds of memory, and the times for whoever looks.
fn start_latency_and_memory() {
    let house = House::new();
    let keeper = house.client.ping().unwrap();
    let memory = |what: &str| {
        let status = std::fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
        let figure = |key: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        println!("  keeper, {what}: RSS {} KiB, of it private {} KiB", figure("VmRSS:"), figure("RssAnon:"));
        figure("RssAnon:")
    };
    let before = memory("idle");
    let mut times = Vec::new();
    for number in 0..60 {
        let request = house.request(&format!("c{number}"), &["sleep"], plain);
        let start = Instant::now();
        house.client.create(&request, None).unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "  create and start to exec: median {:?}, 95 % {:?}",
        times[times.len() / 2],
        times[times.len() * 95 / 100]
    );
    let after = memory("60 containers");
    assert!(before < 2048, "the keeper alone takes {before} KiB");
    assert!((after - before) / 60 < 300, "a container costs {} KiB", (after - before) / 60);
    let start = Instant::now();
    for number in 0..60 {
        house.client.delete(&format!("c{number}")).unwrap();
    }
    println!("  delete of a running one: mean {:?}", start.elapsed() / 60);
    house.close();
}
