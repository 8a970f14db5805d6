//! A spec's mount options, by name (mount(8), and the OCI runtime spec's table).

use super::CreateError;

/// Parsed options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// `MOUNT_ATTR_*` to set.
    pub(super) set: u64,
    /// `MOUNT_ATTR_*` to clear, for bind mounts that inherit their source's.
    pub(super) clear: u64,
    /// `bind` or `rbind`.
    pub(super) bind: bool,
    /// `rbind`: what is mounted below the source comes along.
    pub(super) recursive: bool,
    /// `MS_PRIVATE` and its siblings; 0: nothing asked.
    pub(super) propagation: u64,
    /// What belongs to the filesystem itself.
    pub(super) data: Vec<(String, Option<String>)>,
}

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
/// The atime bits are a number, not flags: 0 is relatime.
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

impl MountOptions {
    pub(super) fn parse(options: &[String]) -> Result<Self, CreateError> {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                "ro" => parsed.put(RDONLY, 0),
                "rw" => parsed.put(0, RDONLY),
                "nosuid" => parsed.put(NOSUID, 0),
                "suid" => parsed.put(0, NOSUID),
                "nodev" => parsed.put(NODEV, 0),
                "dev" => parsed.put(0, NODEV),
                "noexec" => parsed.put(NOEXEC, 0),
                "exec" => parsed.put(0, NOEXEC),
                "noatime" => parsed.put(NOATIME, ATIME),
                "strictatime" => parsed.put(STRICTATIME, ATIME),
                "relatime" | "atime" => parsed.put(0, ATIME),
                "nodiratime" => parsed.put(NODIRATIME, 0),
                "diratime" => parsed.put(0, NODIRATIME),
                "nosymfollow" => parsed.put(NOSYMFOLLOW, 0),
                "symfollow" => parsed.put(0, NOSYMFOLLOW),
                "private" | "rprivate" => parsed.propagation = libc::MS_PRIVATE,
                "slave" | "rslave" => parsed.propagation = libc::MS_SLAVE,
                "shared" | "rshared" => parsed.propagation = libc::MS_SHARED,
                "unbindable" | "runbindable" => parsed.propagation = libc::MS_UNBINDABLE,
                "defaults" | "async" | "noiversion" | "loud" | "norelatime" | "nostrictatime" => {}
                "remount" | "idmap" | "ridmap" | "tmpcopyup" => {
                    return Err(CreateError::Unsupported(format!("mount option {option:?}")));
                }
                _ => match option.split_once('=') {
                    Some((key, value)) => parsed.data.push((key.to_owned(), Some(value.to_owned()))),
                    None => parsed.data.push((option.clone(), None)),
                },
            }
        }
        Ok(parsed)
    }

    /// The last word on a bit counts.
    fn put(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn flags_data_and_the_last_word() {
        let options = parse("nosuid,strictatime,mode=755,size=65536k,newinstance");
        assert_eq!((options.set, options.clear), (NOSUID | STRICTATIME, ATIME));
        assert_eq!(options.data.len(), 3);
        assert_eq!(options.data[2], ("newinstance".to_owned(), None));
        let options = parse("rbind,ro,rw,rslave");
        assert!(options.bind && options.recursive);
        assert_eq!((options.set, options.clear, options.propagation), (0, RDONLY, libc::MS_SLAVE));
        assert_eq!(parse("noatime,strictatime").set, STRICTATIME);
    }

    #[test]
    fn what_cannot_be_done_is_not_ignored() {
        assert!(MountOptions::parse(&["idmap".to_owned()]).is_err());
    }
}
