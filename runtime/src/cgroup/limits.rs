//! A container's limits, and what is written to which file for them. Pure.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

/// Devices that every container may use (runc's `AllowedDevices`): making any node; null, zero, full, random, urandom,
/// tty, console, ptmx, pts.
const DEFAULT_DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The kernel's default CPU period, microseconds.
const CPU_PERIOD_DEFAULT: u64 = 100_000;

/// What a container may use. `None`: no limit is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, bytes. -1: unlimited.
    pub memory: Option<i64>,
    /// Memory and swap together, bytes (as OCI and Docker count it). -1: unlimited swap.
    pub memory_swap: Option<i64>,
    /// Memory kept under pressure, bytes.
    pub memory_reservation: Option<i64>,
    /// CPU time per period, microseconds. 0 or less: unlimited.
    pub cpu_quota: Option<i64>,
    /// The period, microseconds.
    pub cpu_period: Option<u64>,
    /// Relative weight, 2 to 262,144; 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// Processes and threads. 0 or less: unlimited.
    pub pids: Option<i64>,
    /// Device rules in order: allowed or denied, and the v1 controller's text.
    pub devices: Vec<(bool, String)>,
}

impl Limits {
    /// Takes what this runtime knows from an OCI spec's resources. A rule that denies everything brings the default
    /// devices after it, as in runc. On v2 device rules are not enforced (that takes an eBPF program).
    pub fn from_oci(resources: &LinuxResources) -> Self {
        let mut limits = Self::default();
        if let Some(memory) = resources.memory() {
            limits.memory = memory.limit();
            limits.memory_swap = memory.swap();
            limits.memory_reservation = memory.reservation();
        }
        if let Some(cpu) = resources.cpu() {
            limits.cpu_quota = cpu.quota();
            limits.cpu_period = cpu.period();
            limits.cpu_shares = cpu.shares().filter(|shares| *shares > 0);
        }
        limits.pids = resources.pids().map(|pids| pids.limit());
        for rule in resources.devices().iter().flatten() {
            if is_everything(rule) {
                limits.devices.push((rule.allow(), "a".to_owned()));
                if !rule.allow() {
                    limits.devices.extend(DEFAULT_DEVICES.map(|device| (true, device.to_owned())));
                }
            } else {
                limits.devices.push((rule.allow(), rule.to_string()));
            }
        }
        limits
    }

