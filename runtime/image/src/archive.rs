//! An archive taken apart: every file staged on disk by name and digest, documents readable by name.
//!
//! The members can stand in any order, so nothing is interpreted before the end. Blobs that the store has
//! already are hashed, not written.

use std::collections::HashMap;
use std::io::Read;

use sha2::{Digest as _, Sha256};

use crate::blobs::{Complete, Staged};
use crate::decompress::Decoder;
use crate::error::{IoContext, LayerError};
use crate::limits::{ARCHIVE_BYTES_MAX, ARCHIVE_ENTRIES_MAX, ARCHIVE_LINKS_MAX, COPY_BUFFER_BYTES};
use crate::manifest::Packing;
use crate::store::Inner;
use crate::tarstream::{Entry, EntryKind, TarStream};
use crate::{Digest, Error, Lease, LoadProgress, Result};

const BLOBS: &str = "blobs/sha256/";
/// How often progress is told.
const PROGRESS_BYTES: u64 = 4 << 20;

/// Everything that an archive has.
pub(crate) struct Archive<'a> {
    inner: &'a Inner,
    names: HashMap<String, Member>,
    /// Content that the store does not have.
    pub(crate) staged: HashMap<Digest, Complete>,
}

#[derive(Debug, Clone)]
enum Member {
    File(Content),
    /// Another member, by its full name.
    Link(String),
}

