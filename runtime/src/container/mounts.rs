//! A spec's mount options, by name (mount(8), and the OCI runtime spec's table).

use rustix::mount::MountFlags;

/// Parsed options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// `MOUNT_ATTR_*` to set on the mount itself.
    pub(super) set: u64,
    /// `MOUNT_ATTR_*` that were cleared by name.
    pub(super) clear: u64,
    /// An access time mode was set by name, be it the default.
    pub(super) atime: bool,
    /// Some flag was set or cleared by name: a bind mount does not keep its source's then.
    pub(super) changed: bool,
    /// `MOUNT_ATTR_*` to set and to clear on the mount and on all below it.
    pub(super) recursive_set: u64,
    pub(super) recursive_clear: u64,
    /// `bind` or `rbind`.
    pub(super) bind: bool,
    /// `rbind`: what is mounted below the source comes along.
    pub(super) recursive: bool,
    /// In the order given.
    pub(super) propagation: Vec<Propagation>,
    /// `MS_*` of the filesystem, not of the mount.
    pub(super) superblock: u32,
    /// What is in the directory below is copied into the tmpfs.
    pub(super) copy_up: bool,
    /// Options of what is mounted there already.
    pub(super) remount: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub(super) idmap: Option<bool>,
    /// What only the filesystem knows.
    pub(super) data: Vec<(String, Option<String>)>,
}

/// How mounts below a mount spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Propagation {
    /// `MS_PRIVATE`, `MS_SHARED`, `MS_SLAVE` or `MS_UNBINDABLE`.
    pub(super) mode: u64,
    /// All mounts of the tree, not only its root.
    pub(super) recursive: bool,
}

pub(super) const RDONLY: u64 = 0x1;
pub(super) const NOSUID: u64 = 0x2;
pub(super) const NODEV: u64 = 0x4;
pub(super) const NOEXEC: u64 = 0x8;
/// The access time bits are a number, not flags: 0 is relatime.
pub(super) const ATIME: u64 = 0x70;
pub(super) const NOATIME: u64 = 0x10;
pub(super) const STRICTATIME: u64 = 0x20;
pub(super) const NODIRATIME: u64 = 0x80;
pub(super) const NOSYMFOLLOW: u64 = 0x20_0000;

/// `MS_*` that fsconfig(2) has no word for.
pub(super) const LEGACY_ONLY: u32 = (libc::MS_I_VERSION | libc::MS_SILENT) as u32;

