//! A bundle: the specification, checked as far as runc checks it before there is a container.

use std::io;
use std::path::{Path, PathBuf};

use skep_runtime::container::Rootfs;
use skep_runtime::paths::clean;
use skep_runtime::spec::oci::{Capabilities, Process, Spec};
use skep_runtime::spec::{BundleError, read_bundle_warned};

use crate::app::Context;
use crate::error::Failure;
use crate::log::Level;

/// Goes into the bundle's directory, and reads it.
pub(crate) fn enter(context: &Context, directory: Option<&str>) -> Result<(PathBuf, Spec), Failure> {
    if let Some(directory) = directory {
        std::env::set_current_dir(directory).map_err(Failure::path("chdir", Path::new(directory)))?;
    }
    let bundle = std::env::current_dir().map_err(Failure::system("getwd"))?;
    let (spec, warnings) = read_bundle_warned(&bundle).map_err(|error| match error {
        BundleError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Failure::NoConfig,
        BundleError::Read { path, source } => Failure::Path { action: "open", path, source },
        BundleError::Syntax { source, .. } => Failure::Json { what: "config.json".to_owned(), source },
        other => Failure::Refused(other.to_string()),
    })?;
    context.tell(&warnings);
    check_process(spec.process().as_ref())?;
    if let Some(process) = spec.process() {
        warn_of_capabilities(context, &spec, process);
    }
    Ok((bundle, spec))
}

/// Capabilities that the process does not get: those that this program lacks itself, and ambient ones that are not
/// inheritable or not permitted (capabilities(7)). `spec` is the container's.
pub(crate) fn warn_of_capabilities(context: &Context, spec: &Spec, process: &Process) {
    let Some(sets) = process.capabilities().as_ref() else { return };
    let missing = skep_runtime::container::lacking_capabilities(spec, sets);
    if !missing.is_empty() {
        let text = format!("ignoring capabilities that this runtime lacks itself: [{}]", missing.join(" "));
        context.tell(&[text]);
    }
    let mut lost: Vec<String> = sets
        .ambient()
        .iter()
        .flatten()
        .filter(|name| {
            let lacks = |set: &Option<Capabilities>| !set.as_ref().is_some_and(|set| set.contains(name));
            lacks(sets.inheritable()) || lacks(sets.permitted())
        })
        .map(|name| format!("CAP_{name}"))
        .collect();
    lost.sort_unstable();
    for name in lost {
        let text = format!("can't raise ambient capability {name}: operation not permitted");
        context.log.line(Level::Warning, &text);
    }
}

/// What a process has to have.
pub(crate) fn check_process(process: Option<&Process>) -> Result<(), Failure> {
    let refuse = |text: &str| Err(Failure::Refused(text.to_owned()));
    let Some(process) = process else { return refuse("process property must not be empty") };
    if process.cwd().as_os_str().is_empty() {
        return refuse("Cwd property must not be empty");
    }
    if !process.cwd().is_absolute() {
        return refuse("Cwd must be an absolute path");
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return refuse("args must not be empty");
    }
    Ok(())
}

/// The root filesystem's directory.
pub(crate) fn rootfs(bundle: &Path, spec: &Spec) -> Result<(PathBuf, Rootfs), Failure> {
    let root = spec.root().as_ref().ok_or_else(|| Failure::Refused("root must be specified".to_owned()))?;
    let path = Path::new("/").join(clean(&bundle.join(root.path())));
    if let Err(source) = std::fs::metadata(&path) {
        return Err(Failure::Rootfs { path, source });
    }
    Ok((path.clone(), Rootfs::Directory(path)))
}
