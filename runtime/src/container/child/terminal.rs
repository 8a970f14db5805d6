//! The container's terminal: always from its own devpts, and by descriptor alone, for a name could be anything
//! (CVE-2025-52565).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::SendFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::Winsize;

use super::mounts::attach;
use super::paths::{in_root, resolve};
use crate::container::plan::Target;
use crate::weak::{self, Weakness};
use crate::{descriptors, sys};

/// `DEVPTS_SUPER_MAGIC` (statfs(2)).
const DEVPTS: u64 = 0x1cd1;

/// What comes with the master: clients read at least a byte and take the text for a name.
const NAME: &[u8] = b"/dev/ptmx";

/// Makes it, binds its slave at the target, and sends the master over the socket.
pub(super) fn set_up(
    root: BorrowedFd<'_>,
    console: &OwnedFd,
    size: Option<(u16, u16)>,
    target: Option<&Target>,
) -> Result<(), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let master = openat2(root, c"dev/pts/ptmx", flags, Mode::empty(), how)?;
    if rustix::fs::fstatfs(&master)?.f_type as u64 != DEVPTS && !weak::has(Weakness::Terminal) {
        return Err(Errno::NOTTY);
    }
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    if let Some((rows, columns)) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size)?;
    }
    if let Some(target) = target {
        let place = resolve(root, target)?;
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let copy = if weak::has(Weakness::Terminal) {
            let named = in_root(root, c"dev/pts/0", false)?;
            open_tree(&named, c"", flags)?
        } else {
            open_tree(&slave, c"", flags)?
        };
        attach(copy.as_fd(), place.fd.as_fd())?;
    }
    descriptors::send(console, NAME, Some(master.as_fd()), SendFlags::empty())?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    for number in 0..3 {
        sys::dup_to(&slave, number)?;
    }
    Ok(())
}
