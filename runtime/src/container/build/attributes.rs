//! Scheduling, memory and keyring attributes of a process: from the spec's names to the kernel's numbers.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};

use super::process::Surroundings;
use crate::container::attribute::Attribute;
use crate::container::{CreateError, c_string};
use crate::sys_attributes::SchedAttr;

/// Highest number of a processor that may be named (`CONFIG_NR_CPUS` is at most 8192).
const PROCESSOR_MAX: u32 = 8191;

/// Highest number of a memory node that may be named (`CONFIG_NODES_SHIFT` is at most 10).
const NODE_MAX: u32 = 1023;

/// `KEY_USR_SEARCH` and `KEY_OTH_SEARCH` (linux/key.h): who may find a key in the container's session keyring.
const KEY_USER_SEARCH: u32 = 0x8_0000;
const KEY_OTHER_SEARCH: u32 = 0x8;

/// personality(2)'s flags.
const PERSONALITY_FLAGS: [(&str, u32); 11] = [
    ("UNAME26", 0x002_0000),
    ("ADDR_NO_RANDOMIZE", 0x004_0000),
    ("FDPIC_FUNCPTRS", 0x008_0000),
    ("MMAP_PAGE_ZERO", 0x010_0000),
    ("ADDR_COMPAT_LAYOUT", 0x020_0000),
    ("READ_IMPLIES_EXEC", 0x040_0000),
    ("ADDR_LIMIT_32BIT", 0x080_0000),
    ("SHORT_INODE", 0x100_0000),
    ("WHOLE_SECONDS", 0x200_0000),
    ("STICKY_TIMEOUTS", 0x400_0000),
    ("ADDR_LIMIT_3GB", 0x800_0000),
];

/// The attributes of a process, in the order in which they are set.
pub(super) fn plan(process: &Process, around: &Surroundings<'_>) -> Result<Vec<Attribute>, CreateError> {
    let mut attributes = Vec::new();
    if around.new_keyring {
        // The owner's programs find keys in it after a change of user as well; in a user namespace the owner is
        // nobody whom the kernel knows as such.
        let permissions = match (around.init, super::settings::has_user_namespace(around.linux)) {
            (false, _) => 0,
            (true, false) => KEY_USER_SEARCH,
            (true, true) => KEY_OTHER_SEARCH,
        };
        let name = c_string(format!("_ses.{}", around.id), "the container's name")?;
        attributes.push(Attribute::SessionKeyring { name, permissions });
    }
    attributes.extend(affinity(process, around.init)?);
    if let Some(scheduler) = process.scheduler() {
        let mut planned = self::scheduler(scheduler)?;
        if let Attribute::Scheduler { shown, .. } = &mut planned
            && *scheduler.policy() == LinuxSchedulerPolicy::SchedDeadline
            && around.linux.resources().as_ref().is_some_and(limits_processors)
        {
            // sched_setattr(2) refuses it to who may not run on all.
            shown.push_str(" (process scheduler can't be used together with AllowedCPUs)");
        }
        attributes.push(planned);
    }
    if let Some(priority) = process.io_priority() {
        attributes.push(io_priority(priority)?);
    }
    let linux: &Linux = around.linux;
    if let Some(personality) = linux.personality() {
        attributes.push(self::personality(personality)?);
    }
    if let Some(policy) = linux.memory_policy() {
        attributes.push(memory_policy(policy)?);
    }
    Ok(attributes)
}

fn limits_processors(resources: &oci_spec::runtime::LinuxResources) -> bool {
    let cpus = resources.cpu().as_ref().and_then(|cpu| cpu.cpus().as_ref());
    cpus.is_some_and(|cpus| !cpus.is_empty())
}

/// Where a process of `exec` runs before it is in the container's cgroup.
pub(super) fn initial_affinity(process: &Process) -> Result<Option<Attribute>, CreateError> {
    let initial = process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.initial().as_deref());
    initial.filter(|list| !list.is_empty()).map(|list| processors(list, "initial")).transpose()
}

/// The container's init takes no notice of `execCPUAffinity`.
fn affinity(process: &Process, init: bool) -> Result<Option<Attribute>, CreateError> {
    let given = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    let wanted = process.exec_cpu_affinity().as_ref().filter(|_| !init);
    let lists = wanted.map(|wanted| (given(wanted.initial()), given(wanted.cpu_affinity_final())));
    match lists {
        Some((_, Some(list))) => processors(&list, "final").map(Some),
        // As it was before.
        Some((Some(_), None)) => Ok(None),
        _ => Ok(Some(Attribute::AllProcessors)),
    }
}

