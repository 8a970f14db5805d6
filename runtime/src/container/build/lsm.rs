//! Labels of the security modules.

use std::ffi::CString;

use oci_spec::runtime::{Linux, Process};

use crate::container::attribute::{Attribute, SecurityModule};
use crate::container::{CreateError, c_string};
use crate::features;

/// Which modules the kernel has.
#[derive(Clone, Copy)]
struct Kernel {
    apparmor: bool,
    selinux: bool,
}

/// The labels that the exec brings.
pub(super) fn plan(process: &Process) -> Result<Vec<Attribute>, CreateError> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if !given(process.apparmor_profile()) && !given(process.selinux_label()) {
        return Ok(Vec::new());
    }
    let kernel = Kernel { apparmor: features::apparmor_enabled(), selinux: features::selinux_enabled() };
    plan_for(process, kernel)
}

/// The label of the filesystems that are made for the container.
pub(super) fn mount_label(linux: &Linux) -> Result<Option<CString>, CreateError> {
    let Some(label) = linux.mount_label().as_ref().filter(|label| !label.is_empty()) else { return Ok(None) };
    if !features::selinux_enabled() {
        return Err(missing("SELinux", "linux.mountLabel", label));
    }
    c_string(label.as_bytes(), "linux.mountLabel").map(Some)
}

/// Whether all files of such a filesystem can be given one label. Those of procfs and sysfs have the policy's.
pub(super) fn takes_label(kind: &str) -> bool {
    !matches!(kind, "proc" | "sysfs")
}

fn plan_for(process: &Process, kernel: Kernel) -> Result<Vec<Attribute>, CreateError> {
    let mut labels = Vec::new();
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|profile| !profile.is_empty()) {
        if !kernel.apparmor {
            return Err(missing("AppArmor", "process.apparmorProfile", profile));
        }
        labels.push(Attribute::ExecLabel {
            module: SecurityModule::AppArmor,
            value: c_string(format!("exec {profile}"), "process.apparmorProfile")?,
        });
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        if !kernel.selinux {
            return Err(missing("SELinux", "process.selinuxLabel", label));
        }
        labels.push(Attribute::ExecLabel {
            module: SecurityModule::Selinux,
            value: c_string(label.as_bytes(), "process.selinuxLabel")?,
        });
    }
    Ok(labels)
}

fn missing(what: &'static str, field: &str, value: &str) -> CreateError {
    CreateError::Kernel { what, field: format!("{field} {value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_needs_its_module() {
        let mut process = Process::default();
        process.set_apparmor_profile(Some("docker-default".to_owned()));
        process.set_selinux_label(Some("a:b:c:s0".to_owned()));
        let plan = |apparmor, selinux| plan_for(&process, Kernel { apparmor, selinux });
        let text = plan(false, true).err().unwrap().to_string();
        assert_eq!(
            text,
            "this kernel has no AppArmor, which process.apparmorProfile \"docker-default\" needs"
        );
        let text = plan(true, false).err().unwrap().to_string();
        assert_eq!(text, "this kernel has no SELinux, which process.selinuxLabel \"a:b:c:s0\" needs");
        let labels = plan(true, true).unwrap();
        let values = labels.iter().map(|label| match label {
            Attribute::ExecLabel { module, value } => (*module, value.to_str().unwrap()),
            _ => panic!(),
        });
        let expected =
            [(SecurityModule::AppArmor, "exec docker-default"), (SecurityModule::Selinux, "a:b:c:s0")];
        assert!(values.eq(expected));
    }
}
