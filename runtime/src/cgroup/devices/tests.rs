//! The v1 exceptions and the v2 program against the plain meaning of the list, and the program in the kernel.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::exceptions::{Exceptions, for_list};
use super::judges::{controller, run};
use super::program::assemble;
use super::*;

/// Plays writes into `devices.allow` and `devices.deny` as the kernel does.
fn play(state: &mut Exceptions, changes: &[(bool, String)]) {
    for (allow, text) in changes {
        if text == "a" {
            *state = Exceptions { default_allow: *allow, patterns: BTreeMap::new() };
            continue;
        }
        let (pattern, rights) = Exceptions::from_list(text).unwrap().patterns.pop_first().unwrap();
        let entry = state.patterns.entry(pattern).or_insert(0);
        if *allow == state.default_allow {
            *entry &= !rights
        } else {
            *entry |= rights
        }
        state.patterns.retain(|_, rights| *rights != 0);
    }
}

fn number() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), (0..3_u32).prop_map(Some), Just(Some(1 << 31))]
}

fn rule() -> impl Strategy<Value = Rule> {
    let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))];
    let access = prop_oneof![2 => Just(ALL), 3 => 1..=ALL];
    (any::<bool>(), kind, number(), number(), access).prop_map(|(allow, kind, major, minor, access)| Rule {
        allow,
        kind,
        major,
        minor,
        access,
    })
}

/// The straightforward reading: every right that is asked for is given by the last rule about it.
fn meaning(rules: &[Rule], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
    [MKNOD, READ, WRITE].iter().filter(|right| access & **right != 0).all(|right| {
        let last = rules.iter().rfind(|rule| rule.matches(kind, major, minor) && rule.access & right != 0);
        last.is_some_and(|rule| rule.allow)
    })
}

fn accesses() -> impl Iterator<Item = (Kind, u8, u32, u32)> {
    let kinds = [Kind::Block, Kind::Char].into_iter();
    kinds.flat_map(|kind| {
        (1..=ALL).flat_map(move |access| {
            (0..4).flat_map(move |major| (0..4).map(move |minor| (kind, access, major, minor)))
        })
    })
}

proptest! {
    #[test]
    fn the_program_decides_as_the_list_reads(rules in proptest::collection::vec(rule(), 0..8)) {
        let program = assemble(&rules);
        for (kind, access, major, minor) in accesses() {
            let expected = meaning(&rules, kind, access, major, minor);
            prop_assert_eq!(run(&program, kind, access, major, minor), expected, "{:?} {}:{}", kind, major, minor);
        }
    }

    #[test]
    fn the_controller_decides_as_the_list_reads(
        before in proptest::collection::vec(rule(), 0..5),
        rules in proptest::collection::vec(rule(), 0..5),
    ) {
        let Some(target) = for_list(&rules) else { return Ok(()) };
        // The kernel asks for mknod alone.
        for (kind, access, major, minor) in accesses().filter(|one| one.1 == MKNOD || one.1 & MKNOD == 0) {
            let expected = meaning(&rules, kind, access, major, minor);
            prop_assert_eq!(controller(&target, kind, access, major, minor), expected, "{:?}", target);
        }
        let Some(mut state) = for_list(&before) else { return Ok(()) };
        let seen = if state.default_allow {
            Exceptions { default_allow: true, patterns: BTreeMap::new() }
        } else {
            state.clone()
        };
        play(&mut state, &seen.changes(&target));
        prop_assert_eq!(state, target);
    }

    #[test]
    fn lists_without_holes_can_always_be_told_to_the_controller(
        rules in proptest::collection::vec(rule(), 0..8),
    ) {
        let allowing: Vec<Rule> = rules.into_iter().map(|rule| Rule { allow: true, ..rule }).collect();
        prop_assert!(for_list(&allowing).is_some());
    }
}

fn deny_all() -> Rule {
    Rule { allow: false, kind: None, major: None, minor: None, access: ALL }
}

#[test]
fn a_hole_in_a_wildcard_is_refused_on_v1() {
    let wide = Rule { allow: true, kind: Some(Kind::Char), major: Some(1), minor: None, access: ALL };
    let hole = Rule { allow: false, minor: Some(3), access: WRITE, ..wide };
    assert_eq!(for_list(&[deny_all(), wide, hole]), None);
}

#[test]
fn the_last_rule_about_everything_chooses_the_default() {
    let allow_all = Rule { allow: true, ..deny_all() };
    let one = Rule { allow: false, kind: Some(Kind::Block), major: Some(8), minor: None, access: ALL };
    let state = for_list(&[allow_all, one]).unwrap();
    assert!(state.default_allow);
    assert_eq!(state.patterns.len(), 1);
}

