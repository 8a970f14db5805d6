//! A strict tar reader. `tar::Header` parses the fields; what belongs to which entry is decided here.
//!
//! ```text
//! header ─ 'x' PAX ─▶ remembered for the next entry ─┐
//!        ─ 'L','K' ─▶ long name, long link ──────────┤
//!        ─ 'g', 'V' ─▶ skipped                       ▼
//!        ─ else ───────────────────────────▶ entry (PAX over GNU over ustar), its data, padding
//!        ─ two zero blocks, or the end of input at a header ─▶ end
//!        ─ wrong checksum, cut off, size on a link, sparse, an extension without an entry ─▶ error
//! ```
//!
//! A PAX `size` decides both how much data an entry has and where the next header is, so nothing can be smuggled
//! between the two readings (CVE-2025-62518). What is ambiguous is refused, not guessed.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::error::LayerError;
use crate::limits::{EXTENSION_BYTES_MAX, PATH_BYTES_MAX, XATTR_BYTES_MAX, XATTRS_MAX};

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    Hardlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry; its data is read from the [`TarStream`] before the next one.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other.
pub(crate) struct TarStream<R> {
    reader: R,
    offset: u64,
    /// Data of the current entry that has not been read.
    left: u64,
    padding: u64,
    ended: bool,
    marked: bool,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pax: bool,
    any: bool,
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, offset: 0, left: 0, padding: 0, ended: false, marked: false }
    }

    /// Where the reader is in the stream, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// True if the end was marked with a zero block, as it must be; without it the input may have been cut off
    /// between two entries.
    pub(crate) fn has_end_mark(&self) -> bool {
        self.marked
    }

    /// The next entry, or `None` at the end. What was not read of the last one is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.next_header()? else {
                if extensions.any {
                    return Err(self.bad("an extension header without an entry"));
                }
                return Ok(None);
            };
            let size = self.number(&header.as_old().size, header.entry_size())?;
            match header.entry_type() {
                EntryType::XHeader => {
                    if extensions.pax {
                        return Err(self.bad("two PAX headers for one entry"));
                    }
                    let data = self.extension(size)?;
                    self.parse_pax(&data, &mut extensions)?;
                    extensions.pax = true;
                    extensions.any = true;
                }
                EntryType::GNULongName => {
                    let data = self.long_name(size)?;
                    // PAX wins, whichever came first.
                    extensions.path.get_or_insert(data);
                    extensions.any = true;
                }
                EntryType::GNULongLink => {
                    let data = self.long_name(size)?;
                    extensions.link.get_or_insert(data);
                    extensions.any = true;
                }
                // Global headers carry comments of git; Docker applies none of them either. 'V' is a label.
                kind if kind == EntryType::XGlobalHeader || kind.as_byte() == b'V' => {
                    self.begin_data(size)?;
                }
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, LayerError> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match kind {
            // Before POSIX a directory was a file whose name ends in a slash.
            EntryType::Regular if path.ends_with(b"/") && header.as_bytes()[156] == 0 => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Link => EntryKind::Hardlink,
            EntryType::Char => EntryKind::CharDevice,
            EntryType::Block => EntryKind::BlockDevice,
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::GNUSparse => return Err(self.bad("a sparse entry; these are not supported")),
            other => {
                let reason = format!("an entry of unknown type {:?}", char::from(other.as_byte()));
                return Err(self.bad(&reason));
            }
        };
        let size = extensions.size.unwrap_or(size);
        if kind != EntryKind::File && size != 0 {
            return Err(self.bad("an entry that is not a file, with data"));
        }
        let link =
            extensions.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        if path.len() > PATH_BYTES_MAX || link.len() > PATH_BYTES_MAX {
            return Err(self.bad(&format!("a name longer than {PATH_BYTES_MAX} bytes")));
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(self.bad("a name with a zero byte"));
        }
        let old = header.as_old();
        // In one place in the ustar and the GNU form.
        let (major, minor) = (&header.as_bytes()[329..337], &header.as_bytes()[337..345]);
        let entry = Entry {
            path,
            link,
            kind,
            size,
            mode: self.number(&old.mode, header.mode())?,
            uid: extensions.uid.map_or_else(|| self.number(&old.uid, header.uid()), Ok)?,
            gid: extensions.gid.map_or_else(|| self.number(&old.gid, header.gid()), Ok)?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => (i64::try_from(self.number(&old.mtime, header.mtime())?).unwrap_or(0), 0),
            },
            device: match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => (
                    self.number(major, header.device_major().map(Option::unwrap_or_default))?,
                    self.number(minor, header.device_minor().map(Option::unwrap_or_default))?,
                ),
                _ => (0, 0),
            },
            xattrs: extensions.xattrs,
        };
        self.begin_data(size)?;
        Ok(entry)
    }

    fn next_header(&mut self) -> Result<Option<Header>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        if !self.read_block(header.as_mut_bytes())? {
            self.ended = true;
            return Ok(None);
        }
        if header.as_bytes().iter().all(|&b| b == 0) {
            let mut second = [0; BLOCK];
            if self.read_block(&mut second)? && second.iter().any(|&b| b != 0) {
                return Err(self.bad("a single zero block"));
            }
            self.ended = true;
            self.marked = true;
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum = bytes[..148].iter().chain(&bytes[156..]).map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(self.bad("wrong header checksum"));
        }
        Ok(Some(header))
    }

    /// Reads a whole block; false at the end of input.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.cut_off()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(LayerError::Read(e)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), LayerError> {
        // Keeps every later sum far from overflow.
        if size > i64::MAX as u64 {
            return Err(self.bad("a size out of range"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// Reads data of the current entry; 0 at its end. Input that ends before is an error.
    pub(crate) fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, LayerError> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        loop {
            match self.reader.read(&mut buf[..want]) {
                Ok(0) => return Err(self.cut_off()),
                Ok(n) => {
                    self.left -= n as u64;
                    self.offset += n as u64;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(LayerError::Read(e)),
            }
        }
    }

    /// Skips what is left of the entry. Input that ends in the padding is at its end: some packers write none behind the
    /// last file, and a layer's digest already says that it is whole.
    fn skip_rest(&mut self) -> Result<(), LayerError> {
        let mut buf = [0; 8192];
        while self.read_data(&mut buf)? > 0 {}
        let padding = std::mem::take(&mut self.padding);
        let skipped =
            io::copy(&mut (&mut self.reader).take(padding), &mut io::sink()).map_err(LayerError::Read)?;
        self.offset += skipped;
        Ok(())
    }

    /// Reads what is behind the end of the archive, so that a digest over the stream is complete.
    pub(crate) fn drain(&mut self) -> Result<(), LayerError> {
        let n = io::copy(&mut self.reader, &mut io::sink()).map_err(LayerError::Read)?;
        self.offset += n;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > EXTENSION_BYTES_MAX {
            return Err(LayerError::Limit(format!("an extension header of {size} bytes")));
        }
        self.begin_data(size)?;
        let mut data = vec![0; size as usize];
        let mut filled = 0;
        while filled < data.len() {
            filled += self.read_data(&mut data[filled..])?;
        }
        Ok(data)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        let mut data = self.extension(size)?;
        if data.last() == Some(&0) {
            data.pop();
        }
        Ok(data)
    }

    /// Records of the form `length key=value\n` (POSIX pax, "pax Extended Header").
    fn parse_pax(&self, mut data: &[u8], into: &mut Extensions) -> Result<(), LayerError> {
        let bad = || self.bad("a PAX record that is not well formed");
        while !data.is_empty() {
            let space = data.iter().take(10).position(|&b| b == b' ').ok_or_else(bad)?;
            let length = decimal(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &data[space + 1..length - 1];
            data = &data[length..];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let number = || decimal(value).ok_or_else(bad);
            match key {
                b"path" if !value.is_empty() => into.path = Some(value.to_vec()),
                b"linkpath" if !value.is_empty() => into.link = Some(value.to_vec()),
                b"size" => into.size = Some(number()?),
                b"uid" => into.uid = Some(number()?),
                b"gid" => into.gid = Some(number()?),
                b"mtime" => into.mtime = Some(timestamp(value).ok_or_else(bad)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.bad("a sparse entry; these are not supported"));
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        if name.is_empty() || name.len() > 255 || name.contains(&0) {
                            return Err(self.bad("an extended attribute with a bad name"));
                        }
                        if value.len() > XATTR_BYTES_MAX || into.xattrs.len() >= XATTRS_MAX {
                            return Err(LayerError::Limit("extended attributes of one entry".into()));
                        }
                        into.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// A number of a header. A field that was left blank is 0, as other readers have it.
    fn number<N: Default>(&self, field: &[u8], parsed: io::Result<N>) -> Result<N, LayerError> {
        if field.iter().all(|b| matches!(b, 0 | b' ')) {
            return Ok(N::default());
        }
        parsed.map_err(|_| self.bad("a field that is no number"))
    }

    fn bad(&self, reason: &str) -> LayerError {
        LayerError::Tar { offset: self.offset, reason: reason.into() }
    }

    fn cut_off(&self) -> LayerError {
        self.bad("it is cut off")
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, perhaps negative. The fraction is cut to nanoseconds, downwards.
fn timestamp(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let seconds = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction)).parse().ok()?;
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_needs_no_padding_and_data_must_be_whole() {
        let whole = crate::testing::Tar::default().file("a", b"123456").end();
        let names = |bytes: &[u8]| {
            let mut stream = TarStream::new(bytes);
            let mut names = 0;
            while stream.next_entry()?.is_some() {
                names += 1;
            }
            Ok::<_, LayerError>((names, stream.has_end_mark()))
        };
        assert_eq!(names(&whole[..BLOCK + 6]).unwrap(), (1, false));
        assert!(names(&whole[..BLOCK + 5]).is_err());
        assert_eq!(names(&whole).unwrap(), (1, true));
    }

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(b"12"), Some((12, 0)));
        assert_eq!(timestamp(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(timestamp(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(timestamp(b"-1.25"), Some((-2, 750_000_000)));
        for bad in ["", "-", "1.x", "x", "1e3", "99999999999999999999", "--1", "+1"] {
            assert_eq!(timestamp(bad.as_bytes()), None, "{bad}");
        }
    }
}
