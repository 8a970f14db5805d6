//! The container's process: who it is, what it may do, what it runs.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;

use oci_spec::runtime::{Linux, PosixRlimitType, Process};
use rustix::process::{Gid, Uid};

use super::Builder;
use crate::container::confine::{self, Confinement};
use crate::container::plan::{Outside, Step};
use crate::container::{CreateError, c_string, capabilities};

/// Largest user or group ID: the same bound as for images (containerd's CVE-2024-40635).
const ID_MAX: u32 = i32::MAX as u32;

/// umask of a container's process when the spec has none (runc).
const DEFAULT_UMASK: u32 = 0o022;

impl Builder<'_> {
    /// In a user namespace the score is written from outside: to lower it takes a right that the namespace has not.
    pub(super) fn score_from_outside(&mut self, outside: &mut Outside) {
        let scores = self.steps.extract_if(.., |step| matches!(step, Step::OomScore(_)));
        for step in scores {
            if let Step::OomScore(score) = step {
                outside.oom_score = Some(score);
            }
        }
    }

    pub(super) fn process(
        &mut self,
        process: &Process,
        linux: &Linux,
    ) -> Result<(String, Vec<CString>, Confinement), CreateError> {
        if let Some(score) = process.oom_score_adj() {
            self.steps.push(Step::OomScore(score.to_string().into_bytes()));
        }
        for limit in process.rlimits().iter().flatten() {
            self.steps.push(Step::Rlimit {
                name: limit.typ().to_string(),
                resource: rlimit_number(limit.typ()),
                soft: limit.soft(),
                hard: limit.hard(),
            });
        }
        let capabilities = capabilities::plan(process.capabilities().as_ref(), self.userns)?;
        let confinement = confine::plan(linux.seccomp().as_ref(), process, capabilities.sets)?;
        self.steps.extend(capabilities.drop_bounding.into_iter().map(Step::DropBounding));
        let user = process.user();
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        if let Some(id) = [user.uid(), user.gid()].iter().chain(groups).find(|id| **id > ID_MAX) {
            return Err(CreateError::Invalid(format!("user or group {id}: at most {ID_MAX} can be")));
        }
        self.steps.push(Step::Credentials {
            groups: groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
            gid: Gid::from_raw(user.gid()),
            uid: Uid::from_raw(user.uid()),
            capabilities: confinement.until_then,
            ambient: capabilities.ambient,
        });
        if process.no_new_privileges() == Some(true) {
            self.steps.push(Step::NoNewPrivileges);
        }
        let cwd = process.cwd();
        if !cwd.is_absolute() {
            return Err(CreateError::Invalid(format!(
                "the working directory {} is not absolute",
                cwd.display()
            )));
        }
        self.steps
            .push(Step::WorkingDirectory(c_string(cwd.as_os_str().as_bytes(), "the working directory")?));
        self.steps.push(Step::Umask(user.umask().unwrap_or(DEFAULT_UMASK) & 0o777));
        let args = process.args().as_deref().unwrap_or_default();
        let command = args.first().filter(|command| !command.is_empty()).cloned();
        let command = command.ok_or_else(|| CreateError::Invalid("no command specified".to_owned()))?;
        let programs = programs(&command, process.env().as_deref().unwrap_or_default())?;
        Ok((command, programs, confinement))
    }
}

/// Where a program may be: itself if it has a slash, else in each directory of the environment's `PATH` (execvp(3)).
fn programs(command: &str, env: &[String]) -> Result<Vec<CString>, CreateError> {
    if command.contains('/') {
        return Ok(vec![c_string(command, "the command")?]);
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    let directories = path.unwrap_or("/bin:/usr/bin").split(':');
    directories
        .map(|directory| {
            let directory = if directory.is_empty() { "." } else { directory };
            c_string(format!("{directory}/{command}"), "the command")
        })
        .collect()
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
    use super::*;

    #[test]
    fn programs_come_from_the_last_path_variable() {
        let env = ["PATH=/x".to_owned(), "PATH=/a::/b".to_owned()];
        let found = programs("sh", &env).unwrap();
        assert_eq!(found, [c"/a/sh".to_owned(), c"./sh".to_owned(), c"/b/sh".to_owned()]);
        assert_eq!(programs("./sh", &env).unwrap(), [c"./sh".to_owned()]);
    }
}
