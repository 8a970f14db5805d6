//! Device nodes and links of a container's own `/dev`.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{FileType, makedev};
use rustix::process::{Gid, Uid};

use super::{Builder, target};
use crate::container::plan::Step;
use crate::container::{CreateError, c_string};

/// Nodes that every container's own /dev has, mode 0666 (OCI runtime spec, "Default Devices").
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container's own /dev has.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

impl Builder<'_> {
    pub(super) fn devices(&mut self, extra: &[LinuxDevice]) -> Result<(), CreateError> {
        for (name, major, minor) in DEVICES {
            self.steps.push(Step::Device {
                target: target(&Path::new("/dev").join(name), true, false)?,
                kind: FileType::CharacterDevice,
                dev: makedev(major, minor),
                mode: 0o666,
                uid: Uid::ROOT,
                gid: Gid::ROOT,
            });
        }
        for device in extra {
            let kind = match device.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
                LinuxDeviceType::B => FileType::BlockDevice,
                LinuxDeviceType::P => FileType::Fifo,
                LinuxDeviceType::A => return Err(CreateError::Invalid("a device of type \"a\"".to_owned())),
            };
            let number = |number: i64| {
                u32::try_from(number).map_err(|_| CreateError::Invalid(format!("device number {number}")))
            };
            let parent = target(device.path().parent().unwrap_or_else(|| Path::new("/")), false, false)?;
            if !parent.prefixes.is_empty() {
                self.steps.push(Step::Directory(parent, Uid::ROOT, Gid::ROOT));
            }
            self.steps.push(Step::Device {
                target: target(device.path(), true, false)?,
                kind,
                dev: makedev(number(device.major())?, number(device.minor())?),
                mode: device.file_mode().unwrap_or(0o666) & 0o7777,
                uid: Uid::from_raw(device.uid().unwrap_or(0)),
                gid: Gid::from_raw(device.gid().unwrap_or(0)),
            });
        }
        for (name, to) in LINKS {
            self.steps.push(Step::Symlink {
                directory: c"dev".to_owned(),
                name: c_string(name, "a name")?,
                to: c_string(to, "a path")?,
            });
        }
        Ok(())
    }
}
