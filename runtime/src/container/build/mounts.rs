//! What is mounted in the container, and where.

mod binds;
mod cgroups;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use self::cgroups::shown;
use super::{Builder, idmap, lsm, target};
use crate::cgroup::{Cgroup, Cgroups};
use crate::container::mounts::{self, MountOptions, Propagation, RDONLY};
use crate::container::plan::{CopyFrom, Filesystem, MountSource, Remount, Step, Target};
use crate::container::{CreateError, Rootfs, c_string};
use crate::mountinfo::unescape;
use crate::weak::{self, Weakness};

/// What lxcfs and the like may put over files of procfs: numbers for programs to read, nothing that the runtime or the
/// kernel trusts.
const PROC_FILES: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// What all mounts of a container depend on.
pub(super) struct Mounts<'a> {
    cgroup: Option<(&'a Cgroups, &'a Cgroup)>,
    cgroup_namespace: bool,
    user_namespace: bool,
    /// `linux.rootfsPropagation`.
    propagation: Option<Propagation>,
    /// The ID maps of the container's own user namespace.
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
    /// The user namespace that the container joins.
    joined: Option<PathBuf>,
    /// `linux.mountLabel`.
    pub(super) label: Option<CString>,
    /// The host's directory that the root filesystem is attached over, as it is named and without links.
    over: (PathBuf, PathBuf),
    /// It is the root filesystem too, no overlay over it.
    plain_root: bool,
    /// The spec has a mount namespace.
    namespace: bool,
    /// Whether the child sees the host's mounts as this process does, with the same rights.
    same_view: bool,
    /// What becomes read-only when all is in it.
    pub(super) seals: Vec<Target>,
}

impl<'a> Mounts<'a> {
    /// `over`: the host's directory that the root is attached over, and whether it is the root filesystem itself.
    pub(super) fn new(
        linux: &Linux,
        cgroup: Option<(&'a Cgroups, &'a Cgroup)>,
        over: (&Path, bool),
    ) -> Result<Self, CreateError> {
        let namespace = |typ| linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == typ);
        let word = linux.rootfs_propagation().as_deref().filter(|word| !word.is_empty());
        let propagation = word.map(|word| {
            mounts::propagation(word)
                .ok_or_else(|| CreateError::Invalid(format!("linux.rootfsPropagation {word:?}")))
        });
        let user = namespace(LinuxNamespaceType::User);
        let own = namespace(LinuxNamespaceType::Mount);
        let new = own.is_some_and(|own| own.path().as_ref().is_none_or(|path| path.as_os_str().is_empty()));
        let (over, plain_root) = over;
        // One that is not there fails where it is opened.
        let clean = over.canonicalize().unwrap_or_else(|_| over.to_path_buf());
        Ok(Self {
            cgroup,
            cgroup_namespace: namespace(LinuxNamespaceType::Cgroup).is_some(),
            user_namespace: user.is_some(),
            propagation: propagation.transpose()?,
            uids: linux.uid_mappings().clone().unwrap_or_default(),
            gids: linux.gid_mappings().clone().unwrap_or_default(),
            joined: user.and_then(|user| super::joined_path(user).cloned()),
            label: lsm::mount_label(linux)?,
            over: (over.to_path_buf(), clean),
            plain_root,
            namespace: own.is_some(),
            same_view: new && user.is_none(),
            seals: Vec::new(),
        })
    }

    /// What a copy of a host's mount keeps of its propagation: by default the host's new mounts come in and none goes
    /// out; with a shared root, the copy stays the host's peer.
    pub(super) fn inherited(&self) -> Option<u64> {
        match self.propagation.map(|propagation| propagation.mode) {
            None | Some(libc::MS_SLAVE) => Some(libc::MS_SLAVE),
            Some(libc::MS_SHARED) => None,
            Some(_) => Some(libc::MS_PRIVATE),
        }
    }

    /// Whether the container has another mount namespace than this process.
    pub(super) fn namespace(&self) -> bool {
        self.namespace
    }

    /// Whether copies of the host's mounts are made by the child, of mounts that still are the host's slaves.
    pub(super) fn copies_slaves(&self) -> bool {
        self.same_view && self.inherited() == Some(libc::MS_SLAVE)
    }

    /// A path of the host's, as one inside the root filesystem if it is in its directory.
    fn inside<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.over.0).ok().filter(|_| self.plain_root)
    }

    /// The source of a copy that the child can make by its name, and whether it is a file.
    fn by_name(&self, from: &Path) -> rustix::io::Result<Option<(CopyFrom, bool)>> {
        if !self.same_view || self.inherited().is_none() {
            return Ok(None);
        }
        let path = from
            .canonicalize()
            .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::NOENT))?;
        // Names there mean the process that uses them; under the other one the child sees the container's root.
        if path.starts_with("/proc") || path.starts_with(&self.over.1) {
            return Ok(None);
        }
        let stat = rustix::fs::lstat(&path)?;
        let Ok(path) = CString::new(path.into_os_string().into_vec()) else { return Ok(None) };
        let file = FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        Ok(Some((CopyFrom::Host { path, identity: (stat.st_dev, stat.st_ino) }, file)))
    }

    /// Whether `linux.rootfsPropagation` says slave.
    pub(super) fn is_slave(&self) -> bool {
        self.propagation.is_some_and(|propagation| propagation.mode == libc::MS_SLAVE)
    }

    /// To be set on the container's root at the end: pivot_root(2) takes no shared one.
    pub(super) fn root_propagation(&self) -> Option<Propagation> {
        self.propagation.filter(|propagation| propagation.mode != libc::MS_PRIVATE)
    }

    pub(super) fn user_namespace(&self) -> bool {
        self.user_namespace
    }

    /// The user namespace whose maps hold for a mount.
    fn id_maps(&self, mount: &Mount, options: &MountOptions) -> Result<Option<OwnedFd>, CreateError> {
        let own = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
        let at = mount.destination().display();
        match own {
            (Some(uids), Some(gids)) if !uids.is_empty() && !gids.is_empty() => {
                idmap::user_namespace(uids, gids).map(Some)
            }
            (None | Some([]), None | Some([])) if options.idmap.is_none() => Ok(None),
            (None | Some([]), None | Some([])) => match &self.joined {
                Some(path) => {
                    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                    fd.map(Some).map_err(|errno| CreateError::OpenNamespace {
                        path: path.clone(),
                        source: errno.into(),
                    })
                }
                None if !self.uids.is_empty() && !self.gids.is_empty() => {
                    idmap::user_namespace(&self.uids, &self.gids).map(Some)
                }
                None => Err(CreateError::Invalid(format!(
                    "the mount at {at} is to be idmapped, but neither it nor linux has ID mappings"
                ))),
            },
            _ => Err(CreateError::Invalid(format!(
                "the mount at {at} has only one of uidMappings and gidMappings"
            ))),
        }
    }
}

