//! The container's process: who it is, what it may do, what it runs. Nothing here is about the container as a whole, so
//! that a process that joins a running one is planned in the same way.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use oci_spec::runtime::{Linux, PosixRlimit, PosixRlimitType, Process};
use rustix::process::{Gid, Uid};

use super::environment::{self, Program};
use super::{attributes, lsm};
use crate::container::attribute::Attribute;
use crate::container::plan::{Limit, Step};
use crate::container::{CreateError, c_string, capabilities, confine};
use crate::seccomp::Filter;

/// Largest user or group ID: the same bound as for images (containerd's CVE-2024-40635).
const ID_MAX: u32 = i32::MAX as u32;

/// umask of a container's process when the spec has none (runc).
const DEFAULT_UMASK: u32 = 0o022;

/// What a process's plan depends on beside the process itself.
pub(in crate::container) struct Surroundings<'a> {
    /// Name of the container.
    pub(in crate::container) id: &'a str,
    /// The container's settings that hold for every process of it.
    pub(in crate::container) linux: &'a Linux,
    /// The container's first process; others join it.
    pub(in crate::container) init: bool,
    /// A session keyring of the container's own.
    pub(in crate::container) new_keyring: bool,
    /// The process lives in a user namespace other than this one.
    pub(in crate::container) userns: bool,
    /// The filter, instead of that of the profile.
    pub(in crate::container) filter: Option<Arc<Filter>>,
}

/// A process's part of a plan.
pub(in crate::container) struct PlannedProcess {
    /// Before a cgroup is joined.
    pub(in crate::container) first: Option<Step>,
    /// When the namespaces, groups and mounts are what they will be and the root is `/`. They need a procfs
    /// ([`Step::OpenProc`]) if there is a label or an OOM score.
    pub(in crate::container) steps: Vec<Step>,
    /// When the program was found and the other descriptors were closed.
    pub(in crate::container) last: Vec<Step>,
    /// The filter among them.
    pub(in crate::container) filter: Option<Arc<Filter>>,
    pub(in crate::container) program: Program,
}

impl PlannedProcess {
    /// The score is written from outside of a user namespace: to lower it takes a right that is not had there.
    pub(in crate::container) fn take_oom_score(&mut self) -> Option<Vec<u8>> {
        let index = self.steps.iter().position(|step| matches!(step, Step::OomScore(_)))?;
        match self.steps.remove(index) {
            Step::OomScore(score) => Some(score),
            _ => None,
        }
    }
}

/// Plans a process.
pub(in crate::container) fn plan(
    process: &Process,
    around: &Surroundings<'_>,
) -> Result<PlannedProcess, CreateError> {
    let linux = around.linux;
    let user = process.user();
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if let Some(id) = [user.uid(), user.gid()].iter().chain(groups).find(|id| **id > ID_MAX) {
        return Err(CreateError::Invalid(format!("user or group {id}: at most {ID_MAX} can be")));
    }
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(CreateError::Invalid(format!(
            "the working directory {:?} is not absolute",
            cwd.display().to_string()
        )));
    }
    let cwd = c_string(cwd.as_os_str().as_bytes(), "the working directory")?;
    let program = environment::plan(process)?;
    let mut attributes = attributes::plan(process, around)?;
    attributes.extend(lsm::plan(process)?);
    if let Some(variable) = &program.home {
        attributes.push(Attribute::Home { uid: user.uid(), variable: variable.clone() });
    }
    attributes.push(Attribute::EarlyDirectory(cwd.clone()));
    let mut steps: Vec<Step> = attributes.into_iter().map(Step::Attribute).collect();
    steps.extend(oom_score(process)?);
    // After everything that opens files, and while CAP_SYS_RESOURCE is still had.
    let limits = rlimits(process.rlimits().as_deref().unwrap_or_default())?;
    if around.userns && !limits.is_empty() {
        steps.push(Step::Limits);
    }
    steps.extend(limits);
    let capabilities = capabilities::plan(process.capabilities().as_ref(), around.userns)?;
    let confinement = confine::plan(around.filter.clone(), linux.seccomp().as_ref(), process, &capabilities)?;
    steps.extend(capabilities.drop_bounding.into_iter().map(Step::DropBounding));
    steps.push(Step::Credentials {
        groups: groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
        gid: Gid::from_raw(user.gid()),
        uid: Uid::from_raw(user.uid()),
        capabilities: confinement.until_then,
        ambient: capabilities.ambient,
    });
    if process.no_new_privileges() == Some(true) {
        steps.push(Step::NoNewPrivileges);
    }
    steps.push(Step::WorkingDirectory(cwd));
    steps.push(Step::Umask(user.umask().unwrap_or(DEFAULT_UMASK) & 0o777));
    let first = if around.init { None } else { attributes::initial_affinity(process)? };
    let first = first.map(Step::Attribute);
    Ok(PlannedProcess { first, steps, last: confinement.last, filter: confinement.filter, program })
}

