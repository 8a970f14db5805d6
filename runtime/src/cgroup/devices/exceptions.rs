//! Device rules for the v1 controller, which knows no order: a default (deny or allow) and a set of exceptions to it.
//!
//! The set is worked out from the meaning of the list, not by replaying it: a pattern becomes an exception for the
//! rights that the list gives (or refuses) to every device of the pattern. What is then not covered, because a later
//! rule punches a hole into a wildcard, cannot be said to the controller and is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use super::{ALL, Kind, MKNOD, READ, Rule, WRITE, allowed};
use crate::cgroup::CgroupError;

/// What an exception is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cgroup) struct Pattern {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

/// The state of a group of the devices controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cgroup) struct Exceptions {
    /// What is allowed if no exception speaks of it.
    pub(super) default_allow: bool,
    /// Rights allowed (or denied, by the default) in addition.
    pub(super) patterns: BTreeMap<Pattern, u8>,
}

/// A write: into `devices.allow` or `devices.deny`.
pub(super) type Change = (bool, String);

/// The exceptions that mean what `rules` mean. `None`: the controller cannot be told.
///
/// The default is that of the last rule about everything, as far as it serves.
pub(in crate::cgroup) fn for_list(rules: &[Rule]) -> Option<Exceptions> {
    let wanted = rules.iter().rev().find(|rule| rule.is_everything()).is_some_and(|rule| rule.allow);
    with_default(rules, wanted).or_else(|| with_default(rules, !wanted))
}

fn with_default(rules: &[Rule], default_allow: bool) -> Option<Exceptions> {
    let mut patterns = BTreeMap::new();
    for kind in [Kind::Block, Kind::Char] {
        let table = Table::new(rules, kind, default_allow);
        let mut add = |major, minor, rights: u8, wider: &[u8]| {
            let pattern = Pattern { kind, major, minor };
            let rights = rights & (beyond(rights, wider) | said(rules, &pattern, default_allow));
            if rights != 0 {
                patterns.insert(pattern, rights);
            }
        };
        add(None, None, table.all, &[]);
        for (row, major) in table.majors.iter().enumerate() {
            for (column, minor) in table.minors.iter().enumerate() {
                let rights = table.cell(row, column);
                let (all, by_major, by_minor) = (table.all, table.rows[row], table.columns[column]);
                // Numbers that no rule names are reached by wildcards alone.
                let reached = match (major, minor) {
                    (Some(_), Some(_)) => {
                        add(*major, *minor, rights, &[all, by_major, by_minor]);
                        rights
                    }
                    (Some(_), None) => {
                        add(*major, None, by_major, &[all]);
                        all | by_major
                    }
                    (None, Some(_)) => {
                        add(None, *minor, by_minor, &[all]);
                        all | by_minor
                    }
                    (None, None) => all,
                };
                if rights & !reached != 0 {
                    return None;
                }
            }
        }
    }
    Some(Exceptions { default_allow, patterns })
}

/// What of a pattern's rights the wider ones do not give. Reading and writing are asked for together, and the kernel
/// wants one exception that covers them; mknod is asked for alone.
fn beyond(rights: u8, wider: &[u8]) -> u8 {
    let lacks = |right: u8| wider.iter().all(|wide| rights & right & !wide != 0);
    let part = |right: u8| if lacks(right) { right } else { 0 };
    part(READ | WRITE) | part(MKNOD)
}

/// What rules say about exactly this pattern. It is kept though a wider one may say it too: who looks at the list of
/// the controller finds what he asked for.
fn said(rules: &[Rule], pattern: &Pattern, default_allow: bool) -> u8 {
    let about = rules.iter().filter(|rule| {
        rule.allow != default_allow
            && rule.kind == Some(pattern.kind)
            && (rule.major, rule.minor) == (pattern.major, pattern.minor)
    });
    about.fold(0, |rights, rule| rights | rule.access)
}

/// The rights that differ from the default, for each pair of numbers that the rules name; `None` stands for all the
/// other numbers.
struct Table {
    majors: Vec<Option<u32>>,
    minors: Vec<Option<u32>>,
    cells: Vec<u8>,
    rows: Vec<u8>,
    columns: Vec<u8>,
    all: u8,
}

