//! What goes on all the while that a test changes something: writes, each of which is looked for afterwards, and calls
//! of a published port.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{self, Connection};
use super::playground::Playground;
use super::swarm::text;
use super::wait_until;

/// Writers at once, each with a service of its own.
const WRITERS: usize = 16;

/// The label that writers count in.
const LABEL: &str = "written";

/// A pause after a request that found no manager, so that a swarm without a leader is not hammered.
const PAUSE: Duration = Duration::from_millis(10);

/// Writes of labels through several managers. Every writer reads before it writes, through another manager each time:
/// what it reads must be what was acknowledged last, or a later write whose outcome nobody told.
#[derive(Debug)]
pub(crate) struct Writes {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Writer>>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
}

#[derive(Debug)]
struct Writer {
    service: String,
    managers: Vec<PathBuf>,
    turn: usize,
    connections: Vec<Option<Connection>>,
    /// The last number that is known to have been written.
    known: u64,
    /// The last number that was tried.
    tried: u64,
    unknown: usize,
    faults: Vec<String>,
}

impl Writes {
    /// Starts writers through these managers, which together write at most so often each second.
    #[track_caller]
    pub(crate) fn start(playground: &Playground, through: &[u8], per_second: u32) -> Self {
        let managers: Vec<PathBuf> = through.iter().map(|number| playground.socket(*number)).collect();
        let shared = Arc::new(Shared::default());
        let every = Duration::from_secs(1) * u32::try_from(WRITERS).unwrap() / per_second;
        let writers = (0..WRITERS)
            .map(|number| {
                let spec = json!({
                    "Name": format!("written-{number}"),
                    "Labels": { LABEL: "0" },
                    "TaskTemplate": { "ContainerSpec": { "Image": "whoami" } },
                    "Mode": { "Replicated": { "Replicas": 0 } },
                });
                let made =
                    playground.request(through[0], "POST", "/services/create", &spec.to_string()).unwrap();
                assert_eq!(made.status, 201, "{}", made.text());
                let mut writer = Writer {
                    service: text(&made.json(), "/ID"),
                    managers: managers.clone(),
                    turn: number,
                    connections: managers.iter().map(|_| None).collect(),
                    known: 0,
                    tried: 0,
                    unknown: 0,
                    faults: Vec::new(),
                };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let mut next = Instant::now();
                    while !shared.stop.load(Ordering::Relaxed) && writer.faults.is_empty() {
                        if writer.write() {
                            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        next = (next + every).max(Instant::now() - every);
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                    writer
                })
            })
            .collect();
        let writes = Self { shared, writers, started: Instant::now() };
        writes.wait_for_more(50);
        writes
    }

    /// Waits until so many more writes are acknowledged.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, count: usize) {
        let so_far = self.shared.acknowledged.load(Ordering::Relaxed);
        wait_until("more writes are acknowledged", || {
            self.shared.acknowledged.load(Ordering::Relaxed) >= so_far + count
                || self.writers.iter().any(JoinHandle::is_finished)
        });
    }

    /// Stops the writers and looks for what was acknowledged, on each of these managers.
    #[track_caller]
    pub(crate) fn finish(mut self, playground: &Playground, seen_by: &[u8]) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let took = self.started.elapsed();
        let writers: Vec<Writer> =
            std::mem::take(&mut self.writers).into_iter().map(|writer| writer.join().unwrap()).collect();
        let faults: Vec<&String> = writers.iter().flat_map(|writer| &writer.faults).collect();
        assert!(faults.is_empty(), "acknowledged writes were lost: {faults:#?}");
        for number in seen_by {
            for writer in &writers {
                let service = playground.get(*number, &format!("/services/{}", writer.service));
                let value = written(&service);
                assert!(
                    (writer.known..=writer.tried).contains(&value),
                    "{} to {} was acknowledged to {}, and tried to {}: node {number} has {value}",
                    LABEL,
                    writer.service,
                    writer.known,
                    writer.tried
                );
            }
        }
        let acknowledged = self.shared.acknowledged.load(Ordering::Relaxed);
        let unknown: usize = writers.iter().map(|writer| writer.unknown).sum();
        #[allow(clippy::cast_precision_loss)]
        let rate = acknowledged as f64 / took.as_secs_f64();
        println!("{acknowledged} writes acknowledged, {rate:.0} each second; {unknown} without an answer");
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

