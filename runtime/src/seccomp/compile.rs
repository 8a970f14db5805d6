//! From a policy to a program: a binary search over ranges of system call numbers that share a verdict.
//!
//! libseccomp's default is a comparison for each number in turn, which takes the kernel three times as long to load as
//! a tree: it runs the filter once for each number to learn what is always allowed (`kernel/seccomp.c:
//! seccomp_cache_prepare`).

use std::mem::offset_of;

use libc::{seccomp_data, sock_filter};
use oci_spec::runtime::LinuxSeccompOperator as Operator;

use super::SeccompError;
use super::arch::{Abi, X32_BIT};
use super::assembler::{Assembler, Target, Test};
use super::policy::{BAD_ARCH, Condition, NO_SUCH_CALL, Policy, Rule, Table, Verdict};

/// `BPF_MAXINSNS` of `linux/bpf_common.h`.
const INSTRUCTIONS_MAX: usize = 4096;

/// The number that a tracer sets to have a call skipped; the kernel shows it to the filter again (seccomp(2)).
const SKIPPED: u32 = u32::MAX;

/// From this number on, up to the next range's.
type Range = (u32, Verdict);

/// Writes the program.
pub(super) fn compile(policy: &Policy) -> Result<Vec<sock_filter>, SeccompError> {
    let mut writer = Writer { assembler: Assembler::default(), written: Vec::new(), default: policy.default };
    let mut audits: Vec<u32> = policy.tables.iter().map(|table| table.abi.audit()).collect();
    // Written last, the machine's own convention is tested first and its part is next.
    audits.reverse();
    audits.sort_by_key(|audit| *audit == policy.tables[0].abi.audit());
    audits.dedup();
    let parts: Vec<(u32, Target)> = audits
        .into_iter()
        .map(|audit| {
            let tree = writer.tree(&ranges(policy, audit));
            (audit, writer.assembler.load(offset_of!(seccomp_data, nr) as u32, tree))
        })
        .collect();
    let mut assembler = writer.assembler;
    let mut next = Target::Return(BAD_ARCH);
    for (audit, part) in parts {
        next = assembler.branch(Test::Equal, audit, part, next);
    }
    let start = assembler.load(offset_of!(seccomp_data, arch) as u32, next);
    let program = assembler.finish(start);
    match program.len() {
        length if length > INSTRUCTIONS_MAX => Err(SeccompError::TooLong { instructions: length }),
        _ => Ok(program),
    }
}

/// All numbers of one `seccomp_data.arch`, neighbours with the same verdict joined.
fn ranges(policy: &Policy, audit: u32) -> Vec<Range> {
    let find = |abi| policy.tables.iter().find(|table| table.abi == abi);
    let mut ranges = Vec::new();
    let mut fill = |table: &Table, from: u32, to: u32| {
        let mut next = Some(from);
        for (number, verdict) in table.verdicts.range(from..=to) {
            if next.is_some_and(|next| next < *number) {
                ranges.extend(next.map(|next| (next, Verdict::Always(policy.default))));
            }
            ranges.push((*number, verdict.clone()));
            next = number.checked_add(1);
        }
        let above = table.last.map(|last| last.saturating_add(1).max(from));
        match (next.filter(|next| *next <= to), above) {
            (Some(next), Some(above)) if next < above => {
                ranges.push((next, Verdict::Always(policy.default)));
                ranges.push((above, Verdict::Always(NO_SUCH_CALL)));
            }
            (Some(next), Some(_)) => ranges.push((next, Verdict::Always(NO_SUCH_CALL))),
            (Some(next), None) => ranges.push((next, Verdict::Always(policy.default))),
            (None, _) => {}
        }
    };
    match (find(Abi::X86_64), find(Abi::X32)) {
        (Some(plain), x32) if plain.abi.audit() == audit => {
            // Bit 30 says x32. Above bit 31 are no calls of either, but a filter sees such numbers.
            fill(plain, 0, X32_BIT - 1);
            match x32 {
                Some(x32) => {
                    fill(x32, X32_BIT, 2 * X32_BIT - 1);
                    fill(plain, 2 * X32_BIT, 3 * X32_BIT - 1);
                    fill(x32, 3 * X32_BIT, u32::MAX);
                }
                None => {
                    let high = plain.last.map_or(BAD_ARCH, |_| NO_SUCH_CALL);
                    ranges.push((X32_BIT, Verdict::Always(BAD_ARCH)));
                    ranges.push((2 * X32_BIT, Verdict::Always(high)));
                    ranges.push((3 * X32_BIT, Verdict::Always(BAD_ARCH)));
                    ranges.push((SKIPPED, Verdict::Always(policy.default)));
                }
            }
        }
        _ => {
            if let Some(table) = policy.tables.iter().find(|table| table.abi.audit() == audit) {
                fill(table, 0, u32::MAX);
            }
        }
    }
    ranges.dedup_by(|next, one| next.1 == one.1);
    ranges
}

