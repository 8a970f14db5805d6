//! Device nodes and links of a container's `/dev`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use rustix::fs::{CWD, FileType, makedev};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Gid, Uid};

use super::{Builder, target};
use crate::container::plan::{Devices, Node, Step, Target};
use crate::container::{CreateError, c_string};

/// Nodes that every container has, mode 0666 (OCI runtime spec, "Default Devices").
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container has; the last one instead of what an image may have in its place, as a terminal of
/// another devpts would be the host's.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The kernel's memory, where procfs has it (as runc; it is masked by default).
const CORE: (&str, &str) = ("core", "/proc/kcore");

impl Builder<'_> {
    /// A `/dev` that is the host's is left alone.
    pub(super) fn devices(&mut self, mounts: &[Mount], extra: &[LinuxDevice]) -> Result<(), CreateError> {
        if mounts.iter().any(is_bound_dev) {
            return Ok(());
        }
        let bound = self.mounts.user_namespace() || !may_make_nodes();
        let mut dev = Devices {
            directory: target(Path::new("/dev"), false, false)?,
            nodes: Vec::new(),
            links: Vec::new(),
        };
        let mut others: Vec<(PathBuf, Devices)> = Vec::new();
        for (name, major, minor) in DEVICES {
            let path = Path::new("/dev").join(name);
            if !extra.iter().any(|device| device.path() == &path) {
                let kind = FileType::CharacterDevice;
                let node = Node {
                    name: c_string(name, "a name")?,
                    kind,
                    dev: makedev(major, minor),
                    mode: 0o666,
                    uid: Uid::ROOT,
                    gid: Gid::ROOT,
                    path: c_string(path.as_os_str().as_bytes(), "a path")?,
                    host: None,
                };
                dev.nodes.push(with_host(node, bound)?);
            }
        }
        for device in extra {
            let Some((directory, node)) = node(device)? else { continue };
            let node = with_host(node, bound)?;
            let at = PathBuf::from(std::ffi::OsStr::from_bytes(
                directory.prefixes.last().map(|path| path.to_bytes()).unwrap_or_default(),
            ));
            match others.iter_mut().find(|other| other.0 == at) {
                _ if at == Path::new("dev") => dev.nodes.push(node),
                Some((_, devices)) => devices.nodes.push(node),
                None => others.push((at, Devices { directory, nodes: vec![node], links: Vec::new() })),
            }
        }
        let core = Path::new(CORE.1).exists().then_some(CORE);
        for (name, to) in LINKS.into_iter().chain(core) {
            dev.links.push((c_string(name, "a name")?, c_string(to, "a path")?, name == "ptmx"));
        }
        self.steps.push(Step::Devices(dev));
        self.steps.extend(others.into_iter().map(|other| Step::Devices(other.1)));
        Ok(())
    }
}

fn is_bound_dev(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    let bind = options.iter().any(|option| option == "bind" || option == "rbind");
    let at = target(mount.destination(), false, false);
    let dev = at.is_ok_and(|at| at.prefixes.last().is_some_and(|path| path.as_c_str() == c"dev"));
    dev && (bind || mount.typ().as_deref() == Some("bind"))
}

/// Whether this process has the capability. In a user namespace it has it for nothing; the child finds that out.
fn may_make_nodes() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_MKNOD).unwrap_or(false)
}

/// One of `linux.devices`, and the directory it is in. `/dev/ptmx` is always the container's own.
fn node(device: &LinuxDevice) -> Result<Option<(Target, Node)>, CreateError> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(CreateError::Invalid("a device of type \"a\"".to_owned())),
    };
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| CreateError::Invalid(format!("device number {number}")))
    };
    let dev = match kind {
        FileType::Fifo => 0,
        _ => makedev(number(device.major())?, number(device.minor())?),
    };
    let mut directory = target(device.path(), false, false)?;
    let (Some(name), Some(path)) = (directory.names.pop(), directory.prefixes.pop()) else {
        return Err(CreateError::Invalid("a device in place of the root".to_owned()));
    };
    if path.as_c_str() == c"dev/ptmx" {
        return Ok(None);
    }
    let node = Node {
        name,
        kind,
        dev,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: Uid::from_raw(device.uid().unwrap_or(0)),
        gid: Gid::from_raw(device.gid().unwrap_or(0)),
        path: c_string(device.path().as_os_str().as_bytes(), "a path")?,
        host: None,
    };
    Ok(Some((directory, node)))
}

/// With the host's own node of that path, if nodes are bound (not fifos: those everybody may make).
fn with_host(mut node: Node, bound: bool) -> Result<Node, CreateError> {
    if bound && node.kind != FileType::Fifo {
        let path = || PathBuf::from(std::ffi::OsStr::from_bytes(node.path.to_bytes()));
        let tree = host_node(&node);
        node.host = Some(tree.map_err(|errno| CreateError::BindSource {
            from: path(),
            to: path(),
            source: errno.into(),
        })?);
    }
    Ok(node)
}

/// A detached mount of the host's node, if it is the device that is meant.
fn host_node(node: &Node) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, node.path.as_c_str(), flags)?;
    let stat = rustix::fs::fstat(tree.as_fd())?;
    if FileType::from_raw_mode(stat.st_mode) != node.kind || stat.st_rdev != node.dev {
        return Err(rustix::io::Errno::NODEV);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, typ: LinuxDeviceType) -> LinuxDevice {
        let mut device = LinuxDevice::default();
        device.set_path(path.into()).set_typ(typ).set_major(1).set_minor(3);
        device
    }

    #[test]
    fn a_device_and_its_directory() {
        let (directory, made) = node(&device("/dev/a/../b/c", LinuxDeviceType::C)).unwrap().unwrap();
        assert_eq!(directory.prefixes.last().unwrap().as_c_str(), c"dev/b");
        assert_eq!((made.name.as_c_str(), made.dev, made.mode), (c"c", makedev(1, 3), 0o666));
        assert!(node(&device("/dev/ptmx", LinuxDeviceType::C)).unwrap().is_none());
        assert!(node(&device("/", LinuxDeviceType::C)).is_err());
        assert!(node(&device("/dev/x", LinuxDeviceType::A)).is_err());
    }

    #[test]
    fn only_the_device_itself_is_bound() {
        let (_, null) = node(&device("/dev/null", LinuxDeviceType::C)).unwrap().unwrap();
        host_node(&null).unwrap();
        let (_, not_null) = node(&device("/dev/zero", LinuxDeviceType::C)).unwrap().unwrap();
        assert_eq!(host_node(&not_null).err(), Some(rustix::io::Errno::NODEV));
    }

    #[test]
    fn a_bound_dev_is_known() {
        let mount = |at: &str, options: &[&str]| {
            let mut mount = Mount::default();
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            mount.set_destination(at.into()).set_options(Some(options));
            mount
        };
        assert!(is_bound_dev(&mount("/dev/", &["rbind"])) && is_bound_dev(&mount("dev", &["bind", "ro"])));
        assert!(!is_bound_dev(&mount("/dev", &["ro"])) && !is_bound_dev(&mount("/dev/shm", &["bind"])));
    }
}
