//! `skep service`.

mod flags;
mod progress;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skep_state::spec::ServiceSpec;

use self::flags::{CreateFlags, UpdateFlags};
use self::progress::Expect;
use super::client::{CliError, Client, escape, filters};
use super::table::{Column, Table};
use super::{ListFlags, fetch_each, for_each, natural, print, print_inspected, several, task, text};

/// Manage services.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a service
    Create(Box<CreateFlags>),
    /// List services
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// List the tasks of services
    Ps(task::Ps),
    /// Show everything about services
    Inspect(Inspect),
    /// Change the number of tasks of services
    Scale(Scale),
    /// Change a service
    Update(Box<UpdateFlags>),
    /// Go back to a service's previous spec
    Rollback(Rollback),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// `json` or a template
    #[arg(short, long)]
    format: Option<String>,
    /// Services
    #[arg(required = true)]
    services: Vec<String>,
}

/// Flags of `scale`.
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// Return at once
    #[arg(short, long)]
    detach: bool,
    /// SERVICE=REPLICAS
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    services: Vec<String>,
}

/// Flags of `rollback`.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Return at once
    #[arg(short, long)]
    detach: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Service
    service: String,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Services
    #[arg(required = true)]
    services: Vec<String>,
}

const LIST_COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Mode", "MODE"),
    ("Replicas", "REPLICAS"),
    ("Image", "IMAGE"),
    ("Ports", "PORTS"),
];

/// Runs `skep service …`.
pub(crate) async fn run(command: Command, client: &Client) -> Result<(), CliError> {
    match command {
        Command::Create(flags) => {
            let (detach, quiet) = (flags.detach, flags.quiet);
            let spec = flags.spec()?;
            let answer = client.post("/services/create", &to_json(&spec)?).await?;
            let id = text(&answer, "/ID");
            print(&format!("{id}\n"))?;
            if detach { Ok(()) } else { progress::wait(client, &id, quiet, Expect::Update).await }
        }
        Command::Ls(flags) => list(flags, client).await,
        Command::Ps(flags) => {
            if flags.targets.is_empty() {
                return Err(CliError::Usage("\"skep service ps\" requires at least 1 service".to_owned()));
            }
            let (services, failures) = fetch_each(&flags.targets, async |name: String| {
                client.get(&format!("/services/{}", escape(&name))).await
            })
            .await;
            task::list(&flags, "service", &services, failures, client).await
        }
        Command::Inspect(flags) => {
            let (services, failures) = fetch_each(&flags.services, async |name: String| {
                client.get(&format!("/services/{}?insertDefaults=true", escape(&name))).await
            })
            .await;
            print_inspected(&services, flags.format.as_deref())?;
            several(failures)
        }
        Command::Scale(flags) => scale(flags, client).await,
        Command::Update(flags) => {
            let (detach, quiet, name) = (flags.detach, flags.quiet, flags.service.clone());
            if flags.rollback {
                return rollback(&name, detach, quiet, client).await;
            }
            let service = fetch(client, &name).await?;
            let mut spec = service.spec.clone();
            flags.apply(&mut spec)?;
            submit(client, &service, &to_json(&spec)?, "").await?;
            print(&format!("{name}\n"))?;
            if detach { Ok(()) } else { progress::wait(client, &service.id, quiet, Expect::Update).await }
        }
        Command::Rollback(flags) => rollback(&flags.service, flags.detach, flags.quiet, client).await,
        Command::Rm(flags) => {
            for_each(&flags.services, async |service: String| {
                client.delete(&format!("/services/{}", escape(&service))).await?;
                print(&format!("{service}\n"))
            })
            .await
        }
    }
}

/// A service as the daemon has it.
struct Fetched {
    id: String,
    version: String,
    spec: ServiceSpec,
    raw_spec: Value,
}

async fn fetch(client: &Client, name: &str) -> Result<Fetched, CliError> {
    let path = format!("/services/{}", escape(name));
    let service: Value = client.get(&path).await?;
    let spec = skep_state::lenient::from_value(service["Spec"].clone())
        .map_err(|source| CliError::Answer { path, source })?;
    Ok(Fetched {
        id: text(&service, "/ID"),
        version: text(&service, "/Version/Index"),
        spec,
        raw_spec: service["Spec"].clone(),
    })
}

