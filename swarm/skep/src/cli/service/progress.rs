//! Waits until a service has converged, as Docker's client does: all tasks running, and still so after the service's
//! monitor time.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::client::{CliError, Client, filters};
use crate::cli::{print, text};

/// How often the daemon is asked (Docker's own client: every 200 ms).
const POLL: Duration = Duration::from_millis(200);

/// How long tasks are watched when the service does not say.
const DEFAULT_MONITOR: Duration = Duration::from_secs(5);

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A new spec; being rolled back is a failure.
    Update,
    /// The previous spec.
    Rollback,
}

/// Returns when the service has converged, or its update has been paused or rolled back.
pub(crate) async fn wait(client: &Client, id: &str, quiet: bool, expect: Expect) -> Result<(), CliError> {
    let bar =
        if quiet || !std::io::stderr().is_terminal() { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut converged_at: Option<Instant> = None;
    let mut rolled_back = false;
    loop {
        let service: Value = client.get(&format!("/services/{id}?insertDefaults=false")).await?;
        let pairs = [("service".to_owned(), id.to_owned()), ("_up-to-date".to_owned(), "true".to_owned())];
        let tasks: Vec<Value> = client.get(&format!("/tasks?{}", filters(&pairs))).await?;
        let nodes: Vec<Value> = client.get("/nodes").await?;
        let message = text(&service, "/UpdateStatus/Message");
        match text(&service, "/UpdateStatus/State").as_str() {
            "paused" => {
                bar.finish_and_clear();
                return Err(CliError::Several(format!("service update paused: {message}")));
            }
            "rollback_paused" => {
                bar.finish_and_clear();
                return Err(CliError::Several(format!("service rollback paused: {message}")));
            }
            // A short rollback may be over between two looks.
            "rollback_started" | "rollback_completed" => rolled_back = true,
            _ => {}
        }
        let (running, wanted) = count(&service, &tasks, &nodes);
        bar.set_length(wanted);
        bar.set_position(running);
        let done = running >= wanted && !update_under_way(&service);
        match converged_at.filter(|_| done) {
            None if done => {
                converged_at = Some(Instant::now());
                bar.set_message("verify: waiting for tasks to stay up");
            }
            None => {
                converged_at = None;
                bar.set_message(latest_error(&tasks).unwrap_or_else(|| "overall progress".to_owned()));
            }
            Some(since) if since.elapsed() >= monitor(&service) => break,
            Some(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
    bar.finish_and_clear();
    if rolled_back && expect == Expect::Update {
        return Err(CliError::Several("service rolled back".to_owned()));
    }
    if quiet { Ok(()) } else { print(&format!("verify: Service {id} converged\n")) }
}

fn update_under_way(service: &Value) -> bool {
    matches!(text(service, "/UpdateStatus/State").as_str(), "updating" | "rollback_started")
}

fn monitor(service: &Value) -> Duration {
    service["Spec"]["UpdateConfig"]["Monitor"]
        .as_u64()
        .filter(|nanos| *nanos > 0)
        .map_or(DEFAULT_MONITOR, Duration::from_nanos)
}

/// Tasks that run and shall run, and tasks wanted.
fn count(service: &Value, tasks: &[Value], nodes: &[Value]) -> (u64, u64) {
    let up: Vec<String> = nodes
        .iter()
        .filter(|node| text(node, "/Status/State") != "down")
        .map(|node| text(node, "/ID"))
        .collect();
    let mode = &service["Spec"]["Mode"];
    let job = mode.get("ReplicatedJob").or_else(|| mode.get("GlobalJob")).is_some();
    let good = if job { "complete" } else { "running" };
    let running = tasks.iter().filter(|task| {
        text(task, "/Status/State") == good
            && (job || text(task, "/DesiredState") == "running")
            && up.contains(&text(task, "/NodeID"))
    });
    let wanted = if let Some(replicated) = mode.get("Replicated") {
        replicated["Replicas"].as_u64().unwrap_or(1)
    } else if let Some(replicated) = mode.get("ReplicatedJob") {
        replicated["TotalCompletions"].as_u64().unwrap_or(1)
    } else {
        let active = nodes.iter().filter(|node| {
            text(node, "/Status/State") != "down" && text(node, "/Spec/Availability") == "active"
        });
        active.count() as u64
    };
    (running.count() as u64, wanted)
}

fn latest_error(tasks: &[Value]) -> Option<String> {
    tasks.iter().map(|task| text(task, "/Status/Err")).find(|error| !error.is_empty())
}
