//! Decompression by the first bytes, always in this process: no helper program is ever looked up.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::limits::COPY_BUFFER_BYTES;
use crate::manifest::Packing;

/// The stream with its first bytes put back.
type Sniffed<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// A plain, gzip or zstd stream, read as plain.
pub(crate) enum Decoder<R: Read> {
    Plain(Sniffed<R>),
    Gzip(Box<MultiGzDecoder<Sniffed<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Sniffed<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes and chooses.
    pub(crate) fn new(mut reader: R) -> io::Result<(Self, Packing)> {
        let mut head = Vec::new();
        (&mut reader).take(6).read_to_end(&mut head)?;
        let packing = match head[..] {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            [b'B', b'Z', b'h', ..] => return Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unsupported("xz")),
            _ => Packing::Plain,
        };
        let input = BufReader::with_capacity(COPY_BUFFER_BYTES, Cursor::new(head).chain(reader));
        let decoder = match packing {
            Packing::Plain => Self::Plain(input),
            Packing::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Packing::Zstd => Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(input)?)),
        };
        Ok((decoder, packing))
    }
}

fn unsupported(what: &str) -> io::Error {
    let text = format!("{what} compression is not supported; gzip, zstd and none are");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(r) => r.read(buf),
            Self::Gzip(r) => r.read(buf),
            Self::Zstd(r) => r.read(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn decode(bytes: &[u8]) -> io::Result<(Vec<u8>, Packing)> {
        let (mut decoder, packing) = Decoder::new(bytes)?;
        let mut out = Vec::new();
        decoder.read_to_end(&mut out)?;
        Ok((out, packing))
    }

    #[test]
    fn all_forms_read_alike() {
        let text = b"some text".repeat(1000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).unwrap();
        let gz = gz.finish().unwrap();
        let zst = zstd::encode_all(&text[..], 1).unwrap();
        assert_eq!(decode(&text).unwrap(), (text.clone(), Packing::Plain));
        assert_eq!(decode(&gz).unwrap(), (text.clone(), Packing::Gzip));
        assert_eq!(decode(&zst).unwrap(), (text.clone(), Packing::Zstd));
        assert_eq!(
            decode(&[gz.clone(), gz.clone()].concat()).unwrap().0,
            text.repeat(2),
            "members of eStargz"
        );
        assert!(decode(&gz[..gz.len() - 9]).is_err());
        assert!(decode(&zst[..zst.len() - 9]).is_err());
        assert_eq!(decode(b"").unwrap().0, b"");
        assert!(decode(b"\xfd7zXZ\0abc").unwrap_err().to_string().contains("xz"));
    }
}
