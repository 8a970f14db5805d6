//! `linux.intelRdt`: a group of caches and memory bandwidth in the kernel's resctrl filesystem.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIntelRdt, Spec};

use super::CreateError;
use crate::features;

/// What a container's process joins after the clone.
pub(super) struct Membership {
    root: PathBuf,
    /// The group's directory.
    group: PathBuf,
    /// The container's group for monitoring, inside the other.
    monitor: Option<PathBuf>,
    /// Lines for the group's `schemata`.
    schemata: String,
    /// The group is named by the spec, and others may be in it.
    shared: bool,
}

/// A joined group, until it is known whether the container comes about.
pub(super) struct Joined {
    made: Vec<PathBuf>,
}

/// Plans the membership. Nothing is made yet.
pub(super) fn plan(linux: &Linux, id: &str) -> Result<Option<Membership>, CreateError> {
    let Some(wanted) = linux.intel_rdt() else { return Ok(None) };
    let root = features::resctrl_root()
        .ok_or_else(|| CreateError::Kernel { what: "mounted resctrl", field: "linux.intelRdt".to_owned() })?;
    plan_in(&root, wanted, id).map(Some)
}

fn plan_in(root: &Path, wanted: &LinuxIntelRdt, id: &str) -> Result<Membership, CreateError> {
    let shared = wanted.clos_id().as_ref().filter(|name| !name.is_empty());
    let group = match shared.map(String::as_str) {
        Some("/") => root.to_owned(),
        Some(name) if matches!(name, "." | "..") || name.contains('/') => {
            return Err(CreateError::Invalid(format!("linux.intelRdt.closID {name:?}")));
        }
        Some(name) => root.join(name),
        None => root.join(id),
    };
    let mut schemata = String::new();
    let lines = [wanted.l3_cache_schema(), wanted.mem_bw_schema()].into_iter().flatten();
    for line in lines.chain(wanted.schemata().iter().flatten()).filter(|line| !line.is_empty()) {
        if line.contains('\n') {
            return Err(CreateError::Invalid(format!("linux.intelRdt: a schema of two lines: {line:?}")));
        }
        schemata.push_str(line);
        schemata.push('\n');
    }
    let monitor = wanted.enable_monitoring() == &Some(true);
    Ok(Membership {
        root: root.to_owned(),
        monitor: monitor.then(|| group.join("mon_groups").join(id)),
        group,
        schemata,
        shared: shared.is_some(),
    })
}

impl Membership {
    /// Makes what is missing and puts the process in.
    pub(super) fn join(self, pid: i32) -> Result<Joined, CreateError> {
        let mut joined = Joined { made: Vec::new() };
        match self.fill(pid, &mut joined) {
            Ok(()) => Ok(joined),
            Err(error) => {
                joined.undo();
                Err(error)
            }
        }
    }