#[test]
fn a_rule_that_is_kept_is_never_taken_away_in_an_update() {
    let old = Exceptions::from_list("c 1:3 rwm\nc 5:* r\n").unwrap();
    let new = Exceptions::from_list("c 1:3 rm\nb 8:0 r\n").unwrap();
    let changes = old.changes(&new);
    let expected = [(true, "b 8:0 r"), (false, "c 1:3 w"), (false, "c 5:* r")];
    assert_eq!(changes, expected.map(|(allow, line)| (allow, line.to_owned())));
}

#[test]
fn a_spec_that_says_nothing_gets_the_default_devices_only() {
    let rules = rules(&[]).unwrap();
    assert_eq!(allowed(&rules, Kind::Char, 1, 3), ALL);
    assert_eq!(allowed(&rules, Kind::Char, 136, 7), ALL);
    assert_eq!(allowed(&rules, Kind::Block, 8, 0), MKNOD);
}

#[test]
fn rules_with_unknown_rights_or_none_are_refused() {
    for access in [Some("rx".to_owned()), Some(String::new()), None] {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_access(access);
        assert!(matches!(rules(&[rule]), Err(CgroupError::DeviceRule { index: 0, .. })));
    }
    let mut slip = LinuxDeviceCgroup::default();
    slip.set_allow(true).set_access(Some("rwa".to_owned()));
    // Every node may be made anyway.
    assert_eq!(allowed(&rules(&[slip]).unwrap(), Kind::Char, 200, 1), ALL, "runc passes over the a");
}

/// Opens two devices from a process that joins the group first, and tells whether each open worked.
fn opens(group: &std::path::Path, paths: [&str; 2]) -> [bool; 2] {
    paths.map(|path| {
        let script = format!("echo $$ > {}/cgroup.procs && exec 3<>{path}", group.display());
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &script]).stderr(std::process::Stdio::null());
        command.status().unwrap().success()
    })
}

struct Group(std::path::PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = crate::cgroup::group::remove_directory(&self.0);
    }
}

fn scratch(root: &std::path::Path) -> Group {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = root.join(format!("skep-test-devices-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed)));
    std::fs::create_dir(&path).unwrap();
    Group(path)
}

#[test]
fn the_kernel_obeys_the_program_and_its_replacement() {
    let Some(root) = crate::cgroup::Cgroups::detect().ok().and_then(|cgroups| cgroups.unified) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let group = scratch(&root);
    let null =
        Rule { allow: true, kind: Some(Kind::Char), major: Some(1), minor: Some(3), access: READ | WRITE };
    let both = ["/dev/null", "/dev/full"];
    assert_eq!(opens(&group.0, both), [true, true]);
    attach_v2(&group.0, &[deny_all(), null]).unwrap();
    assert_eq!(opens(&group.0, both), [true, false]);
    attach_v2(
        &group.0,
        &[null, Rule { minor: Some(7), ..null }, Rule { allow: false, access: WRITE, ..null }],
    )
    .unwrap();
    assert_eq!(opens(&group.0, both), [false, true]);
    let directory = std::fs::File::open(&group.0).unwrap();
    assert_eq!(bpf::count(&directory), 1);
    // The same program again, in place of itself, and in place of others too.
    for beside_another in [false, true] {
        if beside_another {
            bpf::add(&directory, &[deny_all()]);
        }
        attach_v2(&group.0, &[null, Rule { minor: Some(7), ..null }]).unwrap();
        assert_eq!(opens(&group.0, both), [true, true]);
        assert_eq!(bpf::count(&directory), 1);
    }
}

#[test]
fn the_kernel_obeys_the_exceptions_and_their_update() {
    let cgroups = crate::cgroup::Cgroups::detect();
    let Some(root) =
        cgroups.ok().and_then(|cgroups| cgroups.hierarchy("devices").map(|one| one.mount.clone()))
    else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let group = scratch(&root);
    let null =
        Rule { allow: true, kind: Some(Kind::Char), major: Some(1), minor: Some(3), access: READ | WRITE };
    let full = Rule { minor: Some(7), ..null };
    let both = ["/dev/null", "/dev/full"];
    let set = |rules: &[Rule]| apply_v1(&group.0, &for_list(rules).unwrap()).unwrap();
    set(&[deny_all(), null]);
    assert_eq!(opens(&group.0, both), [true, false]);
    set(&[full]);
    assert_eq!(opens(&group.0, both), [false, true]);
    set(&[Rule { allow: true, ..deny_all() }, Rule { allow: false, ..full }]);
    assert_eq!(opens(&group.0, both), [true, false]);
}
