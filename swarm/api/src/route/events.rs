//! `GET /events`: what happens to the nodes of the swarm, as a manager sees it; elsewhere it is quiet.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures_util::stream;
use skep_state::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::json_stream;
use crate::error::{ApiError, Result};
use crate::events::Event;
use crate::filters::Filters;
use crate::params::Params;
use crate::server::Shared;

/// Filters by what an event is about: a prefix of ID or name.
const SUBJECTS: [&str; 10] =
    ["config", "container", "daemon", "image", "network", "node", "plugin", "secret", "service", "volume"];

/// All filters that dockerd knows (moby `daemon/events/filter.go`).
const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Streams events: those between `since` and `until` that are still known, then the coming ones until `until`.
pub(super) async fn events(State(shared): State<Shared>, params: Params) -> Result<Response> {
    let filters = params.filters(&FILTERS)?;
    let (since, until) = (moment(&params, "since")?, moment(&params, "until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(ApiError::bad_request(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    let now = shared.engine.now();
    let (past, coming) = shared.events.subscribe();
    // Without a question about the past there is only the future.
    let asked = since.is_some() || until.is_some();
    let within = |event: &Event| {
        asked
            && since.is_none_or(|since| event.nanos() >= since.nanos())
            && until.is_none_or(|until| event.nanos() <= until.nanos())
    };
    let past = past.into_iter().filter(|event| within(event) && matches(&filters, event)).collect();
    let left = until.map(|until| until.since(now));
    let coming = (left != Some(Duration::ZERO)).then_some(coming);
    let deadline = left.map(|left| tokio::time::Instant::now() + left);
    let reader = Reader { past, coming, deadline, filters };
    Ok(json_stream(Body::from_stream(stream::unfold(reader, |mut reader: Reader| async move {
        let event = reader.next().await?;
        let line = serde_json::to_vec(&event).map_err(io::Error::other);
        let line = line.map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        });
        Some((line, reader))
    }))))
}

/// A client that reads events.
struct Reader {
    past: VecDeque<Event>,
    /// None when the question is about the past only.
    coming: Option<broadcast::Receiver<Event>>,
    deadline: Option<tokio::time::Instant>,
    filters: Filters,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.past.pop_front() {
            return Some(event);
        }
        let (coming, filters) = (self.coming.as_mut()?, &self.filters);
        let found = async {
            loop {
                match coming.recv().await {
                    Ok(event) if matches(filters, &event) => return Some(event),
                    // A reader that is too slow misses some, as with dockerd.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        };
        match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, found).await.ok().flatten(),
            None => found.await,
        }
    }
}

fn matches(filters: &Filters, event: &Event) -> bool {
    event.words().iter().all(|(name, word)| filters.any(name, |wanted| wanted == *word))
        && SUBJECTS.iter().all(|name| filters.any(name, |prefix| event.is_about(prefix)))
        && filters.labels("label", event.attributes())
}

/// A moment as clients send it: seconds since 1970, with or without a fraction.
fn moment(params: &Params, name: &str) -> Result<Option<Timestamp>> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let refused =
        || ApiError::bad_request(format!("invalid {name} {text:?}: seconds since 1970 are required"));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| refused())?;
    if !fraction.chars().all(|digit| digit.is_ascii_digit()) {
        return Err(refused());
    }
    let nanos: i64 = format!("{fraction:0<9.9}").parse().map_err(|_| refused())?;
    // What lies beyond the year 2262 is as good as the end of time.
    Ok(Some(Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))))
}
