//! The seccomp filter's place in the plan.
//!
//! Whatever a filter forbids, the set-up after it cannot do either. So it comes last, when only the words over the
//! pipes and the exec are left. But a process that may still gain privileges needs CAP_SYS_ADMIN to load a filter
//! (seccomp(2)): it keeps that one capability until then, and capset(2) is what it has to do under the filter. runc
//! loads it before all of user, groups, capabilities and working directory, so a profile that runc can use works here.

use std::sync::Arc;

use oci_spec::runtime::{LinuxSeccomp, Process};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::CreateError;
use super::capabilities::Planned;
use super::plan::Step;
use crate::seccomp::Filter;

/// How a process is confined.
pub(super) struct Confinement {
    /// Its capabilities until `last` is carried out.
    pub(super) until_then: CapabilitySets,
    /// To be done when nothing else is.
    pub(super) last: Vec<Step>,
    pub(super) filter: Option<Arc<Filter>>,
}

/// Plans the filter of a process that is to have these capabilities: this one, or that of the profile.
pub(super) fn plan(
    filter: Option<Arc<Filter>>,
    profile: Option<&LinuxSeccomp>,
    process: &Process,
    capabilities: &Planned,
) -> Result<Confinement, CreateError> {
    let sets = capabilities.sets;
    let filter = match (filter, profile) {
        (Some(filter), _) => filter,
        (None, Some(profile)) => Arc::new(Filter::compile(profile)?),
        (None, None) => return Ok(Confinement { until_then: sets, last: Vec::new(), filter: None }),
    };
    let may_load = process.no_new_privileges() == Some(true)
        || sets.effective.contains(CapabilitySet::SYS_ADMIN)
        // Without it loading fails, and says so.
        || !capabilities.had.contains(CapabilitySet::SYS_ADMIN);
    let mut last = vec![Step::Seccomp(Arc::clone(&filter))];
    let mut until_then = sets;
    if !may_load {
        until_then.permitted |= CapabilitySet::SYS_ADMIN;
        until_then.effective |= CapabilitySet::SYS_ADMIN;
        last.push(Step::Capabilities(sets));
    }
    Ok(Confinement { until_then, last, filter: Some(filter) })
}
