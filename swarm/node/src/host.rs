//! What a node says of its host, and how the keeper is started on it.

use std::ffi::OsString;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use skep_runtime::keeper::KeeperOptions;
use skep_state::NodeDescription;
use skep_state::object::EngineDescription;
use skep_state::spec::{Platform, Resources};

use crate::NodeConfig;

/// What the node says of itself to the managers.
pub(crate) fn description(config: &NodeConfig) -> NodeDescription {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    NodeDescription {
        hostname: config.hostname.clone(),
        platform: Platform { architecture: std::env::consts::ARCH.to_owned(), os: "linux".to_owned() },
        resources: Resources {
            nano_cpus: i64::try_from(cpus).unwrap_or(1).saturating_mul(1_000_000_000),
            memory_bytes: memory_bytes(),
            generic_resources: Vec::new(),
        },
        engine: EngineDescription { engine_version: config.version.clone(), ..EngineDescription::default() },
    }
}

/// Bytes of memory; 0 where the kernel does not say.
fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// 2 where the unified hierarchy is all there is, else 1 (hybrid hosts keep their controllers in version 1).
pub(crate) fn cgroup_version() -> u8 {
    let unified =
        statfs(Path::new("/sys/fs/cgroup")).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if unified { 2 } else { 1 }
}

/// The command that starts the keeper: this very program.
pub(crate) fn keeper_command(options: &KeeperOptions) -> Vec<OsString> {
    let program = std::env::current_exe().map_or_else(|_| OsString::from("/proc/self/exe"), Into::into);
    let mut command: Vec<OsString> = vec![
        program,
        "keeper".into(),
        "--run".into(),
        options.run_dir.clone().into(),
        "--state".into(),
        options.state_dir.clone().into(),
        "--cgroup-parent".into(),
        options.cgroup_parent.clone().into(),
    ];
    if let Some(respawn) = &options.respawn {
        command.push("--respawn".into());
        command.push("--".into());
        command.extend(respawn.iter().cloned());
    }
    command
}
