//! What a group uses, in the form of runc's `events --stats`.

mod types;
mod v1;
mod v2;

pub use self::types::*;

use std::io::ErrorKind;
use std::path::Path;

use super::{Cgroup, CgroupError};

impl Cgroup {
    /// What the group uses now. A controller that is not there leaves its part empty.
    ///
    /// # Errors
    /// [`CgroupError::Io`], [`CgroupError::Content`].
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        let is_v1 = ["memory", "cpu", "cpuacct", "pids", "blkio", "cpuset", "hugetlb"]
            .into_iter()
            .filter_map(|name| Some((name, self.v1(name)?)));
        let mut any = false;
        for (controller, path) in is_v1 {
            any = true;
            v1::read(controller, path, &mut stats)?;
        }
        if let Some(path) = self.unified().filter(|_| !any) {
            v2::read(path, &mut stats)?;
        }
        Ok(stats)
    }
}

/// The text of a file; empty if the kernel has no such file.
fn text(path: &Path, file: &str) -> Result<String, CgroupError> {
    let path = path.join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        // Pressure files that the kernel's command line has turned off say so only when they are read.
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            Ok(String::new())
        }
        Err(error) => Err(CgroupError::io("read", &path)(error)),
    }
}

/// The number in a file: `max` is the greatest, a file that is not there is 0.
fn number(path: &Path, file: &str) -> Result<u64, CgroupError> {
    match text(path, file)?.trim() {
        "" => Ok(0),
        "max" => Ok(u64::MAX),
        // Counters of the kernel may be a little below zero for a moment.
        text if text.starts_with('-') => Ok(0),
        text => text.parse().map_err(|_| CgroupError::Content { path: path.join(file) }),
    }
}

/// A file of "key value" lines.
fn pairs(path: &Path, file: &str) -> Result<Vec<(String, u64)>, CgroupError> {
    let text = text(path, file)?;
    let pairs = text.lines().map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    });
    pairs.collect::<Option<_>>().ok_or_else(|| CgroupError::Content { path: path.join(file) })
}

/// Pressure stall information. `None`: the kernel has none.
fn pressure(path: &Path, file: &str) -> Result<Option<Psi>, CgroupError> {
    let text = text(path, file)?;
    if text.is_empty() {
        return Ok(None);
    }
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let part = match fields.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let float = || value.parse().map_err(|_| CgroupError::Content { path: path.join(file) });
            match key {
                "avg10" => part.avg10 = float()?,
                "avg60" => part.avg60 = float()?,
                "avg300" => part.avg300 = float()?,
                "total" => {
                    part.total = value.parse().map_err(|_| CgroupError::Content { path: path.join(file) })?;
                }
                _ => {}
            }
        }
    }
    Ok(Some(psi))
}

/// The sizes of huge pages that this kernel has, as the controller names them.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kilobytes {
            0..1024 => format!("{kilobytes}KB"),
            1024..1_048_576 => format!("{}MB", kilobytes >> 10),
            _ => format!("{}GB", kilobytes >> 20),
        })
    });
    sizes.collect()
}

#[cfg(test)]
mod tests;
