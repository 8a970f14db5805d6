//! Capability sets: from the spec's names to the kernel's bits, cut down to what this process has to give.

use std::collections::HashSet;

use caps::{CapSet, Capability as Cap, CapsHashSet};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxNamespaceType, Spec};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::CreateError;
use crate::spec::no_capabilities;
use crate::weak::{self, Weakness};

/// What a container's process gets.
#[derive(Debug)]
pub(super) struct Planned {
    /// Numbers of the capabilities to be dropped from the bounding set.
    pub(super) drop_bounding: Vec<u8>,
    pub(super) sets: CapabilitySets,
    /// One capability each.
    pub(super) ambient: Vec<CapabilitySet>,
    /// What the process has to give before.
    pub(super) had: CapabilitySet,
}

/// Plans the sets. A capability that this process lacks cannot be given away and is left out. In a user namespace of
/// its own the process has all that the kernel knows, whatever this one lacks (user_namespaces(7)).
pub(super) fn plan(wanted: Option<&LinuxCapabilities>, user_namespace: bool) -> Result<Planned, CreateError> {
    if user_namespace {
        let all = caps::runtime::thread_all_supported();
        return Ok(plan_from(wanted, &all, &all));
    }
    let read = |set| caps::read(None, set).map_err(|error| CreateError::Capabilities(error.to_string()));
    Ok(plan_from(wanted, &read(CapSet::Bounding)?, &read(CapSet::Permitted)?))
}

/// What of these sets a process of this container does not get, because this process lacks it: the kernel's names.
pub fn lacking_capabilities(spec: &Spec, sets: &LinuxCapabilities) -> Vec<String> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    if namespaces.unwrap_or_default().iter().any(|one| one.typ() == LinuxNamespaceType::User) {
        return Vec::new();
    }
    // Where they cannot be read, the container fails for that.
    let own = |set| caps::read(None, set).unwrap_or_default();
    let (bounding, permitted) = (own(CapSet::Bounding), own(CapSet::Permitted));
    let lacks = |wanted, had: &CapsHashSet| known(wanted).difference(had).copied().collect::<Vec<_>>();
    let mut missing: Vec<String> = lacks(sets.bounding(), &bounding)
        .into_iter()
        .chain(lacks(sets.permitted(), &permitted))
        .map(|capability| capability.to_string())
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn plan_from(wanted: Option<&LinuxCapabilities>, bounding: &CapsHashSet, permitted: &CapsHashSet) -> Planned {
    // No capabilities in the spec means none in the process.
    let wanted = wanted.cloned().unwrap_or_else(no_capabilities);
    let keep = known(wanted.bounding());
    let mut drop_bounding: Vec<u8> = bounding.difference(&keep).map(Cap::index).collect();
    drop_bounding.sort_unstable();
    let had = bits(permitted);
    let permitted = bits(&known(wanted.permitted())) & had;
    let inheritable = bits(&known(wanted.inheritable())) & had;
    let inheritable = if weak::has(Weakness::Inheritable) { permitted } else { inheritable };
    // Ambient ones must be permitted and inheritable (capabilities(7)).
    let ambient = bits(&known(wanted.ambient())) & permitted & inheritable;
    Planned {
        drop_bounding,
        sets: CapabilitySets {
            effective: bits(&known(wanted.effective())) & permitted,
            permitted,
            inheritable,
        },
        ambient: ambient.iter().collect(),
        had,
    }
}

fn known(names: &Option<Capabilities>) -> CapsHashSet {
    names.iter().flatten().filter_map(to_caps).collect::<HashSet<_>>()
}

fn to_caps(capability: &Capability) -> Option<Cap> {
    // Both crates write the kernel's name; oci-spec without the prefix.
    caps::to_canonical(&capability.to_string()).parse().ok()
}

fn bits(set: &CapsHashSet) -> CapabilitySet {
    CapabilitySet::from_bits_retain(set.iter().map(Cap::bitmask).fold(0, |all, bit| all | bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_spec_is_known() {
        for capability in crate::spec::default_capabilities() {
            assert!(to_caps(&capability).is_some(), "{capability}");
        }
    }

    #[test]
    fn what_is_not_had_is_not_given() {
        let spec = crate::spec::default_spec();
        let wanted = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        let have = CapsHashSet::from([Cap::CAP_CHOWN, Cap::CAP_SYS_ADMIN]);
        let planned = plan_from(Some(&wanted), &have, &have);
        assert_eq!(planned.drop_bounding, [Cap::CAP_SYS_ADMIN.index()]);
        assert_eq!(planned.sets.permitted, CapabilitySet::CHOWN);
        assert_eq!(planned.sets.effective, CapabilitySet::CHOWN);
        assert!(planned.sets.inheritable.is_empty() && planned.ambient.is_empty());
        let none = plan_from(None, &have, &have);
        assert!(none.sets.permitted.is_empty());
        assert_eq!(none.drop_bounding.len(), 2);
    }
}