/// A file of the archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl<'a> Archive<'a> {
    /// Reads the whole archive. The lease holds every blob that the store has already.
    pub(crate) fn read(
        inner: &'a Inner,
        lease: &mut Lease,
        reader: impl Read,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let (decoder, _) = Decoder::new(reader).map_err(Error::ArchiveRead)?;
        // One byte more than allowed, so that the bound is noticed.
        let mut tar = TarStream::new(decoder.take(ARCHIVE_BYTES_MAX + 1));
        let mut archive = Self { inner, names: HashMap::new(), staged: HashMap::new() };
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        let mut told = 0;
        let mut tell = |offset: u64, last: bool| {
            if last || offset >= told + PROGRESS_BYTES {
                told = offset;
                progress(LoadProgress::Received { bytes: offset });
            }
        };
        let mut entries = 0;
        while let Some(entry) = tar.next_entry().map_err(read_error)? {
            entries += 1;
            if entries > ARCHIVE_ENTRIES_MAX {
                return Err(Error::Archive(format!("it has more than {ARCHIVE_ENTRIES_MAX} members")));
            }
            let Some(name) = member_name(&entry)? else { continue };
            let member = match entry.kind {
                EntryKind::File => {
                    Member::File(archive.file(lease, &name, &mut tar, &mut buffer, &mut |o| tell(o, false))?)
                }
                EntryKind::Symlink => Member::Link(link_name(&name, &entry)?),
                EntryKind::Hardlink => Member::Link(plain_name(&entry.link)?),
                _ => continue,
            };
            archive.names.insert(name, member);
        }
        if !tar.has_end_mark() {
            return Err(Error::Archive("it is cut off: the end mark of a tar is missing".into()));
        }
        tar.drain().map_err(read_error)?;
        if tar.offset() > ARCHIVE_BYTES_MAX {
            return Err(Error::Archive(format!("it is longer than {ARCHIVE_BYTES_MAX} bytes")));
        }
        tell(tar.offset(), true);
        Ok(archive)
    }

    fn file<R: Read>(
        &mut self,
        lease: &mut Lease,
        name: &str,
        tar: &mut TarStream<R>,
        buffer: &mut [u8],
        tell: &mut dyn FnMut(u64),
    ) -> Result<Content> {
        let expected = match name.strip_prefix(BLOBS) {
            Some(hex) => Some(Digest::from_hex(hex)?),
            None => None,
        };
        let content = if let Some(expected) = expected
            && lease.hold(&expected)
        {
            let mut hasher = Sha256::new();
            let mut size = 0;
            loop {
                let n = tar.read_data(buffer).map_err(read_error)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                size += n as u64;
                tell(tar.offset());
            }
            Content { digest: Digest::finish(hasher), size }
        } else {
            let mut staged = Staged::create(self.inner)?;
            loop {
                let n = tar.read_data(buffer).map_err(read_error)?;
                if n == 0 {
                    break;
                }
                staged.append(&buffer[..n])?;
                tell(tar.offset());
            }
            self.add(staged.complete())
        };
        match expected {
            Some(expected) if expected != content.digest => {
                Err(Error::DigestMismatch { what: format!("{name:?}"), expected, found: content.digest })
            }
            _ => Ok(content),
        }
    }

    /// Adds content that is not a member.
    pub(crate) fn add(&mut self, complete: Complete) -> Content {
        let content = Content { digest: complete.digest, size: complete.size };
        self.staged.entry(content.digest).or_insert(complete);
        content
    }

    /// The file with this name, links followed.
    pub(crate) fn find(&self, name: &str) -> Option<Content> {
        let mut name = name;
        for _ in 0..=ARCHIVE_LINKS_MAX {
            match self.names.get(name)? {
                Member::File(content) => return Some(*content),
                Member::Link(target) => name = target,
            }
        }
        None
    }

    /// A blob of an OCI layout.
    pub(crate) fn blob(&self, digest: &Digest, what: &str) -> Result<Content> {
        self.find(&format!("{BLOBS}{}", digest.hex()))
            .ok_or_else(|| Error::MissingBlob { digest: *digest, what: what.into() })
    }

    /// Opens content of the archive.
    pub(crate) fn open(&self, content: Content, what: &str) -> Result<std::fs::File> {
        match self.staged.get(&content.digest) {
            Some(staged) => staged.open(),
            None => self.inner.open_blob(&content.digest, what),
        }
    }

    /// Reads a document.
    pub(crate) fn document(&self, content: Content, bytes_max: u64, what: &str) -> Result<Vec<u8>> {
        if content.size > bytes_max {
            return Err(Error::document(what, format!("longer than {bytes_max} bytes")));
        }
        match self.staged.get(&content.digest) {
            Some(staged) => {
                let mut bytes = Vec::new();
                staged.open()?.take(bytes_max).read_to_end(&mut bytes).io("read", staged.path())?;
                Ok(bytes)
            }
            None => self.inner.read_small(&content.digest, bytes_max, what),
        }
    }

    /// How a layer is packed.
    pub(crate) fn packing(&self, content: Content, what: &str) -> Result<Packing> {
        let decoder = Decoder::new(self.open(content, what)?);
        decoder.map(|(_, packing)| packing).map_err(|e| Error::document(what, e))
    }
}

fn read_error(error: LayerError) -> Error {
    match error {
        LayerError::Read(source) => Error::ArchiveRead(source),
        other => Error::Archive(other.to_string()),
    }
}

/// The member's name without `./`; `None` for the archive's root.
fn member_name(entry: &Entry) -> Result<Option<String>> {
    let name = plain_name(&entry.path)?;
    Ok((!name.is_empty()).then_some(name))
}

/// Names are keys here and never paths on the disk; what is odd is refused all the same.
fn plain_name(path: &[u8]) -> Result<String> {
    let bad = || Error::Archive(format!("a member with the name {:?}", path.escape_ascii().to_string()));
    let text = std::str::from_utf8(path).map_err(|_| bad())?;
    let parts: Vec<&str> = text.split('/').filter(|p| !matches!(*p, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(bad());
    }
    Ok(parts.join("/"))
}

/// The member that a symbolic link means: `ab/layer.tar -> ../cd/layer.tar`.
fn link_name(name: &str, entry: &Entry) -> Result<String> {
    let bad = || Error::Archive(format!("{name:?} is a link out of the archive"));
    let target = std::str::from_utf8(&entry.link).map_err(|_| bad())?;
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        return Err(bad());
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(bad)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}
