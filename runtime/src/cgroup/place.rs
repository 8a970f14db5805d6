//! Where a group belongs: what `linux.cgroupsPath` means to each driver, as runc reads it.

use std::path::{Path, PathBuf};

use super::group::Directory;
use super::systemd::Unit;
use super::{Cgroup, CgroupError, Cgroups};
use crate::paths::clean;

/// Who makes the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// This process, in the cgroup filesystem.
    #[default]
    Cgroupfs,
    /// Systemd, as a scope or slice.
    Systemd,
}

impl Cgroups {
    /// The group where the OCI `linux.cgroupsPath` says; nothing is made yet. Every hierarchy that is mounted takes
    /// part.
    ///
    /// With [`Driver::Cgroupfs`] an absolute path is below each hierarchy's root, a relative one (or the ID, without
    /// a path) below this process's own group on v1, and beside it on v2. With [`Driver::Systemd`] the path is
    /// `slice:prefix:name`.
    ///
    /// # Errors
    /// [`CgroupError::Name`], [`CgroupError::SystemdPath`], [`CgroupError::Io`].
    pub fn place(
        &self,
        cgroups_path: Option<&Path>,
        id: &str,
        driver: Driver,
    ) -> Result<Cgroup, CgroupError> {
        let cgroups_path = cgroups_path.filter(|path| !path.as_os_str().is_empty());
        match driver {
            Driver::Systemd => {
                let (unit, inner) = Unit::place(cgroups_path, id)?;
                let mut group = self.below(&|mount, _, _| mount.join(&inner));
                group.unit = Some(unit);
                Ok(group)
            }
            Driver::Cgroupfs => {
                let path = cgroups_path.unwrap_or_else(|| Path::new(id));
                let inner = clean(path);
                if inner.as_os_str().is_empty() {
                    return Err(CgroupError::Name(path.display().to_string()));
                }
                if path.is_absolute() {
                    return Ok(self.below(&|mount, _, _| mount.join(&inner)));
                }
                let file = Path::new("/proc/self/cgroup");
                let own = std::fs::read_to_string(file).map_err(CgroupError::io("read", file))?;
                Ok(self.relative(&own, &inner))
            }
        }
    }

    /// The groups `inner` of the caller whose `/proc/self/cgroup` this is.
    pub(super) fn relative(&self, own: &str, inner: &Path) -> Cgroup {
        let pure = self.is_pure_v2();
        self.below(&|mount, root, controllers| {
            let line = own.lines().find_map(|line| {
                let (names, path) = line.split_once(':')?.1.split_once(':')?;
                let mine = match controllers.first() {
                    Some(name) => names.split(',').any(|one| one == name),
                    None => names.is_empty(),
                };
                mine.then(|| PathBuf::from(path))
            });
            // In a v2 tree beside v1 controllers runc takes its top, and so do others who look there.
            let line = if controllers.is_empty() && !pure { None } else { line };
            // Outside of what the mount shows there is nothing to be relative to.
            let mut group =
                line.as_deref().and_then(|own| own.strip_prefix(root).ok()).unwrap_or_else(|| Path::new(""));
            if controllers.is_empty() {
                // A v2 group with processes cannot hand controllers to groups below it.
                group = group.parent().unwrap_or_else(|| Path::new(""));
            }
            mount.join(group).join(inner)
        })
    }

    fn below(&self, path: &dyn Fn(&Path, &Path, &[String]) -> PathBuf) -> Cgroup {
        let v1 = self.v1.iter().map(|one| Directory::v1(path(&one.mount, &one.root, &one.controllers), one));
        let unified = self
            .unified
            .iter()
            .map(|mount| Directory { path: path(mount, &self.unified_root, &[]), v1: None });
        Cgroup::new(v1.chain(unified).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::detect::Hierarchy;

    fn cgroups(v1: &[(&str, &str)], unified: Option<&str>) -> Cgroups {
        let hierarchy = |(names, root): &(&str, &str)| Hierarchy {
            mount: Path::new("/c").join(names),
            root: PathBuf::from(root),
            controllers: names.split(',').map(str::to_owned).collect(),
        };
        Cgroups {
            v1: v1.iter().map(hierarchy).collect(),
            unified: unified.map(PathBuf::from),
            unified_root: PathBuf::from("/"),
            v2_controllers: Vec::new(),
        }
    }

    fn paths(group: &Cgroup) -> Vec<(String, String)> {
        group.paths().into_iter().map(|(name, path)| (name, path.display().to_string())).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn an_absolute_path_is_below_every_root_and_cannot_leave_it() {
        let cgroups = cgroups(&[("cpu,cpuacct", "/"), ("name=systemd", "/")], Some("/u"));
        let group = cgroups.place(Some(Path::new("/../a/./b/../c")), "id", Driver::Cgroupfs).unwrap();
        let expected = [
            ("", "/u/a/c"),
            ("cpu", "/c/cpu,cpuacct/a/c"),
            ("cpuacct", "/c/cpu,cpuacct/a/c"),
            ("name=systemd", "/c/name=systemd/a/c"),
        ];
        assert_eq!(paths(&group), pairs(&expected));
        assert_eq!(paths(&Cgroup::from_paths(&group.paths(), None)), pairs(&expected));
        for path in ["/", "/a/..", ".."] {
            assert!(matches!(
                cgroups.place(Some(Path::new(path)), "id", Driver::Cgroupfs),
                Err(CgroupError::Name(_))
            ));
        }
    }

    #[test]
    fn a_relative_path_is_below_the_own_group_on_v1_and_beside_it_on_v2() {
        let own = "5:memory:/outer/mine\n1:cpuacct,cpu:/elsewhere\n0::/user/session";
        let hybrid = cgroups(&[("memory", "/outer"), ("cpu", "/outer")], Some("/u"));
        let group = hybrid.relative(own, Path::new("id"));
        let expected = [("", "/u/id"), ("cpu", "/c/cpu/id"), ("memory", "/c/memory/mine/id")];
        assert_eq!(paths(&group), pairs(&expected));
        let pure = cgroups(&[], Some("/u"));
        assert_eq!(paths(&pure.relative(own, Path::new("id"))), pairs(&[("", "/u/user/id")]));
        assert_eq!(paths(&pure.relative("0::/", Path::new("id"))), pairs(&[("", "/u/id")]));
    }

    #[test]
    fn systemds_path_names_slice_and_unit() {
        let cgroups = cgroups(&[], Some("/u"));
        let place = |path: &str| cgroups.place(Some(Path::new(path)), "id", Driver::Systemd);
        let group = place("a-b.slice:skep:x").unwrap();
        assert_eq!(paths(&group), pairs(&[("", "/u/a.slice/a-b.slice/skep-x.scope")]));
        assert_eq!(group.unit(), Some("skep-x.scope"));
        let group = place("::own-c.slice").unwrap();
        assert_eq!(paths(&group), pairs(&[("", "/u/own.slice/own-c.slice")]));
        let group = place("-.slice:p:n").unwrap();
        assert_eq!(paths(&group), pairs(&[("", "/u/p-n.scope")]));
        let group = cgroups.place(None, "id", Driver::Systemd).unwrap();
        assert_eq!(group.unit(), Some("skep-id.scope"));
        for path in [
            "a",
            "a.slice:b",
            "a:b:c",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "a/b.slice:p:n",
            "a.slice:p:../n",
            "::-.slice",
            "::a--b.slice",
        ] {
            assert!(matches!(place(path), Err(CgroupError::SystemdPath(_))), "{path}");
        }
    }
}
