//! A container's limits, as the keeper hands them over.

use oci_spec::runtime::LinuxResources;

/// What a container may use.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub(super) resources: LinuxResources,
}

impl Limits {
    /// Takes an OCI spec's resources. Where they limit processes to 0, Docker means: not at all.
    pub fn from_oci(resources: &LinuxResources) -> Self {
        let mut resources = resources.clone();
        if let Some(mut pids) = *resources.pids()
            && pids.limit() == 0
        {
            pids.set_limit(-1);
            resources.set_pids(Some(pids));
        }
        Self { resources }
    }
}
