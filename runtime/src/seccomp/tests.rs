//! Programs against the profile read by hand, over random profiles and random calls; and the table of actions.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::arch::{Abi, X32_BIT};
use super::interpreter::{ARCHS, Call, arg, judge, run};
use super::numbers::NUMBERS;
use super::{Filter, Machine, SeccompError};

const MACHINES: [Machine; 3] = [Machine::X86_64, Machine::Aarch64, Machine::Riscv64];

fn rule(names: &[&str], action: Action, errno: Option<u32>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect()).set_action(action);
    rule.set_errno_ret(errno).set_args(if args.is_empty() { None } else { Some(args) });
    rule
}

fn profile(action: Action, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(action);
    profile.set_syscalls(Some(rules));
    profile
}

fn call(name: &str, args: [u64; 6]) -> Call {
    Call { audit: Abi::X86_64.audit(), number: Abi::X86_64.number(name).unwrap(), args }
}

fn answer(profile: &LinuxSeccomp, call: &Call) -> u32 {
    run(Filter::compile_for(profile, Machine::X86_64).unwrap().program(), call)
}

#[test]
fn every_action_is_the_kernels() {
    let actions = [
        (Action::ScmpActKill, None, 0),
        (Action::ScmpActKillThread, None, 0),
        (Action::ScmpActKillProcess, None, 0x8000_0000),
        (Action::ScmpActTrap, None, 0x0003_0000),
        (Action::ScmpActErrno, None, 0x0005_0001),
        (Action::ScmpActErrno, Some(38), 0x0005_0026),
        (Action::ScmpActTrace, None, 0x7ff0_0001),
        (Action::ScmpActTrace, Some(7), 0x7ff0_0007),
        (Action::ScmpActNotify, None, 0x7fc0_0000),
        (Action::ScmpActLog, None, 0x7ffc_0000),
    ];
    for (action, errno, value) in actions {
        let mut profile = profile(Action::ScmpActAllow, vec![rule(&["getpid"], action, errno, vec![])]);
        profile.set_listener_path(Some("/agent".into()));
        assert_eq!(answer(&profile, &call("getpid", [0; 6])), value, "{action}");
        assert_eq!(answer(&profile, &call("getppid", [0; 6])), libc::SECCOMP_RET_ALLOW);
        let listens = Filter::compile_for(&profile, Machine::X86_64).unwrap().listener.is_some();
        assert_eq!(listens, action == Action::ScmpActNotify);
    }
}

#[test]
fn every_operator_compares_all_64_bits() {
    let border = 0x1_0000_0005_u64;
    let values = [0, 4, 5, 6, border - 1, border, border + 1, border + (1 << 32), u64::MAX, 1 << 32];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(Operator, Holds); 6] = [
        (Operator::ScmpCmpEq, |have, value| have == value),
        (Operator::ScmpCmpNe, |have, value| have != value),
        (Operator::ScmpCmpLt, |have, value| have < value),
        (Operator::ScmpCmpLe, |have, value| have <= value),
        (Operator::ScmpCmpGt, |have, value| have > value),
        (Operator::ScmpCmpGe, |have, value| have >= value),
    ];
    for (operator, holds) in operators {
        for (value, have) in values.iter().flat_map(|value| values.map(|have| (*value, have))) {
            let args = vec![arg(3, operator, value, None)];
            let profile =
                profile(Action::ScmpActErrno, vec![rule(&["ioctl"], Action::ScmpActAllow, None, args)]);
            let allowed = answer(&profile, &call("ioctl", [9, 9, 9, have, 9, 9])) == libc::SECCOMP_RET_ALLOW;
            assert_eq!(allowed, holds(have, value), "{have:#x} {operator} {value:#x}");
        }
    }
    let args = vec![arg(0, Operator::ScmpCmpMaskedEq, 0xf0_0000_000f, Some(0x10_0000_0002))];
    let profile = profile(Action::ScmpActErrno, vec![rule(&["ioctl"], Action::ScmpActAllow, None, args)]);
    for (have, allowed) in
        [(0x10_0000_0002, true), (0x1f_ffff_fff2, true), (0x10_0000_0003, false), (2, false)]
    {
        let answer = answer(&profile, &call("ioctl", [have, 0, 0, 0, 0, 0]));
        assert_eq!(answer == libc::SECCOMP_RET_ALLOW, allowed, "{have:#x}");
    }
}

