//! Files and values of cgroup v2, with the conversions from what the spec says in v1's terms.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Family, Write, pids_max, rdma};
use crate::cgroup::CgroupError;

/// The kernel's default CPU period, microseconds.
const PERIOD_DEFAULT: &str = "100000";

/// What to write for a family. `read`: the text of a file of the group, if it has it.
pub(in crate::cgroup) fn writes(
    family: Family,
    resources: &LinuxResources,
    read: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Write>, CgroupError> {
    let mut writes = Vec::new();
    match family {
        Family::Cpuset => {
            if let Some(cpu) = resources.cpu() {
                for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
                    writes.extend(
                        list.iter().filter(|list| !list.is_empty()).map(|list| Write::new(file, list)),
                    );
                }
            }
        }
        Family::Memory => {
            if let Some(memory) = resources.memory() {
                return memory_writes(memory, read);
            }
        }
        Family::Cpu => {
            if let Some(cpu) = resources.cpu() {
                return cpu_writes(cpu, read);
            }
        }
        Family::Pids => {
            writes.extend(resources.pids().map(|pids| Write::new("pids.max", pids_max(pids.limit()))))
        }
        Family::BlockIo => {
            if let Some(io) = resources.block_io() {
                return block_io_writes(io, read);
            }
        }
        Family::Hugetlb => {
            for limit in resources.hugepage_limits().iter().flatten() {
                let file = format!("hugetlb.{}", limit.page_size());
                writes.push(Write::new(format!("{file}.max"), limit.limit()));
                writes.push(Write::optional(format!("{file}.rsvd.max"), limit.limit()));
            }
        }
        Family::Rdma => return Ok(rdma(resources)),
        Family::NetCls | Family::NetPrio => {}
    }
    Ok(writes)
}

fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// The limits on kernel memory are not among them, as in runc: v2 counts it with the rest.
fn memory_writes(
    memory: &LinuxMemory,
    read: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Write>, CgroupError> {
    if memory.disable_oom_killer() == Some(true) {
        return Err(CgroupError::NotInV2 { field: "memory.disableOOMKiller" });
    }
    if memory.swappiness().is_some_and(|value| value != u64::MAX) {
        return Err(CgroupError::NotInV2 { field: "memory.swappiness" });
    }
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let (limit, swap) = (set(memory.limit()), set(memory.swap()));
    if memory.check_before_update() == Some(true) {
        let usage = read("memory.current").and_then(|text| text.trim().parse::<i64>().ok());
        for wanted in [limit, swap].into_iter().flatten().filter(|wanted| *wanted > 0) {
            if let Some(usage) = usage.filter(|usage| wanted <= *usage) {
                return Err(CgroupError::TooLow { limit: wanted, usage });
            }
        }
    }
    let mut writes = Vec::new();
    let swap = swap_max(limit, swap)?.map(max);
    // Without swap accounting there is neither something to lift nor something to forbid.
    writes.extend(swap.map(|value| Write {
        optional: value == "max" || value == "0",
        ..Write::new("memory.swap.max", value)
    }));
    writes.extend(limit.map(|limit| Write::new("memory.max", max(limit))));
    writes.extend(set(memory.reservation()).map(|low| Write::new("memory.low", max(low))));
    Ok(writes)
}

/// The spec counts memory and swap together, v2 counts swap alone.
pub(in crate::cgroup) fn swap_max(limit: Option<i64>, swap: Option<i64>) -> Result<Option<i64>, CgroupError> {
    let refuse =
        |swap: i64, why| Err(CgroupError::Value { field: "memory.swap", value: swap.to_string(), why });
    match (limit, swap) {
        (Some(..0), None) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (_, Some(..0)) => Ok(Some(-1)),
        (Some(..0), Some(swap)) => Ok(Some(swap)),
        (None, Some(swap)) => refuse(swap, "it counts memory too, whose limit is not given"),
        (Some(limit), Some(swap)) if swap < limit => {
            refuse(swap, "it counts memory too and is below its limit")
        }
        (Some(limit), Some(swap)) => Ok(Some(swap - limit)),
    }
}

fn cpu_writes(cpu: &LinuxCpu, read: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Write>, CgroupError> {
    if cpu.realtime_period().is_some_and(|period| period > 0) {
        return Err(CgroupError::NotInV2 { field: "cpu.realtimePeriod" });
    }
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(CgroupError::NotInV2 { field: "cpu.realtimeRuntime" });
    }
    let mut writes = Vec::new();
    writes.extend(cpu.idle().map(|idle| Write::new("cpu.idle", idle)));
    // An idle group has no weight to set.
    let shares = cpu.shares().filter(|shares| *shares > 0 && cpu.idle() != Some(1));
    writes.extend(shares.map(|shares| Write::new("cpu.weight", weight(shares))));
    writes.extend(cpu.burst().map(|burst| {
        if burst == 0 { Write::optional("cpu.max.burst", 0) } else { Write::new("cpu.max.burst", burst) }
    }));
    let quota = cpu.quota().filter(|quota| *quota != 0).map(max);
    let period = cpu.period().filter(|period| *period > 0).map(|period| period.to_string());
    if quota.is_some() || period.is_some() {
        // One file holds both; what is not given stays as it is.
        let now = read("cpu.max").unwrap_or_default();
        let mut now = now.split_whitespace().map(str::to_owned);
        let (quota_now, period_now) = (now.next(), now.next());
        let quota = quota.or(quota_now).unwrap_or_else(|| "max".to_owned());
        let period = period.or(period_now).unwrap_or_else(|| PERIOD_DEFAULT.to_owned());
        writes.push(Write::new("cpu.max", format!("{quota} {period}")));
    }
    Ok(writes)
}

/// runc's curve from [2, 262144] to [1, 10000] through both defaults, 1024 and 100.
pub(in crate::cgroup) fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn block_io_writes(
    io: &LinuxBlockIo,
    read: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Write>, CgroupError> {
    let set = |weight: Option<u16>| weight.filter(|weight| *weight > 0);
    let devices = io.weight_device().iter().flatten();
    if set(io.leaf_weight()).is_some() || devices.clone().any(|device| set(device.leaf_weight()).is_some()) {
        return Err(CgroupError::NotInV2 { field: "blockIO.leafWeight" });
    }
    let mut writes = Vec::new();
    let bfq = read("io.bfq.weight").is_some();
    let (file, convert): (_, fn(u16) -> u64) = if bfq {
        ("io.bfq.weight", u64::from)
    } else {
        // From [10, 1000] to [1, 10000], as the spec of both says.
        ("io.weight", |weight| 1 + (u64::from(weight.max(10)) - 10) * 9999 / 990)
    };
    writes.extend(set(io.weight()).map(|weight| Write::new(file, convert(weight))));
    for device in devices {
        let line = |weight| format!("{}:{} {}", device.major(), device.minor(), convert(weight));
        writes.extend(set(device.weight()).map(|weight| Write::new(file, line(weight))));
    }
    let lists: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (what, devices) in lists {
        for device in devices.iter().flatten() {
            // v1's zero lifts a limit; v2 has a word for it.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            writes.push(Write::new("io.max", format!("{}:{} {what}={rate}", device.major(), device.minor())));
        }
    }
    Ok(writes)
}

/// What `unified` says, in a fixed order.
pub(in crate::cgroup) fn unified(resources: &LinuxResources) -> Result<Vec<Write>, CgroupError> {
    let mut writes = Vec::new();
    for (file, value) in resources.unified().iter().flatten() {
        let fine =
            file.split_once('.').is_some_and(|(controller, rest)| !controller.is_empty() && !rest.is_empty());
        if !fine || file.contains('/') {
            return Err(CgroupError::UnifiedName { file: file.clone() });
        }
        // The kernel takes one line at a time.
        writes.extend(value.lines().map(|line| Write::new(file.clone(), line)));
    }
    writes.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(writes)
}
