//! Stops all processes of a group, and lets them go on.

use std::path::Path;
use std::time::Duration;

use super::{Cgroup, CgroupError, write};

/// Tries to freeze on v1, where a group that forks can escape a single one; every so many it is thawed for a moment,
/// which helps. The numbers are runc's.
const TRIES: u32 = 1000;
const TRIES_TO_THAW: u32 = 50;
const THAW_PAUSE: Duration = Duration::from_millis(10);

/// Waits for the v2 kernel to have frozen all: 2 s together.
const WAITS: u32 = 2000;
const WAIT: Duration = Duration::from_millis(1);

impl Cgroup {
    /// Freezes the group and those below it; returns when all of its processes are frozen.
    ///
    /// # Errors
    /// [`CgroupError::NotFreezing`] (it is thawed again then), [`CgroupError::NoController`], [`CgroupError::Io`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let (path, frozen) = if let Some(path) = self.v1("freezer") {
            (path, freeze_v1(path))
        } else {
            let path = self.unified().ok_or(CgroupError::NoController { controller: "freezer" })?;
            (path, freeze_v2(path))
        };
        match frozen {
            Ok(true) => Ok(()),
            failed => {
                // Half frozen is worse than not frozen.
                drop(self.thaw());
                failed.and(Err(CgroupError::NotFreezing { path: path.to_path_buf() }))
            }
        }
    }

    /// Lets the group's processes go on.
    ///
    /// # Errors
    /// [`CgroupError::NoController`], [`CgroupError::Io`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let (path, value) = if let Some(path) = self.v1("freezer") {
            (path.join("freezer.state"), "THAWED")
        } else {
            let path = self.unified().ok_or(CgroupError::NoController { controller: "freezer" })?;
            (path.join("cgroup.freeze"), "0")
        };
        write(&path, value).map_err(CgroupError::io("write", &path))
    }

    /// Whether the group itself (not one above it) is frozen or about to be.
    pub fn is_frozen(&self) -> bool {
        let is = |path: &Path, file: &str| {
            std::fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == "1")
        };
        match self.v1("freezer") {
            Some(path) => is(path, "freezer.self_freezing"),
            None => self.unified().is_some_and(|path| is(path, "cgroup.freeze")),
        }
    }

    /// On v1 a frozen process dies when it is thawed; on v2 at once.
    pub(super) fn let_die(&self) {
        if self.v1("freezer").is_some() && self.is_frozen() {
            // If that fails the processes stay, and so does the group, which `remove` tells.
            drop(self.thaw());
        }
    }
}

fn freeze_v1(path: &Path) -> Result<bool, CgroupError> {
    let file = path.join("freezer.state");
    let set = |value| write(&file, value).map_err(CgroupError::io("write", &file));
    for attempt in 1..=TRIES {
        if attempt.is_multiple_of(TRIES_TO_THAW) {
            set("THAWED")?;
            std::thread::sleep(THAW_PAUSE);
        }
        set("FROZEN")?;
        let state = std::fs::read_to_string(&file).map_err(CgroupError::io("read", &file))?;
        if state.trim() == "FROZEN" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn freeze_v2(path: &Path) -> Result<bool, CgroupError> {
    let file = path.join("cgroup.freeze");
    write(&file, "1").map_err(CgroupError::io("write", &file))?;
    let events = path.join("cgroup.events");
    for _ in 0..WAITS {
        if super::group::keyed(&events, "frozen") == Some(1) {
            return Ok(true);
        }
        std::thread::sleep(WAIT);
    }
    Ok(false)
}