impl Builder<'_> {
    pub(super) fn mount(&mut self, mount: &Mount) -> Result<(), CreateError> {
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
        let kind = mount.typ().as_deref().filter(|kind| !kind.is_empty() && !options.bind);
        let kind = kind.unwrap_or(if options.bind { "bind" } else { "none" });
        // Some name the place as the host sees it (runc takes that too).
        let at = mount.destination();
        let at = self.mounts.inside(at).unwrap_or(at);
        let strict = matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2") && !weak::has(Weakness::Procfs);
        if options.remount {
            return self.remount(at, &options, strict);
        }
        let place = self.place(at, kind, strict)?;
        if kind == "bind" {
            return self.bind(mount, &options, place);
        }
        if matches!(kind, "cgroup" | "cgroup2") {
            return self.cgroup_mounts(at, &options);
        }
        let source = mount.source().as_ref().map(|source| source.as_os_str().as_bytes());
        let idmap = self.mounts.id_maps(mount, &options)?;
        let source = source.filter(|source| !source.is_empty()).unwrap_or(kind.as_bytes());
        self.filesystem(place, (kind, source), &options, idmap)
    }

    /// Changes what is mounted there: the one mount, if the options have `bind`, or else its filesystem (mount(2)).
    fn remount(&mut self, at: &Path, options: &MountOptions, strict: bool) -> Result<(), CreateError> {
        let mut place = target(at, false, strict)?;
        if place.prefixes.last().is_some_and(|path| path.as_c_str() == c"proc") {
            place.strict = true;
        } else {
            place = self.place(at, "none", strict)?;
        }
        let mut flags = options.legacy_flags();
        flags.set(rustix::mount::MountFlags::BIND, options.bind);
        let data = if options.bind { Vec::new() } else { text_options(options, None) };
        let remount = Remount {
            flags,
            data: c_string(data, "mount options")?,
            propagation: options.propagation.clone(),
        };
        self.steps.push(Step::Remount(place, remount));
        Ok(())
    }

    /// The target, if it may be one.
    fn place(&self, at: &Path, kind: &str, strict: bool) -> Result<Target, CreateError> {
        let mut place = target(at, false, strict)?;
        let Some(path) = place.prefixes.last() else {
            return Err(CreateError::Invalid("a mount over the root".to_owned()));
        };
        if weak::has(Weakness::Procfs) {
            return Ok(place);
        }
        if let Some(below) = path.to_bytes().strip_prefix(b"proc/") {
            if !PROC_FILES.iter().any(|file| file.as_bytes() == below) {
                // It could cover files that the runtime and the kernel trust (CVE-2019-16884, CVE-2023-27561).
                return Err(CreateError::Invalid(format!("a mount inside /proc: {}", at.display())));
            }
            // /proc/net is a link, into a directory of procfs.
            (place.strict, place.in_proc) = (below != b"net/dev", true);
        } else if path.to_bytes() == b"proc" {
            if !matches!(kind, "proc" | "bind") {
                return Err(CreateError::Invalid(format!("a mount of type {kind} over /proc")));
            }
            place.strict = true;
        }
        Ok(place)
    }

    fn filesystem(
        &mut self,
        place: Target,
        (kind, source): (&str, &[u8]),
        options: &MountOptions,
        idmap: Option<OwnedFd>,
    ) -> Result<(), CreateError> {
        let mut options = options.clone();
        // A new instance is what devpts always is since Linux 4.7, and fsconfig no longer knows the word.
        options.data.retain(|(key, _)| !(kind == "devpts" && key == "newinstance"));
        let dev = place.prefixes.last().is_some_and(|path| path.as_c_str() == c"dev");
        if options.set & RDONLY != 0 && (kind == "tmpfs" || dev) {
            options.set &= !RDONLY;
            self.mounts.seals.push(place.copy());
        }
        let label = self.mounts.label.as_ref().filter(|_| lsm::takes_label(kind));
        let (file_label, label) = if kind == "mqueue" { (label.cloned(), None) } else { (None, label) };
        let mut parameters = vec![(c"source".to_owned(), Some(c_string(source, "a mount's source")?))];
        for (key, value) in &options.data {
            let value =
                value.as_ref().map(|value| c_string(value.as_bytes(), "a mount option")).transpose()?;
            parameters.push((c_string(key.as_bytes(), "a mount option")?, value));
        }
        if let Some(label) = label {
            parameters.push((c"context".to_owned(), Some(label.clone())));
        }
        parameters.extend(options.superblock_words().map(|word| (word.to_owned(), None)));
        // A filesystem on a device that cannot be written has to know before it is mounted; those of the kernel itself
        // are shared between mounts, of which others may be written.
        if options.set & RDONLY != 0 && !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2" | "mqueue") {
            parameters.push((c"ro".to_owned(), None));
        }
        let instead = match self.mounts.cgroup {
            Some((_, group)) if kind == "cgroup2" && self.mounts.user_namespace => {
                let own = group.directories().iter().find(|directory| directory.v1.is_none());
                let own =
                    own.map(|directory| self.take_tree(shown(directory), Path::new(""), &options, None));
                own.transpose()?.map(|taken| taken.0)
            }
            _ => None,
        };
        let keep_mode = kind == "tmpfs" && !options.data.iter().any(|option| option.0 == "mode");
        let wanted = Filesystem {
            kind: c_string(kind, "a mount type")?,
            parameters,
            attributes: MountAttrFlags::from_bits_retain(options.set as u32),
            source: c_string(source, "a mount's source")?,
            flags: options.legacy_flags(),
            data: c_string(text_options(&options, label), "mount options")?,
            legacy_only: options.superblock & mounts::LEGACY_ONLY != 0,
            propagation: options.propagation.clone(),
            idmap,
            keep_mode,
            copy_up: options.copy_up && kind == "tmpfs",
            file_label,
            instead,
        };
        let label = wanted.source.to_string_lossy().into_owned();
        let source = MountSource::Filesystem(Box::new(wanted));
        self.steps.push(Step::Mount { target: place, source, label });
        Ok(())
    }
}

