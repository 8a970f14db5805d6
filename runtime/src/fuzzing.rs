//! What others can make this crate decode, one function a fuzz target in `fuzz/`: specs, the words between processes,
//! files of the kernel and of images. Each checks more than that nothing panics, where there is more to check.
//!
//! All of them can be run as root on any host: nothing is mounted, moved, started or written outside of the directory
//! for temporary files.

pub use crate::cgroup::fuzzing::{bus, devices, hierarchies, resources};
pub use crate::container::fuzzing::{config, message, process};
pub use crate::keeper::fuzzing::{keeper, record};
pub use crate::seccomp::fuzzing::seccomp;
pub use crate::spec::fuzzing::user;
