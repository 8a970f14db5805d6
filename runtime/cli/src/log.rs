//! The log in logrus' formats: conmon, go-runc and dockerd read the cause of a failure from it.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use rustix::fs::OFlags;
use std::os::unix::fs::OpenOptionsExt as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How weighty a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where lines go, and how.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// `None`: standard error.
    file: Option<File>,
    pub(crate) json: bool,
    pub(crate) debug: bool,
}

impl Log {
    /// Sends the lines to a file's end from here on.
    pub(crate) fn open(&mut self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o644).custom_flags(OFlags::SYNC.bits() as i32);
        self.file = Some(options.open(path)?);
        Ok(())
    }

    /// Whether lines go to standard error.
    pub(crate) fn is_stderr(&self) -> bool {
        self.file.is_none()
    }

    /// One line. What cannot be logged is lost: there is nowhere else to say it.
    pub(crate) fn line(&self, level: Level, message: &str) {
        if level == Level::Debug && !self.debug {
            return;
        }
        let now = OffsetDateTime::now_utc();
        let time = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
        match &self.file {
            Some(file) => drop((&*file).write_all(self.shape(level, &time, message, false).as_bytes())),
            None => {
                let terminal = io::stderr().is_terminal();
                drop(io::stderr().write_all(self.shape(level, &time, message, terminal).as_bytes()));
            }
        }
    }

    /// The failure that ends the program: in the log, and on standard error.
    pub(crate) fn fatal(&self, message: &str) {
        self.line(Level::Error, message);
        if self.file.is_some() {
            drop(writeln!(io::stderr(), "{message}"));
        }
    }

    fn shape(&self, level: Level, time: &str, message: &str, terminal: bool) -> String {
        let name = level.name();
        if self.json {
            let line = serde_json::json!({ "level": name, "msg": message, "time": time });
            format!("{line}\n")
        } else if terminal {
            format!("{}: {message}\n", name.to_uppercase())
        } else {
            format!("time={} level={name} msg={}\n", quoted(time), quoted(message))
        }
    }
}

/// As logrus' text format: quoted if anything but letters, digits and a few signs is in it.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            character if character.is_control() => {
                use std::fmt::Write as _;
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            character => out.push(character),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_logrus_writes_them() {
        let mut log = Log::default();
        let time = "2026-11-28T19:31:12Z";
        assert_eq!(
            log.shape(Level::Error, time, "exec \"x\"\nfailed", false),
            "time=\"2026-11-28T19:31:12Z\" level=error msg=\"exec \\\"x\\\"\\nfailed\"\n"
        );
        assert_eq!(
            log.shape(Level::Warning, time, "short", false),
            format!("time=\"{time}\" level=warning msg=short\n")
        );
        log.json = true;
        assert_eq!(
            log.shape(Level::Error, time, "a \"b\"", true),
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\",\"time\":\"2026-11-28T19:31:12Z\"}\n"
        );
    }
}
