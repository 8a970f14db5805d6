//! What is mounted in the container, and where.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::{Builder, target};
use crate::container::mounts::MountOptions;
use crate::container::plan::{MountSource, Step};
use crate::container::{CreateError, c_string, rootfs};
use crate::sys;

impl Builder<'_> {
    pub(super) fn mount(&mut self, mount: &Mount) -> Result<(), CreateError> {
        let destination = mount.destination();
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default())?;
        let kind = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "none" });
        let inside_proc =
            destination.starts_with("/proc") && (destination != Path::new("/proc") || kind != "proc");
        if inside_proc && !(options.bind && destination == Path::new("/proc")) {
            // It could cover files that the runtime and the kernel trust (CVE-2019-16884, CVE-2023-27561).
            return Err(CreateError::Invalid(format!("a mount inside /proc: {}", destination.display())));
        }
        if options.bind || kind == "bind" {
            return self.bind(mount, &options);
        }
        if kind == "cgroup" || kind == "cgroup2" {
            return self.cgroup_mounts(destination, &options);
        }
        let strict = matches!(kind, "proc" | "sysfs");
        self.filesystem(destination, kind, &options, strict)
    }

    fn filesystem(
        &mut self,
        at: &Path,
        kind: &str,
        options: &MountOptions,
        strict: bool,
    ) -> Result<(), CreateError> {
        let mut parameters = vec![(c"source".to_owned(), Some(c_string(kind, "a mount type")?))];
        for (key, value) in &options.data {
            // A new instance is what devpts always is since Linux 4.7, and fsconfig no longer knows the word.
            if kind == "devpts" && key == "newinstance" {
                continue;
            }
            let value =
                value.as_ref().map(|value| c_string(value.as_bytes(), "a mount option")).transpose()?;
            parameters.push((c_string(key.as_bytes(), "a mount option")?, value));
        }
        self.steps.push(Step::Mount {
            target: target(at, false, strict)?,
            source: MountSource::Filesystem {
                kind: c_string(kind, "a mount type")?,
                parameters,
                attributes: MountAttrFlags::from_bits_retain(options.set as u32),
            },
            label: kind.to_owned(),
        });
        Ok(())
    }

    fn bind(&mut self, mount: &Mount, options: &MountOptions) -> Result<(), CreateError> {
        let to = mount.destination();
        let from = mount.source().as_ref().ok_or_else(|| {
            CreateError::Invalid(format!("the bind mount at {} has no source", to.display()))
        })?;
        let from = self.bundle.join(from);
        let take = || -> rustix::io::Result<(OwnedFd, bool)> {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            flags.set(OpenTreeFlags::AT_RECURSIVE, options.recursive);
            let tree = open_tree(CWD, &from, flags)?;
            rootfs::private(&tree)?;
            if options.set | options.clear != 0 {
                // Setting an atime mode needs the old one cleared.
                let atime = if (options.set | options.clear) & 0x70 == 0 { 0 } else { 0x70 };
                sys::mount_setattr(tree.as_fd(), options.set, options.clear | atime, 0, false)?;
            }
            if options.propagation != 0 && options.propagation != libc::MS_PRIVATE {
                sys::mount_setattr(tree.as_fd(), 0, 0, options.propagation, true)?;
            }
            let stat = rustix::fs::fstat(&tree)?;
            Ok((tree, FileType::from_raw_mode(stat.st_mode) != FileType::Directory))
        };
        let (tree, file) = take().map_err(|errno| CreateError::BindSource {
            from: from.clone(),
            to: to.clone(),
            source: errno.into(),
        })?;
        self.steps.push(Step::Mount {
            target: target(to, file, false)?,
            source: MountSource::Tree(tree),
            label: from.display().to_string(),
        });
        Ok(())
    }

    /// v2: one mount. v1 and hybrid: a tmpfs with a directory per hierarchy, sealed afterwards. The container sees its
    /// own group as the root of each, by its cgroup namespace.
    fn cgroup_mounts(&mut self, at: &Path, options: &MountOptions) -> Result<(), CreateError> {
        let Some(cgroups) = self.cgroups else { return Ok(()) };
        let mut own = MountOptions { data: Vec::new(), ..options.clone() };
        if cgroups.v1.is_empty() {
            return self.filesystem(at, "cgroup2", &own, true);
        }
        let mut tmpfs = MountOptions { set: options.set & !1, ..MountOptions::default() };
        tmpfs.data = vec![("mode".to_owned(), Some("755".to_owned()))];
        self.filesystem(at, "tmpfs", &tmpfs, true)?;
        for hierarchy in &cgroups.v1 {
            if hierarchy.controllers.iter().any(|name| name == "cpuset") {
                continue;
            }
            own.data = Vec::new();
            for name in &hierarchy.controllers {
                match name.split_once('=') {
                    // A hierarchy without controllers goes by its name.
                    Some((key, value)) => {
                        own.data.push(("none".to_owned(), None));
                        own.data.push((key.to_owned(), Some(value.to_owned())));
                    }
                    None => own.data.push((name.clone(), None)),
                }
            }
            let name = hierarchy.mount.file_name().unwrap_or_default();
            self.filesystem(&at.join(name), "cgroup", &own, true)?;
        }
        if cgroups.unified.is_some() {
            own.data = Vec::new();
            self.filesystem(&at.join("unified"), "cgroup2", &own, true)?;
        }
        if options.set & 1 != 0 {
            self.steps.push(Step::Seal(target(at, false, true)?));
        }
        Ok(())
    }
}
