//! Two judges of one system call for the tests: classic BPF as the kernel runs it, and the profile read rule by rule.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]
#![cfg_attr(not(test), allow(dead_code, reason = "some of it is for the unit tests alone"))]

use libc::{seccomp_data, sock_filter};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator,
};

use super::arch::{Abi, Machine, X32_BIT};
use super::policy::action;

/// What a filter sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) audit: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let data = seccomp_data {
            nr: self.number as i32,
            arch: self.audit,
            instruction_pointer: 0,
            args: self.args,
        };
        match offset {
            0 => data.nr as u32,
            4 => data.arch,
            16..64 if offset.is_multiple_of(4) => {
                (self.args[(offset as usize - 16) / 8] >> (8 * (offset % 8))) as u32
            }
            _ => panic!("load from {offset}"),
        }
    }
}

/// Runs a program; panics on anything that the kernel's checker would refuse (`seccomp_check_filter`).
pub(super) fn run(program: &[sock_filter], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let skip = |test| usize::from(if test { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += skip(accumulator == k),
            0x25 => at += skip(accumulator > k),
            0x35 => at += skip(accumulator >= k),
            0x06 => return k,
            _ => panic!("instruction {code:#x} at {}", at - 1),
        }
    }
}

/// What runc would have this machine do. Nothing of the compiler is used but numbers and names.
pub(super) fn judge(profile: &LinuxSeccomp, machine: Machine, call: &Call) -> u32 {
    let default = action(profile.default_action(), profile.default_errno_ret()).unwrap();
    let kill = libc::SECCOMP_RET_KILL_THREAD;
    let no_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let listed = |abi: Abi| {
        let archs = profile.architectures().clone().unwrap_or_default();
        abi == machine.abis()[0] || archs.iter().any(|arch| Abi::from_spec(*arch, machine) == Some(abi))
    };
    let stub =
        !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    let last = |abi: Abi| {
        let rules = profile.syscalls().clone().unwrap_or_default();
        let names: Vec<String> = rules.iter().flat_map(|rule| rule.names().clone()).collect();
        names.iter().filter_map(|name| abi.number(name)).max().filter(|last| *last != 0)
    };
    let known = machine.abis().iter().filter(|abi| listed(**abi) && abi.audit() == call.audit);
    let mut known: Vec<Abi> = known.copied().collect();
    if known.is_empty() {
        return kill;
    }
    let amd64 = call.audit == Abi::X86_64.audit();
    // The stub comes first and goes by bit 30, the filter behind it by size.
    if stub {
        let abi = if amd64 && call.number & X32_BIT != 0 { Abi::X32 } else { known[0] };
        if known.contains(&abi) && last(abi).is_some_and(|last| call.number > last) {
            return no_call;
        }
    }
    if amd64 {
        let x32 = call.number >= X32_BIT && call.number != u32::MAX;
        if x32 && !known.contains(&Abi::X32) {
            return kill;
        }
        known.retain(|abi| (*abi == Abi::X32) == x32);
    }
    let Some(abi) = known.first() else { return default };
    by_rules(profile, *abi, call, default)
}

fn by_rules(profile: &LinuxSeccomp, abi: Abi, call: &Call, default: u32) -> u32 {
    let mask = |value: u64| if abi.narrow() { value & 0xffff_ffff } else { value };
    let mut conditional: Vec<(Vec<LinuxSeccompArg>, u32)> = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret()).unwrap();
        for name in rule.names() {
            let args = rule.args().clone().unwrap_or_default();
            let direct = abi.number(name) == Some(call.number);
            let mux = abi.multiplexed(name).filter(|mux| mux.number == call.number);
            if action == default || (!direct && mux.is_none()) {
                continue;
            }
            let twice =
                args.iter().any(|one| args.iter().filter(|arg| arg.index() == one.index()).count() > 1);
            let sets: Vec<Vec<LinuxSeccompArg>> =
                if twice { args.iter().map(|arg| vec![*arg]).collect() } else { vec![args] };
            for mut set in sets {
                set.sort_by_key(|arg| arg.index());
                set.retain(|arg| arg.op() != Operator::ScmpCmpMaskedEq || mask(arg.value()) != 0);
                if direct && set.is_empty() {
                    return action;
                }
                if let Some(mux) = &mux {
                    set.retain(|arg| arg.index() != 0);
                    set.insert(0, arg(0, Operator::ScmpCmpMaskedEq, mux.mask, Some(mux.call)));
                }
                conditional.push((set, action));
            }
        }
    }
    conditional.sort_by_key(|(set, _)| {
        let first = set[0];
        let value = match first.op() {
            Operator::ScmpCmpMaskedEq => mask(first.value_two().unwrap_or(0) & first.value()),
            _ => mask(first.value()),
        };
        let (kind, tightness) = match first.op() {
            Operator::ScmpCmpLt | Operator::ScmpCmpLe => (1, value),
            Operator::ScmpCmpGt | Operator::ScmpCmpGe => (2, !value),
            _ => (0, !value),
        };
        (5 - first.index(), kind, tightness)
    });
    let holds = |arg: &LinuxSeccompArg| {
        let (have, value) = (mask(call.args[arg.index()]), mask(arg.value()));
        match arg.op() {
            Operator::ScmpCmpEq => have == value,
            Operator::ScmpCmpNe => have != value,
            Operator::ScmpCmpLt => have < value,
            Operator::ScmpCmpLe => have <= value,
            Operator::ScmpCmpGt => have > value,
            Operator::ScmpCmpGe => have >= value,
            Operator::ScmpCmpMaskedEq => have & value == value & arg.value_two().unwrap_or(0),
        }
    };
    conditional.iter().find(|(set, _)| set.iter().all(holds)).map_or(default, |(_, action)| *action)
}

/// An argument's condition.
pub(super) fn arg(index: usize, op: Operator, value: u64, two: Option<u64>) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    match two {
        Some(two) => arg.value_two(two).build().unwrap(),
        None => arg.build().unwrap(),
    }
}

/// All words for architectures.
pub(super) const ARCHS: [Arch; 8] = [
    Arch::ScmpArchNative,
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
    Arch::ScmpArchX32,
    Arch::ScmpArchArm,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchRiscv64,
    Arch::ScmpArchS390x,
];