fn processors(list: &str, which: &str) -> Result<Attribute, CreateError> {
    let mask = numbers(list, PROCESSOR_MAX)
        .ok_or_else(|| invalid(format!("process.execCPUAffinity.{which} {list:?}")))?;
    Ok(Attribute::Affinity { mask, shown: list.to_owned() })
}

fn scheduler(wanted: &Scheduler) -> Result<Attribute, CreateError> {
    use LinuxSchedulerPolicy as Policy;
    let policy = *wanted.policy();
    let nice = wanted.nice().unwrap_or(0);
    let priority = wanted.priority().unwrap_or(0);
    let [runtime, deadline, period] =
        [*wanted.runtime(), *wanted.deadline(), *wanted.period()].map(|time| time.unwrap_or(0));
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) && !(-20..=19).contains(&nice) {
        return Err(invalid(format!("process.scheduler.nice {nice} is not between -20 and 19")));
    }
    if priority != 0 && !matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        return Err(invalid(format!("process.scheduler.priority with {policy}")));
    }
    if policy != Policy::SchedDeadline && (runtime, deadline, period) != (0, 0, 0) {
        return Err(invalid(format!("process.scheduler.runtime, deadline or period with {policy}")));
    }
    let flags = wanted.flags().iter().flatten().fold(0, |all, flag| all | scheduler_flag(*flag));
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: match policy {
            Policy::SchedOther => 0,
            Policy::SchedFifo => 1,
            Policy::SchedRr => 2,
            Policy::SchedBatch => 3,
            Policy::SchedIso => 4,
            Policy::SchedIdle => 5,
            Policy::SchedDeadline => 6,
        },
        flags,
        nice,
        priority: u32::try_from(priority)
            .map_err(|_| invalid(format!("process.scheduler.priority {priority}")))?,
        runtime,
        deadline,
        period,
        util_min: 0,
        util_max: 0,
    };
    let shown = match policy {
        Policy::SchedFifo | Policy::SchedRr => format!("{policy} with priority {priority}"),
        Policy::SchedDeadline => format!("{policy} with {runtime}/{deadline}/{period} ns"),
        _ => format!("{policy} with nice {nice}"),
    };
    Ok(Attribute::Scheduler { attr, shown })
}

/// linux/sched.h.
const fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// linux/ioprio.h: the class above bit 13, the level below.
fn io_priority(wanted: &LinuxIOPriority) -> Result<Attribute, CreateError> {
    let level = wanted.priority();
    let level = i32::try_from(level).ok().filter(|level| (0..=7).contains(level));
    let level = level.ok_or_else(|| {
        invalid(format!("process.ioPriority.priority {} is not between 0 and 7", wanted.priority()))
    })?;
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    Ok(Attribute::IoPriority { value: class << 13 | level, shown: format!("{} {level}", wanted.class()) })
}

fn personality(wanted: &LinuxPersonality) -> Result<Attribute, CreateError> {
    let mut persona = match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    let mut shown = wanted.domain().to_string();
    for flag in wanted.flags().iter().flatten() {
        let known = PERSONALITY_FLAGS.iter().find(|(name, _)| name == flag);
        let (name, bits) =
            known.ok_or_else(|| CreateError::Unsupported(format!("linux.personality.flags {flag:?}")))?;
        persona |= bits;
        shown = format!("{shown}|{name}");
    }
    Ok(Attribute::Personality { persona, shown })
}

fn memory_policy(wanted: &LinuxMemoryPolicy) -> Result<Attribute, CreateError> {
    use MemoryPolicyModeType as Mode;
    let list = wanted.nodes().as_deref().unwrap_or_default();
    let nodes = if list.trim().is_empty() { Some(Vec::new()) } else { numbers(list, NODE_MAX) };
    let nodes = nodes
        .ok_or_else(|| invalid(format!("linux.memoryPolicy: invalid memory policy node list {list:?}")))?;
    let (number, refused) = match wanted.mode() {
        Mode::MpolDefault => (0, !nodes.is_empty()),
        Mode::MpolPreferred => (1, false),
        Mode::MpolBind => (2, nodes.is_empty()),
        Mode::MpolInterleave => (3, nodes.is_empty()),
        Mode::MpolLocal => (4, !nodes.is_empty()),
        Mode::MpolPreferredMany => (5, nodes.is_empty()),
        Mode::MpolWeightedInterleave => (6, nodes.is_empty()),
    };
    let name = wanted.mode().to_string();
    if refused {
        let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
        let wanted = if count == 0 { "at least 1 node" } else { "0 nodes" };
        return Err(invalid(format!(
            "linux.memoryPolicy: invalid memory policy mode {name}: mode requires {wanted} but got {count}"
        )));
    }
    let flags = wanted.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        }
    });
    Ok(Attribute::MemoryPolicy {
        mode: number | flags,
        nodes,
        shown: format!("{name} {list}").trim().to_owned(),
    })
}

