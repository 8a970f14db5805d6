//! `skep playground demo`: a service that answers on every node, and what happens when the leader is taken away.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

use super::layout::{self, Record};
use super::{Error, Name, Up, api, down, kill, up};
use crate::cli::client::{CliError, Client, filters};
use crate::cli::text;

const NAME: &str = "demo";
const NODES: u8 = 3;
const PORT: u16 = 8080;

/// How long each step may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the swarm is looked at while something happens: the figures are good to about this.
const LOOK: Duration = Duration::from_millis(10);

/// One answer of the service.
struct Answer {
    task: String,
    node: String,
    client: String,
}

/// Shows everything and cleans up, also after a failure or Ctrl-C.
pub(super) fn run() -> Result<ExitCode, Error> {
    let started = Instant::now();
    if let Ok(left_over) = Record::load(NAME) {
        let _lock = layout::lock()?;
        down(&left_over)?;
    }
    // From here on Ctrl-C and SIGTERM are asked for between the steps, so that nothing stays behind.
    let interrupted = interruption()?;
    println!("One binary, three nodes, a service that answers on every one of them.\n");
    let flags =
        Up { nodes: NODES, managers: Some(NODES), no_swarm: false, name: Name { name: NAME.to_owned() } };
    println!("1. Three hosts, each with its own network, become a swarm of three managers");
    let mut record = up(&flags)?;
    took(started);
    let shown = api::block_on(async {
        tokio::select! {
            shown = show(&mut record) => shown,
            () = until_set(&interrupted) => Err(Error::Demo("interrupted".to_owned())),
        }
    });
    println!("\n5. Cleaning up");
    let cleaned = {
        let _lock = layout::lock()?;
        down(&record)
    };
    shown.and(cleaned)?;
    println!("   nothing is left: no process, namespace, mount, cgroup, rule or file");
    println!("\nDone in {:.1} s.", started.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// A flag that Ctrl-C or SIGTERM sets. The signals are taken by a thread that waits for them.
fn interruption() -> Result<Arc<AtomicBool>, Error> {
    let failed = |error: std::io::Error| Error::Demo(format!("cannot wait for signals: {error}"));
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().map_err(|error| failed(error.into()))?;
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let wait = move || {
        if signals.wait().is_ok() {
            set.store(true, Ordering::Release);
        }
    };
    std::thread::Builder::new().spawn(wait).map_err(failed)?;
    Ok(flag)
}

async fn until_set(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        tokio::time::sleep(LOOK).await;
    }
}

async fn show(record: &mut Record) -> Result<(), Error> {
    let client = api::client(record, 1)?;
    println!("\n2. skep service create --name web --replicas 3 --publish {PORT}:80 whoami");
    let began = Instant::now();
    create_service(&client).await?;
    until("the three tasks run", || running(&client, 3)).await?;
    took(began);

    println!("\n3. Every node answers on port {PORT}, whichever node the task runs on");
    for number in 1..=NODES {
        for _ in 0..NODES {
            print_call(record, number)?;
        }
    }

    let leader = leader(&client).await?.ok_or_else(|| Error::Demo("the swarm has no leader".to_owned()))?;
    let number = number_of(&leader)?;
    println!("\n4. The leader is {leader} ({}): its power goes, without warning", record.address(number));
    let died = Instant::now();
    kill(record, number)?;
    record.save()?;
    let survivor = if number == 1 { 2 } else { 1 };
    let client = api::client(record, survivor)?;
    let new_leader =
        until("a new leader", || async { Ok(self::leader(&client).await?.filter(|now| *now != leader)) })
            .await?;
    println!("   {:5.2} s   {new_leader} leads", died.elapsed().as_secs_f64());
    until("three tasks on the survivors", || running_elsewhere(&client, &leader)).await?;
    println!("   {:5.2} s   3/3 tasks run on the survivors\n", died.elapsed().as_secs_f64());
    for number in (1..=NODES).filter(|candidate| *candidate != number) {
        for _ in 0..2 {
            print_call(record, number)?;
        }
    }
    Ok(())
}

async fn create_service(client: &Client) -> Result<(), Error> {
    let spec = json!({
        "Name": "web",
        "TaskTemplate": { "ContainerSpec": { "Image": skep_node::BUILT_IN } },
        "Mode": { "Replicated": { "Replicas": 3 } },
        "EndpointSpec": { "Ports": [{ "TargetPort": 80, "PublishedPort": PORT }] },
    });
    client.post("/services/create", &spec).await?;
    Ok(())
}

/// Looks until something is there.
async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<Option<T>, CliError>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            // A swarm between two leaders refuses; that passes.
            Err(CliError::Daemon { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > deadline {
            return Err(Error::Demo(format!("waited {} s in vain: {what}", PATIENCE.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn tasks(client: &Client) -> Result<Vec<Value>, CliError> {
    let pairs =
        [("service".to_owned(), "web".to_owned()), ("desired-state".to_owned(), "running".to_owned())];
    client.get(&format!("/tasks?{}", filters(&pairs))).await
}

async fn running(client: &Client, wanted: usize) -> Result<Option<()>, CliError> {
    let tasks = tasks(client).await?;
    let running = tasks.iter().filter(|task| text(task, "/Status/State") == "running").count();
    Ok((running >= wanted).then_some(()))
}

async fn running_elsewhere(client: &Client, dead: &str) -> Result<Option<()>, CliError> {
    let nodes: Vec<Value> = client.get("/nodes").await?;
    let dead_id =
        nodes.iter().find(|node| text(node, "/Description/Hostname") == dead).map(|node| text(node, "/ID"));
    let tasks = tasks(client).await?;
    let running = tasks
        .iter()
        .filter(|task| text(task, "/Status/State") == "running" && Some(text(task, "/NodeID")) != dead_id);
    Ok((running.count() >= 3).then_some(()))
}

/// The host name of the leader.
async fn leader(client: &Client) -> Result<Option<String>, CliError> {
    let nodes: Vec<Value> = client.get("/nodes").await?;
    let leader = nodes.iter().find(|node| node["ManagerStatus"]["Leader"].as_bool() == Some(true));
    Ok(leader.map(|node| text(node, "/Description/Hostname")))
}

fn number_of(hostname: &str) -> Result<u8, Error> {
    let number = hostname.strip_prefix("node-").and_then(|number| number.parse().ok());
    number.ok_or_else(|| Error::Demo(format!("{hostname:?} is no host of the playground")))
}

fn print_call(record: &Record, number: u8) -> Result<(), Error> {
    let address = record.address(number);
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        match call(address) {
            // A task runs as soon as its program does, which may not listen yet.
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK),
            answered => break answered?,
        }
    };
    println!(
        "   http://{address}:{PORT}   {} on {}   saw the client {}",
        answer.task, answer.node, answer.client
    );
    Ok(())
}

/// Calls the service as any client would.
fn call(address: Ipv4Addr) -> Result<Answer, Error> {
    let failed =
        |source: std::io::Error| Error::Demo(format!("http://{address}:{PORT} does not answer: {source}"));
    let target = SocketAddr::from((address, PORT));
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(|| "?".to_owned(), |value| value.trim().to_owned())
    };
    Ok(Answer { task: field("Task:"), node: field("Node:"), client: field("Client:") })
}

fn took(since: Instant) {
    println!("   {:5.2} s", since.elapsed().as_secs_f64());
}