/// The filesystem's options as mount(2) takes them.
fn text_options(options: &MountOptions, label: Option<&CString>) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for (key, value) in &options.data {
        parts.push(value.as_ref().map_or_else(|| key.clone(), |value| format!("{key}={value}")).into_bytes());
    }
    if let Some(label) = label {
        parts.push([b"context=\"", label.to_bytes(), b"\""].concat());
    }
    parts.join(&b","[..])
}

/// The change of root without pivot_root(2), and which of the host's mounts have to go first: every whole procfs and
/// sysfs but those in the root filesystem's own directory.
pub(super) fn move_root(rootfs: &Rootfs, bundle: &Path) -> Result<Step, CreateError> {
    let own = match rootfs {
        Rootfs::Directory(path) => path,
        Rootfs::Overlay { .. } => bundle,
    };
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(path)
        .map_err(|source| CreateError::OpenRoot { path: path.to_path_buf(), source })?;
    let mut host = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ').skip(3);
        let (Some(root), Some(place)) = (fields.next(), fields.next()) else { continue };
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
        let place = unescape(place);
        if root == "/" && matches!(kind, Some("proc" | "sysfs")) && !place.starts_with(own) {
            host.push(c_string(place.as_os_str().as_bytes(), "a mount point")?);
        }
    }
    Ok(Step::MoveRoot(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_for_mount() {
        let options = parse("mode=755,size=1k,flag,ro");
        assert_eq!(text_options(&options, None), b"mode=755,size=1k,flag");
        assert_eq!(
            text_options(&options, Some(&c"a:b,c".to_owned())),
            b"mode=755,size=1k,flag,context=\"a:b,c\""
        );
    }
}
