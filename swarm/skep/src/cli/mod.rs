//! The command line: a client of the daemon's API that reads like `docker`.

pub(crate) mod client;
mod image;
mod natural;
mod node;
mod service;
mod swarm;
mod system;
mod table;
mod task;
mod template;
mod terminal;
pub(crate) mod time;
pub(crate) mod tls;

use clap::{Args, Subcommand};
use client::{CliError, Client};
use tls::{TlsEnvironment, TlsFlags};

/// Commands that the daemon carries out.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manage the swarm
    #[command(subcommand)]
    Swarm(swarm::Command),
    /// Manage nodes of the swarm
    #[command(subcommand)]
    Node(node::Command),
    /// Manage services
    #[command(subcommand)]
    Service(service::Command),
    /// Manage images
    #[command(subcommand)]
    Image(image::Command),
    /// List images
    Images(image::List),
    /// Load images from a tar archive
    Load(image::Load),
    /// Show versions of client and daemon
    Version(system::Version),
    /// Show what the daemon knows of itself and its swarm
    Info(system::Info),
}

/// Flags of everything that lists.
#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Show only what matches, as `name=web`
    #[arg(short, long, value_parser = client::parse_filter, value_name = "NAME=VALUE")]
    filter: Vec<(String, String)>,
    /// `table`, `json` or a template such as '{{.Name}}'
    #[arg(long)]
    format: Option<String>,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
}

/// Runs a command against the daemon at `host`.
pub(crate) async fn run(command: Command, host: &str, tls: &TlsFlags) -> Result<(), CliError> {
    // The files of TLS are of no interest to a command over a socket of this host.
    let tls = match host.starts_with("tcp://") {
        true => tls.config(&TlsEnvironment::read()).map_err(|error| CliError::Usage(error.to_string()))?,
        false => None,
    };
    let client = Client::with_tls(host, tls)?;
    match command {
        Command::Swarm(command) => swarm::run(command, &client).await,
        Command::Node(command) => node::run(command, &client).await,
        Command::Service(command) => service::run(command, &client).await,
        Command::Image(command) => image::run(command, &client).await,
        Command::Images(flags) => image::list(flags, &client).await,
        Command::Load(flags) => image::load(flags, &client).await,
        Command::Version(flags) => system::version(flags, &client).await,
        Command::Info(flags) => system::info(flags, &client).await,
    }
}

/// Prints to standard output; a reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other
            .map_err(|source| CliError::Io { what: "cannot write to standard output".to_owned(), source }),
    }
}

/// Does a thing for each name; reports each failure and goes on.
pub(crate) async fn for_each<F>(names: &[String], mut each: impl FnMut(String) -> F) -> Result<(), CliError>
where
    F: Future<Output = Result<(), CliError>>,
{
    let mut failures = Vec::new();
    for name in names {
        if let Err(error) = each(name.clone()).await {
            failures.push(error.to_string());
        }
    }
    several(failures)
}

/// Gets the thing of each name; what there is, and why the others are missing.
pub(crate) async fn fetch_each<F>(
    names: &[String],
    mut each: impl FnMut(String) -> F,
) -> (Vec<serde_json::Value>, Vec<String>)
where
    F: Future<Output = Result<serde_json::Value, CliError>>,
{
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        match each(name.clone()).await {
            Ok(value) => found.push(value),
            Err(error) => failures.push(error.to_string()),
        }
    }
    (found, failures)
}

/// The error of several things that failed, if any did: one line each.
pub(crate) fn several(failures: Vec<String>) -> Result<(), CliError> {
    if failures.is_empty() { Ok(()) } else { Err(CliError::Several(failures.join("\n"))) }
}

/// The text of a JSON member; empty when there is none.
pub(crate) fn text(value: &serde_json::Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// An object as `inspect` prints it: a JSON array, or a template filled for each.
pub(crate) fn print_inspected(objects: &[serde_json::Value], format: Option<&str>) -> Result<(), CliError> {
    let Some(template) = format else {
        let pretty = serde_json::to_string_pretty(objects)
            .map_err(|source| CliError::Answer { path: "inspect".to_owned(), source })?;
        return print(&(pretty + "\n"));
    };
    let template = if template == "json" { "{{json .}}" } else { template };
    for object in objects {
        print(&(template::fill(template, object)? + "\n"))?;
    }
    Ok(())
}
