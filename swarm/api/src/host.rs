//! What `version` and `info` show of the machine.

use std::fs;
use std::sync::OnceLock;

/// What `version` and `info` show of the machine; read once, it does not change while we run.
#[derive(Debug)]
pub(crate) struct Host {
    /// As `6.1.0-18-amd64`.
    pub(crate) kernel: String,
    /// As `Debian GNU/Linux 12 (bookworm)`.
    pub(crate) os_name: String,
    /// As `12`.
    pub(crate) os_version: String,
}

impl Host {
    /// This machine.
    pub(crate) fn get() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(|| {
            let release = fs::read_to_string("/etc/os-release")
                .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
                .unwrap_or_default();
            let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            Self {
                kernel: kernel.trim().to_owned(),
                os_name: field(&release, "PRETTY_NAME").unwrap_or("Linux").to_owned(),
                os_version: field(&release, "VERSION_ID").unwrap_or_default().to_owned(),
            }
        })
    }

    /// The architecture as Go names it.
    pub(crate) fn go_architecture() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
}

/// A line of os-release (os-release(5)), without its quotes.
fn field<'a>(release: &'a str, name: &str) -> Option<&'a str> {
    release.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches(['"', '\'']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_lines() {
        let release = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=12\n";
        assert_eq!(field(release, "PRETTY_NAME"), Some("Debian GNU/Linux 12"));
        assert_eq!(field(release, "VERSION_ID"), Some("12"));
        assert_eq!(field(release, "VERSION"), None);
        assert!(!Host::get().kernel.is_empty());
    }
}
