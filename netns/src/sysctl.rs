//! `/proc/sys/net` of a namespace.
//!
//! The files under `/proc/sys/net` show the namespace of the thread that opens them, so reading and writing those of
//! another namespace is done by a helper thread inside it.

use std::fs;
use std::io;

use crate::namespace::{Namespace, NamespaceError};

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The namespace could not be entered.
    #[error("cannot reach the settings of the network namespace")]
    Namespace(#[from] NamespaceError),
    /// A name that could leave `/proc/sys/net`.
    #[error("{0:?} is not the name of a network setting")]
    Name(String),
    /// The setting could not be read.
    #[error("cannot read /proc/sys/net/{name}")]
    Read {
        /// The setting, relative to `/proc/sys/net`.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The setting could not be written.
    #[error("cannot write {value:?} to /proc/sys/net/{name}")]
    Write {
        /// The setting, relative to `/proc/sys/net`.
        name: String,
        /// The value.
        value: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Writes settings of a namespace, each named relative to `/proc/sys/net` (as `ipv4/ip_forward`), in order.
pub fn write(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<(), SysctlError> {
    for (name, _) in settings {
        check(name)?;
    }
    namespace.run_here_or_inside(|| {
        for (name, value) in settings {
            fs::write(format!("/proc/sys/net/{name}"), value).map_err(|source| SysctlError::Write {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
                source,
            })?;
        }
        Ok(())
    })?
}

/// Reads one setting of a namespace, without the line end.
pub fn read(namespace: &Namespace, name: &str) -> Result<String, SysctlError> {
    check(name)?;
    namespace.run_here_or_inside(|| {
        fs::read_to_string(format!("/proc/sys/net/{name}"))
            .map(|text| text.trim_end().to_owned())
            .map_err(|source| SysctlError::Read { name: name.to_owned(), source })
    })?
}

fn check(name: &str) -> Result<(), SysctlError> {
    let plain = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if plain { Ok(()) } else { Err(SysctlError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_belongs_to_its_namespace() {
        let namespace = Namespace::create().unwrap();
        let before = read(&Namespace::current().unwrap(), "ipv4/ip_default_ttl").unwrap();
        write(&namespace, &[("ipv4/ip_default_ttl", "77")]).unwrap();
        assert_eq!(read(&namespace, "ipv4/ip_default_ttl").unwrap(), "77");
        assert_eq!(read(&Namespace::current().unwrap(), "ipv4/ip_default_ttl").unwrap(), before);
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let namespace = Namespace::current().unwrap();
        for name in ["../kernel/hostname", "/etc/passwd", "", "ipv4//x", "ipv4/./x"] {
            assert!(matches!(read(&namespace, name), Err(SysctlError::Name(_))), "{name}");
        }
    }
}
