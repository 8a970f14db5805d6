//! Which namespaces are made, and which are joined.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use super::Builder;
use crate::container::CreateError;
use crate::container::plan::Step;

impl Builder<'_> {
    /// Namespaces to make are returned as clone flags; those to join become steps. The cgroup namespace is made by a
    /// step, after all groups were joined.
    pub(super) fn namespaces(&mut self, linux: &Linux, netns: Option<OwnedFd>) -> Result<u64, CreateError> {
        let mut flags = 0;
        for namespace in linux.namespaces().iter().flatten() {
            let typ = namespace.typ();
            let join = match (typ, namespace.path()) {
                (LinuxNamespaceType::Network, _) if netns.is_some() => continue,
                (LinuxNamespaceType::User | LinuxNamespaceType::Time, _) => {
                    return Err(CreateError::Unsupported(format!("{typ} namespace")));
                }
                (LinuxNamespaceType::Cgroup, None) => {
                    self.steps.push(Step::NewCgroupNamespace);
                    continue;
                }
                (_, None) => {
                    flags |= typ as u64;
                    continue;
                }
                (LinuxNamespaceType::Network, Some(path)) => (path, LinkNameSpaceType::Network),
                (LinuxNamespaceType::Ipc, Some(path)) => (path, LinkNameSpaceType::InterProcessCommunication),
                (LinuxNamespaceType::Uts, Some(path)) => (path, LinkNameSpaceType::HostNameAndNISDomainName),
                (_, Some(_)) => return Err(CreateError::Unsupported(format!("joining a {typ} namespace"))),
            };
            let fd = rustix::fs::open(join.0, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let fd = fd
                .map_err(|errno| CreateError::OpenNamespace { path: join.0.clone(), source: errno.into() })?;
            self.steps.push(Step::JoinNamespace(fd, join.1));
        }
        if let Some(netns) = netns {
            self.steps.push(Step::JoinNamespace(netns, LinkNameSpaceType::Network));
        }
        if flags & libc::CLONE_NEWNS as u64 == 0 {
            return Err(CreateError::Unsupported(
                "a container without a mount namespace of its own".to_owned(),
            ));
        }
        Ok(flags)
    }
}
