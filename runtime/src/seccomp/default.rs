//! Docker's default profile (moby/profiles, `seccomp/default_linux.go`, June 2026): a list of what is allowed; all
//! else gets `EPERM`, or `ENOSYS` if it is newer than the list.
//!
//! What is missing, and why it matters: new namespaces and mounts (a user namespace opens half of the kernel to
//! anybody, CVE-2022-0185), `keyctl` and `add_key` (keyrings are not in a namespace), `io_uring_*` and `userfaultfd`
//! (the source or the helper of many exploits), `bpf`, `kexec_load`, modules, swap, `AF_ALG` and `AF_VSOCK` sockets
//! (which 32-bit x86 programs still get by `socketcall`, whose arguments no filter sees).

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::Machine;

/// Allowed in every container.
#[rustfmt::skip]
const ALWAYS: [&[&str]; 12] = [
    // Processes and threads: make, end, wait, and what they know about themselves.
    &[
        "execve", "execveat", "exit", "exit_group", "fork", "getcpu", "getpgid", "getpgrp", "getpid",
        "getppid", "get_robust_list", "getsid", "get_thread_area", "gettid", "landlock_add_rule",
        "landlock_create_ruleset", "landlock_restrict_self", "membarrier", "pidfd_open", "pidfd_send_signal",
        "prctl", "process_mrelease", "restart_syscall", "riscv_hwprobe", "rseq", "seccomp", "setpgid",
        "set_robust_list", "setsid", "set_thread_area", "set_tid_address", "uretprobe", "vfork", "wait4",
        "waitid", "waitpid",
    ],
    // Users and groups. The kernel asks for capabilities where they matter.
    &[
        "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32",
        "getgroups", "getgroups32", "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid",
        "getuid32", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups",
        "setgroups32", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32",
        "setreuid", "setreuid32", "setuid", "setuid32", "umask",
    ],
    // Scheduling and limits of a process's own.
    &[
        "getpriority", "getrlimit", "getrusage", "ioprio_get", "ioprio_set", "prlimit64",
        "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_get_priority_max",
        "sched_get_priority_min", "sched_getscheduler", "sched_rr_get_interval",
        "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
        "sched_setscheduler", "sched_yield", "setpriority", "setrlimit", "times", "ugetrlimit",
    ],
    // Memory.
    &[
        "brk", "madvise", "map_shadow_stack", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2",
        "mlockall", "mmap", "mmap2", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall",
        "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages",
    ],
    // Signals.
    &[
        "kill", "pause", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
        "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
        "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "tgkill", "tkill",
    ],
    // Time and timers. `adjtimex` and `clock_adjtime` read the clock's state; only CAP_SYS_TIME lets them change it.
    &[
        "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
        "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer",
        "gettimeofday", "nanosleep", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
        "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
        "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
    ],
    // Waiting for several things, and waking others.
    &[
        "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
        "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "futex", "futex_requeue",
        "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "inotify_add_watch", "inotify_init",
        "inotify_init1", "inotify_rm_watch", "_newselect", "poll", "ppoll", "ppoll_time64", "pselect6",
        "pselect6_time64", "select",
    ],
    // Sockets; `socket` itself has rules of its own. `socketcall` lets 32-bit x86 programs make any socket.
    &[
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv",
        "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto",
        "setsockopt", "shutdown", "socketcall", "socketpair",
    ],
    // System V and POSIX IPC.
    &[
        "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
        "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl",
        "semget", "semop", "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget",
    ],
    // Reading and writing.
    &[
        "cachestat", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64",
        "fadvise64_64", "fallocate", "fcntl", "fcntl64", "fdatasync", "flock", "fsync", "ftruncate",
        "ftruncate64", "io_cancel", "ioctl", "io_destroy", "io_getevents", "io_pgetevents",
        "io_pgetevents_time64", "io_setup", "io_submit", "_llseek", "lseek", "pipe", "pipe2", "pread64",
        "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readv", "sendfile",
        "sendfile64", "splice", "sync", "sync_file_range", "syncfs", "tee", "truncate", "truncate64",
        "vmsplice", "write", "writev",
    ],
    // Files, by name and attributes.
    &[
        "access", "chdir", "chmod", "chown", "chown32", "creat", "faccessat", "faccessat2", "fchdir",
        "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fgetxattr", "flistxattr",
        "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "futimesat",
        "getcwd", "getdents", "getdents64", "getxattr", "getxattrat", "lchown", "lchown32", "lgetxattr",
        "link", "linkat", "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lsetxattr",
        "lstat", "lstat64", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat",
        "open", "openat", "openat2", "readlink", "readlinkat", "removexattr", "removexattrat", "rename",
        "renameat", "renameat2", "rmdir", "setxattr", "setxattrat", "stat", "stat64", "statfs", "statfs64",
        "statmount", "statx", "symlink", "symlinkat", "unlink", "unlinkat", "utime", "utimensat",
        "utimensat_time64", "utimes",
    ],
    // The system and its random numbers.
    &["getrandom", "sysinfo", "uname"],
];