#[derive(Clone, Copy)]
enum Meaning {
    /// `MOUNT_ATTR_*`.
    Set(u64),
    Clear(u64),
    /// One of the access time modes.
    Atime(u64),
    /// Takes a mode back that was set before; a bind mount's source keeps its own, as with mount(8).
    NoAtime(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    RecursiveAtime(u64),
    Superblock(u64),
    NoSuperblock(u64),
    Propagation(u64, bool),
    Bind(bool),
    Idmap(bool),
    CopyUp,
    Remount,
    Nothing,
}

use Meaning::{
    Atime, Bind, Clear, CopyUp, Idmap, NoAtime, NoSuperblock, Nothing, RecursiveAtime, RecursiveClear,
    RecursiveSet, Remount, Set, Superblock,
};

/// Sorted by name.
const OPTIONS: [(&str, Meaning); 64] = [
    ("acl", Superblock(libc::MS_POSIXACL)),
    ("async", NoSuperblock(libc::MS_SYNCHRONOUS)),
    ("atime", NoAtime(NOATIME)),
    ("bind", Bind(false)),
    ("defaults", Nothing),
    ("dev", Clear(NODEV)),
    ("diratime", NoAtime(NODIRATIME)),
    ("dirsync", Superblock(libc::MS_DIRSYNC)),
    ("exec", Clear(NOEXEC)),
    ("idmap", Idmap(false)),
    ("iversion", Superblock(libc::MS_I_VERSION)),
    ("lazytime", Superblock(libc::MS_LAZYTIME)),
    ("loud", NoSuperblock(libc::MS_SILENT)),
    ("mand", Superblock(libc::MS_MANDLOCK)),
    ("noacl", NoSuperblock(libc::MS_POSIXACL)),
    ("noatime", Atime(NOATIME)),
    ("nodev", Set(NODEV)),
    ("nodiratime", Set(NODIRATIME)),
    ("noexec", Set(NOEXEC)),
    ("noiversion", NoSuperblock(libc::MS_I_VERSION)),
    ("nolazytime", NoSuperblock(libc::MS_LAZYTIME)),
    ("nomand", NoSuperblock(libc::MS_MANDLOCK)),
    ("norelatime", NoAtime(0)),
    ("nostrictatime", NoAtime(STRICTATIME)),
    ("nosuid", Set(NOSUID)),
    ("nosymfollow", Set(NOSYMFOLLOW)),
    ("private", Meaning::Propagation(libc::MS_PRIVATE, false)),
    ("ratime", RecursiveAtime(0)),
    ("rbind", Bind(true)),
    ("rdev", RecursiveClear(NODEV)),
    ("rdiratime", RecursiveClear(NODIRATIME)),
    ("relatime", Atime(0)),
    ("remount", Remount),
    ("rexec", RecursiveClear(NOEXEC)),
    ("ridmap", Idmap(true)),
    ("rnoatime", RecursiveAtime(NOATIME)),
    ("rnodev", RecursiveSet(NODEV)),
    ("rnodiratime", RecursiveSet(NODIRATIME)),
    ("rnoexec", RecursiveSet(NOEXEC)),
    ("rnorelatime", RecursiveAtime(0)),
    ("rnostrictatime", RecursiveAtime(0)),
    ("rnosuid", RecursiveSet(NOSUID)),
    ("rnosymfollow", RecursiveSet(NOSYMFOLLOW)),
    ("ro", Set(RDONLY)),
    ("rprivate", Meaning::Propagation(libc::MS_PRIVATE, true)),
    ("rrelatime", RecursiveAtime(0)),
    ("rro", RecursiveSet(RDONLY)),
    ("rrw", RecursiveClear(RDONLY)),
    ("rshared", Meaning::Propagation(libc::MS_SHARED, true)),
    ("rslave", Meaning::Propagation(libc::MS_SLAVE, true)),
    ("rstrictatime", RecursiveAtime(STRICTATIME)),
    ("rsuid", RecursiveClear(NOSUID)),
    ("rsymfollow", RecursiveClear(NOSYMFOLLOW)),
    ("runbindable", Meaning::Propagation(libc::MS_UNBINDABLE, true)),
    ("rw", Clear(RDONLY)),
    ("shared", Meaning::Propagation(libc::MS_SHARED, false)),
    ("silent", Superblock(libc::MS_SILENT)),
    ("slave", Meaning::Propagation(libc::MS_SLAVE, false)),
    ("strictatime", Atime(STRICTATIME)),
    ("suid", Clear(NOSUID)),
    ("symfollow", Clear(NOSYMFOLLOW)),
    ("sync", Superblock(libc::MS_SYNCHRONOUS)),
    ("tmpcopyup", CopyUp),
    ("unbindable", Meaning::Propagation(libc::MS_UNBINDABLE, false)),
];

/// Every mount option known here, sorted. Others belong to the filesystem.
pub fn mount_options() -> Vec<&'static str> {
    OPTIONS.iter().map(|option| option.0).collect()
}

/// What a word of `linux.rootfsPropagation` means.
pub(super) fn propagation(word: &str) -> Option<Propagation> {
    match meaning(word) {
        Some(Meaning::Propagation(mode, recursive)) => Some(Propagation { mode, recursive }),
        _ => None,
    }
}

fn meaning(option: &str) -> Option<Meaning> {
    OPTIONS.iter().find(|known| known.0 == option).map(|known| known.1)
}

