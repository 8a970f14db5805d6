//! Which cgroup hierarchies this host has mounted, and the groups below a parent.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::group::{Directory, V1};
use super::resources::{Family, needs};
use super::{Cgroup, CgroupError, Limits};
use crate::mountinfo::unescape;

/// The v1 controllers that the keeper's containers join in any case, where they exist. Every further one costs about
/// 50 µs a container, so it is joined only for a limit that needs it.
const V1_CONTROLLERS: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "devices", "freezer"];

/// The v2 controllers that are enabled for the keeper's containers in any case, where they exist.
const V2_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Options of a v1 mount that name no controller.
const V1_OPTIONS: [&str; 7] = ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "none"];

/// A mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// What of the hierarchy the mount shows, as `/proc/self/cgroup` names groups.
    pub(crate) root: PathBuf,
    /// Its controllers, as the mount options name them; `name=…` for a hierarchy without.
    pub(crate) controllers: Vec<String>,
}

/// The host's cgroup hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    pub(crate) v1: Vec<Hierarchy>,
    pub(crate) unified: Option<PathBuf>,
    /// What of the v2 tree its mount shows.
    pub(super) unified_root: PathBuf,
    /// Controllers that the v2 tree offers to its root's children.
    pub(super) v2_controllers: Vec<String>,
}

impl Cgroups {
    /// Looks at `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`CgroupError::NotMounted`], or [`CgroupError::Io`] if `/proc` cannot be read.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(CgroupError::io("read", path))?;
        let mut cgroups = Self::from_mountinfo(&text)?;
        if let Some(unified) = &cgroups.unified {
            let path = unified.join("cgroup.controllers");
            let text = std::fs::read_to_string(&path).map_err(CgroupError::io("read", &path))?;
            cgroups.v2_controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(cgroups)
    }

    /// The hierarchies that proc(5)'s mountinfo text shows. The first mount of each counts.
    fn from_mountinfo(text: &str) -> Result<Self, CgroupError> {
        let mut cgroups = Self {
            v1: Vec::new(),
            unified: None,
            unified_root: PathBuf::from("/"),
            v2_controllers: Vec::new(),
        };
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let (Some(kind), _, Some(options)) = (right.next(), right.next(), right.next()) else { continue };
            let mut left = left.split(' ').skip(3).map(unescape);
            let (Some(root), Some(mount)) = (left.next(), left.next()) else { continue };
            match kind {
                "cgroup2" if cgroups.unified.is_none() => {
                    cgroups.unified = Some(mount);
                    cgroups.unified_root = root;
                }
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|option| {
                            !V1_OPTIONS.contains(option) && !option.starts_with("release_agent=")
                        })
                        .map(str::to_owned)
                        .collect();
                    let known = cgroups.v1.iter().any(|one| one.controllers == controllers);
                    if !controllers.is_empty() && !known {
                        cgroups.v1.push(Hierarchy { mount, root, controllers });
                    }
                }
                _ => {}
            }
        }
        if cgroups.v1.is_empty() && cgroups.unified.is_none() {
            return Err(CgroupError::NotMounted);
        }
        Ok(cgroups)
    }

    /// Makes the group `parent/id` with its limits. What a crash left under that name is killed and removed first.
    ///
    /// # Errors
    /// See [`CgroupError`]; nothing is left behind then but the parents.
    pub fn create(&self, parent: &str, id: &str, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let needed: Vec<Family> =
            Family::ALL.into_iter().filter(|family| needs(*family, &limits.resources)).collect();
        self.check(&limits.resources)?;
        let group = self.group_with(parent, id, &needed)?;
        if let Some(unified) = &self.unified {
            let needed = needed.iter().filter_map(|family| family.v2_name());
            let wanted: BTreeSet<&str> = V2_CONTROLLERS.into_iter().chain(needed).collect();
            let wanted: Vec<&str> = wanted
                .into_iter()
                .filter(|name| self.v2_controllers.iter().any(|have| have == name))
                .collect();
            self.enable_controllers(unified, Path::new(parent), &wanted)?;
        }
        let made = group.make_limited(self, &limits.resources);
        if made.as_ref().is_err_and(CgroupError::is_there_already) {
            group.kill();
            group.remove()?;
            group.make_limited(self, &limits.resources)?;
        } else {
            made?;
        }
        Ok(group)
    }

    /// The group `parent/id`, made by an earlier [`Self::create`].
    ///
    /// # Errors
    /// [`CgroupError::Name`].
    pub fn group(&self, parent: &str, id: &str) -> Result<Cgroup, CgroupError> {
        self.group_with(parent, id, &[])
    }

    /// The group in the hierarchies that are always joined, in those for `needed`, and in those where it is already.
    fn group_with(&self, parent: &str, id: &str, needed: &[Family]) -> Result<Cgroup, CgroupError> {
        check_name(parent)?;
        if id.contains('/') {
            return Err(CgroupError::Name(id.to_owned()));
        }
        check_name(id)?;
        let mut directories = Vec::new();
        for hierarchy in &self.v1 {
            let path = hierarchy.mount.join(parent).join(id);
            let has = |name: &str| hierarchy.controllers.iter().any(|one| one == name);
            if V1_CONTROLLERS.into_iter().any(has)
                || needed.iter().any(|family| has(family.v1_name()))
                || path.exists()
            {
                directories.push(Directory::v1(path, hierarchy));
            }
        }
        if let Some(unified) = &self.unified {
            directories.push(Directory { path: unified.join(parent).join(id), v1: None });
        }
        Ok(Cgroup::new(directories))
    }

    /// Kills and removes every group directly below `parent` whose name is not in `keep`. Returns the names.
    ///
    /// # Errors
    /// The first that occurs; the other groups are tried all the same.
    pub fn remove_stale(
        &self,
        parent: &str,
        keep: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, CgroupError> {
        check_name(parent)?;
        let mut stale = BTreeSet::new();
        for root in self.roots() {
            let path = root.join(parent);
            let entries = match std::fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(CgroupError::io("read", &path)(error)),
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    stale.extend(entry.file_name().to_str().map(str::to_owned));
                }
            }
        }
        stale.retain(|name| !keep.contains(name));
        let mut first = Ok(());
        for name in &stale {
            let group = self.group(parent, name)?;
            group.kill();
            let removed = group.remove();
            first = first.and(removed);
        }
        first.map(|()| stale)
    }

    /// Removes `parent` and its ancestors as far as they are empty; others' groups in them are a reason to stop, not an
    /// error.
    pub fn remove_parent(&self, parent: &str) {
        if check_name(parent).is_err() {
            return;
        }
        for root in self.roots() {
            let mut path = root.join(parent);
            while path != *root && std::fs::remove_dir(&path).is_ok() {
                path.pop();
            }
        }
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1.iter().map(|hierarchy| &hierarchy.mount).chain(&self.unified)
    }

    /// The v1 hierarchy with this controller.
    pub(super) fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }

    /// Hands the v2 controllers down from the root to the children of the group `parent` (a relative path), which is
    /// made on the way.
    pub(super) fn enable_controllers(
        &self,
        unified: &Path,
        parent: &Path,
        wanted: &[&str],
    ) -> Result<(), CgroupError> {
        let mut path = unified.to_path_buf();
        let mut components = parent.components();
        loop {
            if !wanted.is_empty() {
                let control = path.join("cgroup.subtree_control");
                super::create::enable(&control, wanted)
                    .map_err(CgroupError::io("enable the controllers in", &control))?;
            }
            let Some(component) = components.next() else { return Ok(()) };
            path.push(component);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(CgroupError::io("make", &path)(error));
                }
                _ => {}
            }
        }
    }
}

