//! Steps of a plan that give a process its attributes: scheduling, memory, keyring, label, home.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use crate::sys_attributes::SchedAttr;

/// A step of its own kind ([`super::plan::Step::Attribute`]).
pub(super) enum Attribute {
    /// Wait until the creator has moved the network devices in: a byte. `writer` is this process's copy of the other
    /// end.
    NetDevices {
        moved: OwnedFd,
        writer: RawFd,
    },
    /// Join a session keyring of this name, so that the creator's is out of reach. A new one gets these permissions
    /// in addition.
    SessionKeyring {
        name: CString,
        permissions: u32,
    },
    /// Run on any processor of the cgroup, whatever the creator was bound to.
    AllProcessors,
    /// Run on these processors.
    Affinity {
        mask: Vec<u64>,
        shown: String,
    },
    Scheduler {
        attr: SchedAttr,
        shown: String,
    },
    IoPriority {
        value: i32,
        shown: String,
    },
    Personality {
        persona: u32,
        shown: String,
    },
    MemoryPolicy {
        mode: i32,
        nodes: Vec<u64>,
        shown: String,
    },
    /// The label of a security module that the exec brings.
    ExecLabel {
        module: SecurityModule,
        value: CString,
    },
    /// Find the user's home and put it into the environment's last variable, which is `HOME=/` before.
    Home {
        uid: u32,
        variable: Rc<[Cell<u8>]>,
    },
    /// Go to the working directory while it can be reached with root's rights. The user may have the right instead.
    EarlyDirectory(CString),
}

/// A security module that labels processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecurityModule {
    AppArmor,
    Selinux,
}

impl Attribute {
    /// For a person.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::NetDevices { .. } => "wait for the network devices".to_owned(),
            Self::SessionKeyring { name, .. } => {
                format!("join the session keyring {}", name.to_string_lossy())
            }
            Self::AllProcessors => "run on all processors".to_owned(),
            Self::Affinity { shown, .. } => format!("run on the processors {shown}"),
            Self::Scheduler { shown, .. } => format!("set process.scheduler to {shown}"),
            Self::IoPriority { shown, .. } => format!("set process.ioPriority to {shown}"),
            Self::Personality { shown, .. } => format!("set linux.personality to {shown}"),
            Self::MemoryPolicy { shown, .. } => format!("set linux.memoryPolicy to {shown}"),
            Self::ExecLabel { module: SecurityModule::AppArmor, value } => {
                format!("set the AppArmor profile to {:?}", value.to_string_lossy())
            }
            Self::ExecLabel { module: SecurityModule::Selinux, value } => {
                format!("set the SELinux label to {:?}", value.to_string_lossy())
            }
            Self::Home { .. } => "find the home directory".to_owned(),
            Self::EarlyDirectory(path) => chdir_text(path),
        }
    }
}

/// In runc's words, which those who debug images know.
pub(super) fn chdir_text(path: &CStr) -> String {
    format!("chdir to cwd ({:?}) set in config.json failed", path.to_string_lossy())
}
