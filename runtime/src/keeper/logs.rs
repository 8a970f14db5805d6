//! A container's output as bounded files of JSON lines, as Docker's `json-file` driver writes them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::protocol::LogOptions;

/// Longest piece of a line in one JSON line, as Docker: a longer line comes in pieces without a newline at the end.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// Longest JSON line: a piece of which every byte is escaped (`\u0000`), and what stands around it.
const LINE_BYTES_MAX: usize = 6 * PIECE_BYTES_MAX + 256;

/// Smallest bound of a file: one piece, escaped, must fit into a fresh one.
const SIZE_MIN: u64 = 4096;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Writes one container's log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    size_max: u64,
    file: File,
    size: u64,
    /// Beginnings of lines whose end has not come, per stream. Empty most of the time, and then without memory.
    partial: [Vec<u8>; 2],
}

impl Log {
    pub(super) fn open(options: &LogOptions) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(&options.path)?;
        let size = whole_lines(&file)?;
        if size < file.metadata()?.len() {
            file.set_len(size)?;
        }
        Ok(Self {
            path: options.path.clone(),
            size_max: options.max_size.max(SIZE_MIN),
            file,
            size,
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Takes what a stream said. `now` is nanoseconds since the epoch. Complete lines are written with one write.
    ///
    /// # Errors
    /// The disk's. What could not be written is lost; the container must not wait for a full disk.
    pub(super) fn push(&mut self, stream: Stream, mut bytes: &[u8], now: u64) -> io::Result<()> {
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        let mut out = Vec::new();
        let mut result = Ok(());
        while !bytes.is_empty() {
            let room = PIECE_BYTES_MAX - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            if end.is_none() && window.len() < room {
                partial.extend_from_slice(window);
                break;
            }
            let (piece, rest) = bytes.split_at(end.unwrap_or(window.len()));
            bytes = rest;
            if partial.is_empty() {
                encode(&mut out, stream, piece, now);
            } else {
                partial.extend_from_slice(piece);
                encode(&mut out, stream, &partial, now);
                partial = Vec::new();
            }
            if out.len() >= PIECE_BYTES_MAX {
                let written = self.write(&out);
                result = result.and(written);
                out.clear();
            }
        }
        self.partial[stream as usize] = partial;
        let written = self.write(&out);
        result.and(written)
    }

    /// Writes what has no newline yet: the stream has ended.
    pub(super) fn finish(&mut self, now: u64) -> io::Result<()> {
        let mut out = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                encode(&mut out, stream, &partial, now);
            }
        }
        self.write(&out)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.size > 0 && self.size + lines.len() as u64 > self.size_max {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(lines) {
            // A full disk takes a part. Without this the next line would be joined to it.
            drop(self.file.set_len(self.size));
            return Err(error);
        }
        self.size += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        std::fs::rename(&self.path, old)?;
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// Bytes up to the end of the last whole line: a keeper that was killed while it wrote leaves the beginning of one.
fn whole_lines(file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut tail = vec![0; LINE_BYTES_MAX.min(usize::try_from(size).unwrap_or(LINE_BYTES_MAX))];
    let start = size - tail.len() as u64;
    file.read_exact_at(&mut tail, start)?;
    Ok(match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => start + at as u64 + 1,
        None if start == 0 => 0,
        // No line of ours is that long.
        None => size,
    })
}

fn encode(out: &mut Vec<u8>, stream: Stream, piece: &[u8], now: u64) {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        log: &'a str,
        stream: &'a str,
        time: &'a str,
    }
    let line = Line { log: &String::from_utf8_lossy(piece), stream: stream.name(), time: &rfc3339(now) };
    // Strings into memory: neither can fail.
    if serde_json::to_writer(&mut *out, &line).is_ok() {
        out.push(b'\n');
    }
}

/// RFC 3339 in UTC with nanoseconds, from nanoseconds since the epoch.
fn rfc3339(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's days-to-date algorithm, with years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_size: u64) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&LogOptions { path: dir.path().join("log"), max_size }).unwrap();
        (dir, log)
    }

    fn lines(dir: &tempfile::TempDir) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let values = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        values
            .map(|v| (v["log"].as_str().unwrap().to_owned(), v["stream"].as_str().unwrap().to_owned()))
            .collect()
    }

    #[test]
    fn lines_come_whole_and_with_their_stream() {
        let (dir, mut log) = log(1 << 20);
        log.push(Stream::Stdout, b"one\ntw", 0).unwrap();
        log.push(Stream::Stderr, b"oops \xff\n", 0).unwrap();
        log.push(Stream::Stdout, b"o\nthree", 0).unwrap();
        assert_eq!(lines(&dir).len(), 3);
        log.finish(0).unwrap();
        let expected =
            [("one\n", "stdout"), ("oops \u{fffd}\n", "stderr"), ("two\n", "stdout"), ("three", "stdout")];
        assert_eq!(lines(&dir), expected.map(|(log, stream)| (log.to_owned(), stream.to_owned())));
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_is_complete() {
        let (dir, mut log) = log(1 << 20);
        let long = "x".repeat(3 * PIECE_BYTES_MAX + 7) + "\n";
        for chunk in long.as_bytes().chunks(1000) {
            log.push(Stream::Stdout, chunk, 0).unwrap();
        }
        let pieces: Vec<String> = lines(&dir).into_iter().map(|line| line.0).collect();
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces.concat(), long);
    }

    #[test]
    fn files_stay_within_their_bound() {
        let (dir, mut log) = log(8192);
        for number in 0..1000 {
            log.push(Stream::Stdout, format!("line {number}\n").as_bytes(), 0).unwrap();
        }
        for name in ["log", "log.1"] {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() <= 8192);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(lines(&dir).last().unwrap().0, "line 999\n");
    }

    #[test]
    fn a_line_that_was_not_finished_is_not_joined_by_the_next() {
        let (dir, mut log) = log(1 << 20);
        log.push(Stream::Stdout, b"one\ntwo\n", 0).unwrap();
        let path = dir.path().join("log");
        let torn = std::fs::metadata(&path).unwrap().len() - 5;
        OpenOptions::new().write(true).open(&path).unwrap().set_len(torn).unwrap();
        let mut log = Log::open(&LogOptions { path: path.clone(), max_size: 1 << 20 }).unwrap();
        log.push(Stream::Stdout, b"three\n", 0).unwrap();
        assert_eq!(lines(&dir).into_iter().map(|line| line.0).collect::<Vec<_>>(), ["one\n", "three\n"]);
        // Nothing but the beginning of a line.
        std::fs::write(&path, "{\"log\":\"on").unwrap();
        let mut log = Log::open(&LogOptions { path, max_size: 1 << 20 }).unwrap();
        log.push(Stream::Stdout, b"four\n", 0).unwrap();
        assert_eq!(lines(&dir), [("four\n".to_owned(), "stdout".to_owned())]);
    }

    #[test]
    fn times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(1_795_485_599_123_456_789), "2026-11-24T01:59:59.123456789Z");
    }
}
