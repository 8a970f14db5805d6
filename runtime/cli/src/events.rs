//! `events`: what a container uses, and when it runs out of memory.

use std::time::Duration;

use serde::Serialize;

use skep_runtime::cgroup::Stats;

use crate::app::Context;
use crate::error::Failure;
use crate::flags::Words;
use crate::groups::Place;
use crate::record::Status;
use crate::show::print;

/// Time between two statistics (runc's).
const INTERVAL: Duration = Duration::from_secs(5);

/// Prints statistics, once or until the container's end.
pub(crate) fn events(context: &Context, words: &Words) -> Result<(), Failure> {
    let id = words.arguments.first().map_or("", String::as_str);
    let record = context.store.load(id)?;
    let interval = match words.value("interval") {
        None => INTERVAL,
        Some(text) => duration(text).ok_or_else(|| {
            Failure::Refused(format!("invalid value {text:?} for flag -interval: parse error"))
        })?,
    };
    if interval.is_zero() {
        return Err(Failure::Refused("duration interval must be greater than 0".to_owned()));
    }
    let directory = context.store.directory(id)?;
    let (Some(place), true) = (&record.cgroup, alive(record.status(&directory))) else {
        return Err(Failure::Refused(format!("container with id {id} is not running")));
    };
    if words.switch("stats") {
        return statistics(id, place);
    }
    crate::watch::watch(id, &record, place, interval)
}

/// Says that it ran out of memory.
pub(crate) fn out_of_memory(id: &str) -> Result<(), Failure> {
    tell(&Event { kind: "oom", id, data: None })
}

fn tell(event: &Event<'_>) -> Result<(), Failure> {
    let line = serde_json::to_string(event);
    print(&format!("{}\n", line.map_err(|source| Failure::Json { what: "event".to_owned(), source })?))
}

/// A line, its members in runc's order: people match them by the beginning.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

fn alive(status: Status) -> bool {
    !matches!(status, Status::Stopped | Status::Creating)
}

/// Prints the statistics of now.
pub(crate) fn statistics(id: &str, place: &Place) -> Result<(), Failure> {
    tell(&Event { kind: "stats", id, data: Some(place.statistics()?) })
}

/// Go's notation of durations: `5s`, `1m30s`, `1.5h`, `100ms`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|character: char| character.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in
            [("5s", 5000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("100ms", 100), ("0", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