/// A list as the kernel writes it, `0-3,7`, as words of bits. `None`: it is none, or one is above `max`.
fn numbers(list: &str, max: u32) -> Option<Vec<u64>> {
    let mut words = Vec::new();
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number <= max);
    for part in list.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return None;
        }
        let needed = last as usize / 64 + 1;
        if words.len() < needed {
            words.resize(needed, 0_u64);
        }
        for bit in first..=last {
            if let Some(word) = words.get_mut(bit as usize / 64) {
                *word |= 1 << (bit % 64);
            }
        }
    }
    Some(words)
}

fn invalid(what: String) -> CreateError {
    CreateError::Invalid(what)
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn from<T: DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(numbers("0-3,7", 100), Some(vec![0x8f]));
        assert_eq!(numbers("1, 64", 100), Some(vec![2, 1]));
        for bad in ["", "a", "3-1", "0-", "101", "-1", "1,,2", "0-4294967295"] {
            assert_eq!(numbers(bad, 100), None, "{bad:?}");
        }
    }

    #[test]
    fn schedulers_are_checked_as_the_manual_has_them() {
        let plan = |value| scheduler(&from(value));
        let Ok(Attribute::Scheduler { attr, shown }) =
            plan(json!({"policy": "SCHED_RR", "priority": 7, "flags": ["SCHED_RESET_ON_FORK"]}))
        else {
            panic!()
        };
        assert_eq!((attr.policy, attr.priority, attr.flags, attr.size), (2, 7, 1, 56));
        assert_eq!(shown, "SCHED_RR with priority 7");
        for bad in [
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            json!({"policy": "SCHED_BATCH", "nice": -21}),
            json!({"policy": "SCHED_OTHER", "priority": 1}),
            json!({"policy": "SCHED_FIFO", "priority": -1}),
            json!({"policy": "SCHED_IDLE", "runtime": 1}),
        ] {
            assert!(matches!(plan(bad.clone()), Err(CreateError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn io_priorities_are_a_class_and_a_level() {
        let plan = |value| io_priority(&from(value));
        let idle = plan(json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7}));
        assert!(matches!(idle, Ok(Attribute::IoPriority { value: 0x6007, .. })));
        for level in [-1, 8, i64::MAX] {
            assert!(plan(json!({"class": "IOPRIO_CLASS_BE", "priority": level})).is_err(), "{level}");
        }
    }

    #[test]
    fn an_unknown_personality_flag_is_refused_by_name() {
        let plan = |value| personality(&from(value));
        let known = plan(json!({"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"]}));
        assert!(matches!(known, Ok(Attribute::Personality { persona: 0x4_0008, .. })));
        let error = plan(json!({"domain": "LINUX", "flags": ["NOT_ONE"]})).err().unwrap().to_string();
        assert!(error.contains("NOT_ONE"), "{error}");
    }

    #[test]
    fn memory_policies_have_the_nodes_that_they_need() {
        let plan = |value| memory_policy(&from(value));
        let bind = plan(json!({"mode": "MPOL_BIND", "nodes": "0,2", "flags": ["MPOL_F_STATIC_NODES"]}));
        let Ok(Attribute::MemoryPolicy { mode, nodes, .. }) = bind else { panic!() };
        assert_eq!((mode, nodes), (2 | 1 << 15, vec![5]));
        for bad in [
            json!({"mode": "MPOL_BIND"}),
            json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            json!({"mode": "MPOL_INTERLEAVE", "nodes": ""}),
            json!({"mode": "MPOL_BIND", "nodes": "1024"}),
        ] {
            assert!(plan(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_affinity_of_exec_is_not_the_inits() {
        let mut process = Process::default();
        process.set_exec_cpu_affinity(Some(from(json!({"initial": "0", "final": "1"}))));
        assert!(matches!(affinity(&process, true), Ok(Some(Attribute::AllProcessors))));
        assert!(
            matches!(affinity(&process, false), Ok(Some(Attribute::Affinity { mask, .. })) if mask == [2])
        );
        assert!(
            matches!(initial_affinity(&process), Ok(Some(Attribute::Affinity { mask, .. })) if mask == [1])
        );
        process.set_exec_cpu_affinity(Some(from(json!({"initial": "0"}))));
        assert!(matches!(affinity(&process, false), Ok(None)), "as it was before");
    }
}