    /// Controllers without which these limits mean nothing. (Device rules are not among them: v2 has no such
    /// controller.)
    pub(super) fn needed(&self) -> impl Iterator<Item = &'static str> {
        let memory = self.memory.is_some_and(|limit| limit > 0);
        let cpu = self.cpu_quota.is_some_and(|quota| quota > 0);
        let pids = self.pids.is_some_and(|limit| limit > 0);
        [(memory, "memory"), (cpu, "cpu"), (pids, "pids")]
            .into_iter()
            .filter(|pair| pair.0)
            .map(|pair| pair.1)
    }

    /// Files and values in a v1 directory with these controllers, in the order in which the kernel accepts them.
    pub(super) fn v1_writes(&self, controllers: &[String]) -> Vec<(&'static str, String)> {
        let has = |name: &str| controllers.iter().any(|controller| controller == name);
        let mut writes = Vec::new();
        let mut add =
            |file: &'static str, value: Option<String>| writes.extend(value.map(|value| (file, value)));
        if has("memory") {
            add("memory.limit_in_bytes", self.memory.map(|limit| limit.to_string()));
            // Never below the limit just set, so it comes second.
            add("memory.memsw.limit_in_bytes", self.memory_swap.map(|limit| limit.to_string()));
            add("memory.soft_limit_in_bytes", self.memory_reservation.map(|limit| limit.to_string()));
        }
        if has("cpu") {
            add("cpu.shares", self.cpu_shares.map(|shares| shares.to_string()));
            add(
                "cpu.cfs_period_us",
                self.cpu_period.filter(|period| *period > 0).map(|period| period.to_string()),
            );
            add(
                "cpu.cfs_quota_us",
                self.cpu_quota.map(|quota| if quota > 0 { quota.to_string() } else { "-1".to_owned() }),
            );
        }
        if has("pids") {
            add("pids.max", self.pids.map(number_or_max));
        }
        if has("devices") {
            for (allow, rule) in &self.devices {
                add(if *allow { "devices.allow" } else { "devices.deny" }, Some(rule.clone()));
            }
        }
        writes
    }

    /// Files and values in a v2 directory whose parent offers these controllers.
    pub(super) fn v2_writes(&self, controllers: &[String]) -> Vec<(&'static str, String)> {
        let has = |name: &str| controllers.iter().any(|controller| controller == name);
        let mut writes = Vec::new();
        let mut add =
            |file: &'static str, value: Option<String>| writes.extend(value.map(|value| (file, value)));
        if has("memory") {
            add("memory.max", self.memory.map(number_or_max));
            // OCI counts memory and swap together, v2 counts swap alone.
            let swap = match (self.memory_swap, self.memory) {
                (Some(total), Some(memory)) if total >= 0 && memory >= 0 => {
                    Some((total - memory).max(0).to_string())
                }
                (Some(total), _) if total < 0 => Some("max".to_owned()),
                _ => None,
            };
            add("memory.swap.max", swap);
            add("memory.low", self.memory_reservation.map(number_or_max));
        }
        if has("cpu") {
            // The conversion of the kernel's own documentation and runc: [2, 262144] to [1, 10000].
            let weight = self.cpu_shares.map(|shares| 1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142);
            add("cpu.weight", weight.map(|weight| weight.to_string()));
            if self.cpu_quota.is_some() || self.cpu_period.is_some() {
                let quota = self.cpu_quota.filter(|quota| *quota > 0);
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                let period = self.cpu_period.filter(|period| *period > 0).unwrap_or(CPU_PERIOD_DEFAULT);
                add("cpu.max", Some(format!("{quota} {period}")));
            }
        }
        if has("pids") {
            add("pids.max", self.pids.map(number_or_max));
        }
        writes
    }
}

fn number_or_max(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".to_owned() }
}

fn is_everything(rule: &LinuxDeviceCgroup) -> bool {
    let wild = |number: Option<i64>| number.is_none_or(|number| number < 0);
    rule.typ().is_none_or(|typ| typ.as_str() == "a") && wild(rule.major()) && wild(rule.minor())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        ["memory", "cpu", "pids", "devices"].map(str::to_owned).to_vec()
    }

    #[test]
    fn v2_values() {
        let limits = Limits {
            memory: Some(64 << 20),
            memory_swap: Some(96 << 20),
            cpu_quota: Some(50_000),
            cpu_shares: Some(1024),
            pids: Some(0),
            ..Limits::default()
        };
        let writes = limits.v2_writes(&all());
        let expected = [
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("pids.max", "max"),
        ];
        assert_eq!(writes, expected.map(|(file, value)| (file, value.to_owned())));
        assert!(limits.v2_writes(&[]).is_empty());
    }

    #[test]
    fn v1_memory_comes_before_memory_with_swap() {
        let limits =
            Limits { memory: Some(1), memory_swap: Some(-1), cpu_quota: Some(0), ..Limits::default() };
        let expected = [
            ("memory.limit_in_bytes", "1"),
            ("memory.memsw.limit_in_bytes", "-1"),
            ("cpu.cfs_quota_us", "-1"),
        ];
        assert_eq!(limits.v1_writes(&all()), expected.map(|(file, value)| (file, value.to_owned())));
    }

    #[test]
    fn dockers_deny_all_brings_the_default_devices() {
        let spec = crate::spec::default_spec();
        let linux = spec.linux().clone().unwrap();
        let limits = Limits::from_oci(linux.resources().as_ref().unwrap());
        assert_eq!(limits.devices[0], (false, "a".to_owned()));
        assert!(limits.devices.contains(&(true, "c 1:3 rwm".to_owned())));
        assert_eq!(limits.devices.len(), 1 + DEFAULT_DEVICES.len());
    }
}