/// proc(5), `/proc/PID/oom_score_adj`. Without one the process keeps the creator's.
fn oom_score(process: &Process) -> Result<Option<Step>, CreateError> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(CreateError::Invalid(format!("process.oomScoreAdj {score} is not between -1000 and 1000")))
        }
        score => Ok(score.map(|score| Step::OomScore(score.to_string().into_bytes()))),
    }
}

fn rlimits(wanted: &[PosixRlimit]) -> Result<Vec<Step>, CreateError> {
    let mut seen = HashSet::new();
    let mut steps = Vec::with_capacity(wanted.len());
    for limit in wanted {
        let name = limit.typ().to_string();
        if !seen.insert(name.clone()) {
            return Err(CreateError::Invalid(format!("process.rlimits has {name} twice")));
        }
        if limit.soft() > limit.hard() {
            return Err(CreateError::Invalid(format!(
                "process.rlimits: {name} of {} is more than its hard limit of {}",
                limit.soft(),
                limit.hard()
            )));
        }
        steps.push(Step::Rlimit {
            name,
            limit: Limit { resource: rlimit_number(limit.typ()), soft: limit.soft(), hard: limit.hard() },
        });
    }
    Ok(steps)
}

fn rlimit_number(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(value: serde_json::Value) -> Result<Vec<Step>, CreateError> {
        rlimits(&serde_json::from_value::<Vec<PosixRlimit>>(value).unwrap())
    }

    #[test]
    fn rlimits_are_each_named_once_and_never_above_the_hard_limit() {
        let infinite = limits(json!([{"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": u64::MAX}])).unwrap();
        assert!(
            matches!(&infinite[..], [Step::Rlimit { limit, .. }] if (limit.soft, limit.hard) == (u64::MAX, u64::MAX))
        );
        let twice = json!([{"type": "RLIMIT_CPU", "hard": 1, "soft": 1}, {"type": "RLIMIT_CPU", "hard": 2, "soft": 2}]);
        for bad in [twice, json!([{"type": "RLIMIT_CPU", "hard": 1, "soft": 2}])] {
            let error = limits(bad).err().unwrap().to_string();
            assert!(error.contains("RLIMIT_CPU"), "{error}");
        }
    }

    #[test]
    fn an_oom_score_out_of_range_is_refused_and_none_is_not_zero() {
        let mut process = Process::default();
        assert!(matches!(oom_score(&process), Ok(None)));
        for (score, text) in [(0, "0"), (-1000, "-1000"), (1000, "1000")] {
            process.set_oom_score_adj(Some(score));
            assert!(
                matches!(oom_score(&process), Ok(Some(Step::OomScore(value))) if value == text.as_bytes())
            );
        }
        for score in [-1001, 1001] {
            process.set_oom_score_adj(Some(score));
            assert!(oom_score(&process).err().unwrap().to_string().contains(&score.to_string()));
        }
    }
}