#[test]
fn conditions_of_one_rule_all_hold_unless_they_are_about_one_argument() {
    let equal = |index, value| arg(index, Operator::ScmpCmpEq, value, None);
    let both = profile(
        Action::ScmpActErrno,
        vec![rule(&["ioctl"], Action::ScmpActAllow, None, vec![equal(0, 1), equal(1, 2)])],
    );
    let allowed = |profile: &LinuxSeccomp, one, two| {
        answer(profile, &call("ioctl", [one, two, 0, 0, 0, 0])) == libc::SECCOMP_RET_ALLOW
    };
    assert!(allowed(&both, 1, 2) && !allowed(&both, 1, 3) && !allowed(&both, 3, 2));
    let either = profile(
        Action::ScmpActErrno,
        vec![rule(&["ioctl"], Action::ScmpActAllow, None, vec![equal(0, 1), equal(0, 7), equal(1, 2)])],
    );
    assert!(allowed(&either, 1, 0) && allowed(&either, 7, 0) && allowed(&either, 0, 2));
    assert!(!allowed(&either, 0, 0));
}

#[test]
fn newer_calls_do_not_exist_unless_the_default_lets_them_through() {
    let mut profile =
        profile(Action::ScmpActKillProcess, vec![rule(&["close_range"], Action::ScmpActAllow, None, vec![])]);
    let last = Abi::X86_64.number("close_range").unwrap();
    let at = |number| Call { audit: Abi::X86_64.audit(), number, args: [0; 6] };
    assert_eq!(answer(&profile, &at(last - 1)), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(answer(&profile, &at(last)), libc::SECCOMP_RET_ALLOW);
    assert_eq!(answer(&profile, &at(last + 1)), 0x0005_0026);
    // x32, x86 and others are not in this profile: the thread is killed.
    assert_eq!(answer(&profile, &at(X32_BIT)), 0);
    assert_eq!(answer(&profile, &Call { audit: Abi::X86.audit(), number: 3, args: [0; 6] }), 0);
    assert_eq!(answer(&profile, &Call { audit: Abi::Arm.audit(), number: 3, args: [0; 6] }), 0);
    // The number of a skipped call is for the default action, and does not kill.
    profile.set_default_action(Action::ScmpActErrno);
    assert_eq!(answer(&profile, &at(u32::MAX)), 0x0005_0001);
    profile.set_default_action(Action::ScmpActLog);
    assert_eq!(answer(&profile, &at(last + 1)), libc::SECCOMP_RET_LOG);
}

#[test]
fn the_multiplexers_of_x86_are_filtered_too() {
    let mut profile = profile(
        Action::ScmpActAllow,
        vec![rule(&["socket", "shmat"], Action::ScmpActErrno, Some(97), vec![])],
    );
    profile.set_architectures(Some(ARCHS.to_vec()));
    let x86 = |number, first| {
        answer(&profile, &Call { audit: Abi::X86.audit(), number, args: [first, 0, 0, 0, 0, 0] })
    };
    assert_eq!(x86(102, 1), 0x0005_0061, "socketcall(SYS_SOCKET)");
    assert_eq!(x86(102, 2), libc::SECCOMP_RET_ALLOW, "socketcall(SYS_BIND)");
    assert_eq!(x86(359, 0), 0x0005_0061, "socket");
    assert_eq!(x86(117, 0x1_0015), 0x0005_0061, "ipc(SHMAT), version 1");
}

#[test]
fn what_cannot_be_is_refused() {
    let compile = |profile: &LinuxSeccomp| Filter::compile_for(profile, Machine::X86_64).map(drop);
    let allow = |name: &str, action, errno, args| {
        let mut profile = profile(Action::ScmpActAllow, vec![rule(&[name], action, errno, args)]);
        profile.set_listener_path(Some("/agent".into()));
        profile
    };
    assert_eq!(compile(&allow("write", Action::ScmpActNotify, None, vec![])), Err(SeccompError::NotifyWrite));
    assert_eq!(compile(&profile(Action::ScmpActNotify, vec![])), Err(SeccompError::NotifyDefault));
    let mut silent = allow("read", Action::ScmpActNotify, None, vec![]);
    silent.set_listener_path(None);
    assert_eq!(compile(&silent), Err(SeccompError::NoListener));
    let errno = SeccompError::Errno { errno: 5, action: Action::ScmpActTrap };
    assert_eq!(compile(&allow("read", Action::ScmpActTrap, Some(5), vec![])), Err(errno));
    let seventh = vec![arg(6, Operator::ScmpCmpEq, 0, None)];
    let argument = SeccompError::Argument { name: "read".to_owned(), index: 6 };
    assert_eq!(compile(&allow("read", Action::ScmpActTrap, None, seventh)), Err(argument));
    assert_eq!(compile(&allow("", Action::ScmpActTrap, None, vec![])), Err(SeccompError::EmptyName));
    assert_eq!(compile(&allow("no_such_call", Action::ScmpActTrap, None, vec![])), Ok(()));
    let many = (0..2000).map(|value| {
        rule(&["ioctl"], Action::ScmpActTrap, None, vec![arg(1, Operator::ScmpCmpEq, value, None)])
    });
    let many = profile(Action::ScmpActAllow, many.collect());
    assert!(matches!(compile(&many), Err(SeccompError::TooLong { instructions: 4097.. })));
}

#[test]
fn flags_are_the_kernels() {
    let flags = |list: Option<Vec<Flag>>, notify| {
        let action = if notify { Action::ScmpActNotify } else { Action::ScmpActTrap };
        let mut profile = profile(Action::ScmpActAllow, vec![rule(&["read"], action, None, vec![])]);
        profile.set_flags(list).set_listener_path(Some("/agent".into()));
        Filter::compile_for(&profile, Machine::X86_64).unwrap().flags()
    };
    let all = vec![
        Flag::SeccompFilterFlagTsync,
        Flag::SeccompFilterFlagLog,
        Flag::SeccompFilterFlagSpecAllow,
        Flag::SeccompFilterFlagWaitKillableRecv,
    ];
    assert_eq!(flags(None, false), 4);
    assert_eq!(flags(Some(vec![]), false), 0);
    assert_eq!(flags(Some(all.clone()), false), 2 | 4);
    assert_eq!(flags(Some(all), true), 2 | 4 | 8 | 32);
    let unknown = serde_json::from_str::<LinuxSeccomp>(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW"]}"#,
    );
    assert!(unknown.unwrap_err().to_string().contains("SECCOMP_FILTER_FLAG_NEW"));
}

fn actions() -> impl Strategy<Value = (Action, Option<u32>)> {
    select(vec![
        (Action::ScmpActAllow, None),
        (Action::ScmpActErrno, None),
        (Action::ScmpActErrno, Some(38)),
        (Action::ScmpActKillProcess, None),
        (Action::ScmpActKill, None),
        (Action::ScmpActTrap, None),
        (Action::ScmpActTrace, Some(3)),
        (Action::ScmpActLog, None),
    ])
}

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..6_u64,
        Just(u64::MAX),
        Just(1 << 32),
        Just(0xffff_ffff),
        any::<u64>(),
        (0..4_u64).prop_map(|n| n << 31)
    ]
}

