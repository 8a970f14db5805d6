//! What a profile means: for each calling convention of the machine, a verdict for each system call number.
//!
//! The meaning is runc's (`libcontainer/seccomp/seccomp_linux.go`, 1.5) and libseccomp's under it (2.6, `src/db.c`):
//!
//! - The machine's own convention always counts, those that it cannot run never do. A call in a convention that the
//!   profile leaves out kills the thread.
//! - A rule whose action is the default action is left out; so is one for a name that nobody knows.
//! - A call's first rule without conditions decides, whatever conditional rules there are beside it.
//! - Conditions of one rule must all hold, unless two of them are about the same argument: then each is a rule.
//! - Of conditional rules that overlap, the more particular goes first: see [`Rule::rank`].
//! - On x86 the socket and IPC calls can be reached through a multiplexer as well, with the arguments behind a pointer
//!   where no filter can look. A rule counts for the multiplexed call without its condition on the first argument.
//! - Numbers above the highest that the profile names get `ENOSYS` (runc's `patchbpf/enosys_linux.go`): programs try
//!   new calls and go back to old ones at that error alone. Not so if the default action lets calls through.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::SeccompError;
use super::arch::{Abi, Machine};

/// What a call gets in a convention that is not in the profile: libseccomp's `SCMP_FLTATR_ACT_BADARCH`.
pub(super) const BAD_ARCH: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// What an unknown newer call gets.
pub(super) const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// A profile, understood.
#[derive(Debug)]
pub(super) struct Policy {
    /// The default action, as the kernel has it.
    pub(super) default: u32,
    pub(super) tables: Vec<Table>,
    /// seccomp(2)'s flags.
    pub(super) flags: u32,
    pub(super) listener: Option<ListenerAddress>,
}

/// Where notifications go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerAddress {
    pub(crate) path: PathBuf,
    pub(super) metadata: Option<String>,
}

/// One convention's verdicts.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) abi: Abi,
    /// Where the verdict is another than the default.
    pub(super) verdicts: BTreeMap<u32, Verdict>,
    /// The highest number that gets the default action, if there is such a limit: above it is `ENOSYS`.
    pub(super) last: Option<u32>,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One action, as the kernel has it.
    Always(u32),
    /// The first rule that matches, else the default action.
    First(Vec<Rule>),
}

/// A conditional rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// All must hold.
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// A comparison of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u32,
    pub(super) operator: Operator,
    pub(super) value: u64,
    /// The bits of the argument that are compared. All the convention has, but for `MASKED_EQ`.
    pub(super) mask: u64,
}

impl Policy {
    /// Understands a profile.
    pub(super) fn new(profile: &LinuxSeccomp, machine: Machine) -> Result<Self, SeccompError> {
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        if profile.default_action() == Action::ScmpActNotify {
            return Err(SeccompError::NotifyDefault);
        }
        let rules = profile.syscalls().as_deref().unwrap_or_default();
        let mut tables = Vec::new();
        let listed = profile.architectures().as_deref().unwrap_or_default();
        for abi in machine.abis() {
            let own = *abi == machine.abis()[0];
            if own || listed.iter().any(|arch| Abi::from_spec(*arch, machine) == Some(*abi)) {
                tables.push(Table::new(*abi, default, rules)?);
            }
        }
        if matches!(
            profile.default_action(),
            Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
        ) {
            tables.iter_mut().for_each(|table| table.last = None);
        }
        let notify = rules.iter().any(|rule| rule.action() == Action::ScmpActNotify);
        let listener = match profile.listener_path() {
            Some(path) if notify => {
                Some(ListenerAddress { path: path.clone(), metadata: profile.listener_metadata().clone() })
            }
            None if notify => return Err(SeccompError::NoListener),
            _ => None,
        };
        Ok(Self { default, tables, flags: flags(profile.flags().as_deref(), listener.is_some()), listener })
    }
}

impl Table {
    fn new(abi: Abi, default: u32, rules: &[LinuxSyscall]) -> Result<Self, SeccompError> {
        let mut table = Self { abi, verdicts: BTreeMap::new(), last: None };
        for rule in rules {
            let action = action(rule.action(), rule.errno_ret())?;
            for name in rule.names() {
                if name.is_empty() {
                    return Err(SeccompError::EmptyName);
                }
                if name == "write" && rule.action() == Action::ScmpActNotify {
                    return Err(SeccompError::NotifyWrite);
                }
                let conditions = rule.args().iter().flatten().map(|arg| Condition::new(name, arg, abi));
                let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
                let number = abi.number(name);
                // 0 is no number to runc's search for the last one: `restart_syscall` or `read` alone set no limit.
                table.last = table.last.max(number.filter(|number| *number != 0));
                if action == default {
                    continue;
                }
                if let Some(number) = number {
                    table.add(number, &conditions, action);
                }
                if let Some(call) = abi.multiplexed(name) {
                    let which = Condition {
                        argument: 0,
                        operator: Operator::ScmpCmpMaskedEq,
                        value: call.call,
                        mask: call.mask,
                    };
                    for mut rule in split(&conditions) {
                        rule.retain(|condition| condition.argument != 0);
                        rule.insert(0, which);
                        table.add_rule(call.number, Rule { conditions: rule, action });
                    }
                }
            }
        }
        for verdict in table.verdicts.values_mut() {
            if let Verdict::First(rules) = verdict {
                rules.sort_by_key(Rule::rank);
            }
        }
        Ok(table)
    }

