//! The container's own view of its cgroups.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::super::{Builder, target};
use crate::cgroup::{Directory, V1};
use crate::container::mounts::{MountOptions, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::container::plan::{MountSource, Step};
use crate::container::{CreateError, c_string};
use crate::weak::{self, Weakness};

impl Builder<'_> {
    /// v2: one mount. v1 and hybrid: a tmpfs with a directory per hierarchy, read-only afterwards. The container sees
    /// its own group as the root of each, by its cgroup namespace, or because only that is bound.
    pub(super) fn cgroup_mounts(&mut self, at: &Path, options: &MountOptions) -> Result<(), CreateError> {
        let Some((cgroups, group)) = self.mounts.cgroup else { return Ok(()) };
        let mut own = MountOptions { data: Vec::new(), ..options.clone() };
        if cgroups.v1.is_empty() {
            return self.filesystem(target(at, false, true)?, ("cgroup2", b"cgroup"), options, None);
        }
        let mut tmpfs = MountOptions { propagation: options.propagation.clone(), ..MountOptions::default() };
        tmpfs.set = NOSUID | NODEV | NOEXEC | (options.set & RDONLY);
        tmpfs.data = vec![("mode".to_owned(), Some("755".to_owned()))];
        self.filesystem(target(at, false, true)?, ("tmpfs", b"tmpfs"), &tmpfs, None)?;
        own.set |= NOSUID | NODEV | NOEXEC;
        // Of the hierarchies that it has not joined it would see the host's groups.
        for directory in group.directories() {
            let v1 = directory.v1.as_ref();
            let name = v1.map_or_else(
                || std::ffi::OsStr::new("unified"),
                |v1| v1.mount.file_name().unwrap_or_default(),
            );
            let place = target(&at.join(name), false, true)?;
            if self.mounts.cgroup_namespace {
                own.data = v1.map(hierarchy_options).unwrap_or_default();
                let kind = if v1.is_some() { "cgroup" } else { "cgroup2" };
                self.filesystem(place, (kind, b"cgroup"), &own, None)?;
            } else {
                let bound = MountOptions { changed: true, ..own.clone() };
                let (tree, _) = self.take_tree(shown(directory), at, &bound, None)?;
                let label = directory.path.display().to_string();
                self.steps.push(Step::Mount { target: place, source: MountSource::Tree(tree), label });
            }
            // Each controller by its own name, where several share a hierarchy.
            let folder = super::super::relative(at)?;
            for part in name.to_string_lossy().split(',').filter(|part| name != *part) {
                self.steps.push(Step::Symlink {
                    directory: folder.clone(),
                    name: c_string(part, "a controller")?,
                    to: c_string(name.as_bytes(), "a hierarchy")?,
                });
            }
        }
        Ok(())
    }
}

/// What a container without a cgroup namespace sees of a hierarchy: its own group and those in it.
pub(super) fn shown(directory: &Directory) -> &Path {
    match directory.path.parent() {
        Some(above) if weak::has(Weakness::Cgroups) => above,
        _ => &directory.path,
    }
}

/// How a v1 hierarchy is named to the kernel: by its controllers, or, if it has none, by its name.
fn hierarchy_options(v1: &V1) -> Vec<(String, Option<String>)> {
    let options = v1.controllers.iter().flat_map(|name| match name.strip_prefix("name=") {
        Some(name) => vec![("none".to_owned(), None), ("name".to_owned(), Some(name.to_owned()))],
        None => vec![(name.clone(), None)],
    });
    options.collect()
}