fn args() -> impl Strategy<Value = Vec<LinuxSeccompArg>> {
    let operators = select(vec![
        Operator::ScmpCmpEq,
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpMaskedEq,
    ]);
    let one = (0..6_usize, operators, values(), values());
    let one = one.prop_map(|(index, operator, value, two)| arg(index, operator, value, Some(two)));
    prop_oneof![3 => Just(vec![]), 2 => proptest::collection::vec(one, 1..4)]
}

fn names(most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    let mut all: Vec<&str> = NUMBERS.iter().map(|row| row.0).collect();
    all.push("no_such_call");
    // Some often, so that rules meet.
    let few = select(vec!["read", "socket", "ioctl", "clone", "semop", "writev", "mseal"]);
    proptest::collection::vec(prop_oneof![few, select(all)], 1..most)
}

fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
    let archs = proptest::option::of(proptest::sample::subsequence(ARCHS.to_vec(), 0..8));
    let rules = (names(80), actions(), args());
    let rules = rules.prop_map(|(names, (action, errno), args)| rule(&names, action, errno, args));
    (actions(), archs, proptest::collection::vec(rules, 0..12)).prop_map(|((action, errno), archs, rules)| {
        let mut profile = profile(action, rules);
        profile.set_default_errno_ret(errno).set_architectures(archs);
        profile
    })
}

/// Numbers of the profile's calls and their neighbours, borders, and anything.
fn calls(profile: &LinuxSeccomp, machine: Machine, args: &[[u64; 6]], wild: &[u32]) -> Vec<Call> {
    let abis = [Abi::X86, Abi::X86_64, Abi::X32, Abi::Arm, Abi::Aarch64, Abi::Riscv64];
    let mut numbers =
        vec![0, 102, 117, X32_BIT - 1, X32_BIT, 2 * X32_BIT, 3 * X32_BIT, u32::MAX, u32::MAX - 1];
    numbers.extend_from_slice(wild);
    for name in profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names) {
        let named = machine.abis().iter().filter_map(|abi| abi.number(name));
        numbers.extend(named.flat_map(|number| [number.wrapping_sub(1), number, number + 1]));
    }
    let mut all = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        let args = args[index % args.len()];
        all.extend(abis.map(|abi| Call { audit: abi.audit(), number: *number, args }));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_profiles_say(
        profile in profiles(),
        machine in select(MACHINES.to_vec()),
        args in proptest::collection::vec(proptest::array::uniform6(values()), 1..8),
        wild in proptest::collection::vec(any::<u32>(), 8),
    ) {
        let filter = match Filter::compile_for(&profile, machine) {
            Err(SeccompError::Errno { .. }) => return Ok(()),
            other => other.unwrap(),
        };
        for call in calls(&profile, machine, &args, &wild) {
            prop_assert_eq!(run(filter.program(), &call), judge(&profile, machine, &call), "{:x?}", call);
        }
    }
}
