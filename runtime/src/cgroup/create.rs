//! Makes groups and sets what they may use.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::resources::{Family, Write, needs, v1, v2};
use super::{Cgroup, CgroupError, Cgroups, SystemdUnit, devices, write};

/// The v2 controllers that a group in threaded mode cannot have.
const DOMAIN_ONLY: [Family; 4] = [Family::Memory, Family::BlockIo, Family::Hugetlb, Family::Rdma];

/// Whose files are missing without being an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Swap {
    Needed,
    /// A host without swap accounting gets the limit on memory alone, as in Docker.
    Optional,
}

impl Cgroups {
    /// Refuses what this host has no controller for, before anything is made.
    pub(super) fn check(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        for family in Family::ALL.into_iter().filter(|family| needs(*family, resources)) {
            if self.hierarchy(family.v1_name()).is_some() {
                continue;
            }
            match family.v2_name() {
                Some(name) if self.v2_controllers.iter().any(|have| have == name) => {}
                Some(name) if self.v1.is_empty() => {
                    return Err(CgroupError::NoController { controller: name });
                }
                _ => return Err(CgroupError::NoController { controller: family.v1_name() }),
            }
        }
        if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) && !self.is_pure_v2() {
            return Err(CgroupError::UnifiedOnV1);
        }
        Ok(())
    }

    /// No v1 hierarchy controls anything.
    #[must_use]
    pub fn is_pure_v2(&self) -> bool {
        self.unified.is_some()
            && self.v1.iter().flat_map(|one| &one.controllers).all(|name| name.starts_with("name="))
    }
}

impl Cgroup {
    /// Makes the group with its limits. Without resources it has none but the default list of devices.
    ///
    /// A group of the systemd driver ([`Self::unit`]) needs `systemd`; it is made with the process in it that is named
    /// there. Otherwise processes join later.
    ///
    /// # Errors
    /// See [`CgroupError`]. The group must be empty and not frozen, should it exist. On failure nothing is left that
    /// was not there.
    pub fn make(
        &self,
        cgroups: &Cgroups,
        resources: Option<&LinuxResources>,
        systemd: Option<&SystemdUnit>,
    ) -> Result<(), CgroupError> {
        let none = LinuxResources::default();
        let resources = resources.unwrap_or(&none);
        cgroups.check(resources)?;
        if let Some(path) = self.main().filter(|_| self.directories().iter().any(|one| one.path.exists())) {
            let path = path.to_path_buf();
            let processes = self.all_processes().len();
            if processes > 0 {
                return Err(CgroupError::NotEmpty { path, processes });
            }
            if self.is_frozen() {
                return Err(CgroupError::Frozen { path });
            }
        }
        if let Some(unit) = &self.unit {
            let fallback = SystemdUnit::default();
            unit.start(systemd.unwrap_or(&fallback), resources, cgroups.is_pure_v2())?;
        }
        let made = self.make_with(cgroups, resources, Swap::Needed);
        if made.is_err()
            && let Some(unit) = &self.unit
        {
            // The first error counts.
            drop(unit.stop());
        }
        made
    }

    /// Makes the directories alone. A container has them bound without a cgroup namespace on v1, and in a user namespace on
    /// v2: its mounts are prepared before it has a process, and systemd's scopes come after. [`Self::make`] goes on with
    /// them.
    ///
    /// # Errors
    /// [`CgroupError::Io`]. Nothing is left then that was not there.
    pub fn make_room(&self, cgroups: &Cgroups) -> Result<(), CgroupError> {
        let mut made = Vec::new();
        let result = self.make_directories(cgroups, &LinuxResources::default(), Swap::Needed, &mut made);
        if result.is_err() {
            take_back(&made);
        }
        result
    }

    /// [`Self::make`] for the keeper, whose specs come from Docker's options. The group must not be there.
    pub(super) fn make_limited(
        &self,
        cgroups: &Cgroups,
        resources: &LinuxResources,
    ) -> Result<(), CgroupError> {
        self.make_with(cgroups, resources, Swap::Optional)
    }

    fn make_with(
        &self,
        cgroups: &Cgroups,
        resources: &LinuxResources,
        swap: Swap,
    ) -> Result<(), CgroupError> {
        let mut made = Vec::new();
        let result = self
            .make_directories(cgroups, resources, swap, &mut made)
            .and_then(|()| self.set(cgroups, resources, swap))
            .and_then(|()| self.set_devices(resources));
        if result.is_err() {
            take_back(&made);
        }
        result
    }

