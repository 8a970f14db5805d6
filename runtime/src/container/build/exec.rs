//! How one more process gets into a running container.

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Builder;
use crate::cgroup::Cgroup;
use crate::container::CreateError;
use crate::container::plan::{Entry, Join, Step};
use crate::process::Process;

impl Builder<'_> {
    /// Joins the namespaces of the container's init, all at once (setns(2) on a pidfd).
    pub(super) fn entry(
        &mut self,
        linux: &Linux,
        init: &Process,
        cgroup: Option<&Cgroup>,
    ) -> Result<Entry, CreateError> {
        let gone = |errno: Errno| CreateError::NoInit { pid: init.pid(), source: errno.into() };
        let ended = |source| CreateError::NoInit { pid: init.pid(), source };
        let fd = init.pidfd().try_clone_to_owned().map_err(ended)?;
        let mut types = 0;
        for namespace in linux.namespaces().iter().flatten() {
            let typ = namespace.typ();
            // A process cannot join the user namespace that it is in (setns(2)).
            if typ == LinuxNamespaceType::User {
                self.userns = !same_user_namespace(init.pid()).map_err(gone)?;
                // What was looked at by number was its, if it is still there.
                init.signal(0).map_err(ended)?;
                if !self.userns {
                    continue;
                }
            }
            types |= typ as u64;
        }
        self.joined = types;
        let mut procs = Vec::new();
        if let Some(cgroup) = cgroup {
            procs = cgroup.open_procs(init.pid()).map_err(CreateError::JoinCgroup)?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = rustix::fs::open(c"/proc", flags, Mode::empty()).map_err(gone)?;
        if rustix::fs::fstatfs(&host).map_err(gone)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
            return Err(gone(Errno::NODEV));
        }
        self.steps.push(Step::GivenProc(host));
        Ok(Entry { cgroups: procs, joins: vec![Join { fd, typ: types }], ..Entry::default() })
    }
}

fn same_user_namespace(pid: i32) -> Result<bool, Errno> {
    let of = |process: &str| rustix::fs::stat(format!("/proc/{process}/ns/user"));
    let (theirs, ours) = (of(&pid.to_string())?, of("self")?);
    Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
}
