//! `update`: other limits for a container.

use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use skep_runtime::spec::oci::LinuxResources;

use crate::app::Context;
use crate::error::Failure;
use crate::flags::Words;
use crate::log::Level;
use crate::record::Status;
use crate::store::{Slot, kept_spec};

/// Most bytes of resources that are read: as for a whole specification.
const RESOURCES_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Flags with whole numbers: name, group and field of the specification, whether it may be negative.
const NUMBERS: [(&str, &str, &str, bool); 7] = [
    ("cpu-idle", "cpu", "idle", true),
    ("cpu-burst", "cpu", "burst", false),
    ("cpu-period", "cpu", "period", false),
    ("cpu-rt-period", "cpu", "realtimePeriod", false),
    ("cpu-share", "cpu", "shares", false),
    ("cpu-quota", "cpu", "quota", true),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", true),
];

/// Flags with sizes.
const SIZES: [(&str, &str); 3] =
    [("memory", "limit"), ("memory-swap", "swap"), ("memory-reservation", "reservation")];

/// Flags of resctrl: name, runc's words for it, and the kernel's name of the resource.
const SCHEMAS: [(&str, &str, &str); 2] = [
    ("l3-cache-schema", "Intel RDT/CAT: l3 cache schema", "L3"),
    ("mem-bw-schema", "Intel RDT/MBA: memory bandwidth schema", "MB"),
];

/// Changes a container's limits.
pub(crate) fn update(context: &Context, words: &Words) -> Result<(), Failure> {
    let id = words.arguments.first().map_or("", String::as_str);
    let slot = context.store.lock(id)?;
    let record = slot.read()?.ok_or(Failure::NoContainer)?;
    let value = match words.text("resources") {
        Some(path) => read(path)?,
        None => from_flags(words)?,
    };
    if ["kernel-memory", "kernel-memory-tcp"].iter().any(|name| words.text(name).is_some()) {
        context.log.line(Level::Warning, "Kernel memory settings are ignored and will be removed");
    }
    let schemas = SCHEMAS.map(|(flag, _, _)| words.text(flag));
    for ((_, what, resource), schema) in SCHEMAS.into_iter().zip(schemas) {
        if schema.is_some() && !skep_runtime::container::has_resctrl(resource) {
            return Err(Failure::Refused(format!("{what} is not enabled")));
        }
    }
    let resources = resources(value)?;
    let init = record.init.map_or(0, |init| init.pid);
    match (record.status(slot.path()), &record.cgroup) {
        (Status::Stopped | Status::Creating, _) | (_, None) => Err(Failure::NotRunning),
        (_, Some(place)) => {
            update_resctrl(&slot, id, init, schemas)?;
            place.update(&resources)
        }
    }
}

/// Caches and memory bandwidth. The kept specification tells of the group at the container's end.
fn update_resctrl(slot: &Slot, id: &str, init: i32, schemas: [Option<&str>; 2]) -> Result<(), Failure> {
    if schemas == [None, None] {
        return Ok(());
    }
    let mut spec = kept_spec(slot.path())?;
    let [l3_cache, memory_bandwidth] = schemas;
    let updated = skep_runtime::container::update_resctrl(id, &spec, init, l3_cache, memory_bandwidth);
    let updated = updated.map_err(|error| Failure::Refused(error.to_string()))?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let is_new = linux.intel_rdt().is_none();
    linux.set_intel_rdt(Some(updated));
    spec.set_linux(Some(linux));
    slot.keep_spec(&spec).inspect_err(|_| {
        // Nobody would remove the group later.
        if is_new {
            drop(skep_runtime::container::remove_resctrl(id, &spec));
        }
    })
}

