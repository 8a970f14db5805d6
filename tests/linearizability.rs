//! Five managers, two of which are killed again and again, while clients read and change registers through all of them:
//! the history must be linearizable. A register is a label of a service, changed by compare-and-set on its version.
//!
//! Runs for 20 seconds, or for `SKEP_LINEARIZABILITY_SECONDS`. Which managers die when is drawn from `SKEP_SEED`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http::{Connection, Response};
use crate::support::{Playground, wait_until};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

const MANAGERS: u8 = 5;
const CLIENTS: usize = 6;
/// Registers in use at once.
const REGISTERS: usize = 4;
/// Changes after which a register is given up for a new one: histories that are checked stay short.
const CHANGES: u32 = 60;
/// How long a client waits for an answer. Longer than an election takes.
const PATIENCE: Duration = Duration::from_secs(8);

/// Longest pause before the next two managers are killed, milliseconds.
const PAUSE_MOST: u64 = 3000;

/// What a client did to a register. Every value is written at most once.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Read { seen: u32 },
    Change { from: u32, to: u32, certain: bool },
}

struct Register;

impl Specification for Register {
    type State = u32;
    type Operation = Operation;

    fn init() -> u32 {
        0
    }

    fn apply(operation: &Operation, state: &u32) -> (bool, u32) {
        match *operation {
            Operation::Read { seen } => (seen == *state, *state),
            Operation::Change { from, to, .. } if from == *state => (true, to),
            // Without an answer it may as well not have happened.
            Operation::Change { certain, .. } => (!certain, *state),
        }
    }
}

/// Calls and their outcomes in the order in which they happened, for each register.
#[derive(Default)]
struct Log {
    calls: BTreeMap<String, Vec<(usize, Event)>>,
    next: usize,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Call,
    Answer(Operation),
    /// No answer: from now to the end of time.
    Silence(Operation),
    /// It has certainly not happened.
    Nothing,
}

impl Log {
    fn call(&mut self, register: &str) -> usize {
        let id = self.next;
        self.next += 1;
        self.calls.entry(register.to_owned()).or_default().push((id, Event::Call));
        id
    }

    fn end(&mut self, register: &str, id: usize, event: Event) {
        self.calls.entry(register.to_owned()).or_default().push((id, event));
    }
}

/// The history of one register as the checker takes it.
fn history(events: &[(usize, Event)]) -> Option<History<Operation>> {
    let mut observed = BTreeSet::new();
    let mut ends = BTreeMap::new();
    for (id, event) in events {
        match event {
            Event::Answer(Operation::Read { seen }) => drop(observed.insert(*seen)),
            Event::Answer(Operation::Change { from, .. }) => drop(observed.insert(*from)),
            Event::Call | Event::Silence(_) | Event::Nothing => {}
        }
        if !matches!(event, Event::Call) {
            ends.insert(*id, *event);
        }
    }
    let mut processes = BTreeMap::new();
    let mut actions = Vec::new();
    let mut late = Vec::new();
    for (id, event) in events {
        let operation = match ends.get(id) {
            Some(Event::Answer(operation)) => *operation,
            // One that nobody has seen the effect of explains nothing, whether it happened or not.
            Some(Event::Silence(operation @ Operation::Change { to, .. })) if observed.contains(to) => {
                *operation
            }
            _ => continue,
        };
        let next = processes.len();
        let process = *processes.entry(*id).or_insert(next);
        match event {
            Event::Call => actions.push((process, Action::Call(operation))),
            Event::Answer(_) => actions.push((process, Action::Response(operation))),
            Event::Silence(_) => late.push((process, Action::Response(operation))),
            Event::Nothing => {}
        }
    }
    actions.extend(late);
    (!actions.is_empty()).then(|| History::from_actions(actions))
}

/// What clients share.
struct Shared {
    log: Mutex<Log>,
    /// The registers in use; a client that finds one worn out puts a new one in its place.
    registers: Mutex<Vec<String>>,
    values: AtomicUsize,
    changes: AtomicUsize,
    silences: AtomicUsize,
    stop: AtomicBool,
}

fn request(
    playground: &Playground,
    manager: u8,
    method: &str,
    path: &str,
    body: &Value,
) -> io::Result<Response> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Connection::open(&playground.socket(manager))?.with_timeout(PATIENCE)?.request(
        method,
        path,
        body.as_bytes(),
    )
}

fn new_register(playground: &Playground, number: usize) -> String {
    let name = format!("register-{number}");
    let spec = json!({
        "Name": name,
        "Labels": { "value": "0" },
        "TaskTemplate": { "ContainerSpec": { "Image": "whoami:latest" } },
        "Mode": { "Replicated": { "Replicas": 0 } },
    });
    crate::support::wait_for("a new register", || {
        let manager = u8::try_from(number % usize::from(MANAGERS)).unwrap() + 1;
        let any = (1..=MANAGERS).map(|other| (manager + other) % MANAGERS + 1);
        any.into_iter().find_map(|manager| {
            let made = request(playground, manager, "POST", "/services/create", &spec).ok()?;
            // It is there already when an earlier try without an answer has made it.
            (made.status == 201 || made.status == 409).then_some(())
        })
    });
    name
}

