//! The commands' table: flags, arguments and help.

use crate::flags::{Flag, Kind, Order};

/// A command as help shows it and the parser reads it.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) usage: &'static str,
    pub(crate) arguments: &'static str,
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) order: Order,
    /// Fewest and most arguments.
    pub(crate) count: (usize, usize),
    /// Why it is only known by name. Callers that ask for it are told, whatever flags they give.
    pub(crate) refused: Option<&'static str>,
}

const fn value(long: &'static str, short: Option<&'static str>, help: &'static str) -> Flag {
    Flag { long, short, kind: Kind::Value, help }
}

const fn switch(long: &'static str, short: Option<&'static str>, help: &'static str) -> Flag {
    Flag { long, short, kind: Kind::Switch, help }
}

const fn list(long: &'static str, short: Option<&'static str>, help: &'static str) -> Flag {
    Flag { long, short, kind: Kind::List, help }
}

const fn number(long: &'static str, help: &'static str) -> Flag {
    Flag { long, short: None, kind: Kind::Number, help }
}

/// Flags before the command.
pub(crate) const GLOBAL: &[Flag] = &[
    switch("debug", None, "log what is done"),
    value("log", None, "log file (default: standard error)"),
    value("log-format", None, "format of the log: text (default) or json"),
    value("root", None, "directory with the containers' state (default: /run/skep-runtime)"),
    value("criu", None, "ignored"),
    switch("systemd-cgroup", None, "make cgroups through systemd; cgroupsPath is then slice:prefix:name"),
    value("rootless", None, "pass over refused cgroups: true, false or auto (default)"),
    switch("version", Some("v"), "print the version"),
];

const SOCKETS: &[Flag] = &[
    value("console-socket", None, "unix socket that is sent the terminal's master side"),
    value("pidfd-socket", None, "unix socket that is sent a descriptor of the process"),
    value("pid-file", None, "file to write the process ID to"),
    number("preserve-fds", "how many descriptors from 3 on the process gets too"),
];

const BUNDLE: &[Flag] = &[
    value("bundle", Some("b"), "the bundle's directory (default: the current one)"),
    switch("no-pivot", None, "move the root over / where pivot_root(2) cannot be, as on a ramdisk"),
    switch("no-new-keyring", None, "keep the caller's session keyring"),
];

const RUN: &[Flag] = &[
    switch("detach", Some("d"), "do not wait for the container's end"),
    switch("keep", None, "do not delete the container after its end"),
    switch("no-subreaper", None, "leave orphaned processes to the next reaper"),
];

const EXEC: &[Flag] = &[
    value("cwd", None, "working directory"),
    list("env", Some("e"), "environment variable NAME=VALUE"),
    switch("tty", Some("t"), "give the process a terminal"),
    value("user", Some("u"), "UID[:GID]"),
    list("additional-gids", Some("g"), "additional group ID"),
    value("process", Some("p"), "file with the process as JSON"),
    switch("detach", Some("d"), "do not wait for the process's end"),
    value("process-label", None, "SELinux label"),
    value("apparmor", None, "AppArmor profile"),
    switch("no-new-privs", None, "forbid new privileges"),
    list("cap", Some("c"), "add a capability"),
    list("cgroup", None, "sub-cgroup to run in, [CONTROLLER[,…]:]PATH"),
    switch("ignore-paused", None, "run in a paused container too"),
];

const KILL: &[Flag] = &[switch("all", Some("a"), "signal every process of the container")];

const DELETE: &[Flag] = &[switch("force", Some("f"), "kill the container first if it runs")];

const LIST: &[Flag] = &[
    value("format", Some("f"), "table (default) or json"),
    switch("quiet", Some("q"), "print the IDs only"),
];

const PS: &[Flag] = &[value("format", Some("f"), "table (default) or json")];

const EVENTS: &[Flag] = &[
    value("interval", None, "time between two statistics (default: 5s)"),
    switch("stats", None, "print the statistics once"),
];

const SPEC: &[Flag] = &[
    value("bundle", Some("b"), "the bundle's directory"),
    switch("rootless", None, "a configuration for a container without root"),
];