/// Allowed together with a capability that the container may get: the kernel asks for it anyway, and whoever gave it
/// wants these calls to work.
#[rustfmt::skip]
const WITH_CAPABILITY: [(Capability, &[&str]); 14] = [
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (
        Capability::SysAdmin,
        &[
            "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
            "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
            "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
            "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "init_module", "finit_module"]),
    (Capability::SysPacct, &["acct"]),
    (
        Capability::SysPtrace,
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    (Capability::SysRawio, &["iopl", "ioperm"]),
    (Capability::SysTime, &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Calls that look into other processes: before Linux 4.8 ptrace let a traced program around its own filter.
const PTRACE: &[&str] = &["process_vm_readv", "process_vm_writev", "ptrace"];
const PTRACE_SINCE: (u32, u32) = (4, 8);

/// What personality(2) may be set to: Linux, Linux of 32 bits, each also with `UNAME26`, and the question what it is.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The kernel's crypto and the virtual machine's host: neither is in a namespace.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// One more than the last family that there is (Linux 7.1, include/linux/socket.h).
const AF_MAX: u64 = 46;

/// `CLONE_NEW*` of mount, cgroup, UTS, IPC, user, PID and network namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Docker's default profile for a container with these capabilities in its bounding set, on this kernel (major, minor)
/// and machine. The same arguments make the same profile.
pub fn default_profile(bounding: &Capabilities, kernel: (u32, u32), machine: Machine) -> LinuxSeccomp {
    let mut rules: Vec<LinuxSyscall> = ALWAYS.iter().map(|names| allow(names, None)).collect();
    if kernel >= PTRACE_SINCE {
        rules.push(allow(PTRACE, None));
    }
    // One by one and not "above": the kernel takes the lower half of the argument, a filter compares all of it, and with
    // something in the upper half `AF_ALG` would be above.
    rules.push(allow(&["socket"], Some((Operator::ScmpCmpLt, AF_ALG))));
    for family in (AF_ALG + 1..AF_MAX).filter(|family| *family != AF_VSOCK) {
        rules.push(allow(&["socket"], Some((Operator::ScmpCmpEq, family))));
    }
    for personality in PERSONALITIES {
        rules.push(allow(&["personality"], Some((Operator::ScmpCmpEq, personality))));
    }
    rules.push(allow(of_machine(machine), None));
    for (capability, names) in WITH_CAPABILITY {
        if bounding.contains(&capability) {
            rules.push(allow(names, None));
        }
    }
    if !bounding.contains(&Capability::SysAdmin) {
        rules.push(allow(&["clone"], Some((Operator::ScmpCmpMaskedEq, NEW_NAMESPACES))));
        // A filter cannot see clone3's flags, which are behind a pointer; at this error libraries go back to clone.
        let mut clone3 = LinuxSyscall::default();
        clone3.set_names(vec!["clone3".to_owned()]).set_action(Action::ScmpActErrno);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM as u32));
    profile.set_architectures(Some(architectures(machine).to_vec()));
    profile.set_syscalls(Some(rules));
    profile
}

/// The running kernel's major and minor number; 5.12, the oldest that this runtime works on, if it tells none.
pub fn kernel_version() -> (u32, u32) {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => (5, 12),
    }
}

fn architectures(machine: Machine) -> &'static [Arch] {
    match machine {
        Machine::X86_64 => &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        Machine::Aarch64 => &[Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        Machine::Riscv64 => &[Arch::ScmpArchRiscv64],
    }
}

/// Calls that only one kind of machine has, all about the caller's own thread and memory.
#[rustfmt::skip]
fn of_machine(machine: Machine) -> &'static [&'static str] {
    match machine {
        Machine::X86_64 => &["arch_prctl", "modify_ldt"],
        Machine::Aarch64 => &[
            "arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush",
            "set_tls",
        ],
        Machine::Riscv64 => &["riscv_flush_icache"],
    }
}

/// `condition` is about the first argument.
fn allow(names: &[&str], condition: Option<(Operator, u64)>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect()).set_action(Action::ScmpActAllow);
    rule.set_args(condition.map(|(operator, value)| {
        // Of a masked comparison `value` is the mask: none of its bits may be set. The builder never fails; its default
        // would be the narrowest rule, for nothing but 0.
        let arg = LinuxSeccompArgBuilder::default().index(0_usize).op(operator).value(value).value_two(0_u64);
        vec![arg.build().unwrap_or_default()]
    }));
    rule
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Filter;
    use super::super::arch::Abi;
    use super::super::interpreter::{Call, judge, run};
    use super::super::numbers::NUMBERS;
    use super::*;
    use crate::spec::default_capabilities;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    fn ask(profile: &LinuxSeccomp, machine: Machine, name: &str, first: u64) -> u32 {
        let abi = machine.abis()[0];
        let number = abi.number(name).unwrap_or_else(|| panic!("{name}"));
        let call = Call { audit: abi.audit(), number, args: [first, 0, 0, 0, 0, 0] };
        let filter = Filter::compile_for(profile, machine).unwrap();
        let answer = run(filter.program(), &call);
        assert_eq!(answer, judge(profile, machine, &call), "{name}");
        answer
    }

    fn docker(machine: Machine) -> LinuxSeccomp {
        default_profile(&default_capabilities(), (6, 18), machine)
    }

    #[test]
    fn each_name_is_a_call_and_stands_once() {
        let mut seen = BTreeSet::new();
        for name in ALWAYS.iter().copied().flatten() {
            assert!(seen.insert(name), "{name} twice");
            assert!(NUMBERS.iter().any(|row| row.0 == *name) || *name == "fstatat64", "{name}");
        }
        assert_eq!(seen.len(), 361, "as many as in Docker's list");
    }

    #[test]
    fn programs_are_short() {
        for (machine, most) in [(Machine::X86_64, 360), (Machine::Aarch64, 290), (Machine::Riscv64, 130)] {
            let length = Filter::compile_for(&docker(machine), machine).unwrap().program().len();
            println!("{machine:?}: {length} instructions");
            assert!(length <= most, "{machine:?}: {length}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn what_opens_the_kernel_is_denied() {
        for machine in [Machine::X86_64, Machine::Aarch64, Machine::Riscv64] {
            let profile = docker(machine);
            for name in [
                "unshare", "setns", "keyctl", "add_key", "request_key", "mount", "umount2", "move_mount",
                "fsopen", "open_tree", "pivot_root", "bpf", "perf_event_open", "userfaultfd",
                "io_uring_setup", "kexec_load", "init_module", "finit_module", "swapon", "reboot", "syslog",
                "settimeofday", "open_by_handle_at", "mbind", "acct", "quotactl", "sethostname",
                "pidfd_getfd", "vhangup",
            ] {
                assert_eq!(ask(&profile, machine, name, 0x1000_0000), EPERM, "{machine:?} {name}");
            }
            assert_eq!(ask(&profile, machine, "clone3", 0), ENOSYS);
            assert_eq!(ask(&profile, machine, "clone", 0x1000_0000), EPERM, "CLONE_NEWUSER");
            assert_eq!(ask(&profile, machine, "clone", 0x0100_0000 | 17), ALLOW, "fork");
            let newer = Call { audit: machine.abis()[0].audit(), number: 600, args: [0; 6] };
            assert_eq!(run(Filter::compile_for(&profile, machine).unwrap().program(), &newer), ENOSYS);
        }
    }

    #[test]
    #[rustfmt::skip]
    fn what_programs_need_is_allowed() {
        for machine in [Machine::X86_64, Machine::Aarch64, Machine::Riscv64] {
            let profile = docker(machine);
            for name in [
                "execve", "exit_group", "read", "write", "openat", "close", "newfstatat", "statx", "mmap",
                "munmap", "brk", "mprotect", "futex", "rt_sigaction", "rt_sigreturn", "wait4", "kill",
                "pipe2", "dup3", "getdents64", "ioctl", "fcntl", "chdir", "getcwd", "unlinkat", "nanosleep",
                "clock_gettime", "getrandom", "prctl", "seccomp", "capset", "setresuid", "setgroups",
                "chroot", "ptrace", "bind", "connect", "accept4", "sendmsg", "recvmsg", "epoll_pwait",
                "close_range", "rseq", "execveat",
            ] {
                assert_eq!(ask(&profile, machine, name, 0), ALLOW, "{machine:?} {name}");
            }
            for (family, answer) in
                [(1, ALLOW), (2, ALLOW), (10, ALLOW), (16, ALLOW), (39, ALLOW), (44, ALLOW)]
            {
                assert_eq!(ask(&profile, machine, "socket", family), answer, "family {family}");
            }
            assert_eq!(ask(&profile, machine, "socket", AF_ALG), EPERM);
            assert_eq!(ask(&profile, machine, "socket", AF_ALG | 1 << 32), EPERM, "the kernel looks at the lower half");
            assert_eq!(ask(&profile, machine, "socket", AF_VSOCK), EPERM);
            for (persona, answer) in [(0, ALLOW), (0x2_0008, ALLOW), (0xffff_ffff, ALLOW), (0x4_0000, EPERM)]
            {
                assert_eq!(ask(&profile, machine, "personality", persona), answer, "{persona:#x}");
            }
        }
        assert_eq!(ask(&docker(Machine::X86_64), Machine::X86_64, "arch_prctl", 0), ALLOW);
    }

    #[test]
    fn capabilities_and_the_kernel_open_more() {
        let machine = Machine::X86_64;
        let mut bounding = default_capabilities();
        let old = default_profile(&bounding, (4, 7), machine);
        assert_eq!(ask(&old, machine, "ptrace", 0), EPERM);
        bounding.insert(Capability::SysPtrace);
        let old = default_profile(&bounding, (4, 7), machine);
        assert_eq!(ask(&old, machine, "ptrace", 0), ALLOW);
        for (capability, names) in WITH_CAPABILITY {
            let profile = default_profile(&Capabilities::from([capability]), (6, 18), machine);
            for name in names.iter().filter(|name| Abi::X86_64.number(name).is_some()) {
                assert_eq!(ask(&profile, machine, name, 0x1000_0000), ALLOW, "{capability} {name}");
            }
        }
        let none = default_profile(&Capabilities::new(), (6, 18), machine);
        assert_eq!(ask(&none, machine, "chroot", 0), EPERM);
    }

    #[test]
    fn the_kernel_has_a_version() {
        assert!(kernel_version() >= (5, 12), "{:?}", kernel_version());
    }
}
