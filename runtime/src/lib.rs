//! One host's container runtime: an OCI bundle becomes a running container, and a small keeper process owns it.
//!
//! Sync code, no network, no knowledge of clusters. Linux 5.12 or newer (`clone3`, `openat2`, `mount_setattr`).
//!
//! - [`seccomp`]: system call filters, compiled from OCI profiles; Docker's default profile.
//! - [`spec`]: Docker's default OCI spec, bundles, and who `user[:group]` is in an image.
//! - [`container`]: the library: bundle in, blocked init out; start, signal, wait.
//! - [`features`]: what of the spec this runtime knows, and what of it the kernel has.
//! - [`cgroup`]: limits on cgroup v1, hybrid and v2, chosen by what is mounted.
//! - [`descriptors`]: descriptors over unix sockets, with an end to every wait.
//! - [`paths`]: paths as text.
//! - [`process`]: processes that are not one's children, safe from numbers that are used again.
//! - [`selfexe`]: the runtime's own program, out of the containers' reach.
//! - [`weak`]: what a build for the tests of attacks leaves out; nothing in any other.
//! - [`keeper`]: the process that outlives its clients and is the parent of every container, and the client for it.

pub mod cgroup;
pub mod container;
pub mod descriptors;
pub mod features;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod keeper;
pub mod paths;
pub mod process;
pub mod seccomp;
pub mod selfexe;
pub mod spec;
pub mod weak;

mod mountinfo;
mod sys;
mod sys_attributes;
