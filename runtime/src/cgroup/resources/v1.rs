//! Files and values of cgroup v1.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Family, Write, pids_max, rdma};
use crate::cgroup::CgroupError;

/// The kernel's bounds of `cpu.shares`; outside of them it would silently take the nearest.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// What to write for a family. `has`: whether the group has a file.
pub(in crate::cgroup) fn writes(
    family: Family,
    resources: &LinuxResources,
    has: &dyn Fn(&str) -> bool,
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
                return memory_writes(memory);
            }
        }
        Family::Cpu => {
            if let Some(cpu) = resources.cpu() {
                return cpu_writes(cpu);
            }
        }
        Family::Pids => {
            writes.extend(resources.pids().map(|pids| Write::new("pids.max", pids_max(pids.limit()))))
        }
        Family::BlockIo => return Ok(block_io_writes(resources, has)),
        Family::Hugetlb => {
            for limit in resources.hugepage_limits().iter().flatten() {
                let file = format!("hugetlb.{}", limit.page_size());
                writes.push(Write::new(format!("{file}.limit_in_bytes"), limit.limit()));
                writes.push(Write::optional(format!("{file}.rsvd.limit_in_bytes"), limit.limit()));
            }
        }
        Family::Rdma => return Ok(rdma(resources)),
        Family::NetCls => {
            if let Some(id) =
                resources.network().as_ref().and_then(|network| network.class_id()).filter(|id| *id > 0)
            {
                writes.push(Write::new("net_cls.classid", id));
            }
        }
        Family::NetPrio => {
            let network = resources.network().iter();
            for priority in network.flat_map(|network| network.priorities().iter().flatten()) {
                writes.push(Write::new(
                    "net_prio.ifpriomap",
                    format!("{} {}", priority.name(), priority.priority()),
                ));
            }
        }
    }
    Ok(writes)
}

/// The limit on kernel memory is not among them: the kernel has dropped it, and runc ignores it.
fn memory_writes(memory: &LinuxMemory) -> Result<Vec<Write>, CgroupError> {
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let mut writes = Vec::new();
    if memory.use_hierarchy() == Some(true) {
        // Always so since Linux 5.11; before, it must be said while the group has no children.
        writes.push(Write::optional("memory.use_hierarchy", 1));
    }
    let (limit, swap) = (set(memory.limit()), set(memory.swap()));
    writes.extend(limit.map(|limit| Write::new("memory.limit_in_bytes", limit)));
    match (limit, swap) {
        // No limit on memory makes no sense with the old one on memory and swap.
        (Some(-1), None) => writes.push(Write::optional("memory.memsw.limit_in_bytes", -1)),
        // Without swap accounting there is nothing to lift.
        (_, Some(-1)) => writes.push(Write::optional("memory.memsw.limit_in_bytes", -1)),
        (_, swap) => writes.extend(swap.map(|swap| Write::new("memory.memsw.limit_in_bytes", swap))),
    }
    writes.extend(set(memory.reservation()).map(|soft| Write::new("memory.soft_limit_in_bytes", soft)));
    if memory.disable_oom_killer() == Some(true) {
        writes.push(Write::new("memory.oom_control", 1));
    }
    match memory.swappiness() {
        // -1 as some callers write it: not set.
        None | Some(u64::MAX) => {}
        Some(value @ 0..=100) => writes.push(Write::new("memory.swappiness", value)),
        Some(value) => {
            let why = "it is a number from 0 to 100";
            return Err(CgroupError::Value { field: "memory.swappiness", value: value.to_string(), why });
        }
    }
    Ok(writes)
}

fn cpu_writes(cpu: &LinuxCpu) -> Result<Vec<Write>, CgroupError> {
    let mut writes = Vec::new();
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        if !SHARES.contains(&shares) {
            let why = "it is a number from 2 to 262144";
            return Err(CgroupError::Value { field: "cpu.shares", value: shares.to_string(), why });
        }
        writes.push(Write::new("cpu.shares", shares));
    }
    writes.extend(
        cpu.period().filter(|period| *period > 0).map(|period| Write::new("cpu.cfs_period_us", period)),
    );
    writes.extend(cpu.burst().map(|burst| {
        // No burst is what a kernel without it has.
        if burst == 0 {
            Write::optional("cpu.cfs_burst_us", 0)
        } else {
            Write::new("cpu.cfs_burst_us", burst)
        }
    }));
    writes.extend(
        cpu.quota().filter(|quota| *quota != 0).map(|quota| Write::new("cpu.cfs_quota_us", quota.max(-1))),
    );
    writes.extend(cpu.idle().map(|idle| Write::new("cpu.idle", idle)));
    let period = cpu.realtime_period().filter(|period| *period > 0);
    writes.extend(period.map(|period| Write::new("cpu.rt_period_us", period)));
    let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
    writes.extend(runtime.map(|runtime| Write::new("cpu.rt_runtime_us", runtime)));
    Ok(writes)
}

fn block_io_writes(resources: &LinuxResources, has: &dyn Fn(&str) -> bool) -> Vec<Write> {
    let Some(io) = resources.block_io() else { return Vec::new() };
    let mut writes = Vec::new();
    // The files of the old scheduler, or those of BFQ.
    let prefix = if has("blkio.weight") { "blkio" } else { "blkio.bfq" };
    let set = |weight: Option<u16>| weight.filter(|weight| *weight > 0);
    writes.extend(set(io.weight()).map(|weight| Write::new(format!("{prefix}.weight"), weight)));
    writes.extend(set(io.leaf_weight()).map(|weight| Write::new("blkio.leaf_weight", weight)));
    for device in io.weight_device().iter().flatten() {
        let line = |weight| format!("{}:{} {weight}", device.major(), device.minor());
        let file = format!("{prefix}.weight_device");
        writes.extend(set(device.weight()).map(|weight| Write::new(file, line(weight))));
        let leaf = set(device.leaf_weight());
        writes.extend(leaf.map(|weight| Write::new("blkio.leaf_weight_device", line(weight))));
    }
    let lists: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("read_bps", io.throttle_read_bps_device()),
        ("write_bps", io.throttle_write_bps_device()),
        ("read_iops", io.throttle_read_iops_device()),
        ("write_iops", io.throttle_write_iops_device()),
    ];
    for (what, devices) in lists {
        for device in devices.iter().flatten() {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            writes.push(Write::new(format!("blkio.throttle.{what}_device"), line));
        }
    }
    writes
}