/// Writes verdicts, each list of rules once.
struct Writer {
    assembler: Assembler,
    /// Rules that are written, and where they begin: many calls have the same ones.
    written: Vec<(Vec<Rule>, Target)>,
    default: u32,
}

impl Writer {
    fn tree(&mut self, ranges: &[Range]) -> Target {
        match ranges {
            [] => Target::Return(self.default),
            [(_, verdict)] => self.leaf(verdict),
            // One number among others of one verdict needs one comparison, not two.
            [(_, one), (number, only), (end, other)] if one == other && *end == *number + 1 => {
                let (only, other) = (self.leaf(only), self.leaf(one));
                self.assembler.branch(Test::Equal, *number, only, other)
            }
            _ => {
                let middle = ranges.len() / 2;
                let above = self.tree(&ranges[middle..]);
                let below = self.tree(&ranges[..middle]);
                self.assembler.branch(Test::GreaterEqual, ranges[middle].0, above, below)
            }
        }
    }

    fn leaf(&mut self, verdict: &Verdict) -> Target {
        match verdict {
            Verdict::Always(action) => Target::Return(*action),
            Verdict::First(rules) => self.rules(rules),
        }
    }

    /// From the last rule to the first, for each leads to what comes after it.
    fn rules(&mut self, rules: &[Rule]) -> Target {
        let mut next = Target::Return(self.default);
        for (index, rule) in rules.iter().enumerate().rev() {
            if let Some((_, place)) = self.written.iter().find(|written| written.0 == rules[index..]) {
                next = *place;
                continue;
            }
            let action = Target::Return(rule.action);
            next = rule
                .conditions
                .iter()
                .rev()
                .fold(action, |holds, condition| compare(&mut self.assembler, condition, holds, next));
            self.written.push((rules[index..].to_vec(), next));
        }
        next
    }
}

/// Goes on at `holds` if the condition holds, else at `fails`.
fn compare(assembler: &mut Assembler, condition: &Condition, holds: Target, fails: Target) -> Target {
    match condition.operator {
        Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => equal(assembler, condition, holds, fails),
        Operator::ScmpCmpNe => equal(assembler, condition, fails, holds),
        Operator::ScmpCmpGt => exceeds(assembler, condition, Test::Greater, holds, fails),
        Operator::ScmpCmpGe => exceeds(assembler, condition, Test::GreaterEqual, holds, fails),
        Operator::ScmpCmpLe => exceeds(assembler, condition, Test::Greater, fails, holds),
        Operator::ScmpCmpLt => exceeds(assembler, condition, Test::GreaterEqual, fails, holds),
    }
}

fn equal(assembler: &mut Assembler, condition: &Condition, yes: Target, no: Target) -> Target {
    [Half::Low, Half::High].into_iter().fold(yes, |then, half| {
        let mask = half.of(condition.mask);
        if mask == 0 {
            return then;
        }
        let mut next = assembler.branch(Test::Equal, half.of(condition.value), then, no);
        if mask != u32::MAX {
            next = assembler.and(mask, next);
        }
        assembler.load(half.offset(condition.argument), next)
    })
}

/// The lower halves are compared with `test` if the upper ones are equal.
fn exceeds(assembler: &mut Assembler, condition: &Condition, test: Test, yes: Target, no: Target) -> Target {
    let low = assembler.branch(test, Half::Low.of(condition.value), yes, no);
    let low = assembler.load(Half::Low.offset(condition.argument), low);
    if Half::High.of(condition.mask) == 0 {
        return low;
    }
    let value = Half::High.of(condition.value);
    let same = assembler.branch(Test::Equal, value, low, no);
    let high = assembler.branch(Test::Greater, value, yes, same);
    assembler.load(Half::High.offset(condition.argument), high)
}

/// Half of an argument; all machines here are little-endian.
#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

impl Half {
    fn of(self, value: u64) -> u32 {
        match self {
            Self::Low => value as u32,
            Self::High => (value >> 32) as u32,
        }
    }

    fn offset(self, argument: u32) -> u32 {
        let half = match self {
            Self::Low => 0,
            Self::High => 4,
        };
        offset_of!(seccomp_data, args) as u32 + 8 * argument + half
    }
}