    /// Changes the limits of a group with processes in it. What is not given stays as it is; device rules are a list
    /// as a whole.
    ///
    /// # Errors
    /// See [`CgroupError`]. Limits that were set before the one that was refused stay set.
    pub fn update(&self, cgroups: &Cgroups, resources: &LinuxResources) -> Result<(), CgroupError> {
        cgroups.check(resources)?;
        if let Some(unit) = &self.unit {
            let whole = self.with_quota(resources);
            unit.update(&whole, cgroups.is_pure_v2())?;
            self.set(cgroups, &whole, Swap::Needed)?;
        } else {
            self.set(cgroups, resources, Swap::Needed)?;
        }
        if resources.devices().as_ref().is_some_and(|rules| !rules.is_empty()) {
            self.set_devices(resources)?;
        }
        Ok(())
    }

    /// The limits with both numbers of the CPU quota, if one is given: systemd keeps the share that they make. The other
    /// is what the group has.
    fn with_quota(&self, resources: &LinuxResources) -> LinuxResources {
        let mut resources = resources.clone();
        let Some(cpu) = resources.cpu_mut().as_mut() else { return resources };
        let given = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period > 0));
        let read = |path: &Path, file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        let (quota, period) = match (self.v1("cpu"), self.unified()) {
            (Some(path), _) => (read(path, "cpu.cfs_quota_us"), read(path, "cpu.cfs_period_us")),
            (None, Some(path)) => {
                let text = read(path, "cpu.max");
                let mut words = text.split_whitespace().map(str::to_owned);
                (words.next().unwrap_or_default(), words.next().unwrap_or_default())
            }
            (None, None) => return resources,
        };
        match given {
            (Some(_), None) => {
                cpu.set_period(period.trim().parse().ok());
            }
            (None, Some(_)) => {
                cpu.set_quota(quota.trim().parse().ok());
            }
            _ => {}
        }
        resources
    }

    fn make_directories(
        &self,
        cgroups: &Cgroups,
        resources: &LinuxResources,
        swap: Swap,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), CgroupError> {
        for directory in self.directories() {
            match make_all(&directory.path, made) {
                Err(_) if directory.is_only_a_name() => continue,
                // The keeper takes on no group that it has not made.
                Ok(false) if swap == Swap::Optional => {
                    let error = io::Error::from(ErrorKind::AlreadyExists);
                    return Err(CgroupError::io("make", &directory.path)(error));
                }
                made => made.map_err(CgroupError::io("make", &directory.path))?,
            };
            match &directory.v1 {
                Some(one) if directory.has("cpuset") => inherit_cpuset(&one.mount, &directory.path)?,
                Some(_) => {}
                // The keeper's parents have their controllers already.
                None if swap == Swap::Optional => {}
                None => hand_down(cgroups, &directory.path, resources)?,
            }
        }
        Ok(())
    }

    fn set(&self, cgroups: &Cgroups, resources: &LinuxResources, swap: Swap) -> Result<(), CgroupError> {
        for family in Family::ALL {
            let (path, mut writes) = if let Some(path) = self.v1(family.v1_name()) {
                (path, v1::writes(family, resources, &|file| path.join(file).exists())?)
            } else if let Some(path) = self.unified() {
                (path, v2::writes(family, resources, &|file| std::fs::read_to_string(path.join(file)).ok())?)
            } else {
                continue;
            };
            if !needs(family, resources) {
                // A wish for no limit where there is no controller.
                writes.iter_mut().for_each(|write| write.optional = true);
            }
            if swap == Swap::Optional {
                let about_swap =
                    |write: &&mut Write| write.file.contains("memsw") || write.file.contains("swap");
                writes.iter_mut().filter(about_swap).for_each(|write| write.optional = true);
            }
            apply(path, &writes)?;
        }
        if let Some(path) = self.unified().filter(|_| cgroups.is_pure_v2()) {
            let controllers = path.join("cgroup.controllers");
            for write in v2::unified(resources)? {
                apply(path, std::slice::from_ref(&write)).map_err(|error| {
                    let controller = write.file.split('.').next().unwrap_or_default();
                    let text = std::fs::read_to_string(&controllers).unwrap_or_default();
                    if controller == "cgroup" || text.split_whitespace().any(|one| one == controller) {
                        return error;
                    }
                    CgroupError::UnifiedController {
                        file: write.file.clone(),
                        controller: controller.to_owned(),
                    }
                })?;
            }
        }
        Ok(())
    }

    fn set_devices(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
        if let Some(path) = self.v1("devices") {
            let target = devices::for_list(&rules).ok_or(CgroupError::DevicesHole)?;
            devices::apply_v1(path, &target)
        } else if let Some(path) = self.unified() {
            devices::attach_v2(path, &rules)
        } else {
            Err(CgroupError::NoController { controller: "devices" })
        }
    }
}

