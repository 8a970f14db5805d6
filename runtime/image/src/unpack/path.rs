//! Names of entries: bytes in, clean relative paths out.

use std::borrow::Cow;

use crate::limits::{NAME_BYTES_MAX, PATH_DEPTH_MAX};

/// An entry's path: clean, relative, without `..`.
pub(super) struct Target<'p> {
    pub(super) parent: &'p [u8],
    pub(super) name: &'p [u8],
}

/// Takes `.` and empty parts out; refuses `..` and what no file system takes.
pub(super) fn clean(path: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let mut depth = 0;
    let mut already = true;
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => already = false,
            b".." => return Err("\"..\" in a path"),
            _ if part.len() > NAME_BYTES_MAX => return Err("a name longer than 255 bytes"),
            _ => depth += 1,
        }
    }
    if depth > PATH_DEPTH_MAX {
        return Err("too many folders inside each other");
    }
    if already {
        return Ok(Cow::Borrowed(path));
    }
    let parts: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
    Ok(Cow::Owned(parts.join(&b'/')))
}

pub(super) fn split(path: &[u8]) -> Target<'_> {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => Target { parent: &path[..slash], name: &path[slash + 1..] },
        None => Target { parent: b"", name: path },
    }
}
