//! A user's home directory by `/etc/passwd`, found without an allocation.

use std::cell::Cell;

use rustix::io::Errno;

/// Largest file that is looked through.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// `HOME=`.
const NAME_BYTES: usize = 5;

/// The line that is being read.
#[derive(Default)]
struct Line {
    field: usize,
    /// The user ID as far as it was read.
    uid: Option<u32>,
    /// It is no line that counts: another user's, a comment, or nonsense.
    skip: bool,
    /// Bytes of the home.
    home: usize,
    /// Something was read of it.
    begun: bool,
}

/// Puts the home of the first line of that user behind `HOME=`. Without one the variable stays as it is.
pub(super) fn find(uid: u32, mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>, variable: &[Cell<u8>]) {
    let mut buffer = [0; 4096];
    let mut line = Line::default();
    let mut seen = 0;
    while seen < FILE_BYTES_MAX {
        let Ok(length) = read(&mut buffer) else { break };
        // The last line may have no end.
        let bytes = if length == 0 { &b"\n"[..] } else { buffer.get(..length).unwrap_or_default() };
        for byte in bytes {
            if *byte == b'\n' {
                if line.field >= 5 && !line.skip && end(variable, line.home) {
                    return;
                }
                line = Line::default();
            } else {
                line.take(*byte, uid, variable);
            }
        }
        if length == 0 {
            break;
        }
        seen += length;
    }
    // What was read of other lines goes again.
    if let Some(first) = variable.get(NAME_BYTES) {
        first.set(b'/');
    }
    end(variable, 1);
}

fn end(variable: &[Cell<u8>], home: usize) -> bool {
    // The array's very last byte stays zero.
    match variable.get(NAME_BYTES + home) {
        Some(place) => {
            place.set(0);
            true
        }
        None => false,
    }
}

impl Line {
    fn take(&mut self, byte: u8, uid: u32, variable: &[Cell<u8>]) {
        if !self.begun && byte.is_ascii_whitespace() {
            return;
        }
        self.skip |= !self.begun && byte == b'#';
        self.begun = true;
        if self.skip {
            return;
        }
        match (self.field, byte) {
            (2, b':') => {
                self.skip = self.uid != Some(uid);
                self.field += 1;
            }
            (_, b':') => self.field += 1,
            (2, b'0'..=b'9') => {
                let old = self.uid.unwrap_or(0);
                self.uid = old.checked_mul(10).and_then(|tens| tens.checked_add(u32::from(byte - b'0')));
                self.skip = self.uid.is_none();
            }
            (2, _) | (5, 0) => self.skip = true,
            (5, b'\r') => {}
            (5, _) => match variable.get(NAME_BYTES + self.home) {
                // One more has to fit behind it.
                Some(place) if NAME_BYTES + self.home + 1 < variable.len() => {
                    place.set(byte);
                    self.home += 1;
                }
                _ => self.skip = true,
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use proptest::prelude::*;

    use super::*;

    /// In pieces of `piece` bytes.
    fn home_in(passwd: &[u8], uid: u32, piece: usize, room: usize) -> Vec<u8> {
        let mut text = b"HOME=/".to_vec();
        text.resize(room, 0);
        let variable: Vec<Cell<u8>> = text.into_iter().map(Cell::new).collect();
        let mut pieces = passwd.chunks(piece);
        let read = |buffer: &mut [u8]| {
            let piece = pieces.next().unwrap_or_default();
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        };
        find(uid, read, &variable);
        let bytes: Vec<u8> = variable.iter().map(Cell::get).collect();
        let text = CStr::from_bytes_until_nul(&bytes).unwrap().to_bytes().to_vec();
        text.strip_prefix(b"HOME=").unwrap().to_vec()
    }

    const PASSWD: &[u8] = b"# web:x:33:0::/comment:/\nroot:x:0:0:root:/root:/bin/sh\n  web:x:33:34::/var/www:/x\n\
        again:x:33:34::/other:/x\nhuge:x:4294967296:0::/huge:/\nodd:x:x0:0::/odd:/\nshort:x:5\nempty:x:6:6:::\nlast:x:7:7::/last";

    #[test]
    fn the_first_line_of_the_user_counts() {
        for piece in [1, 2, 7, 4096] {
            let home = |uid| String::from_utf8(home_in(PASSWD, uid, piece, 64)).unwrap();
            assert_eq!(home(0), "/root");
            assert_eq!(home(33), "/var/www");
            assert_eq!(home(5), "/", "a line that ends before the home");
            assert_eq!(home(6), "", "as it stands");
            assert_eq!(home(7), "/last");
            assert_eq!(home(1234), "/");
        }
    }

    #[test]
    fn a_home_without_room_is_none() {
        assert_eq!(home_in(b"a:x:1:1::/12345678:/\n", 1, 64, 5 + 9 + 1), b"/12345678");
        assert_eq!(home_in(b"a:x:1:1::/12345678:/\n", 1, 64, 5 + 9), b"/");
        assert_eq!(home_in(b"a:x:1:1::/a\0b:/\n", 1, 64, 64), b"/");
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_variable(passwd in proptest::collection::vec(any::<u8>(), 0..300), uid in 0_u32..3, room in 7_usize..40) {
            let home = home_in(&passwd, uid, 11, room);
            prop_assert!(5 + home.len() < room);
        }
    }
}