impl Directory {
    pub(super) fn v1(path: PathBuf, hierarchy: &Hierarchy) -> Self {
        let v1 = V1 { mount: hierarchy.mount.clone(), controllers: hierarchy.controllers.clone() };
        Self { path, v1: Some(v1) }
    }
}

/// Relative, no `.` or `..`, no empty component.
fn check_name(name: &str) -> Result<(), CgroupError> {
    let fine = !name.is_empty()
        && name.len() < 1024
        && name.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    if fine { Ok(()) } else { Err(CgroupError::Name(name.to_owned())) }
}

/// The kernel's tables of mounts and groups, with a zero byte between.
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (mounts, own) = text.split_once('\0').unwrap_or((&text, ""));
    let Ok(cgroups) = Cgroups::from_mountinfo(mounts) else { return };
    for directory in cgroups.relative(own, Path::new("inner")).directories() {
        assert!(directory.path.ends_with("inner"));
    }
    for (path, id) in [(None, own), (Some(Path::new(own)), "id")] {
        let _ = cgroups.place(path, id, super::Driver::Systemd);
        let _ = cgroups.group(own, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw
42 31 0:32 / /elsewhere rw - cgroup cgroup rw,memory";

    #[test]
    fn hybrid_is_seen_in_mountinfo() {
        let cgroups = Cgroups::from_mountinfo(HYBRID).unwrap();
        assert_eq!(cgroups.unified, Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        let mounts: Vec<_> = cgroups.v1.iter().map(|one| one.mount.to_str().unwrap()).collect();
        assert_eq!(mounts, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd"]);
        assert_eq!(cgroups.v1[2].controllers, ["name=systemd"]);
        assert!(matches!(
            Cgroups::from_mountinfo("1 2 0:1 / / rw - ext4 x rw"),
            Err(CgroupError::NotMounted)
        ));
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let cgroups = Cgroups::from_mountinfo(HYBRID).unwrap();
        for (parent, id) in
            [("..", "a"), ("a", "../b"), ("/a", "b"), ("a//b", "c"), ("a", ""), ("", "a"), ("a", "b/c")]
        {
            assert!(matches!(cgroups.group(parent, id), Err(CgroupError::Name(_))), "{parent} {id}");
        }
    }

    #[test]
    fn v2_controllers_are_handed_down_to_the_parent() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["", "a", "a/b"] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
            std::fs::write(root.path().join(dir).join("cgroup.subtree_control"), "").unwrap();
        }
        let cgroups = Cgroups::from_mountinfo(HYBRID).unwrap();
        cgroups.enable_controllers(root.path(), Path::new("a/b"), &["cpu", "memory", "pids"]).unwrap();
        for dir in ["", "a", "a/b"] {
            let text = std::fs::read_to_string(root.path().join(dir).join("cgroup.subtree_control")).unwrap();
            assert_eq!(text, "+cpu +memory +pids", "{dir}");
        }
    }

    #[test]
    fn a_limit_without_its_controller_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups {
            v1: Vec::new(),
            unified: Some(root.path().to_path_buf()),
            unified_root: PathBuf::from("/"),
            v2_controllers: Vec::new(),
        };
        let mut resources = oci_spec::runtime::LinuxResources::default();
        let mut pids = oci_spec::runtime::LinuxPids::default();
        pids.set_limit(5);
        resources.set_pids(Some(pids));
        let limits = Limits::from_oci(&resources);
        let error = cgroups.create("p", "x", &limits).unwrap_err();
        assert!(matches!(error, CgroupError::NoController { controller: "pids" }), "{error}");
        assert!(!root.path().join("p").exists());
    }
}
