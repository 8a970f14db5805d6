//! The root filesystem as a detached mount: nothing of it ever stands in the host's mount table.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};

use super::plan::RootMount;
use super::{CreateError, Rootfs, c_string};
use crate::sys;

/// fsconfig(2) takes strings shorter than this; longer paths go by descriptor.
const PARAMETER_BYTES_MAX: usize = 256;

/// mount(2) takes one page of options; 4096 is the smallest page there is.
const PAGE_BYTES: usize = 4096;

/// Layers that overlayfs takes (fs/overlayfs/params.h, OVL_MAX_STACK).
const LAYERS_MAX: usize = 500;

/// The mount, attached later over its own directory, or an overlay over the bundle. `inherited`: what mounts below the
/// directory become before that, if not peers of the host's.
/// `slave`: the root itself follows the host's.
pub(super) fn open(
    rootfs: &Rootfs,
    bundle: &Path,
    inherited: Option<u64>,
    slave: bool,
) -> Result<RootMount, CreateError> {
    match rootfs {
        Rootfs::Directory(path) => {
            let over = c_string(path.as_os_str().as_bytes(), "the root filesystem's path")?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let take = || -> Result<OwnedFd, Errno> {
                // A file would only fail later, with a puzzling error.
                directory(path)?;
                let mount = open_tree(CWD, path, flags)?;
                if let Some(mode) = inherited.filter(|mode| *mode != libc::MS_PRIVATE) {
                    propagate(&mount, mode, true)?;
                }
                // Its own root is private unless asked for: pivot_root(2) takes no other, but for a slave.
                let all = inherited == Some(libc::MS_PRIVATE);
                if !slave {
                    propagate(&mount, libc::MS_PRIVATE, all)?;
                }
                Ok(mount)
            };
            let mount =
                take().map_err(|errno| CreateError::OpenRoot { path: path.clone(), source: errno.into() })?;
            Ok(RootMount::Detached { mount, over: Some(over) })
        }
        Rootfs::Overlay { lower, upper, work } => {
            let over = c_string(bundle.as_os_str().as_bytes(), "the bundle's path")?;
            overlay(lower, upper, work, over)
        }
    }
}

fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, over: CString) -> Result<RootMount, CreateError> {
    if lower.is_empty() || lower.len() > LAYERS_MAX {
        return Err(CreateError::Invalid(format!(
            "an overlay of {} layers; 1 to {LAYERS_MAX} can be",
            lower.len()
        )));
    }
    // Opened first: for a clear error about the one that is missing, and to name them in 256 bytes.
    let mut layers = Vec::with_capacity(lower.len() + 2);
    let paths = || lower.iter().map(PathBuf::as_path).chain([upper, work]);
    for path in paths() {
        let layer = directory(path);
        layers.push(
            layer
                .map_err(|errno| CreateError::OpenRoot { path: path.to_path_buf(), source: errno.into() })?,
        );
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    let context = context.map_err(|errno| CreateError::Overlay {
        step: "fsopen".to_owned(),
        log: String::new(),
        source: errno.into(),
    })?;
    let fail = |step: String, errno: Errno| CreateError::Overlay {
        step,
        log: kernel_log(&context),
        source: errno.into(),
    };
    let upper_index = lower.len();
    let by_mount = |layers| legacy(paths().zip(layers), upper_index, over.clone());
    if takes_any_option() {
        return by_mount(layers);
    }
    let set =
        |key: &str, path: &Path, index: usize| fsconfig_set_string(&context, key, name(path, &layers[index]));
    for (index, path) in lower.iter().enumerate() {
        match set("lowerdir+", path, index) {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => return by_mount(layers),
            Err(errno) => return Err(fail(format!("layer {}", path.display()), errno)),
        }
    }
    set("upperdir", upper, upper_index).map_err(|errno| fail(format!("upper {}", upper.display()), errno))?;
    set("workdir", work, upper_index + 1).map_err(|errno| fail(format!("work {}", work.display()), errno))?;
    fsconfig_create(&context).map_err(|errno| fail("create".to_owned(), errno))?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mount = mount.map_err(|errno| fail("mount".to_owned(), errno))?;
    Ok(RootMount::Detached { mount, over: Some(over) })
}

/// Whether overlayfs leaves its options unread until the mount is made, as before Linux 6.5: then `lowerdir+` seems to
/// be taken and makes the mount fail.
fn takes_any_option() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        // A context of its own, for the refusal stands in its log. Without one the caller fails and says why.
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
        context.is_ok_and(|context| fsconfig_set_string(context, "no-such-option", "").is_ok())
    })
}

