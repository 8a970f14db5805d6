//! Seccomp filters: an OCI profile becomes a classic BPF program, in pure Rust.
//!
//! ```text
//! LinuxSeccomp --policy--> verdict of each number --compile--> sock_filter[] --load--> kernel
//!                (runc's and libseccomp's meaning)   (binary search)       (in the container's init)
//! ```
//!
//! - `policy`: what a profile means; the place to read about runc's rules.
//! - `compile`, `assembler`: the program.
//! - `arch`, `numbers`: calling conventions and their numbers.
//! - `cache`: programs by the text of their profile.
//! - `default`: Docker's default profile; `features`: what profiles may ask for.
//! - `load`: the system calls; `notify`: who answers notifications.

mod arch;
mod assembler;
mod cache;
mod compile;
mod default;
mod error;
pub mod features;
mod load;
mod notify;
mod numbers;
mod policy;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
mod interpreter;
#[cfg(test)]
mod kernel_test;
#[cfg(test)]
mod tests;

pub use self::arch::Machine;
pub use self::cache::FilterCache;
pub use self::default::{default_profile, kernel_version};
pub use self::error::SeccompError;

pub(crate) use self::load::{load_filter, take_descriptor};
pub(crate) use self::notify::{Told, send};
pub(crate) use self::policy::ListenerAddress;

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;

use self::policy::Policy;

/// A compiled profile, ready to be loaded without an allocation.
#[derive(Debug)]
pub struct Filter {
    program: Vec<sock_filter>,
    flags: u32,
    listener: Option<ListenerAddress>,
}

impl Filter {
    /// Compiles a profile for this machine (OCI runtime spec, config-linux.md, "Seccomp").
    ///
    /// # Errors
    /// [`SeccompError`].
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self, SeccompError> {
        let filter = Self::compile_for(profile, Machine::native()?)?;
        // Newer than Linux 5.12, which everything else here runs on.
        if filter.flags & WAIT_KILLABLE != 0 && !load::kernel_knows(filter.flags) {
            return Err(SeccompError::Flag("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
        }
        Ok(filter)
    }

    /// Compiles a profile for a machine of some kind, to be looked at.
    ///
    /// # Errors
    /// [`SeccompError`].
    pub fn compile_for(profile: &LinuxSeccomp, machine: Machine) -> Result<Self, SeccompError> {
        let policy = Policy::new(profile, machine)?;
        Ok(Self { program: compile::compile(&policy)?, flags: policy.flags, listener: policy.listener })
    }

    /// The program's instructions.
    pub fn program(&self) -> &[sock_filter] {
        &self.program
    }

    /// Where its notifications go, if it makes any.
    pub(crate) fn listener(&self) -> Option<&ListenerAddress> {
        self.listener.as_ref()
    }

    /// The flags that it is to be loaded with (seccomp(2)).
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

const WAIT_KILLABLE: u32 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32;