async fn submit(client: &Client, service: &Fetched, spec: &Value, query: &str) -> Result<(), CliError> {
    let path = format!("/services/{}/update?version={}{query}", service.id, service.version);
    let answer = client.post(&path, spec).await?;
    for warning in answer["Warnings"].as_array().into_iter().flatten() {
        eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    Ok(())
}

async fn rollback(name: &str, detach: bool, quiet: bool, client: &Client) -> Result<(), CliError> {
    let service = fetch(client, name).await?;
    submit(client, &service, &service.raw_spec, "&rollback=previous").await?;
    print(&format!("{name}\n"))?;
    if detach { Ok(()) } else { progress::wait(client, &service.id, quiet, Expect::Rollback).await }
}

async fn scale(flags: Scale, client: &Client) -> Result<(), CliError> {
    let mut wanted = Vec::new();
    for argument in &flags.services {
        let (name, replicas) = argument.split_once('=').ok_or_else(|| {
            CliError::Usage(format!("invalid scale specifier '{argument}': give SERVICE=REPLICAS"))
        })?;
        let replicas: u64 = replicas.parse().map_err(|_| {
            CliError::Usage(format!(
                "{name}: invalid replicas value {replicas:?}: it must be 0 or a positive whole number"
            ))
        })?;
        wanted.push((name, replicas));
    }
    let mut ids = Vec::new();
    for (name, replicas) in wanted {
        let service = fetch(client, name).await?;
        let mut spec = service.raw_spec.clone();
        match spec["Mode"].as_object() {
            Some(mode) if mode.contains_key("Replicated") => {
                spec["Mode"]["Replicated"]["Replicas"] = json!(replicas)
            }
            Some(mode) if mode.contains_key("ReplicatedJob") => {
                spec["Mode"]["ReplicatedJob"]["TotalCompletions"] = json!(replicas);
            }
            _ => {
                return Err(CliError::Usage(format!(
                    "{name}: scale can only be used with replicated or replicated-job mode"
                )));
            }
        }
        submit(client, &service, &spec, "").await?;
        print(&format!("{name} scaled to {replicas}\n"))?;
        ids.push(service.id);
    }
    if !flags.detach {
        for id in ids {
            progress::wait(client, &id, false, Expect::Update).await?;
        }
    }
    Ok(())
}

async fn list(flags: ListFlags, client: &Client) -> Result<(), CliError> {
    let query = filters(&flags.filter);
    let mut services: Vec<Value> = client.get(&format!("/services?status=true&{query}")).await?;
    services.sort_by(|one, other| natural::compare(&text(one, "/Spec/Name"), &text(other, "/Spec/Name")));
    let mut table = Table::new(LIST_COLUMNS);
    for service in &services {
        let mode = service["Spec"]["Mode"].as_object().and_then(|mode| mode.keys().next().cloned());
        let mode = match mode.as_deref() {
            Some("Global") => "global",
            Some("ReplicatedJob") => "replicated job",
            Some("GlobalJob") => "global job",
            _ => "replicated",
        };
        let id = text(service, "/ID");
        let ports = service["Endpoint"]["Ports"].as_array().cloned().unwrap_or_default();
        let ports: Vec<String> = ports
            .iter()
            .filter(|port| port["PublishMode"] == "ingress")
            .map(|port| {
                let field = |name: &str| text(port, &format!("/{name}"));
                format!("*:{}->{}/{}", field("PublishedPort"), field("TargetPort"), field("Protocol"))
            })
            .collect();
        table.row(vec![
            if flags.quiet { id } else { id.chars().take(12).collect() },
            text(service, "/Spec/Name"),
            mode.to_owned(),
            format!(
                "{}/{}",
                service["ServiceStatus"]["RunningTasks"].as_u64().unwrap_or(0),
                service["ServiceStatus"]["DesiredTasks"].as_u64().unwrap_or(0)
            ),
            text(service, "/Spec/TaskTemplate/ContainerSpec/Image"),
            ports.join(", "),
        ]);
    }
    print(&table.render(flags.format.as_deref(), flags.quiet)?)
}

fn to_json(spec: &ServiceSpec) -> Result<Value, CliError> {
    serde_json::to_value(spec).map_err(|source| CliError::Answer { path: "service spec".to_owned(), source })
}