const UPDATE: &[Flag] = &[
    value("resources", Some("r"), "file with the resources as JSON, or - for standard input"),
    number("blkio-weight", "block I/O weight, 10 to 1000"),
    value("cpu-period", None, "CPU period, microseconds"),
    value("cpu-quota", None, "CPU time a period, microseconds"),
    value("cpu-burst", None, "CPU time saved up for bursts, microseconds"),
    value("cpu-share", None, "relative CPU weight"),
    value("cpu-rt-period", None, "real-time CPU period, microseconds"),
    value("cpu-rt-runtime", None, "real-time CPU time a period, microseconds"),
    value("cpuset-cpus", None, "CPUs to use"),
    value("cpuset-mems", None, "memory nodes to use"),
    value("cpu-idle", None, "1: run only when no one else wants the CPU"),
    value("kernel-memory", None, "ignored"),
    value("kernel-memory-tcp", None, "ignored"),
    value("memory", None, "memory limit, bytes"),
    value("memory-reservation", None, "memory kept under pressure, bytes"),
    value("memory-swap", None, "memory and swap together, bytes; -1 is unlimited"),
    number("pids-limit", "how many processes and threads there may be"),
    value("l3-cache-schema", None, "Intel RDT L3 cache schema"),
    value("mem-bw-schema", None, "Intel RDT memory bandwidth schema"),
];

const ID: &str = "<container-id>";

const fn plain(name: &'static str, usage: &'static str) -> Command {
    Command { name, usage, arguments: ID, flags: &[], order: Order::Anywhere, count: (1, 1), refused: None }
}

const NO_CRIU: &str = "this runtime uses no CRIU and saves no process's memory";

/// All commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command { refused: Some(NO_CRIU), ..plain("checkpoint", "not supported: save a running container") },
    Command { flags: &[BUNDLE, SOCKETS], ..plain("create", "create a container") },
    Command { flags: &[DELETE], ..plain("delete", "delete a container and what it holds") },
    Command { flags: &[EVENTS], ..plain("events", "print statistics and out-of-memory events") },
    Command {
        arguments: "<container-id> <command> [arguments]  || -p process.json <container-id>",
        flags: &[EXEC, SOCKETS],
        order: Order::First,
        count: (1, usize::MAX),
        ..plain("exec", "run one more process in a container")
    },
    Command { arguments: "", count: (0, 0), ..plain("features", "print what this runtime can do, as JSON") },
    Command {
        arguments: "<container-id> [signal]",
        flags: &[KILL],
        order: Order::First,
        count: (1, 2),
        ..plain("kill", "send a signal (default: SIGTERM) to the container's init process")
    },
    Command {
        arguments: "",
        flags: &[LIST],
        count: (0, 0),
        ..plain("list", "list the containers of a root directory")
    },
    plain("pause", "suspend all processes of a container"),
    Command {
        arguments: "<container-id> [ps options]",
        flags: &[PS],
        order: Order::First,
        count: (1, usize::MAX),
        ..plain("ps", "show the processes of a container")
    },
    Command { refused: Some(NO_CRIU), ..plain("restore", "not supported: go on with a saved container") },
    plain("resume", "go on with a paused container"),
    Command { flags: &[BUNDLE, RUN, SOCKETS], ..plain("run", "create and start a container") },
    Command {
        arguments: "",
        flags: &[SPEC],
        count: (0, 0),
        ..plain("spec", "write a specification to begin with, config.json")
    },
    plain("start", "start the process of a created container"),
    plain("state", "print the state of a container"),
    Command { flags: &[UPDATE], ..plain("update", "change the limits of a container") },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_has_one_name_for_two_flags() {
        for command in COMMANDS {
            let flags = command.flags.iter().flat_map(|table| table.iter());
            let mut names: Vec<_> = flags.flat_map(|flag| [Some(flag.long), flag.short]).flatten().collect();
            names.sort_unstable();
            let before = names.len();
            names.dedup();
            assert_eq!(names.len(), before, "{}", command.name);
        }
    }
}
