//! Device rules as the properties `DevicePolicy` and `DeviceAllow` of a systemd unit. Pure.
//!
//! Systemd knows only lists of what is allowed, and not every pattern. What it cannot be told it denies until the
//! group's own rules are set, which is right after.

use super::exceptions::{Exceptions, Pattern, letters};
use super::{Kind, Rule, for_list};

/// The first version that takes a major number without the name of its driver.
const NUMBERS_SINCE: u32 = 240;

/// The policy, and pairs of device and rights.
pub(in crate::cgroup) fn for_unit(rules: &[Rule], version: u32) -> (&'static str, Vec<(String, String)>) {
    match for_list(rules) {
        Some(Exceptions { default_allow: true, patterns }) if patterns.is_empty() => ("auto", Vec::new()),
        Some(Exceptions { default_allow: false, patterns }) => {
            let allowed = patterns
                .iter()
                .filter_map(|(pattern, rights)| Some((name(pattern, version)?, letters(*rights))));
            ("strict", allowed.collect())
        }
        _ => ("strict", Vec::new()),
    }
}

fn name(pattern: &Pattern, version: u32) -> Option<String> {
    let kind = if pattern.kind == Kind::Block { "block" } else { "char" };
    match (pattern.major, pattern.minor) {
        (None, None) => Some(format!("{kind}-*")),
        (Some(major), None) if version >= NUMBERS_SINCE => Some(format!("{kind}-{major}")),
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        _ => None,
    }
}
