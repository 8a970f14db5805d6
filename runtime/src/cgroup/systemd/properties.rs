//! A unit's properties: what systemd is told of a container, as runc tells it. Pure.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::wire::Value;
use crate::cgroup::resources::v2::{swap_max, weight};
use crate::cgroup::{CgroupError, devices};

/// What systemd can do, and with which kernel interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) number: u32,
    pub(super) v2: bool,
}

/// The first versions with `CPUQuotaPeriodUSec`, with `AllowedCPUs`, and with a CPU weight of "idle".
const QUOTA_PERIOD_SINCE: u32 = 242;
const CPUSET_SINCE: u32 = 244;
const IDLE_SINCE: u32 = 252;

const PERIOD_DEFAULT: u64 = 100_000;

/// Systemd keeps the quota as a percentage: what is not a whole one is rounded up, in microseconds per second.
const PERCENT: u64 = 10_000;

/// A number of a CPU or memory node that is greater is no number of one.
const BITS_MAX: usize = 1 << 16;

type Property = (String, Value);

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// What a new unit needs.
pub(super) fn for_start(unit: &str, slice: &str, pids: &[u32], v2: bool) -> Vec<Property> {
    let mut properties = vec![property("Description", Value::Text(format!("skep container {unit}")))];
    if unit.ends_with(".slice") {
        properties.push(property("Wants", Value::Texts(vec![slice.to_owned()])));
    } else {
        properties.push(property("Slice", Value::Text(slice.to_owned())));
        properties.push(property("Delegate", Value::Bool(true)));
        properties.push(property("PIDs", Value::U32s(pids.to_vec())));
    }
    let io = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
    for name in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
        properties.push(property(name, Value::Bool(true)));
    }
    properties.push(property("DefaultDependencies", Value::Bool(false)));
    properties
}

/// The limits. What systemd does not know is set in the group's files alone.
pub(super) fn for_resources(
    resources: &LinuxResources,
    version: Version,
    devices: bool,
) -> Result<Vec<Property>, CgroupError> {
    let mut properties = Vec::new();
    let mut add = |name: &str, value: Option<u64>| {
        properties.extend(value.map(|value| property(name, Value::U64(value))));
    };
    // Every negative number is systemd's infinity.
    let limit = |value: i64| if value < 0 { u64::MAX } else { value.cast_unsigned() };
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    if let Some(memory) = resources.memory() {
        add(if version.v2 { "MemoryMax" } else { "MemoryLimit" }, set(memory.limit()).map(limit));
        if version.v2 {
            add("MemoryLow", set(memory.reservation()).map(limit));
            add("MemorySwapMax", swap_max(set(memory.limit()), set(memory.swap()))?.map(limit));
        }
    }
    if let Some(io) = resources.block_io().as_ref().filter(|_| !version.v2) {
        add("BlockIOWeight", io.weight().filter(|weight| *weight > 0).map(u64::from));
    }
    add("TasksMax", resources.pids().map(|pids| limit(pids.limit()).max(1)));
    if let Some(cpu) = resources.cpu() {
        properties.extend(for_cpu(cpu, version)?);
    }
    if let Some(unified) = resources.unified().as_ref().filter(|_| version.v2) {
        properties.extend(for_unified(unified, version));
    }
    if devices {
        let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
        let (policy, allowed) = devices::for_unit(&rules, version.number);
        // The empty list first: each further one is added to what is there.
        properties.push(property("DeviceAllow", Value::Pairs(Vec::new())));
        properties.push(property("DevicePolicy", Value::Text(policy.to_owned())));
        if !allowed.is_empty() {
            properties.push(property("DeviceAllow", Value::Pairs(allowed)));
        }
    }
    Ok(properties)
}

fn for_cpu(cpu: &LinuxCpu, version: Version) -> Result<Vec<Property>, CgroupError> {
    let mut properties = Vec::new();
    let shares = cpu.shares().filter(|shares| *shares > 0);
    if version.v2 && cpu.idle() == Some(1) && version.number >= IDLE_SINCE {
        properties.push(property("CPUWeight", Value::U64(0)));
    } else if let Some(shares) = shares {
        properties.push(if version.v2 {
            property("CPUWeight", Value::U64(weight(shares)))
        } else {
            property("CPUShares", Value::U64(shares))
        });
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    properties.extend(for_quota(quota, cpu.period().filter(|period| *period > 0), version));
    if version.number >= CPUSET_SINCE {
        for (name, field, list) in
            [("AllowedCPUs", "cpu.cpus", cpu.cpus()), ("AllowedMemoryNodes", "cpu.mems", cpu.mems())]
        {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                let bits = bits(list).ok_or_else(|| {
                    let why = "it is a list of numbers and ranges such as 0-3,7";
                    CgroupError::Value { field, value: list.clone(), why }
                })?;
                properties.push(property(name, Value::Bytes(bits)));
            }
        }
    }
    Ok(properties)
}

/// How much of each period may be used. A negative quota is none.
fn for_quota(quota: Option<i64>, period: Option<u64>, version: Version) -> Vec<Property> {
    let mut properties = Vec::new();
    if let Some(period) = period.filter(|_| version.number >= QUOTA_PERIOD_SINCE) {
        properties.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota.is_some() || period.is_some() {
        let per_second = match quota.map(u64::try_from) {
            Some(Ok(quota)) => {
                let share = quota.saturating_mul(1_000_000) / period.unwrap_or(PERIOD_DEFAULT);
                share.checked_next_multiple_of(PERCENT).unwrap_or(u64::MAX)
            }
            _ => u64::MAX,
        };
        properties.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
    }
    properties
}

/// What `unified` says of files that systemd has properties for; otherwise it would write its own values over them
/// later. Values that are none are for the kernel to refuse.
fn for_unified(unified: &HashMap<String, String>, version: Version) -> Vec<Property> {
    let number = |text: &str| if text == "max" { Some(u64::MAX) } else { text.parse::<u64>().ok() };
    let idle = unified.get("cpu.idle").is_some_and(|idle| idle.trim() == "1") && version.number >= IDLE_SINCE;
    let mut properties = Vec::new();
    for (file, value) in unified.iter().collect::<BTreeMap<_, _>>() {
        let value = value.trim();
        let plain = match file.as_str() {
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.max" => "MemoryMax",
            "memory.min" => "MemoryMin",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" if !idle => "CPUWeight",
            "cpu.idle" if idle => {
                properties.push(property("CPUWeight", Value::U64(0)));
                continue;
            }
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = words.next().map(|quota| quota.parse::<i64>().unwrap_or(-1));
                let period =
                    words.next().and_then(|period| period.parse::<u64>().ok()).unwrap_or(PERIOD_DEFAULT);
                properties.extend(for_quota(quota, Some(period).filter(|period| *period > 0), version));
                continue;
            }
            "cpuset.cpus" | "cpuset.mems" if version.number >= CPUSET_SINCE => {
                let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                properties.extend(bits(value).map(|bits| property(name, Value::Bytes(bits))));
                continue;
            }
            _ => continue,
        };
        // A container of no process at all is none that systemd would take.
        let least = u64::from(plain == "TasksMax");
        properties.extend(number(value).map(|number| property(plain, Value::U64(number.max(least)))));
    }
    properties
}

/// A list such as `0-3,7` as a bit mask, the lowest byte first.
pub(super) fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        if first > last || last >= BITS_MAX {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        for bit in first..=last {
            bits[bit / 8] |= 1_u8 << (bit % 8);
        }
    }
    (!bits.is_empty()).then_some(bits)
}
