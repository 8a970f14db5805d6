//! The JSON of runc's `events --stats`, its `data`. Zeros are left out where runc leaves them out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a group uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time.
    #[serde(default)]
    pub cpu: CpuStats,
    /// CPUs and memory nodes.
    #[serde(default)]
    pub cpuset: CpusetStats,
    /// Memory.
    #[serde(default)]
    pub memory: MemoryStats,
    /// Processes and threads.
    #[serde(default)]
    pub pids: PidsStats,
    /// Block I/O.
    #[serde(default)]
    pub blkio: BlkioStats,
    /// Huge pages by their size.
    #[serde(default)]
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// Intel RDT, which is no cgroup: for the caller to fill.
    #[serde(default)]
    pub intel_rdt: BTreeMap<String, serde_json::Value>,
    /// Network interfaces, for the caller to fill.
    #[serde(default)]
    pub network_interfaces: Option<Vec<serde_json::Value>>,
}

/// CPU time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuStats {
    /// Used.
    #[serde(default, skip_serializing_if = "zero")]
    pub usage: CpuUsage,
    /// Denied by the quota.
    #[serde(default, skip_serializing_if = "zero")]
    pub throttling: Throttling,
    /// Waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// CPU time used, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// In all.
    #[serde(default, skip_serializing_if = "zero")]
    pub total: u64,
    /// On each CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// On each CPU, in the kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// On each CPU, in programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// What the CPU quota denied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods so far.
    #[serde(default, skip_serializing_if = "zero")]
    pub periods: u64,
    /// Periods in which the quota was used up.
    #[serde(default, skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Time waited for it, in nanoseconds.
    #[serde(default, skip_serializing_if = "zero")]
    pub throttled_time: u64,
}

/// Pressure stall information.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Psi {
    /// Some tasks waited.
    #[serde(default, skip_serializing_if = "zero")]
    pub some: PsiPart,
    /// All of them did.
    #[serde(default, skip_serializing_if = "zero")]
    pub full: PsiPart,
}

/// Shares of the last seconds, in percent, and the time in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PsiPart {
    /// Of the last 10 seconds.
    pub avg10: f64,
    /// Of the last 60 seconds.
    pub avg60: f64,
    /// Of the last 300 seconds.
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

/// CPUs and memory nodes. The flags are v1's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the kernel's file of that name")]
pub struct CpusetStats {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Page cache.
    #[serde(default, skip_serializing_if = "zero")]
    pub cache: u64,
    /// Memory.
    #[serde(default, skip_serializing_if = "zero")]
    pub usage: MemoryEntry,
    /// Memory and swap together.
    #[serde(default, skip_serializing_if = "zero")]
    pub swap: MemoryEntry,
    /// The kernel's.
    #[serde(default, skip_serializing_if = "zero")]
    pub kernel: MemoryEntry,
    /// The kernel's for TCP.
    #[serde(default, rename = "kernelTCP", skip_serializing_if = "zero")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// One kind of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// In use.
    #[serde(default, skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most that was in use.
    #[serde(default, skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    /// Now.
    #[serde(default, skip_serializing_if = "zero")]
    pub current: u64,
    /// At most; 0: without limit.
    #[serde(default, skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Block I/O.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is the kernel's file of that name")]
pub struct BlkioStats {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(default, rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// One device's number for one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioEntry {
    /// The device's major number.
    #[serde(default, skip_serializing_if = "zero")]
    pub major: u64,
    /// Its minor number.
    #[serde(default, skip_serializing_if = "zero")]
    pub minor: u64,
    /// The operation.
    #[serde(default, skip_serializing_if = "zero")]
    pub op: String,
    /// Bytes, operations, …
    #[serde(default, skip_serializing_if = "zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugetlbStats {
    /// In use.
    #[serde(default, skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most that was in use.
    #[serde(default, skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}
