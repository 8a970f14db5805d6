//! The root filesystem as a detached mount: nothing of it ever stands in the host's mount table.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

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

/// The mount, attached later over the directory `over`.
pub(super) fn open(rootfs: &Rootfs, over: &Path) -> Result<RootMount, CreateError> {
    let over = c_string(over.as_os_str().as_bytes(), "the bundle's path")?;
    match rootfs {
        Rootfs::Directory(path) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let take = || -> Result<OwnedFd, Errno> {
                // A file would only fail later, with a puzzling error.
                directory(path)?;
                let mount = open_tree(CWD, path, flags)?;
                private(&mount)?;
                Ok(mount)
            };
            let mount =
                take().map_err(|errno| CreateError::OpenRoot { path: path.clone(), source: errno.into() })?;
            Ok(RootMount::Detached { mount, over })
        }
        Rootfs::Overlay { lower, upper, work } => overlay(lower, upper, work, over),
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
    for path in lower.iter().map(PathBuf::as_path).chain([upper, work]) {
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
    let set =
        |key: &str, path: &Path, index: usize| fsconfig_set_string(&context, key, name(path, &layers[index]));
    for (index, path) in lower.iter().enumerate() {
        match set("lowerdir+", path, index) {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => return legacy(layers, upper_index, over),
            Err(errno) => return Err(fail(format!("layer {}", path.display()), errno)),
        }
    }
    set("upperdir", upper, upper_index).map_err(|errno| fail(format!("upper {}", upper.display()), errno))?;
    set("workdir", work, upper_index + 1).map_err(|errno| fail(format!("work {}", work.display()), errno))?;
    fsconfig_create(&context).map_err(|errno| fail("create".to_owned(), errno))?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mount = mount.map_err(|errno| fail("mount".to_owned(), errno))?;
    Ok(RootMount::Detached { mount, over })
}

/// mount(2)'s one page of options for kernels before 6.5: every layer is named by its descriptor, so about 190 fit,
/// and no character of a path needs escaping. The child has the same descriptors under the same numbers.
fn legacy(layers: Vec<OwnedFd>, upper: usize, over: CString) -> Result<RootMount, CreateError> {
    let names: Vec<String> = layers.iter().map(by_descriptor).collect();
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        names[..upper].join(":"),
        names[upper],
        names[upper + 1]
    );
    if data.len() >= PAGE_BYTES {
        return Err(CreateError::Unsupported(format!("{upper} layers on a kernel before 6.5")));
    }
    Ok(RootMount::Legacy { over, data: c_string(data, "overlay options")?, _layers: layers })
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

/// A copy of a shared mount would pass on what the container mounts below it.
pub(super) fn private(mount: &OwnedFd) -> Result<(), Errno> {
    use std::os::fd::AsFd as _;
    sys::mount_setattr(mount.as_fd(), 0, 0, libc::MS_PRIVATE, true)
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
        let error = open(&rootfs, dir.path()).err().unwrap().to_string();
        assert!(error.contains(missing.to_str().unwrap()), "{error}");
    }

    #[test]
    fn the_old_way_names_layers_by_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let layers = vec![
            directory(dir.path()).unwrap(),
            directory(dir.path()).unwrap(),
            directory(dir.path()).unwrap(),
        ];
        let RootMount::Legacy { data, .. } = legacy(layers, 1, CString::default()).unwrap() else { panic!() };
        let text = data.to_str().unwrap();
        assert!(
            text.starts_with("lowerdir=/proc/self/fd/") && text.contains(",upperdir=/proc/self/fd/"),
            "{text}"
        );
    }
}