    fn fill(&self, pid: i32, joined: &mut Joined) -> Result<(), CreateError> {
        let exists = self.group.is_dir();
        let fail = |step, path: &Path, source| self.fail(step, path, source);
        match (exists, self.shared) {
            (true, true) => self.compare()?,
            // It would be removed with the container, and is somebody else's.
            (true, false) => return Err(fail("make", &self.group, io::ErrorKind::AlreadyExists.into())),
            // A group that is only named has to be there.
            (false, true) if self.schemata.is_empty() => {
                return Err(fail("find", &self.group, io::ErrorKind::NotFound.into()));
            }
            (false, _) => {
                std::fs::create_dir(&self.group).map_err(|source| fail("make", &self.group, source))?;
                joined.made.push(self.group.clone());
            }
        }
        self.write_schemata()?;
        self.write(self.group.join("tasks"), &pid.to_string())?;
        if let Some(monitor) = &self.monitor {
            std::fs::create_dir(monitor).map_err(|source| self.fail("make", monitor, source))?;
            joined.made.push(monitor.clone());
            self.write(monitor.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }

    fn write_schemata(&self) -> Result<(), CreateError> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        self.write(self.group.join("schemata"), &self.schemata)
    }

    fn write(&self, path: PathBuf, text: &str) -> Result<(), CreateError> {
        std::fs::write(&path, text).map_err(|source| self.fail("write", &path, source))
    }

    /// A group that others use must be what the spec says it is.
    fn compare(&self) -> Result<(), CreateError> {
        let path = self.group.join("schemata");
        if self.schemata.is_empty() {
            return Ok(());
        }
        let text = std::fs::read_to_string(&path).map_err(|source| self.fail("read", &path, source))?;
        let there = schemas(&text);
        match schemas(&self.schemata).into_iter().find(|(key, value)| there.get(key) != Some(value)) {
            Some(((resource, cache), value)) => Err(CreateError::Invalid(format!(
                "linux.intelRdt: {resource}:{cache}={value} is not what the group {} has",
                self.group.display()
            ))),
            None => Ok(()),
        }
    }

    fn fail(&self, step: &'static str, path: &Path, source: io::Error) -> CreateError {
        let status = std::fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        CreateError::Resctrl { step, path: path.to_owned(), status: status.trim().to_owned(), source }
    }
}

impl Joined {
    /// The container did not come about; its process has ended.
    pub(super) fn undo(&mut self) {
        while let Some(path) = self.made.pop() {
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// By resource and cache. Masks are numbers: `0ff` is `ff`.
fn schemas(text: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for (resource, values) in text.lines().filter_map(|line| line.split_once(':')) {
        for (cache, value) in values.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            found.insert((resource.trim().to_owned(), cache.trim().to_owned()), value);
        }
    }
    found
}

/// Gives a running container, made of this spec, other schemas, in its group or in a new one that its init joins. Returns
/// what the container's spec says from now on, by which [`remove`] finds the group.
///
/// # Errors
/// [`CreateError::Kernel`] if the kernel has no resctrl, [`CreateError::Resctrl`], [`CreateError::Invalid`].
pub fn update(
    id: &str,
    spec: &Spec,
    init: i32,
    l3_cache: Option<&str>,
    memory_bandwidth: Option<&str>,
) -> Result<LinuxIntelRdt, CreateError> {
    let root = features::resctrl_root()
        .ok_or_else(|| CreateError::Kernel { what: "mounted resctrl", field: "linux.intelRdt".to_owned() })?;
    let before = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    update_in(&root, before, id, init, l3_cache, memory_bandwidth)
}

/// Whether the kernel can share a kind of resource out, `L3` or `MB`; caches also in two halves (kernel documentation,
/// `filesystems/resctrl`).
pub fn has(resource: &str) -> bool {
    features::resctrl_root().is_some_and(|root| has_in(&root, resource))
}

fn has_in(root: &Path, resource: &str) -> bool {
    ["", "CODE"].iter().any(|half| root.join("info").join(format!("{resource}{half}")).is_dir())
}

fn update_in(
    root: &Path,
    before: Option<&LinuxIntelRdt>,
    id: &str,
    init: i32,
    l3_cache: Option<&str>,
    memory_bandwidth: Option<&str>,
) -> Result<LinuxIntelRdt, CreateError> {
    let owned = |schema: Option<&str>| schema.map(str::to_owned);
    let mut change = before.cloned().unwrap_or_default();
    // What is not named stays as it is.
    change.set_schemata(None).set_l3_cache_schema(owned(l3_cache)).set_mem_bw_schema(owned(memory_bandwidth));
    let group = plan_in(root, &change, id)?;
    match before {
        Some(_) => group.write_schemata()?,
        None => drop(group.join(init)?),
    }
    let mut now = before.cloned().unwrap_or_default();
    if l3_cache.is_some() {
        now.set_l3_cache_schema(owned(l3_cache));
    }
    if memory_bandwidth.is_some() {
        now.set_mem_bw_schema(owned(memory_bandwidth));
    }
    Ok(now)
}

/// Removes what [`super::create`] made in resctrl for a container of this name and spec, when the container is deleted.
/// It is no error if there is nothing.
///
/// # Errors
/// The kernel's, if a group cannot be removed.
pub fn remove(id: &str, spec: &Spec) -> io::Result<()> {
    remove_group(id, spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()))
}

/// [`remove`] for who has kept this part of the spec alone.
pub(crate) fn remove_group(id: &str, wanted: Option<&LinuxIntelRdt>) -> io::Result<()> {
    match (wanted, wanted.and_then(|_| features::resctrl_root())) {
        (Some(wanted), Some(root)) => remove_in(&root, wanted, id),
        _ => Ok(()),
    }
}

fn remove_in(root: &Path, wanted: &LinuxIntelRdt, id: &str) -> io::Result<()> {
    let Ok(group) = plan_in(root, wanted, id) else { return Ok(()) };
    let own = (!group.shared).then_some(group.group);
    for path in group.monitor.into_iter().chain(own) {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(value: serde_json::Value) -> LinuxIntelRdt {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_group_of_ones_own_is_made_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let wanted =
            wanted(json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3"]}));
        let mut joined = plan_in(root.path(), &wanted, "box").unwrap().join(42).unwrap();
        let read = |name| std::fs::read_to_string(root.path().join("box").join(name)).unwrap();
        assert_eq!(read("schemata"), "L3:0=f\nMB:0=20\nL2:0=3\n");
        assert_eq!(read("tasks"), "42");
        let twice = plan_in(root.path(), &wanted, "box").unwrap().join(43);
        assert!(matches!(twice, Err(CreateError::Resctrl { .. })));
        // Files of a real group go with it.
        std::fs::remove_file(root.path().join("box/schemata")).unwrap();
        std::fs::remove_file(root.path().join("box/tasks")).unwrap();
        joined.undo();
        assert!(!root.path().join("box").exists());
        remove_in(root.path(), &wanted, "box").unwrap();
    }

    #[test]
    fn a_named_group_is_there_and_as_the_spec_says() {
        let root = tempfile::tempdir().unwrap();
        let join = |value| plan_in(root.path(), &wanted(value), "box").unwrap().join(42);
        assert!(matches!(join(json!({"closID": "fast"})), Err(CreateError::Resctrl { .. })));
        let group = root.path().join("fast");
        std::fs::create_dir(&group).unwrap();
        std::fs::write(group.join("schemata"), "    L3:0=00f;1=F0\n    MB:0=100\n").unwrap();
        join(json!({"closID": "fast"})).unwrap();
        join(json!({"closID": "fast", "l3CacheSchema": "L3:0=f"})).unwrap();
        std::fs::write(group.join("schemata"), "L3:0=00f;1=F0\n").unwrap();
        assert!(matches!(
            join(json!({"closID": "fast", "l3CacheSchema": "L3:1=ff"})),
            Err(CreateError::Invalid(_))
        ));
        std::fs::create_dir(group.join("mon_groups")).unwrap();
        let monitored = json!({"closID": "fast", "enableMonitoring": true});
        join(monitored.clone()).unwrap();
        assert!(group.join("mon_groups/box/tasks").exists());
        std::fs::remove_file(group.join("mon_groups/box/tasks")).unwrap();
        remove_in(root.path(), &wanted(monitored), "box").unwrap();
        assert!(group.exists() && !group.join("mon_groups/box").exists());
    }

    #[test]
    fn an_update_changes_the_group_or_makes_one() {
        let root = tempfile::tempdir().unwrap();
        let read = |name| std::fs::read_to_string(root.path().join(name)).unwrap();
        // In none: it gets a group of its own, which the new spec tells of.
        let now = update_in(root.path(), None, "box", 42, Some("L3:0=f"), None).unwrap();
        assert_eq!((read("box/schemata"), read("box/tasks")), ("L3:0=f\n".to_owned(), "42".to_owned()));
        // In its own: what is named is written, all is remembered.
        let now = update_in(root.path(), Some(&now), "box", 42, None, Some("MB:0=20")).unwrap();
        assert_eq!(read("box/schemata"), "MB:0=20\n");
        assert_eq!(now, wanted(json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"})));
        // In a named one.
        std::fs::create_dir(root.path().join("fast")).unwrap();
        let named = wanted(json!({"closID": "fast", "schemata": ["L2:0=1"]}));
        let now = update_in(root.path(), Some(&named), "other", 42, Some("L3:0=3"), None).unwrap();
        assert_eq!(read("fast/schemata"), "L3:0=3\n");
        assert_eq!(now, wanted(json!({"closID": "fast", "schemata": ["L2:0=1"], "l3CacheSchema": "L3:0=3"})));
        assert!(!root.path().join("other").exists());
        for name in ["schemata", "tasks"] {
            std::fs::remove_file(root.path().join("box").join(name)).unwrap();
        }
        remove_in(root.path(), &wanted(json!({"l3CacheSchema": "L3:0=f"})), "box").unwrap();
        assert!(!root.path().join("box").exists());
        let broken = update_in(root.path(), None, "box", 42, Some("a\nb"), None);
        assert!(matches!(broken, Err(CreateError::Invalid(_))));
    }

    #[test]
    fn a_resource_is_there_if_the_kernel_tells_of_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("info/L3CODE")).unwrap();
        assert!(has_in(root.path(), "L3") && !has_in(root.path(), "MB"));
    }

    #[test]
    fn a_group_name_is_no_path() {
        for name in ["..", ".", "a/b", "/a"] {
            assert!(plan_in(Path::new("/"), &wanted(json!({ "closID": name })), "box").is_err(), "{name}");
        }
        let root = plan_in(Path::new("/r"), &wanted(json!({"closID": "/"})), "box").unwrap();
        assert_eq!(root.group, Path::new("/r"));
        assert!(plan_in(Path::new("/"), &wanted(json!({"schemata": ["a\nb"]})), "box").is_err());
    }
}