fn written(service: &Value) -> u64 {
    text(service, &format!("/Spec/Labels/{LABEL}")).parse().unwrap_or(u64::MAX)
}

impl Writer {
    /// Reads through one manager and writes through the next; whether the write was acknowledged.
    fn write(&mut self) -> bool {
        let path = format!("/services/{}", self.service);
        let Some(service) = self.ask("GET", &path, "").filter(|answer| answer.status == 200) else {
            std::thread::sleep(PAUSE);
            return false;
        };
        let service = service.json();
        let value = written(&service);
        if !(self.known..=self.tried).contains(&value) {
            let service = &self.service;
            let (known, tried) = (self.known, self.tried);
            self.faults.push(format!("{service}: {known} acknowledged, {tried} tried, {value} read"));
            return false;
        }
        self.known = value;
        self.tried += 1;
        let mut spec = service["Spec"].clone();
        spec["Labels"][LABEL] = json!(self.tried.to_string());
        let version = &service["Version"]["Index"];
        let answer = self.ask("POST", &format!("{path}/update?version={version}"), &spec.to_string());
        let acknowledged = answer.is_some_and(|answer| answer.status == 200);
        if acknowledged {
            self.known = self.tried;
        } else {
            self.unknown += 1;
            std::thread::sleep(PAUSE);
        }
        acknowledged
    }

    /// Asks the next manager; one that is none (any more) says so before it does anything, and the one after it is asked.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Option<http::Response> {
        let mut answer = None;
        for _ in 0..self.managers.len() {
            answer = self.ask_next(method, path, body);
            let elsewhere = |answer: &http::Response| answer.text().contains("not a swarm manager");
            if !answer.as_ref().is_some_and(elsewhere) {
                break;
            }
        }
        answer
    }

    fn ask_next(&mut self, method: &str, path: &str, body: &str) -> Option<http::Response> {
        self.turn = (self.turn + 1) % self.managers.len();
        let (manager, kept) = (&self.managers[self.turn], &mut self.connections[self.turn]);
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(manager).ok()?,
        };
        let answer = connection.request(method, path, body.as_bytes()).ok()?;
        *kept = Some(connection);
        Some(answer)
    }
}

/// Calls of a published port, one after the other, at several addresses in turn.
#[derive(Debug)]
pub(crate) struct Calls {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    caller: Option<JoinHandle<Vec<String>>>,
}

impl Calls {
    /// Starts to call a port at these nodes' addresses from this machine.
    #[track_caller]
    pub(crate) fn start(playground: &Playground, numbers: &[u8], port: u16) -> Self {
        let addresses: Vec<Ipv4Addr> = numbers.iter().map(|number| playground.address(*number)).collect();
        Self::start_at(addresses, port)
    }

    /// Starts to call a port at these addresses from this machine.
    #[track_caller]
    pub(crate) fn start_at(addresses: Vec<Ipv4Addr>, port: u16) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&count));
        let caller = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut failures = Vec::new();
            for address in addresses.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let outcome = http::call(SocketAddr::from((*address, port)));
                let number = counter.fetch_add(1, Ordering::Relaxed);
                failures.extend(outcome.err().map(|error| {
                    format!(
                        "call {number}, to {address}, after {:.1} s: {error}",
                        begun.elapsed().as_secs_f64()
                    )
                }));
            }
            failures
        });
        let calls = Self { stop, count, caller: Some(caller) };
        calls.wait_for_more(20);
        calls
    }

    /// Waits until so many more calls have been made.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, count: usize) {
        let so_far = self.count.load(Ordering::Relaxed);
        wait_until("more calls", || self.count.load(Ordering::Relaxed) >= so_far + count);
    }

    /// Ends the calls; how many there were, and what went wrong with which.
    pub(crate) fn finish(mut self) -> (usize, Vec<String>) {
        let failures = self.end();
        (self.count.load(Ordering::Relaxed), failures)
    }

    /// Ends the calls, of which none may have failed.
    #[track_caller]
    pub(crate) fn none_failed(self) {
        self.wait_for_more(20);
        let (count, failures) = self.finish();
        assert!(failures.is_empty(), "{} of {count} calls failed: {failures:#?}", failures.len());
    }

    fn end(&mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.caller.take().map(|caller| caller.join().unwrap_or_default()).unwrap_or_default()
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.end();
    }
}