impl Table {
    fn new(rules: &[Rule], kind: Kind, default_allow: bool) -> Self {
        let named = |number: fn(&Rule) -> Option<u32>| {
            let mut set: BTreeSet<Option<u32>> = rules.iter().map(number).collect();
            set.insert(None);
            set.into_iter().collect::<Vec<_>>()
        };
        let majors = named(|rule| rule.major);
        let minors = named(|rule| rule.minor);
        // A number that no rule names: device numbers have at most 20 bits, so a free one is near.
        let other =
            |list: &[Option<u32>]| (0..).find(|number| !list.contains(&Some(*number))).unwrap_or(u32::MAX);
        let (major_other, minor_other) = (other(&majors), other(&minors));
        let mut table = Self {
            cells: Vec::with_capacity(majors.len() * minors.len()),
            rows: vec![ALL; majors.len()],
            columns: vec![ALL; minors.len()],
            all: ALL,
            majors,
            minors,
        };
        for (row, major) in table.majors.iter().enumerate() {
            for (column, minor) in table.minors.iter().enumerate() {
                let rights = allowed(rules, kind, major.unwrap_or(major_other), minor.unwrap_or(minor_other));
                let rights = if default_allow { ALL & !rights } else { rights };
                table.rows[row] &= rights;
                table.columns[column] &= rights;
                table.all &= rights;
                table.cells.push(rights);
            }
        }
        table
    }

    fn cell(&self, row: usize, column: usize) -> u8 {
        self.cells[row * self.minors.len() + column]
    }
}

impl Exceptions {
    /// Reads `devices.list`. A group whose default is to allow does not tell its exceptions.
    pub(super) fn from_list(text: &str) -> Option<Self> {
        let mut exceptions = Self { default_allow: false, patterns: BTreeMap::new() };
        for line in text.lines() {
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next()? {
                "a" => return Some(Self { default_allow: true, patterns: BTreeMap::new() }),
                "b" => Kind::Block,
                "c" => Kind::Char,
                _ => return None,
            };
            let number = |field: &str| if field == "*" { Some(None) } else { field.parse().ok().map(Some) };
            let (major, minor) = (number(fields.next()?)?, number(fields.next()?)?);
            let letters = fields.next()?;
            let right = |letter, right| if letters.contains(letter) { right } else { 0 };
            let rights = right('r', READ) | right('w', WRITE) | right('m', MKNOD);
            *exceptions.patterns.entry(Pattern { kind, major, minor }).or_insert(0) |= rights;
        }
        Some(exceptions)
    }

    /// The writes that lead from this state to `target`; what both have is never taken away in between.
    pub(super) fn changes(&self, target: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let none = BTreeMap::new();
        let mut old = &self.patterns;
        if self.default_allow || target.default_allow {
            changes.push((target.default_allow, "a".to_owned()));
            old = &none;
        }
        let difference = |from: &BTreeMap<Pattern, u8>, to: &BTreeMap<Pattern, u8>, allow: bool| {
            let gained = to.iter().filter_map(|(pattern, rights)| {
                let gained = rights & !from.get(pattern).copied().unwrap_or(0);
                (gained != 0).then(|| (allow, line(pattern, gained)))
            });
            gained.collect::<Vec<_>>()
        };
        changes.extend(difference(old, &target.patterns, !target.default_allow));
        changes.extend(difference(&target.patterns, old, target.default_allow));
        changes
    }
}

fn line(pattern: &Pattern, rights: u8) -> String {
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let kind = if pattern.kind == Kind::Block { 'b' } else { 'c' };
    format!("{kind} {}:{} {}", number(pattern.major), number(pattern.minor), letters(rights))
}

pub(super) fn letters(rights: u8) -> String {
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    letters.iter().filter(|one| rights & one.0 != 0).map(|one| one.1).collect()
}

/// Brings the devices controller's group at `path` to this state, and looks whether it got there: a parent that allows
/// less makes the kernel drop an exception without a word.
pub(in crate::cgroup) fn apply(path: &Path, target: &Exceptions) -> Result<(), CgroupError> {
    let list = path.join("devices.list");
    let read = || {
        let text = std::fs::read_to_string(&list).map_err(CgroupError::io("read", &list))?;
        Exceptions::from_list(&text).ok_or_else(|| CgroupError::Content { path: list.clone() })
    };
    let changes = read()?.changes(target);
    for run in changes.chunk_by(|one, next| one.0 == next.0) {
        let file = path.join(if run[0].0 { "devices.allow" } else { "devices.deny" });
        let mut opened =
            OpenOptions::new().write(true).open(&file).map_err(CgroupError::io("open", &file))?;
        for (_, line) in run {
            // One line a write; the kernel does not ask where in the file.
            opened.write_all(line.as_bytes()).map_err(|source| CgroupError::Limit {
                path: file.clone(),
                value: line.clone(),
                source,
            })?;
        }
    }
    let reached = read()?;
    // The numbers that the list of an allowing group would have are not told.
    if reached.default_allow == target.default_allow && (target.default_allow || reached == *target) {
        Ok(())
    } else {
        Err(CgroupError::DevicesDiffer { path: path.to_path_buf() })
    }
}