fn client(playground: &Playground, shared: &Shared, mut random: u64) {
    let mut draw = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    while !shared.stop.load(Ordering::Relaxed) {
        let slot = draw(REGISTERS);
        let register = shared.registers.lock().unwrap()[slot].clone();
        let mut manager = || u8::try_from(draw(usize::from(MANAGERS))).unwrap() + 1;
        let path = format!("/services/{register}");
        let id = shared.log.lock().unwrap().call(&register);
        let read = request(playground, manager(), "GET", &path, &Value::Null);
        let service = read.ok().filter(|read| read.status == 200).map(|read| read.json());
        let Some(service) = service else {
            shared.log.lock().unwrap().end(&register, id, Event::Nothing);
            continue;
        };
        let seen: u32 = crate::support::swarm::text(&service, "/Spec/Labels/value").parse().unwrap();
        shared.log.lock().unwrap().end(&register, id, Event::Answer(Operation::Read { seen }));

        let to = u32::try_from(shared.values.fetch_add(1, Ordering::Relaxed) + 1).unwrap();
        let mut spec = service["Spec"].clone();
        spec["Labels"]["value"] = to.to_string().into();
        let version = &service["Version"]["Index"];
        let id = shared.log.lock().unwrap().call(&register);
        let changed =
            request(playground, manager(), "POST", &format!("{path}/update?version={version}"), &spec);
        let change = |certain| Operation::Change { from: seen, to, certain };
        let event = match changed {
            Ok(answer) if answer.status == 200 => {
                shared.changes.fetch_add(1, Ordering::Relaxed);
                Event::Answer(change(true))
            }
            Ok(answer) if answer.message().contains("update out of sequence") => Event::Nothing,
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    || error.kind() == io::ErrorKind::NotFound =>
            {
                Event::Nothing
            }
            Ok(_) | Err(_) => {
                shared.silences.fetch_add(1, Ordering::Relaxed);
                Event::Silence(change(false))
            }
        };
        shared.log.lock().unwrap().end(&register, id, event);
        if to % CHANGES == 0 {
            let new = new_register(playground, usize::try_from(to).unwrap());
            shared.registers.lock().unwrap()[slot] = new;
        }
    }
}

#[test]
fn what_clients_see_is_linearizable_while_managers_are_killed() {
    let seconds = std::env::var("SKEP_LINEARIZABILITY_SECONDS").ok().and_then(|text| text.parse().ok());
    let seed =
        std::env::var("SKEP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("SKEP_SEED={seed}");
    let playground = Playground::up_with("linear", MANAGERS, &["--managers", "5"]);
    let registers = (0..REGISTERS).map(|number| new_register(&playground, 1_000_000 + number)).collect();
    let shared = Arc::new(Shared {
        log: Mutex::default(),
        registers: Mutex::new(registers),
        values: AtomicUsize::new(0),
        changes: AtomicUsize::new(0),
        silences: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    });
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(20));
    let mut kills = 0;
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (playground, shared) = (&playground, Arc::clone(&shared));
            scope.spawn(move || client(playground, &shared, 0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1)));
        }
        let killer = std::panic::AssertUnwindSafe(|| {
            let mut random = StdRng::seed_from_u64(seed);
            while Instant::now() < until {
                let one = random.random_range(1..=MANAGERS);
                let other = (one + random.random_range(1..MANAGERS) - 1) % MANAGERS + 1;
                thread::sleep(Duration::from_millis(random.random_range(0..=PAUSE_MOST)));
                let before = shared.changes.load(Ordering::Relaxed);
                playground.power("kill", one);
                playground.power("kill", other);
                kills += 1;
                // The others go on without them.
                wait_until("changes without the two", || {
                    shared.changes.load(Ordering::Relaxed) > before + 20
                });
                playground.power("start", one);
                playground.power("start", other);
                for number in [one, other] {
                    wait_until("the killed manager serves again", || {
                        playground.try_get(number, "/nodes").is_some()
                    });
                }
            }
        });
        let killed = std::panic::catch_unwind(killer);
        shared.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
    });
    let log = shared.log.lock().unwrap();
    let operations: usize = log.calls.values().map(|events| events.len() / 2).sum();
    println!(
        "{operations} operations on {} registers, {} changes acknowledged, {} without an answer, {kills} times two managers killed",
        log.calls.len(),
        shared.changes.load(Ordering::Relaxed),
        shared.silences.load(Ordering::Relaxed),
    );
    for (register, events) in &log.calls {
        let Some(history) = history(events) else { continue };
        assert!(
            WGLChecker::<Register>::is_linearizable(history),
            "{register} is not linearizable: {events:#?}"
        );
    }
}

/// The checker finds what it is here for.
#[test]
fn a_read_of_the_past_is_found() {
    let change = Operation::Change { from: 0, to: 1, certain: true };
    let events = |seen| {
        [
            (0, Event::Call),
            (0, Event::Answer(change)),
            (1, Event::Call),
            (1, Event::Answer(Operation::Read { seen })),
        ]
    };
    let linearizable = |seen| WGLChecker::<Register>::is_linearizable(history(&events(seen)).unwrap());
    assert!(linearizable(1));
    assert!(!linearizable(0));
}
