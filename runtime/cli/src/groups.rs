//! All that the commands do with cgroups.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_runtime::cgroup::{Cgroup, Cgroups, Driver, OomEvents, Stats};
use skep_runtime::spec::oci::LinuxResources;

use crate::error::Failure;

/// Looks at a group in which something runs that is not the container's: it may be on its way out.
const STRANGER_LOOKS: usize = 100;

/// Pause between two of them.
const STRANGER_PAUSE: Duration = Duration::from_millis(2);

/// A container's group, as its record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    paths: BTreeMap<String, PathBuf>,
    unit: Option<String>,
}

impl Place {
    fn group(&self) -> Cgroup {
        Cgroup::from_paths(&self.paths, self.unit.as_deref())
    }

    /// The processes in the group and below it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.group().all_processes()
    }

    /// Refuses a group that somebody else's processes are in, or that somebody froze: the group is killed and removed with
    /// its container.
    pub(crate) fn check_free(&self) -> Result<(), Failure> {
        if self.is_frozen() {
            return Err(Failure::Refused("container's cgroup unexpectedly frozen".to_owned()));
        }
        match self.pids().len() {
            0 => Ok(()),
            count => {
                let text = format!("container's cgroup is not empty: {count} process(es) found");
                Err(Failure::Refused(text))
            }
        }
    }

    /// Sends every process in the group a signal.
    pub(crate) fn signal(&self, signal: i32) {
        self.group().signal(signal);
    }

    /// Suspends its processes.
    pub(crate) fn freeze(&self) -> Result<(), Failure> {
        Ok(self.group().freeze()?)
    }

    /// Goes on with them.
    pub(crate) fn thaw(&self) -> Result<(), Failure> {
        Ok(self.group().thaw()?)
    }

    /// Whether its processes are suspended.
    pub(crate) fn is_frozen(&self) -> bool {
        self.group().is_frozen()
    }

    /// What a group uses, as `events` prints it.
    pub(crate) fn statistics(&self) -> Result<Stats, Failure> {
        Ok(self.group().stats()?)
    }

    /// Tells when it runs out of memory.
    pub(crate) fn oom_events(&self) -> Result<OomEvents, Failure> {
        Ok(self.group().oom_events()?)
    }

    /// Changes the limits of a group.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), Failure> {
        Ok(self.group().update(&Cgroups::detect()?, resources)?)
    }

    /// The group that a further process joins: the container's own, or those below it that are named
    /// `[CONTROLLER[,…]:]PATH`.
    pub(crate) fn within(&self, sub: &[&str]) -> Result<Cgroup, Failure> {
        let mut paths = self.paths.clone();
        let mut named = std::collections::BTreeSet::new();
        let wrong =
            |text: &str, why: &str| Failure::Refused(format!("invalid --cgroup argument: {text} ({why})"));
        for text in sub {
            let (controllers, path) = match text.split_once(':') {
                Some((controllers, path)) => (controllers, path),
                None if sub.len() > 1 => return Err(wrong(text, "missing <controller>: prefix")),
                None => ("", *text),
            };
            let path = path.trim_start_matches('/');
            if Path::new(path).components().any(|part| part == std::path::Component::ParentDir) {
                return Err(Failure::Refused(format!("bad sub cgroup path: {text}")));
            }
            for controller in controllers.split(',') {
                if controller.is_empty() && !controllers.is_empty() {
                    return Err(wrong(text, "empty <controller> prefix"));
                }
                if !named.insert(controller) {
                    let text = format!(
                        "invalid --cgroup argument(s): controller {controller} specified multiple times"
                    );
                    return Err(Failure::Refused(text));
                }
                match paths.get_mut(controller) {
                    Some(directory) if !path.is_empty() => directory.push(path),
                    Some(_) => {}
                    None => {
                        return Err(Failure::Refused(format!("unknown controller {controller} in {text}")));
                    }
                }
            }
        }
        Ok(Cgroup::from_paths(&paths, self.unit.as_deref()))
    }

    /// Kills what runs in a group.
    pub(crate) fn kill(&self) {
        let group = self.group();
        if group.exists() {
            group.kill();
        }
    }

    /// Removes a group. What runs in it is killed if it is the caller's to kill, told by the processes' numbers.
    pub(crate) fn remove(&self, own: impl Fn(&[i32]) -> bool) -> Result<(), Failure> {
        let mut count = 0;
        for _ in 0..STRANGER_LOOKS {
            let pids = self.pids();
            count = pids.len();
            if count > 0 && !own(&pids) {
                std::thread::sleep(STRANGER_PAUSE);
                continue;
            }
            if count > 0 {
                self.kill();
            }
            return Ok(self.group().remove()?);
        }
        Err(Failure::Strangers { count })
    }
}

/// The host's hierarchies, and a group in them that is not made yet.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) host: Cgroups,
    pub(crate) group: Cgroup,
}

impl Groups {
    /// Where a container goes.
    pub(crate) fn place(path: Option<&Path>, id: &str, systemd: bool) -> Result<Self, Failure> {
        let host = Cgroups::detect()?;
        let driver = if systemd { Driver::Systemd } else { Driver::Cgroupfs };
        let group = host.place(path, id, driver)?;
        Ok(Self { host, group })
    }

    /// The group by its name.
    pub(crate) fn noted(&self) -> Place {
        Place { paths: self.group.paths(), unit: self.group.unit().map(str::to_owned) }
    }

    /// Makes the group with its limits.
    pub(crate) fn make(&self, resources: Option<&LinuxResources>) -> Result<(), Failure> {
        Ok(self.group.make(&self.host, resources, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_below_the_containers_own_and_no_others() {
        let paths = [("memory", "/m/one"), ("cpu", "/c/one"), ("", "/u/one")];
        let paths = paths.map(|(name, path)| (name.to_owned(), PathBuf::from(path))).into();
        let place = Place { paths, unit: None };
        let within = |sub: &[&str]| place.within(sub).map(|group| group.paths());
        assert_eq!(within(&[]).unwrap(), place.paths);
        assert_eq!(within(&["/"]).unwrap(), place.paths);
        let below = within(&["memory:/a/b", "cpu:c"]).unwrap();
        assert_eq!((&below["memory"], &below["cpu"]), (&"/m/one/a/b".into(), &"/c/one/c".into()));
        assert_eq!(within(&["x"]).unwrap()[""], PathBuf::from("/u/one/x"));
        for wrong in
            [&["a", "b"][..], &["memory:../two"], &[",cpu:a"], &["nope:a"], &["memory,cpu:a", "cpu:b"]]
        {
            assert!(within(wrong).is_err(), "{wrong:?}");
        }
    }
}