impl MountOptions {
    /// Of contradicting options the last one counts.
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            match meaning(option) {
                Some(meaning) => parsed.take(meaning),
                None => parsed.data.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.clone(), None),
                }),
            }
        }
        parsed
    }

    fn take(&mut self, meaning: Meaning) {
        match meaning {
            Set(bits) => {
                self.set |= bits;
                self.clear &= !bits;
                self.atime |= bits == NODIRATIME;
            }
            Clear(bits) => {
                self.set &= !bits;
                self.clear |= bits;
            }
            Atime(mode) => {
                self.set = (self.set & !ATIME) | mode;
                self.atime = true;
            }
            NoAtime(bits) => {
                if bits == NODIRATIME || self.set & ATIME == bits {
                    self.set &= !bits;
                }
            }
            RecursiveSet(bits) => {
                self.recursive_set |= bits;
                self.recursive_clear &= !bits;
            }
            RecursiveClear(bits) => {
                self.recursive_set &= !bits;
                self.recursive_clear |= bits;
            }
            RecursiveAtime(mode) => {
                // A mode is only taken together with the request to clear the old one (mount_setattr(2)).
                self.recursive_set = (self.recursive_set & !ATIME) | mode;
                self.recursive_clear |= ATIME;
            }
            Superblock(flag) => self.superblock |= flag as u32,
            NoSuperblock(flag) => self.superblock &= !(flag as u32),
            Meaning::Propagation(mode, recursive) => self.propagation.push(Propagation { mode, recursive }),
            Bind(recursive) => (self.bind, self.recursive) = (true, self.recursive || recursive),
            Idmap(recursive) => self.idmap = Some(recursive),
            CopyUp => self.copy_up = true,
            Remount => self.remount = true,
            Nothing => {}
        }
        self.changed |=
            matches!(meaning, Set(_) | Clear(_) | Atime(_) | NoAtime(_) | Superblock(_) | NoSuperblock(_));
    }

    /// The same as mount(2) has it.
    pub(super) fn legacy_flags(&self) -> MountFlags {
        let table = [
            (RDONLY, libc::MS_RDONLY),
            (NOSUID, libc::MS_NOSUID),
            (NODEV, libc::MS_NODEV),
            (NOEXEC, libc::MS_NOEXEC),
            (NOATIME, libc::MS_NOATIME),
            (STRICTATIME, libc::MS_STRICTATIME),
            (NODIRATIME, libc::MS_NODIRATIME),
            // MS_NOSYMFOLLOW, which libc does not have.
            (NOSYMFOLLOW, 0x100),
        ];
        let flags = table.iter().filter(|pair| self.set & pair.0 != 0).fold(0, |flags, pair| flags | pair.1);
        MountFlags::from_bits_retain(flags as u32 | self.superblock)
    }

    /// The filesystem's flags as fsconfig(2) names them.
    pub(super) fn superblock_words(&self) -> impl Iterator<Item = &'static std::ffi::CStr> {
        let words = [
            (libc::MS_SYNCHRONOUS, c"sync"),
            (libc::MS_DIRSYNC, c"dirsync"),
            (libc::MS_LAZYTIME, c"lazytime"),
            (libc::MS_MANDLOCK, c"mand"),
        ];
        let flags = u64::from(self.superblock);
        words.into_iter().filter(move |pair| flags & pair.0 != 0).map(|pair| pair.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> MountOptions {
        MountOptions::parse(&options.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_data_and_the_last_word() {
        let options = parse("nosuid,strictatime,mode=755,size=65536k,newinstance");
        assert_eq!((options.set, options.clear, options.atime), (NOSUID | STRICTATIME, 0, true));
        assert_eq!(options.data.len(), 3);
        assert_eq!(options.data[2], ("newinstance".to_owned(), None));
        let options = parse("rbind,ro,rw,rslave");
        assert!(options.bind && options.recursive);
        assert_eq!((options.set, options.clear), (0, RDONLY));
        assert_eq!(options.propagation, [Propagation { mode: libc::MS_SLAVE, recursive: true }]);
        assert_eq!(parse("noatime,strictatime").set, STRICTATIME);
        assert_eq!(parse("noatime,atime").set, 0);
        assert_eq!(parse("strictatime,atime").set, STRICTATIME);
    }

    #[test]
    fn recursive_attributes_are_their_own() {
        let options = parse("rbind,rro,rnoatime,rnosuid,rsuid");
        assert_eq!((options.set, options.changed), (0, false));
        assert_eq!((options.recursive_set, options.recursive_clear), (RDONLY | NOATIME, ATIME | NOSUID));
        let options = parse("rstrictatime,rrelatime");
        assert_eq!((options.recursive_set, options.recursive_clear), (0, ATIME));
    }

    #[test]
    fn the_filesystems_own_flags() {
        let options = parse("sync,dirsync,lazytime,mand,nomand,silent");
        assert_eq!(options.superblock_words().collect::<Vec<_>>(), [c"sync", c"dirsync", c"lazytime"]);
        assert_ne!(options.superblock & LEGACY_ONLY, 0);
        assert_eq!(parse("silent,loud,sync,async,acl,noacl").superblock, 0);
        assert!(parse("acl").data.is_empty());
        let flags = parse("ro,nosymfollow,noatime,sync").legacy_flags().bits();
        let expected = libc::MS_RDONLY | libc::MS_NOATIME | libc::MS_SYNCHRONOUS | 0x100;
        assert_eq!(u64::from(flags), expected);
    }

    #[test]
    fn propagation_in_its_order() {
        let modes = parse("rprivate,slave,shared").propagation;
        let expected = [(libc::MS_PRIVATE, true), (libc::MS_SLAVE, false), (libc::MS_SHARED, false)];
        assert_eq!(modes, expected.map(|(mode, recursive)| Propagation { mode, recursive }));
        assert_eq!(propagation("ro"), None);
        assert!(propagation("runbindable").is_some_and(|one| one.recursive));
    }

    #[test]
    fn the_list_is_sorted_and_holds_the_specs_table() {
        let list = mount_options();
        assert!(list.is_sorted(), "{list:?}");
        for option in "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev \
                       nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow \
                       private ratime rbind rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec \
                       rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave \
                       rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow \
                       sync tmpcopyup unbindable idmap ridmap"
            .split_whitespace()
        {
            assert!(list.contains(&option), "{option}");
        }
    }
}