/// mount(2)'s one page of options for kernels without `lowerdir+`: every layer is named by its descriptor, so about 190
/// fit, and no character of a path needs escaping.
fn legacy<'a>(
    layers: impl Iterator<Item = (&'a Path, OwnedFd)>,
    upper: usize,
    over: CString,
) -> Result<RootMount, CreateError> {
    let layers = layers.map(|(path, fd)| Ok((c_string(path.as_os_str().as_bytes(), "a layer's path")?, fd)));
    let layers = layers.collect::<Result<Vec<_>, CreateError>>()?;
    let names: Vec<String> = layers.iter().map(|layer| by_descriptor(&layer.1)).collect();
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        names[..upper].join(":"),
        names[upper],
        names[upper + 1]
    );
    if data.len() >= PAGE_BYTES {
        return Err(CreateError::Unsupported(format!("{upper} layers on a kernel before 6.7")));
    }
    Ok(RootMount::Legacy { over, data: c_string(data, "overlay options")?, layers })
}

fn name(path: &Path, fd: &OwnedFd) -> OsString {
    if path.as_os_str().len() < PARAMETER_BYTES_MAX {
        path.as_os_str().to_owned()
    } else {
        by_descriptor(fd).into()
    }
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn propagate(mount: &OwnedFd, mode: u64, recursive: bool) -> Result<(), Errno> {
    use std::os::fd::AsFd as _;
    sys::mount_setattr(mount.as_fd(), 0, 0, mode, recursive)
}

/// What the kernel wrote about the failure (fsopen(2)'s message queue), on one line.
fn kernel_log(context: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        lines.push(line.strip_prefix("e ").map(str::to_owned).unwrap_or(line));
        if lines.len() >= 8 {
            break;
        }
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountPropagationFlags, mount_change};
    use rustix::thread::UnshareFlags;

    use super::*;

    #[test]
    fn a_missing_layer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("gone");
        let rootfs = Rootfs::Overlay {
            lower: vec![dir.path().to_path_buf(), missing.clone()],
            upper: dir.path().to_path_buf(),
            work: dir.path().to_path_buf(),
        };
        let error = open(&rootfs, dir.path(), None, false).err().unwrap().to_string();
        assert!(error.contains(missing.to_str().unwrap()), "{error}");
    }

    #[test]
    fn the_old_way_mounts_in_a_namespace_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        // Characters that options in text could not carry.
        for name in ["low:er,1", "lower\\2", "upper", "work", "over"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("low:er,1").join("one"), "1").unwrap();
        std::fs::write(path("lower\\2").join("two"), "2").unwrap();
        // A thread with mounts of its own, as the child is a process with such.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let paths = ["low:er,1", "lower\\2", "upper", "work"].map(path);
                let layers = paths.iter().map(|path| (path.as_path(), directory(path).unwrap()));
                let over = c_string(path("over").as_os_str().as_bytes(), "over").unwrap();
                let root = legacy(layers, 2, over).unwrap();
                sys::unshare(UnshareFlags::NEWNS).unwrap();
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount_change("/", private).unwrap();
                let mount = super::super::child::attach_root(&root).unwrap();
                for (name, text) in [("one", "1"), ("two", "2")] {
                    let file =
                        rustix::fs::openat(&mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                    let read = std::io::read_to_string(std::fs::File::from(file.unwrap())).unwrap();
                    assert_eq!(read, text);
                }
            });
        });
        assert_eq!(std::fs::read_dir(path("over")).unwrap().count(), 0, "the mount is seen outside");
    }
}
