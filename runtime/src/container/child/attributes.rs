//! Attributes of the process itself.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{Opened, home, proc, write_proc};
use crate::container::attribute::{Attribute, SecurityModule};
use crate::sys_attributes as sys;

/// Every processor that a kernel can have (`CONFIG_NR_CPUS` is at most 8192).
const ALL_PROCESSORS: [u64; 128] = [u64::MAX; 128];

/// Room for the kernel's description of a keyring: numbers, and a name that is no longer than a container's.
const KEY_DESCRIPTION_BYTES: usize = 4096;

pub(super) fn carry_out(attribute: &Attribute, opened: &mut Opened) -> Result<(), Errno> {
    match attribute {
        Attribute::NetDevices { moved, writer } => {
            // So that the creator's death ends the wait.
            sys::close_in_child(*writer);
            let mut byte = [0];
            match rustix::io::retry_on_intr(|| rustix::io::read(moved, &mut byte))? {
                0 => Err(Errno::PIPE),
                _ => Ok(()),
            }
        }
        Attribute::SessionKeyring { name, permissions } => match sys::join_session_keyring(name) {
            Ok(key) if *permissions != 0 => add_permissions(key, *permissions),
            // A kernel without keyrings has none to protect.
            Ok(_) | Err(Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno),
        },
        Attribute::AllProcessors => {
            // Nobody asked for it in the spec; a container runs without it too.
            let _ = sys::set_affinity(&ALL_PROCESSORS);
            Ok(())
        }
        Attribute::Affinity { mask, .. } => sys::set_affinity(mask),
        Attribute::Scheduler { attr, .. } => sys::set_scheduler(attr),
        Attribute::IoPriority { value, .. } => sys::set_io_priority(*value),
        Attribute::Personality { persona, .. } => sys::set_personality(*persona),
        Attribute::MemoryPolicy { mode, nodes, .. } => sys::set_memory_policy(*mode, nodes),
        Attribute::ExecLabel { module, value } => {
            // A process can write its own attributes only, and only while its procfs files are its own: before the
            // change of user.
            let proc = proc(opened)?;
            match module {
                SecurityModule::Selinux => write_proc(proc, c"self/attr/exec", value.to_bytes()),
                SecurityModule::AppArmor => {
                    match write_proc(proc, c"self/attr/apparmor/exec", value.to_bytes()) {
                        // Before Linux 5.8 there is one file for all modules.
                        Err(Errno::NOENT) => write_proc(proc, c"self/attr/exec", value.to_bytes()),
                        other => other,
                    }
                }
            }
        }
        Attribute::Home { uid, variable } => {
            // Whatever is wrong with the image's file, `/` is a home.
            if let Ok(passwd) = open_passwd() {
                home::find(
                    *uid,
                    |buffer| rustix::io::retry_on_intr(|| rustix::io::read(&passwd, &mut *buffer)),
                    variable,
                );
            }
            Ok(())
        }
        Attribute::EarlyDirectory(path) => match rustix::process::chdir(path.as_c_str()) {
            Ok(()) => {
                opened.in_directory = true;
                Ok(())
            }
            Err(Errno::ACCESS | Errno::PERM) => Ok(()),
            Err(errno) => Err(errno),
        },
    }
}

/// A new keyring is closed to everybody: its holder's programs could not search it after they changed user.
fn add_permissions(key: i32, permissions: u32) -> Result<(), Errno> {
    let mut buffer = [0; KEY_DESCRIPTION_BYTES];
    let length = sys::describe_key(key, &mut buffer)?;
    // "keyring;UID;GID;PERMISSIONS;NAME", the permissions in hexadecimal.
    let field = buffer[..length].split(|byte| *byte == b';').nth(3).ok_or(Errno::INVAL)?;
    let mut old = 0_u32;
    for byte in field {
        let digit = (*byte as char).to_digit(16).ok_or(Errno::INVAL)?;
        old = (old << 4) | digit;
    }
    sys::set_key_permissions(key, old | permissions)
}

/// The container's own file: no link leads out of its root, none of procfs's magic ones is followed, and what is no
/// regular file is not opened.
fn open_passwd() -> Result<OwnedFd, Errno> {
    let root =
        rustix::fs::openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |flags| openat2(&root, c"etc/passwd", flags | OFlags::CLOEXEC, Mode::empty(), how);
    let regular = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if regular { Ok(()) } else { Err(Errno::INVAL) }
    };
    // Opening a device or a named pipe for reading may have effects.
    regular(&open(OFlags::PATH)?)?;
    let file = open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    regular(&file)?;
    Ok(file)
}
