//! Statistics from v1 files.

use std::path::Path;

use super::{
    BlkioEntry, BlkioStats, CgroupError, HugetlbStats, MemoryEntry, Stats, huge_page_sizes, number, pairs,
    text,
};

/// Nanoseconds of a tick of `cpuacct.stat`; Linux counts 100 of them a second for programs on every architecture.
const TICK: u64 = 10_000_000;

/// The families of files for the same eight numbers. The first whose first file has lines counts, as in runc: the BFQ
/// scheduler's, CFQ's (gone since Linux 5.0), and the throttling layer's two, which have no more than two of them.
const BLKIO_PREFIXES: [(&str, &str); 4] = [
    ("blkio.bfq.", "_recursive"),
    ("blkio.", "_recursive"),
    ("blkio.throttle.", "_recursive"),
    ("blkio.throttle.", ""),
];

pub(super) fn read(controller: &str, path: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
    if !path.exists() {
        return Ok(());
    }
    match controller {
        "memory" => {
            stats.memory.raw = pairs(path, "memory.stat")?.into_iter().collect();
            stats.memory.cache = stats.memory.raw.get("cache").copied().unwrap_or(0);
            stats.memory.usage = memory(path, "memory")?;
            stats.memory.swap = memory(path, "memory.memsw")?;
            stats.memory.kernel = memory(path, "memory.kmem")?;
            stats.memory.kernel_tcp = memory(path, "memory.kmem.tcp")?;
        }
        "cpu" => {
            for (key, value) in pairs(path, "cpu.stat")? {
                match key.as_str() {
                    "nr_periods" => stats.cpu.throttling.periods = value,
                    "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
                    "throttled_time" => stats.cpu.throttling.throttled_time = value,
                    _ => {}
                }
            }
        }
        "cpuacct" => cpuacct(path, stats)?,
        "pids" => {
            stats.pids.current = number(path, "pids.current")?;
            stats.pids.limit = Some(number(path, "pids.max")?).filter(|max| *max != u64::MAX).unwrap_or(0);
        }
        "blkio" => stats.blkio = blkio(path)?,
        "cpuset" => cpuset(path, stats)?,
        "hugetlb" => {
            for size in huge_page_sizes() {
                let rsvd = format!("hugetlb.{size}.rsvd");
                let prefix = if path.join(format!("{rsvd}.usage_in_bytes")).exists() {
                    rsvd
                } else {
                    format!("hugetlb.{size}")
                };
                let entry = HugetlbStats {
                    usage: number(path, &format!("{prefix}.usage_in_bytes"))?,
                    max: number(path, &format!("{prefix}.max_usage_in_bytes"))?,
                    failcnt: number(path, &format!("{prefix}.failcnt"))?,
                };
                stats.hugetlb.insert(size, entry);
            }
        }
        _ => {}
    }
    Ok(())
}

fn memory(path: &Path, prefix: &str) -> Result<MemoryEntry, CgroupError> {
    Ok(MemoryEntry {
        usage: number(path, &format!("{prefix}.usage_in_bytes"))?,
        max: number(path, &format!("{prefix}.max_usage_in_bytes"))?,
        failcnt: number(path, &format!("{prefix}.failcnt"))?,
        limit: number(path, &format!("{prefix}.limit_in_bytes"))?,
    })
}

fn cpuacct(path: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
    let usage = &mut stats.cpu.usage;
    usage.total = number(path, "cpuacct.usage")?;
    for (key, ticks) in pairs(path, "cpuacct.stat")? {
        match key.as_str() {
            "user" => usage.user = ticks.saturating_mul(TICK),
            "system" => usage.kernel = ticks.saturating_mul(TICK),
            _ => {}
        }
    }
    let wrong = |file: &str| CgroupError::Content { path: path.join(file) };
    for value in text(path, "cpuacct.usage_percpu")?.split_whitespace() {
        usage.percpu.push(value.parse().map_err(|_| wrong("cpuacct.usage_percpu"))?);
    }
    // "cpu user system", then a line for each CPU.
    for line in text(path, "cpuacct.usage_all")?.lines().skip(1) {
        let mut fields =
            line.split(' ').skip(1).map(|field| field.parse().map_err(|_| wrong("cpuacct.usage_all")));
        if let (Some(user), Some(kernel)) = (fields.next(), fields.next()) {
            usage.percpu_user.push(user?);
            usage.percpu_kernel.push(kernel?);
        }
    }
    Ok(())
}

fn cpuset(path: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
    let set = &mut stats.cpuset;
    set.cpus = list(path, "cpuset.cpus")?;
    set.mems = list(path, "cpuset.mems")?;
    set.cpu_exclusive = number(path, "cpuset.cpu_exclusive")?;
    set.mem_hardwall = number(path, "cpuset.mem_hardwall")?;
    set.mem_exclusive = number(path, "cpuset.mem_exclusive")?;
    set.memory_migrate = number(path, "cpuset.memory_migrate")?;
    set.memory_spread_page = number(path, "cpuset.memory_spread_page")?;
    set.memory_spread_slab = number(path, "cpuset.memory_spread_slab")?;
    set.memory_pressure = number(path, "cpuset.memory_pressure")?;
    set.sched_load_balance = number(path, "cpuset.sched_load_balance")?;
    let level = text(path, "cpuset.sched_relax_domain_level")?;
    set.sched_relax_domain_level = level.trim().parse().unwrap_or(0);
    Ok(())
}

/// A list such as `0-3,7`.
fn list(path: &Path, file: &str) -> Result<Vec<u16>, CgroupError> {
    let text = text(path, file)?;
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return Err(CgroupError::Content { path: path.join(file) });
        };
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

fn blkio(path: &Path) -> Result<BlkioStats, CgroupError> {
    let mut stats = BlkioStats::default();
    for (prefix, suffix) in BLKIO_PREFIXES {
        let entries = |name: &str| blkio_entries(path, &format!("{prefix}{name}{suffix}"));
        stats.io_serviced_recursive = entries("io_serviced")?;
        if stats.io_serviced_recursive.is_empty() {
            continue;
        }
        stats.io_service_bytes_recursive = entries("io_service_bytes")?;
        stats.sectors_recursive = entries("sectors")?;
        stats.io_service_time_recursive = entries("io_service_time")?;
        stats.io_wait_time_recursive = entries("io_wait_time")?;
        stats.io_merged_recursive = entries("io_merged")?;
        stats.io_queued_recursive = entries("io_queued")?;
        stats.io_time_recursive = entries("time")?;
        break;
    }
    Ok(stats)
}

/// Lines "8:0 Read 123" or "8:0 123"; the total at the end is left out.
fn blkio_entries(path: &Path, file: &str) -> Result<Vec<BlkioEntry>, CgroupError> {
    let text = text(path, file)?;
    let lines = text.lines().filter(|line| !line.starts_with("Total"));
    let entries = lines.map(|line| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (op, value) = rest.rsplit_once(' ').unwrap_or(("", rest));
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.parse().ok()?,
        })
    });
    entries.collect::<Option<_>>().ok_or_else(|| CgroupError::Content { path: path.join(file) })
}
