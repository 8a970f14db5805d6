//! Statistics from v2 files, in v1's terms.

use std::path::Path;

use super::{
    BlkioEntry, CgroupError, HugetlbStats, MemoryEntry, Stats, huge_page_sizes, number, pairs, pressure, text,
};

pub(super) fn read(path: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
    memory(path, stats)?;
    stats.memory.psi = pressure(path, "memory.pressure")?;
    for (key, value) in pairs(path, "cpu.stat")? {
        let nanoseconds = value.saturating_mul(1000);
        match key.as_str() {
            "usage_usec" => stats.cpu.usage.total = nanoseconds,
            "user_usec" => stats.cpu.usage.user = nanoseconds,
            "system_usec" => stats.cpu.usage.kernel = nanoseconds,
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_usec" => stats.cpu.throttling.throttled_time = nanoseconds,
            _ => {}
        }
    }
    stats.cpu.psi = pressure(path, "cpu.pressure")?;
    if path.join("pids.current").exists() {
        stats.pids.current = number(path, "pids.current")?;
        stats.pids.limit = Some(number(path, "pids.max")?).filter(|max| *max != u64::MAX).unwrap_or(0);
    } else {
        stats.pids.current = text(path, "cgroup.procs")?.lines().count() as u64;
    }
    io(path, stats)?;
    stats.blkio.psi = pressure(path, "io.pressure")?;
    for size in huge_page_sizes() {
        let prefix = format!("hugetlb.{size}");
        let rsvd = format!("{prefix}.rsvd.current");
        let file = if path.join(&rsvd).exists() { rsvd } else { format!("{prefix}.current") };
        if !path.join(&file).exists() {
            continue;
        }
        let events = pairs(path, &format!("{prefix}.events"))?;
        let failcnt = events.iter().find(|pair| pair.0 == "max").map_or(0, |pair| pair.1);
        stats.hugetlb.insert(size, HugetlbStats { usage: number(path, &file)?, max: 0, failcnt });
    }
    Ok(())
}

fn memory(path: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
    if !path.join("memory.current").exists() {
        return Ok(());
    }
    let memory = &mut stats.memory;
    memory.raw = pairs(path, "memory.stat")?.into_iter().collect();
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    memory.usage = MemoryEntry {
        usage: number(path, "memory.current")?,
        max: number(path, "memory.peak")?,
        limit: number(path, "memory.max")?,
        failcnt: 0,
    };
    // v1 counts memory and swap together.
    memory.swap.usage = number(path, "memory.swap.current")?.saturating_add(memory.usage.usage);
    memory.swap.limit = number(path, "memory.swap.max")?.saturating_add(memory.usage.limit);
    Ok(())
}

/// Lines "8:0 rbytes=1 wbytes=2 rios=3 …", or a device alone that did nothing.
fn io(path: &Path, stats: &mut Stats) -> Result<(), CgroupError> {
    for line in text(path, "io.stat")?.lines() {
        let mut fields = line.split_whitespace();
        let device = fields.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut stats.blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut stats.blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut stats.blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            let value = value.parse().map_err(|_| CgroupError::Content { path: path.join("io.stat") })?;
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    Ok(())
}
