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
            // To mount it anew from the host's own cgroup namespace would set the host's options for the whole tree
            // (`nsdelegate` would be gone; cgroups(7)), and the kernel waits a grace period for that.
            if let Some(unified) = cgroups.unified.as_deref().filter(|_| self.shares_cgroups(options)) {
                return self.bound_cgroups(at, unified, &own, unified);
            }
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
            if self.mounts.cgroup_namespace {
                own.data = v1.map(hierarchy_options).unwrap_or_default();
                let kind = if v1.is_some() { "cgroup" } else { "cgroup2" };
                let place = target(&at.join(name), false, true)?;
                self.filesystem(place, (kind, b"cgroup"), &own, None)?;
            } else {
                self.bound_cgroups(&at.join(name), shown(directory), &own, &directory.path)?;
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

    /// Whether the container sees the v2 tree as the host does, and asks for nothing of it that only a mount of its own
    /// could have. (In a user namespace it would be the host's groups that it may not touch.)
    fn shares_cgroups(&self, options: &MountOptions) -> bool {
        !self.mounts.cgroup_namespace && !self.mounts.user_namespace && options.data.is_empty()
    }

    /// A directory of the host's hierarchies, as it is. `label`: how errors call it.
    fn bound_cgroups(
        &mut self,
        at: &Path,
        directory: &Path,
        options: &MountOptions,
        label: &Path,
    ) -> Result<(), CreateError> {
        let options = MountOptions { changed: true, ..options.clone() };
        let (tree, _) = self.take_tree(directory, at, &options, None)?;
        let label = label.display().to_string();
        let source = MountSource::Tree(tree);
        self.steps.push(Step::Mount { target: target(at, false, true)?, source, label });
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
