//! `skep playground`: a cluster on this machine.
//!
//! Each node is a host of its own: process, network, mount, UTS and IPC namespaces, an address on a common switch, a
//! disk that outlives its power. Nothing but root and this binary is needed. `down` removes every trace.

mod api;
mod demo;
mod host;
mod layout;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use skep_netns::fabric::{self, Leg};
use skep_netns::{Namespace, Netlink};
use skep_runtime::cgroup::Cgroups;

use crate::cli::client::CliError;
use layout::{NodeRecord, Process, Record};

/// The last byte of this machine's own address on a playground's network.
const OWN_NUMBER: u8 = 254;

/// Most nodes of a playground: their numbers are the last bytes of addresses.
const MOST_NODES: u8 = 200;

/// A cluster on this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster
    Up(Up),
    /// Run a command as if on a node: its network, SKEP_HOST and DOCKER_HOST set
    Exec(Exec),
    /// Take a node's power away
    Kill(Target),
    /// Cut a node's network
    Cut(Target),
    /// Heal a node's network
    Heal(Target),
    /// Boot a node again, with its disk as it was
    Start(Target),
    /// List playgrounds and their nodes
    Ls,
    /// Remove a cluster and every trace of it
    Down(Down),
    /// Show a service that answers on every node and outlives its leader
    Demo,
    /// Make a host's namespaces
    #[command(hide = true)]
    Boot(Target),
    /// Be process 1 of a host
    #[command(hide = true)]
    Init(Target),
    /// Keep the switch
    #[command(hide = true)]
    Hold,
}

/// Which playground.
#[derive(Debug, Args)]
struct Name {
    /// Name of the playground
    #[arg(long, default_value = "default")]
    name: String,
}

/// Flags of `up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Number of nodes
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// How many of them are managers; 3 or all of fewer by default
    #[arg(long)]
    managers: Option<u8>,
    /// Only start the nodes
    #[arg(long)]
    no_swarm: bool,
    #[command(flatten)]
    name: Name,
}

/// Which node of which playground.
#[derive(Debug, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    name: Name,
    /// Number of the node, from 1
    number: u8,
}

