//! What an OCI spec's resources mean in the files of each kernel interface. Pure.
//!
//! A [`Family`] is what one controller governs. For each there is a v1 form and, where v2 has it, a v2 form; which of
//! them is used is decided by where the host has the controller. As in runc, zero stands for "not set" where the
//! kernel has no use for a zero.

#[cfg(test)]
mod tests;
pub(super) mod v1;
pub(super) mod v2;

use oci_spec::runtime::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};

/// A value for a file of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) file: String,
    pub(super) value: String,
    /// Where the kernel lacks the file, the value is not needed.
    pub(super) optional: bool,
}

impl Write {
    fn new(file: impl Into<String>, value: impl ToString) -> Self {
        Self { file: file.into(), value: value.to_string(), optional: false }
    }

    fn optional(file: impl Into<String>, value: impl ToString) -> Self {
        Self { optional: true, ..Self::new(file, value) }
    }
}

/// What one controller governs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Cpuset,
    Memory,
    Cpu,
    Pids,
    BlockIo,
    Hugetlb,
    Rdma,
    NetCls,
    NetPrio,
}

impl Family {
    /// In the order in which they are set.
    pub(super) const ALL: [Self; 9] = [
        Self::Cpuset,
        Self::Memory,
        Self::Cpu,
        Self::Pids,
        Self::BlockIo,
        Self::Hugetlb,
        Self::Rdma,
        Self::NetCls,
        Self::NetPrio,
    ];

    /// The v1 controller.
    pub(super) const fn v1_name(self) -> &'static str {
        match self {
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::BlockIo => "blkio",
            Self::Hugetlb => "hugetlb",
            Self::Rdma => "rdma",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
        }
    }

    /// The v2 controller, where there is one.
    pub(super) const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::BlockIo => Some("io"),
            Self::NetCls | Self::NetPrio => None,
            _ => Some(self.v1_name()),
        }
    }
}

/// Whether anything is asked for that takes the controller.
pub(super) fn needs(family: Family, resources: &LinuxResources) -> bool {
    let non_zero = |value: Option<i64>| value.is_some_and(|value| value != 0);
    match family {
        Family::Cpuset => resources
            .cpu()
            .as_ref()
            .is_some_and(|cpu| [cpu.cpus(), cpu.mems()].into_iter().flatten().any(|list| !list.is_empty())),
        Family::Memory => resources.memory().as_ref().is_some_and(|memory| {
            [memory.limit(), memory.reservation(), memory.swap()].into_iter().any(non_zero)
                || memory.swappiness().is_some()
                || memory.disable_oom_killer() == Some(true)
        }),
        Family::Cpu => resources.cpu().as_ref().is_some_and(|cpu| {
            [cpu.quota(), cpu.realtime_runtime()].into_iter().any(non_zero)
                || [cpu.shares(), cpu.period(), cpu.realtime_period()]
                    .into_iter()
                    .any(|n| n.is_some_and(|n| n > 0))
                || cpu.burst().is_some()
                || cpu.idle().is_some()
        }),
        Family::Pids => resources.pids().is_some_and(|pids| pids.limit() >= 0),
        Family::BlockIo => resources.block_io().as_ref().is_some_and(block_io_is_set),
        Family::Hugetlb => resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()),
        Family::Rdma => resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty()),
        Family::NetCls => {
            resources.network().as_ref().is_some_and(|net| net.class_id().is_some_and(|id| id > 0))
        }
        Family::NetPrio => resources
            .network()
            .as_ref()
            .is_some_and(|net| net.priorities().as_ref().is_some_and(|list| !list.is_empty())),
    }
}

/// All that a spec's limits become on either interface and for systemd; a file of a group may hold anything.
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    let Ok(resources) = serde_json::from_slice::<LinuxResources>(bytes) else { return };
    for family in Family::ALL {
        for there in [true, false] {
            let _ = v1::writes(family, &resources, &|_| there);
            let _ = v2::writes(family, &resources, &|_| there.then(|| "9223372036854775807 1".to_owned()));
        }
        let _ = needs(family, &resources);
    }
    let _ = v2::unified(&resources);
    let _ = super::Limits::from_oci(&resources);
    super::systemd::fuzz_resources(&resources);
}

fn block_io_is_set(io: &LinuxBlockIo) -> bool {
    let some = |list: &Option<Vec<LinuxThrottleDevice>>| list.as_ref().is_some_and(|list| !list.is_empty());
    io.weight().is_some_and(|weight| weight > 0)
        || io.leaf_weight().is_some_and(|weight| weight > 0)
        || io.weight_device().as_ref().is_some_and(|list| !list.is_empty())
        || some(io.throttle_read_bps_device())
        || some(io.throttle_write_bps_device())
        || some(io.throttle_read_iops_device())
        || some(io.throttle_write_iops_device())
}

fn pids_max(limit: i64) -> String {
    match limit {
        ..0 => "max".to_owned(),
        // A zero would keep the first process from being cloned into the group; one more is denied by a one as well.
        0 => "1".to_owned(),
        limit => limit.to_string(),
    }
}

/// The lines for `rdma.max`, which is the same file on both.
fn rdma(resources: &LinuxResources) -> Vec<Write> {
    let mut lines = Vec::new();
    for (device, limits) in resources.rdma().iter().flatten() {
        let mut line = device.clone();
        line.extend(limits.hca_handles().map(|handles| format!(" hca_handle={handles}")));
        line.extend(limits.hca_objects().map(|objects| format!(" hca_object={objects}")));
        lines.push(Write::new("rdma.max", line));
    }
    lines.sort_by(|a, b| a.value.cmp(&b.value));
    lines
}