fn read(path: &str) -> Result<Value, Failure> {
    let mut text = Vec::new();
    let path = Path::new(path);
    if path == Path::new("-") {
        std::io::stdin()
            .take(RESOURCES_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(Failure::system("read standard input"))?;
    } else {
        let file = std::fs::File::open(path).map_err(Failure::path("open", path))?;
        file.take(RESOURCES_BYTES_MAX).read_to_end(&mut text).map_err(Failure::path("read", path))?;
    }
    serde_json::from_slice(&text).map_err(|source| Failure::Json { what: path.display().to_string(), source })
}

fn from_flags(words: &Words) -> Result<Value, Failure> {
    let wrong = |flag: &str, text: &str| {
        Failure::Refused(format!("invalid value for {flag}: parsing {text:?}: invalid syntax"))
    };
    let (mut cpu, mut memory, mut rest) = (Map::new(), Map::new(), Map::new());
    for (flag, _, field, signed) in NUMBERS {
        if let Some(text) = words.text(flag) {
            let value = if signed {
                text.parse::<i64>().map(Value::from).ok()
            } else {
                text.parse::<u64>().map(Value::from).ok()
            };
            cpu.insert(field.to_owned(), value.ok_or_else(|| wrong(flag, text))?);
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(text) = words.text(flag) {
            cpu.insert(field.to_owned(), text.into());
        }
    }
    for (flag, field) in SIZES {
        if let Some(text) = words.text(flag) {
            memory.insert(field.to_owned(), bytes(text).ok_or_else(|| wrong(flag, text))?.into());
        }
    }
    if let Some(weight) = words.number("blkio-weight").filter(|weight| *weight != 0) {
        let weight = u16::try_from(weight).map_err(|_| wrong("blkio-weight", &weight.to_string()))?;
        rest.insert("blockIO".to_owned(), json!({ "weight": weight }));
    }
    if let Some(limit) = words.number("pids-limit") {
        rest.insert("pids".to_owned(), json!({ "limit": limit }));
    }
    for (name, map) in [("cpu", cpu), ("memory", memory)] {
        if !map.is_empty() {
            rest.insert(name.to_owned(), map.into());
        }
    }
    Ok(rest.into())
}

/// From JSON, with what runc changes in it.
fn resources(mut value: Value) -> Result<LinuxResources, Failure> {
    if let Some(memory) = value.get_mut("memory").and_then(Value::as_object_mut) {
        // Without a limit of its own there is nothing for swap to be beyond.
        if memory.get("limit").and_then(Value::as_i64) == Some(-1) && !memory.contains_key("swap") {
            memory.insert("swap".to_owned(), json!(-1));
        }
    }
    serde_json::from_value(value).map_err(|source| Failure::Json { what: "resources".to_owned(), source })
}

/// A size as Docker's tools take it: `10`, `10m`, `1.5GiB`, `-1`.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let letters = unit.strip_suffix('b').unwrap_or(&unit);
    let power = match letters.strip_suffix('i').unwrap_or(letters) {
        "" if !letters.ends_with('i') => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * 1024_f64.powi(power);
    (value < i64::MAX as f64).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::COMMANDS;

    fn read_flags(line: &str) -> Result<Value, Failure> {
        let command = COMMANDS.iter().find(|command| command.name == "update").unwrap();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        from_flags(&crate::flags::parse(command.flags, command.order, &words).unwrap())
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in
            [("10", 10), ("-1", -1), ("1k", 1024), ("1.5 KiB", 1536), ("2GB", 2 << 30), ("7b", 7)]
        {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "k", "-2", "1x", "1ii", "i", "1i", "99999999p"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn flags_become_resources() {
        let value = read_flags(
            "id --memory 10m --memory-swap -1 --cpu-quota -1 --cpu-period 1000 --pids-limit 0 --blkio-weight 500",
        );
        let value = value.unwrap();
        assert_eq!(value["memory"], json!({ "limit": 10 << 20, "swap": -1 }));
        assert_eq!(value["cpu"], json!({ "quota": -1, "period": 1000 }));
        let resources = resources(value).unwrap();
        assert_eq!(resources.pids().unwrap().limit(), 0);
        assert!(read_flags("id --cpu-share -5").unwrap_err().to_string().contains("cpu-share"));
    }

    #[test]
    fn no_memory_limit_is_no_swap_limit() {
        let resources = resources(json!({ "memory": { "limit": -1 } })).unwrap();
        assert_eq!(resources.memory().unwrap().swap(), Some(-1));
    }
}