/// Flags of `exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    name: Name,
    /// Number of the node, from 1
    number: u8,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Flags of `down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    name: Name,
    /// Remove all playgrounds
    #[arg(long)]
    all: bool,
}

/// Why a playground command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Namespaces need root.
    #[error("skep playground must run as root: it makes namespaces, links and cgroups (you are user {0})")]
    NotRoot(u32),
    /// No such playground.
    #[error("there is no playground {0:?}: start one with `skep playground up`")]
    NoPlayground(String),
    /// There is one already.
    #[error("playground {0:?} is there already: use it, or remove it with `skep playground down`")]
    Exists(String),
    /// No such node.
    #[error("playground {name:?} has no node {number}: its nodes are 1 to {last}")]
    NoSuchNode {
        /// As asked.
        number: u8,
        /// The playground.
        name: String,
        /// Its last node.
        last: u8,
    },
    /// A node without power.
    #[error("node {0} has no power: boot it with `skep playground start {0}`")]
    NoPower(u8),
    /// Numbers that do not go together.
    #[error("{0}")]
    Usage(String),
    /// A file or folder.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A host did not start.
    #[error("cannot boot node {number}: {source}")]
    Boot {
        /// Its number.
        number: u8,
        /// Why not.
        source: std::io::Error,
    },
    /// A daemon did not answer.
    #[error("the daemon of node {number} does not answer; see {}", log.display())]
    NoAnswer {
        /// Its number.
        number: u8,
        /// What it said.
        log: PathBuf,
    },
    /// A host cannot be entered.
    #[error("cannot enter node {number}: {source}")]
    Enter {
        /// Its number.
        number: u8,
        /// Why not.
        source: std::io::Error,
    },
    /// A command that does not exist.
    #[error("cannot run {program:?}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A process that stays.
    #[error("process {0} does not die")]
    WillNotDie(i32),
    /// Links and namespaces.
    #[error("network: {0}")]
    Network(String),
    /// Something stayed behind; everything that failed.
    #[error("cannot remove all of the playground: {0}")]
    Down(String),
    /// A daemon said no.
    #[error(transparent)]
    Api(#[from] CliError),
    /// The demo did not see what it should.
    #[error("{0}")]
    Demo(String),
}

/// Runs `skep playground …`.
pub(crate) fn run(command: Command) -> Result<ExitCode, String> {
    run_inner(command).map_err(|error| error.to_string())
}

fn run_inner(command: Command) -> Result<ExitCode, Error> {
    let user = nix::unistd::geteuid();
    if !user.is_root() {
        return Err(Error::NotRoot(user.as_raw()));
    }
    match command {
        Command::Up(flags) => {
            up(&flags)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Exec(flags) => exec(&flags),
        Command::Kill(target) => change(&target, kill),
        Command::Cut(target) => change(&target, |record, number| set_cut(record, number, true)),
        Command::Heal(target) => change(&target, |record, number| set_cut(record, number, false)),
        Command::Start(target) => start(&target),
        Command::Ls => list(),
        Command::Down(flags) => {
            let _lock = layout::lock()?;
            let names: Vec<String> = if flags.all {
                Record::all().into_iter().map(|record| record.name).collect()
            } else {
                vec![flags.name.name]
            };
            for name in names {
                down(&Record::load(&name)?)?;
                println!("playground {name:?} is gone");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo => demo::run(),
        Command::Boot(target) => host::run_boot(&Record::load(&target.name.name)?, target.number),
        Command::Init(target) => host::run_init(&Record::load(&target.name.name)?, target.number),
        Command::Hold => host::run_hold(),
    }
}

/// Starts a cluster; undone when a part of it does not come up.
fn up(flags: &Up) -> Result<Record, Error> {
    let managers = flags.managers.unwrap_or_else(|| flags.nodes.min(3));
    if flags.nodes == 0 || flags.nodes > MOST_NODES {
        return Err(Error::Usage(format!(
            "--nodes {}: a playground has 1 to {MOST_NODES} nodes",
            flags.nodes
        )));
    }
    if managers == 0 || managers > flags.nodes {
        return Err(Error::Usage(format!(
            "--managers {managers}: a swarm of {} nodes has 1 to {} managers",
            flags.nodes, flags.nodes
        )));
    }
    let name = &flags.name.name;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
        return Err(Error::Usage(format!("--name {name:?}: 1 to 32 letters, digits, - and _")));
    }
    let _lock = layout::lock()?;
    if Record::load(name).is_ok() {
        return Err(Error::Exists(name.clone()));
    }
    let subnet = free_subnet(name)?;
    let fabric = host::start_fabric()?;
    let mut record = Record { name: name.clone(), subnet, fabric, nodes: Vec::new() };
    let progress = Steps::new();
    let made = make(&mut record, flags, managers, &progress);
    progress.finish();
    if let Err(error) = made {
        down(&record)?;
        return Err(error);
    }
    println!(
        "playground {name:?} is up: {} nodes, {}",
        flags.nodes,
        if flags.no_swarm { "no swarm".to_owned() } else { format!("{managers} managers") }
    );
    for node in &record.nodes {
        println!("  node {}   {}   {}", node.number, record.address(node.number), record.host(node.number));
    }
    println!("try:  skep playground exec 1 skep node ls");
    Ok(record)
}

fn make(record: &mut Record, flags: &Up, managers: u8, progress: &Steps) -> Result<(), Error> {
    record.save()?;
    connect_this_machine(record)?;
    for number in 1..=flags.nodes {
        record.nodes.push(NodeRecord { number, init: None, cut: false });
    }
    record.save()?;
    for number in 1..=flags.nodes {
        progress.step(&format!("booting node {number} of {}", flags.nodes));
        let init = host::boot(record, number)?;
        record.node_mut(number)?.init = Some(init);
        record.save()?;
    }
    for number in 1..=flags.nodes {
        progress.step(&format!("waiting for the daemon of node {number}"));
        await_daemon(record, number)?;
    }
    if !flags.no_swarm {
        api::make_swarm(record, flags.nodes, managers, &|what| progress.step(what))?;
    }
    Ok(())
}

/// Waits until a node's daemon answers.
fn await_daemon(record: &Record, number: u8) -> Result<(), Error> {
    let socket = record.sockets(number).join("skep.sock");
    host::wait_until(host::boot_time(), || std::os::unix::net::UnixStream::connect(&socket).is_ok())
        .map_err(|()| Error::NoAnswer { number, log: record.disk(number).join("log") })
}

/// Gives this machine a leg to the playground's network, so that its addresses can be called from here.
fn connect_this_machine(record: &Record) -> Result<(), Error> {
    let network = |error: &dyn std::error::Error| Error::Network(crate::describe(error));
    let own = Namespace::current().map_err(|error| network(&error))?;
    let link = record.own_link();
    let taken = Netlink::new_in(&own)
        .and_then(|mut netlink| netlink.find_link(&link))
        .map_err(|error| network(&error))?;
    if taken.is_some() {
        return Err(Error::Network(format!(
            "this machine has a link {link} already; remove it, or give another --name"
        )));
    }
    let leg = Leg { port: "machine", ifname: &link, address: record.own_address().into(), prefix: 24 };
    fabric::connect(&host::namespace_of(record.fabric)?, &own, &leg).map_err(|error| network(&error))
}

/// The third byte of a new playground's network: 0 for `default`, else the first that no other has.
fn free_subnet(name: &str) -> Result<u8, Error> {
    if name == "default" {
        return Ok(0);
    }
    let taken: Vec<u8> = Record::all().iter().map(|record| record.subnet).collect();
    (1..=254)
        .find(|subnet| !taken.contains(subnet))
        .ok_or_else(|| Error::Usage("there are 254 playgrounds already".to_owned()))
}

fn exec(flags: &Exec) -> Result<ExitCode, Error> {
    let record = Record::load(&flags.name.name)?;
    let init = power_of(&record, flags.number)?;
    let mut command = std::process::Command::new(&flags.command[0]);
    command.args(&flags.command[1..]);
    let status = host::enter_and_run(&record, flags.number, init, &mut command)?;
    // As a shell says it: 128 and the signal's number.
    let code = status
        .code()
        .unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn power_of(record: &Record, number: u8) -> Result<Process, Error> {
    record.node(number)?.init.filter(|init| init.lives()).ok_or(Error::NoPower(number))
}

fn change(
    target: &Target,
    work: impl FnOnce(&mut Record, u8) -> Result<(), Error>,
) -> Result<ExitCode, Error> {
    let _lock = layout::lock()?;
    let mut record = Record::load(&target.name.name)?;
    record.node(target.number)?;
    work(&mut record, target.number)?;
    record.save()?;
    Ok(ExitCode::SUCCESS)
}

/// A power cut: first the cable, so that no dying socket says goodbye, then everything at once.
fn kill(record: &mut Record, number: u8) -> Result<(), Error> {
    let init = power_of(record, number)?;
    host::set_cable(record, number, false)?;
    host::power_off(init)?;
    record.node_mut(number)?.init = None;
    Ok(())
}

fn set_cut(record: &mut Record, number: u8, cut: bool) -> Result<(), Error> {
    if record.node(number)?.init.is_some_and(Process::lives) {
        host::set_cable(record, number, !cut)?;
    }
    record.node_mut(number)?.cut = cut;
    Ok(())
}

fn start(target: &Target) -> Result<ExitCode, Error> {
    let _lock = layout::lock()?;
    let mut record = Record::load(&target.name.name)?;
    let number = target.number;
    match record.node(number)?.init.filter(|init| init.lives()) {
        None => {
            let init = host::boot(&record, number)?;
            record.node_mut(number)?.init = Some(init);
            record.save()?;
        }
        Some(init) => {
            let socket = record.sockets(number).join("skep.sock");
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                println!("node {number} is running already");
                return Ok(ExitCode::SUCCESS);
            }
            host::restart_daemon(&record, number, init)?;
        }
    }
    await_daemon(&record, number)?;
    Ok(ExitCode::SUCCESS)
}

fn list() -> Result<ExitCode, Error> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["PLAYGROUND", "NODE", "ADDRESS", "STATE", "HOST"]);
    for record in Record::all() {
        for node in &record.nodes {
            let state = match (node.init.is_some_and(Process::lives), node.cut) {
                (false, _) => "no power",
                (true, true) => "cut",
                (true, false) => "up",
            };
            table.add_row([
                record.name.clone(),
                node.number.to_string(),
                record.address(node.number).to_string(),
                state.to_owned(),
                record.host(node.number),
            ]);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes every trace of a playground; goes on after failures and reports them all.
fn down(record: &Record) -> Result<(), Error> {
    let mut failures: Vec<String> = Vec::new();
    let mut note = |result: Result<(), Error>| failures.extend(result.err().map(|error| error.to_string()));
    for init in record.nodes.iter().filter_map(|node| node.init) {
        note(host::power_off(init));
    }
    if record.fabric.lives()
        && let Ok(switch) = host::namespace_of(record.fabric)
    {
        // The kernel takes links away some time after their namespace; this machine's own must be gone on return.
        for (port, _) in fabric::ports(&switch).unwrap_or_default() {
            let gone = fabric::disconnect(&switch, &port);
            note(gone.map_err(|error| Error::Network(crate::describe(&error))));
        }
    }
    note(host::power_off(record.fabric));
    match Cgroups::detect() {
        Ok(cgroups) => {
            for node in &record.nodes {
                let parent = record.cgroup_parent(node.number);
                let removed = cgroups.remove_stale(&parent, &std::collections::BTreeSet::new());
                note(removed.map(drop).map_err(|error| Error::Usage(crate::describe(&error))));
                cgroups.remove_parent(&parent);
            }
        }
        Err(error) => note(Err(Error::Usage(crate::describe(&error)))),
    }
    note(layout::remove_files(&record.name));
    if failures.is_empty() { Ok(()) } else { Err(Error::Down(failures.join("; "))) }
}

/// What is being done, on a terminal; quiet elsewhere.
struct Steps {
    bar: ProgressBar,
}

impl Steps {
    fn new() -> Self {
        let bar = if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(std::time::Duration::from_millis(80));
        Self { bar }
    }

    fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
