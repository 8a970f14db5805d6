//! Kernel settings of the container's namespaces: names and sysctls.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::Builder;
use super::namespaces::Namespaces;
use crate::container::plan::Step;
use crate::container::{CreateError, c_string};

impl Builder<'_> {
    pub(super) fn kernel_settings(
        &mut self,
        spec: &Spec,
        linux: &Linux,
        namespaces: &Namespaces,
    ) -> Result<(), CreateError> {
        let own = |typ: LinuxNamespaceType| namespaces.makes(typ) || self.joined & typ as u64 != 0;
        let own_uts = own(LinuxNamespaceType::Uts);
        let own_net = own(LinuxNamespaceType::Network);
        let own_ipc = own(LinuxNamespaceType::Ipc);
        let names = [(spec.hostname(), true), (spec.domainname(), false)];
        for (name, host) in names.into_iter().filter_map(|(name, host)| Some((name.as_ref()?, host))) {
            if !own_uts {
                return Err(CreateError::Invalid("a host name without a UTS namespace".to_owned()));
            }
            if name.len() > 64 {
                return Err(CreateError::Invalid(format!(
                    "a host name of {} bytes; at most 64 can be",
                    name.len()
                )));
            }
            let name = name.clone().into_bytes();
            self.steps.push(if host { Step::Hostname(name) } else { Step::Domainname(name) });
        }
        let mut settings: Vec<_> = linux.sysctl().iter().flatten().collect();
        settings.sort();
        for (key, value) in settings {
            let path = key.replace('.', "/");
            let ipc = path.starts_with("fs/mqueue/")
                || ["kernel/msg", "kernel/sem", "kernel/shm"].iter().any(|prefix| path.starts_with(prefix));
            let allowed = (path.starts_with("net/") && own_net) || (ipc && own_ipc);
            if !allowed || path.split('/').any(|part| matches!(part, "" | "..")) {
                return Err(CreateError::Invalid(format!(
                    "sysctl {key:?} is not in a namespace of the container's own"
                )));
            }
            self.steps.push(Step::Sysctl {
                path: c_string(format!("sys/{path}"), "a sysctl")?,
                value: value.clone().into_bytes(),
            });
        }
        Ok(())
    }
}