/// Writes all of them. Some values have to fit others that are still to be written (a limit on memory and the one on
/// memory with swap, quota and period): what the kernel finds invalid is tried again after the rest, as long as that
/// helps. So the order is right for raising and for lowering.
fn apply(path: &Path, writes: &[Write]) -> Result<(), CgroupError> {
    let mut left: Vec<&Write> = writes.iter().collect();
    loop {
        let mut refused = Vec::new();
        let mut first = None;
        for one in &left {
            let file = path.join(&one.file);
            match write(&file, &one.value) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound && one.optional => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(CgroupError::NoFile { path: file });
                }
                Err(source) => {
                    let again = source.raw_os_error() == Some(libc::EINVAL);
                    let error = limit_error(path, file, &one.value, source);
                    if !again {
                        return Err(error);
                    }
                    first.get_or_insert(error);
                    refused.push(*one);
                }
            }
        }
        match first {
            Some(error) if refused.len() == left.len() => return Err(error),
            Some(_) => left = refused,
            None => return Ok(()),
        }
    }
}

fn limit_error(group: &Path, path: PathBuf, value: &str, source: io::Error) -> CgroupError {
    let number = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<i64>().ok();
    if source.raw_os_error() == Some(libc::EBUSY)
        && path.ends_with("memory.limit_in_bytes")
        && let (Some(usage), Ok(limit)) = (number("memory.usage_in_bytes"), value.parse())
    {
        return CgroupError::TooLow { limit, usage };
    }
    CgroupError::Limit { path, value: value.to_owned(), source }
}

/// Removes new directories, from the leaves up. What another has put a group into in the meantime stays.
fn take_back(made: &[PathBuf]) {
    for path in made.iter().rev() {
        let _ = rustix::fs::rmdir(path);
    }
}

/// Like `create_dir_all`, and notes what was not there. `false`: all was there.
fn make_all(path: &Path, made: &mut Vec<PathBuf>) -> io::Result<bool> {
    match std::fs::create_dir(path) {
        Ok(()) => {
            made.push(path.to_path_buf());
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = path.parent().ok_or(error)?;
            make_all(parent, made)?;
            make_all(path, made)
        }
        Err(error) => Err(error),
    }
}

/// A v1 cpuset has no CPUs and no memory nodes when it is new, and nothing can join it: it gets its parent's, and so
/// does every empty group on the way down.
fn inherit_cpuset(mount: &Path, path: &Path) -> Result<(), CgroupError> {
    let Ok(inner) = path.strip_prefix(mount) else { return Ok(()) };
    let mut parent = mount.to_path_buf();
    for component in inner.components() {
        let child = parent.join(component);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(CgroupError::io("read", &path));
            if read(child.join(file))?.trim().is_empty() {
                let value = read(parent.join(file))?;
                let file = child.join(file);
                write(&file, value.trim()).map_err(CgroupError::io("write", &file))?;
            }
        }
        parent = child;
    }
    Ok(())
}

/// Enables the v2 controllers on the way down to the group: all that there are, for limits may come later. One that a
/// group does not let through is missed, by name, when a limit needs it.
fn hand_down(cgroups: &Cgroups, path: &Path, resources: &LinuxResources) -> Result<(), CgroupError> {
    let Some(mount) = &cgroups.unified else { return Ok(()) };
    let Ok(inner) = path.strip_prefix(mount) else { return Ok(()) };
    let mut parent = mount.clone();
    for component in inner.components() {
        let control = parent.join("cgroup.subtree_control");
        let all: Vec<&str> = cgroups.v2_controllers.iter().map(String::as_str).collect();
        if enable(&control, &all).is_err() {
            for one in all {
                drop(enable(&control, &[one]));
            }
        }
        parent.push(component);
        check_type(&parent, resources)?;
    }
    Ok(())
}

/// Hands controllers down that are not yet. The kernel waits at each write until groups that were removed before are
/// gone for good, so nothing is written in vain.
pub(super) fn enable(control: &Path, wanted: &[&str]) -> io::Result<()> {
    let text = std::fs::read_to_string(control)?;
    let missing: Vec<String> = wanted
        .iter()
        .filter(|name| text.split_whitespace().all(|have| have != **name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() { Ok(()) } else { write(control, &missing.join(" ")) }
}

/// A group below one with processes, or in a threaded tree, can have no more than CPU and process limits.
fn check_type(path: &Path, resources: &LinuxResources) -> Result<(), CgroupError> {
    let file = path.join("cgroup.type");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    match text.trim() {
        "domain invalid" | "domain threaded" | "threaded"
            if DOMAIN_ONLY.into_iter().any(|family| needs(family, resources)) =>
        {
            Err(CgroupError::Threaded { path: path.to_path_buf() })
        }
        "domain invalid" => write(&file, "threaded").map_err(CgroupError::io("write", &file)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod beside_runc;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_v2;
