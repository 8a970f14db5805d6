//! The systemd driver: systemd makes the group, as a transient scope or slice, and knows of its limits.
//!
//! What systemd has no property for, and what it rounds, is set in the group's files afterwards as without systemd.

mod bus;
mod properties;
#[cfg(test)]
mod tests;
mod variant;
mod wire;

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use self::bus::Manager;
use self::properties::{Version, for_resources, for_start};
use self::wire::Value;
use super::CgroupError;

/// The slice of a container that names none, as in runc.
const SLICE_DEFAULT: &str = "system.slice";

/// The prefix of the scope of a container without a cgroupsPath.
const PREFIX_DEFAULT: &str = "skep";

/// What systemd is to know besides the limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SystemdUnit {
    pids: Vec<u32>,
    properties: Vec<(String, Value)>,
}

impl SystemdUnit {
    /// The first process of the container, which must exist (a scope has none without), and the spec's annotations, of
    /// which `org.systemd.property.*` become properties.
    ///
    /// # Errors
    /// [`CgroupError::SystemdProperty`].
    pub fn new<'a>(
        pid: u32,
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, CgroupError> {
        let mut properties = Vec::new();
        for (annotation, text) in annotations {
            if let Some(name) = annotation.strip_prefix("org.systemd.property.") {
                let property = variant::property(name, text)
                    .map_err(|why| CgroupError::SystemdProperty { annotation: annotation.clone(), why })?;
                properties.push(property);
            }
        }
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { pids: vec![pid], properties })
    }
}

/// What systemd answers, and what annotations it is to be told of.
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<{ wire::HEAD }>() {
        let _ = wire::length(head);
    }
    let _ = wire::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Some((name, value)) = text.split_once('=') {
        let _ = variant::property(name, value);
    }
}

/// What systemd is told of limits, by old and new versions of it.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz_resources(resources: &LinuxResources) {
    for (number, v2) in [(219, false), (239, true), (252, true), (252, false)] {
        if let Ok(properties) = for_resources(resources, Version { number, v2 }, true) {
            wire::Writer::default().properties(&properties);
        }
    }
}

/// A group's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    slice: String,
}

impl Unit {
    /// A unit that is there. Its slice does not matter any more.
    pub(super) fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), slice: String::new() }
    }

    /// The unit that a cgroupsPath `slice:prefix:name` means, and where its group is below a hierarchy's root.
    pub(super) fn place(cgroups_path: Option<&Path>, id: &str) -> Result<(Self, PathBuf), CgroupError> {
        let default = format!(":{PREFIX_DEFAULT}:{id}");
        let text = cgroups_path.map_or(Some(default.as_str()), Path::to_str);
        let wrong = || CgroupError::SystemdPath(text.unwrap_or_default().to_owned());
        let mut parts = text.unwrap_or_default().split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let slice = if slice.is_empty() { SLICE_DEFAULT } else { slice };
        let name = if name.ends_with(".slice") { name.to_owned() } else { format!("{prefix}-{name}.scope") };
        let single = Path::new(&name).components().collect::<Vec<_>>();
        if !matches!(single[..], [Component::Normal(_)]) || name.contains('/') {
            return Err(wrong());
        }
        let above = expand(slice).ok_or_else(wrong)?;
        // A slice's own name says where it is, and no property can say otherwise. The root's is nobody's to be made.
        let inner = if name.ends_with(".slice") {
            expand(&name).filter(|path| !path.as_os_str().is_empty()).ok_or_else(wrong)?
        } else {
            above.join(&name)
        };
        Ok((Self { name, slice: slice.to_owned() }, inner))
    }

    pub(super) fn start(
        &self,
        request: &SystemdUnit,
        resources: &LinuxResources,
        v2: bool,
    ) -> Result<(), CgroupError> {
        let mut manager = Manager::connect()?;
        let version = Version { number: manager.version()?, v2 };
        let mut properties = for_start(&self.name, &self.slice, &request.pids, v2);
        properties.extend(request.properties.iter().cloned());
        properties.extend(for_resources(resources, version, true)?);
        manager.start(&self.name, &properties)
    }

    pub(super) fn update(&self, resources: &LinuxResources, v2: bool) -> Result<(), CgroupError> {
        let mut manager = Manager::connect()?;
        let version = Version { number: manager.version()?, v2 };
        let devices = resources.devices().as_ref().is_some_and(|rules| !rules.is_empty());
        manager.set(&self.name, &for_resources(resources, version, devices)?)
    }

    /// Has systemd forget the unit. One that is gone is fine.
    pub(super) fn stop(&self) -> Result<(), CgroupError> {
        Manager::connect()?.stop(&self.name)
    }
}

/// The path of a slice, whose name says what is above it: `a-b.slice` is `a.slice/a-b.slice`.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty() && !name.contains('/'))?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Some(path);
    }
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix.push_str(part);
        prefix.push('-');
    }
    Some(path)
}
