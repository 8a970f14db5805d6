//! Which devices a group may use: the ordered rule list of an OCI spec and what it means.
//!
//! The meaning is one sentence: of an access to a device each of read, write and mknod is decided by the last rule
//! that names that device and that right, and is denied if none does. [`exceptions`] turns it into the exceptions of the
//! devices controller, [`program`] into an eBPF program for v2.

mod bpf;
mod exceptions;
#[cfg(any(test, feature = "fuzzing"))]
mod judges;
mod program;
#[cfg(test)]
mod tests;
mod unit;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;

pub(super) use self::bpf::attach as attach_v2;
pub(super) use self::exceptions::apply as apply_v1;
pub(super) use self::exceptions::for_list;
pub(super) use self::unit::for_unit;

/// A list that is longer is refused: its meaning is worked out for every pair of numbers in it.
pub(super) const RULES_MAX: usize = 512;

/// A right to a device, as the kernel's bits.
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// One rule. `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Option<Kind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// Character devices that every container may use, as in runc: null, zero, full, random, urandom; tty, ptmx, the ptys;
/// tun.
const DEFAULT_DEVICES: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
    (10, Some(200)),
];

/// A spec's rules: the program and the exceptions decide as the list reads.
#[cfg(feature = "fuzzing")]
pub fn fuzz(bytes: &[u8]) {
    let Ok(list) = serde_json::from_slice::<Vec<LinuxDeviceCgroup>>(bytes) else {
        let _ = exceptions::Exceptions::from_list(&String::from_utf8_lossy(bytes));
        return;
    };
    let Ok(rules) = rules(&list) else { return };
    let program = program::assemble(&rules);
    let exceptions = for_list(&rules);
    let numbers = |number: fn(&Rule) -> Option<u32>| {
        let named: Vec<u32> = rules.iter().filter_map(number).take(8).collect();
        named.into_iter().flat_map(|one| [one, one.wrapping_add(1)]).filter(|one| *one < 1 << 20)
    };
    for (major, minor) in
        numbers(|rule| rule.major).flat_map(|one| numbers(|rule| rule.minor).map(move |two| (one, two)))
    {
        for kind in [Kind::Block, Kind::Char] {
            for access in [MKNOD, READ, WRITE, READ | WRITE] {
                let expected = access & !allowed(&rules, kind, major, minor) == 0;
                assert_eq!(judges::run(&program, kind, access, major, minor), expected);
                if let Some(exceptions) = &exceptions {
                    assert_eq!(judges::controller(exceptions, kind, access, major, minor), expected);
                }
            }
        }
    }
}

impl Rule {
    fn matches(&self, kind: Kind, major: u32, minor: u32) -> bool {
        self.kind.is_none_or(|one| one == kind)
            && self.major.is_none_or(|one| one == major)
            && self.minor.is_none_or(|one| one == minor)
    }

    fn is_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// The rights that the list gives to a device.
fn allowed(rules: &[Rule], kind: Kind, major: u32, minor: u32) -> u8 {
    let (mut undecided, mut allowed) = (ALL, 0);
    for rule in rules.iter().rev().filter(|rule| rule.matches(kind, major, minor)) {
        if rule.allow {
            allowed |= rule.access & undecided;
        }
        undecided &= !rule.access;
        if undecided == 0 {
            break;
        }
    }
    allowed
}

/// The rules of a spec, and after them those for the devices that every container may use.
pub(super) fn rules(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, CgroupError> {
    if spec.len() > RULES_MAX {
        return Err(CgroupError::DeviceRule { index: RULES_MAX, why: "there are too many rules" });
    }
    let mut rules = Vec::with_capacity(spec.len() + DEFAULT_DEVICES.len() + 2);
    for (index, rule) in spec.iter().enumerate() {
        rules.push(parse(rule).map_err(|why| CgroupError::DeviceRule { index, why })?);
    }
    let allow = |kind, major, minor, access| Rule { allow: true, kind: Some(kind), major, minor, access };
    // A node that may not be opened does no harm.
    rules.extend([Kind::Char, Kind::Block].map(|kind| allow(kind, None, None, MKNOD)));
    rules.extend(DEFAULT_DEVICES.map(|(major, minor)| allow(Kind::Char, Some(major), minor, ALL)));
    Ok(rules)
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule, &'static str> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Char),
        Some(LinuxDeviceType::P) => return Err("a fifo is no device"),
    };
    let number = |number: Option<i64>| match number {
        None | Some(..0) => Ok(None),
        Some(number) => u32::try_from(number).map(Some).map_err(|_| "the number is no device number"),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            // "All", of the kind field, is a slip that runc passes over.
            'a' => 0,
            _ => return Err("access is made of r, w and m"),
        };
    }
    if access == 0 {
        return Err("access is empty");
    }
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    Ok(Rule { allow: rule.allow(), kind, major, minor, access })
}