    fn add(&mut self, number: u32, conditions: &[Condition], action: u32) {
        for conditions in split(conditions) {
            if !conditions.is_empty() {
                self.add_rule(number, Rule { conditions, action });
                continue;
            }
            let verdict = self.verdicts.entry(number).or_insert(Verdict::Always(action));
            if let Verdict::First(_) = verdict {
                *verdict = Verdict::Always(action);
            }
        }
    }

    fn add_rule(&mut self, number: u32, rule: Rule) {
        let empty = Verdict::First(Vec::new());
        if let Verdict::First(rules) = self.verdicts.entry(number).or_insert(empty)
            && !rules.contains(&rule)
        {
            rules.push(rule);
        }
    }
}

/// The conditions of each rule that these make: one rule, or one each if an argument occurs twice. What compares no bit
/// is no condition.
fn split(conditions: &[Condition]) -> Vec<Vec<Condition>> {
    let count = |argument| conditions.iter().filter(|other| other.argument == argument).count();
    let mut rules: Vec<Vec<Condition>> = if conditions.iter().any(|condition| count(condition.argument) > 1) {
        conditions.iter().map(|condition| vec![*condition]).collect()
    } else {
        vec![conditions.to_vec()]
    };
    for rule in &mut rules {
        rule.retain(|condition| condition.mask != 0);
        // Compared in this order, so that two rules of the same conditions are the same.
        rule.sort_by_key(|condition| condition.argument);
    }
    rules
}

impl Rule {
    /// The order in which rules are tried, as libseccomp's `_db_chain_lt` has it for the first condition: higher
    /// arguments first; equality before upper bounds before lower bounds; and of bounds the tighter.
    fn rank(&self) -> (u32, u8, u64) {
        let Some(first) = self.conditions.first() else { return (0, 0, 0) };
        let (kind, tightness) = match first.operator {
            Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq => (0, !first.value),
            Operator::ScmpCmpLt | Operator::ScmpCmpLe => (1, first.value),
            Operator::ScmpCmpGt | Operator::ScmpCmpGe => (2, !first.value),
        };
        (5 - first.argument, kind, tightness)
    }
}

impl Condition {
    fn new(name: &str, arg: &LinuxSeccompArg, abi: Abi) -> Result<Self, SeccompError> {
        let argument = u32::try_from(arg.index()).ok().filter(|index| *index < 6);
        let argument =
            argument.ok_or_else(|| SeccompError::Argument { name: name.to_owned(), index: arg.index() })?;
        // `value` is the mask of a masked comparison, `valueTwo` what the rest must be (OCI spec, "seccomp").
        let (value, mask) = match arg.op() {
            Operator::ScmpCmpMaskedEq => (arg.value_two().unwrap_or(0), arg.value()),
            _ => (arg.value(), u64::MAX),
        };
        let mask = if abi.narrow() { mask & u64::from(u32::MAX) } else { mask };
        Ok(Self { argument, operator: arg.op(), value: value & mask, mask })
    }
}

/// The kernel's word for an action (seccomp(2)). Numbers go with two of them; EPERM is the default, as in runc.
pub(super) fn action(action: Action, errno: Option<u32>) -> Result<u32, SeccompError> {
    let number = errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
    let plain = match action {
        Action::ScmpActErrno => return Ok(libc::SECCOMP_RET_ERRNO | number),
        Action::ScmpActTrace => return Ok(libc::SECCOMP_RET_TRACE | number),
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
    };
    match errno {
        Some(errno) => Err(SeccompError::Errno { errno, action }),
        None => Ok(plain),
    }
}

/// seccomp(2)'s flags. None given means `SPEC_ALLOW`, an empty list none at all (runc's `SetupSeccomp`).
fn flags(flags: Option<&[Flag]>, listener: bool) -> u32 {
    let mut all = if listener { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 } else { 0 };
    for flag in flags.unwrap_or(&[Flag::SeccompFilterFlagSpecAllow]) {
        all |= match flag {
            // The process that loads the filter has one thread, and the kernel takes it beside a listener only with
            // yet another flag.
            Flag::SeccompFilterFlagTsync => 0,
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
            // About waiting for an answer; the kernel refuses it where nothing waits.
            Flag::SeccompFilterFlagWaitKillableRecv if listener => {
                libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32
            }
            Flag::SeccompFilterFlagWaitKillableRecv => 0,
        };
    }
    all
}
