//! From the words of the command line to a command.

use std::io::Write as _;
use std::path::PathBuf;

use skep_runtime::container::StartError;

use crate::commands::{COMMANDS, Command, GLOBAL};
use crate::error::Failure;
use crate::flags::{self, Order, Words};
use crate::log::{Level, Log};
use crate::store::Store;
use crate::{create, events, exec, features, help, lifecycle, show, spec, update};

/// Where containers are kept unless `--root` says otherwise.
const DEFAULT_ROOT: &str = "/run/skep-runtime";

const SUCCESS: u8 = 0;

/// The exit code of most failures.
const FAILURE: u8 = 1;

/// runc's exit code for a command that there is not.
const NO_SUCH_COMMAND: u8 = 3;

/// runc's exit code for an `exec` that did not come to be.
const EXEC_FAILED: u8 = 255;

/// What all commands know.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) log: Log,
    pub(crate) store: Store,
    /// `--root` was given.
    pub(crate) own_root: bool,
    pub(crate) systemd: bool,
}

impl Context {
    /// Logs what does not stop the command.
    pub(crate) fn warn(&self, failure: &Failure) {
        self.log.line(Level::Warning, &failure.to_string());
    }

    /// What a person should know of what was read.
    pub(crate) fn tell(&self, warnings: &[String]) {
        warnings.iter().for_each(|warning| self.log.line(Level::Warning, warning));
    }
}

/// Runs the program.
pub(crate) fn run(words: &[String]) -> u8 {
    let mut log = Log::default();
    let global = match flags::parse(&[GLOBAL], Order::First, words) {
        Ok(global) => global,
        Err(error) => {
            say(&format!("Incorrect Usage: {error}\n\n{}", help::program()));
            log.fatal(&error.to_string());
            return FAILURE;
        }
    };
    if global.switch("version") {
        say(&help::version());
        return SUCCESS;
    }
    let (name, rest) = match global.arguments.split_first() {
        None => ("help", &[][..]),
        Some(_) if global.switch("help") => ("help", &[][..]),
        Some((name, rest)) => (name.as_str(), rest),
    };
    let command = COMMANDS.iter().find(|command| command.name == name);
    let parsed = command.map(|command| flags::parse(command.flags, command.order, rest));
    // Containers are made from this process, and could write to its program's file through procfs (CVE-2019-5736).
    let sealed = match name {
        "create" | "run" | "exec" => skep_runtime::selfexe::seal().map(drop),
        _ => Ok(()),
    };
    // Before the log is opened: see there.
    let wishes = match &parsed {
        Some(Ok(parsed)) => Some(crate::sockets::Wishes::read(parsed, name != "exec")),
        _ => None,
    };
    let context = match context(&global, &mut log) {
        Ok((store, own_root)) => Context { log, store, own_root, systemd: global.switch("systemd-cgroup") },
        Err(failure) => {
            log.fatal(&failure.to_string());
            return FAILURE;
        }
    };
    let asks_for_help = rest.iter().any(|word| word == "-h" || word == "--help");
    if let Some(reason) = command.and_then(|command| command.refused).filter(|_| !asks_for_help) {
        context.log.fatal(&format!("{name} is not supported: {reason}"));
        return FAILURE;
    }
    let (Some(command), Some(Ok(parsed)), Some(wishes)) = (command, &parsed, wishes) else {
        return without(&context, name, rest, command, parsed.as_ref());
    };
    if parsed.switch("help") {
        say(&help::command(command));
        return SUCCESS;
    }
    if let Err(text) = check_count(command, parsed.arguments.len()) {
        say(&format!("Incorrect Usage.\n\n{}", help::command(command)));
        context.log.fatal(&text);
        return FAILURE;
    }
    let sealed = sealed.map_err(|error| Failure::Refused(error.to_string()));
    let done = sealed.and(wishes).and_then(|wishes| carry_out(&context, command, parsed, wishes));
    match done {
        Ok(code) => code,
        // When all but the program is there, it is the container's own words, as from runc's init.
        Err(Failure::Start(error @ StartError::Exec { .. }))
            if command.name == "run" && context.log.is_stderr() =>
        {
            drop(writeln!(std::io::stderr(), "{error}"));
            FAILURE
        }
        Err(failure) => {
            let text = match command.name {
                "create" | "run" => format!("{} {} failed: {failure}", help::name(), command.name),
                "exec" => format!("exec failed: {failure}"),
                _ => failure.to_string(),
            };
            context.log.fatal(&text);
            if command.name == "exec" { EXEC_FAILED } else { FAILURE }
        }
    }
}

/// Prints help; a reader that has gone wants none.
fn say(text: &str) {
    drop(show::print(text));
}

/// Help, and commands that were not understood.
fn without(
    context: &Context,
    name: &str,
    rest: &[String],
    command: Option<&Command>,
    parsed: Option<&Result<Words, flags::FlagError>>,
) -> u8 {
    if let (Some(command), Some(Err(error))) = (command, parsed) {
        say(&format!("Incorrect Usage: {error}\n\n{}", help::command(command)));
        context.log.fatal(&error.to_string());
        return FAILURE;
    }
    let topic = if matches!(name, "help" | "h") { rest.first().map(String::as_str) } else { Some(name) };
    let known = topic.and_then(|topic| COMMANDS.iter().find(|command| command.name == topic));
    match (topic, known) {
        (None, _) => say(&help::program()),
        (_, Some(command)) => say(&help::command(command)),
        (Some(topic), None) => {
            context.log.fatal(&format!("No help topic for '{topic}'\n"));
            return NO_SUCH_COMMAND;
        }
    }
    SUCCESS
}

fn context(global: &Words, log: &mut Log) -> Result<(Store, bool), Failure> {
    log.debug = global.switch("debug");
    let own = global.value("root");
    let root = match own {
        Some(root) => {
            // An empty one is the current directory to runc.
            let root = if root.is_empty() { "." } else { root };
            std::path::absolute(root).map_err(Failure::system("getwd"))?
        }
        None => default_root(),
    };
    match global.value("log-format").unwrap_or_default() {
        "" | "text" => {}
        "json" => log.json = true,
        other => return Err(Failure::Refused(format!("invalid log-format: {other}"))),
    }
    if let Some(path) = global.text("log") {
        log.open(path.as_ref()).map_err(Failure::path("open", path.as_ref()))?;
    }
    let rootless = global.value("rootless").unwrap_or("auto");
    if !rootless.is_empty() && !rootless.eq_ignore_ascii_case("auto") && flags::boolean(rootless).is_none() {
        return Err(Failure::Refused(format!("invalid value for rootless: {rootless:?}")));
    }
    if !root.components().any(|part| matches!(part, std::path::Component::Normal(_))) {
        return Err(Failure::Refused("Option --root argument should not be set to /".to_owned()));
    }
    Ok((Store::new(root), own.is_some()))
}

/// As runc: below the user's own runtime directory for all but root.
fn default_root() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    match own {
        Some(directory) if !rustix::process::geteuid().is_root() => {
            PathBuf::from(directory).join("skep-runtime")
        }
        _ => PathBuf::from(DEFAULT_ROOT),
    }
}

fn check_count(command: &Command, count: usize) -> Result<(), String> {
    let (fewest, most) = command.count;
    let what = match (count < fewest, count > most) {
        (false, false) => return Ok(()),
        _ if fewest == most => format!("exactly {fewest}"),
        (true, _) => format!("a minimum of {fewest}"),
        (_, true) => format!("a maximum of {most}"),
    };
    Err(format!("{}: {:?} requires {what} argument(s)", help::name(), command.name))
}

fn carry_out(
    context: &Context,
    command: &Command,
    words: &Words,
    wishes: crate::sockets::Wishes,
) -> Result<u8, Failure> {
    let id = words.arguments.first().map_or("", String::as_str);
    let done = |result: Result<(), Failure>| result.map(|()| 0);
    match command.name {
        "create" => create::create(context, words, wishes, create::Action::Create),
        "run" => create::create(context, words, wishes, create::Action::Run),
        "exec" => exec::exec(context, words, &wishes),
        "start" => done(lifecycle::start(context, id)),
        "kill" => done(lifecycle::kill(context, words)),
        "delete" => done(lifecycle::delete(context, id, words.switch("force"))),
        "pause" => done(lifecycle::pause(context, id)),
        "resume" => done(lifecycle::resume(context, id)),
        "state" => done(show::state(context, id)),
        "list" => done(show::list(context, words)),
        "ps" => done(show::ps(context, words)),
        "update" => done(update::update(context, words)),
        "events" => done(events::events(context, words)),
        "spec" => done(spec::write(words)),
        _ => done(features::print()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_refused_in_runcs_words() {
        let text = |name: &str, count| {
            let command = COMMANDS.iter().find(|command| command.name == name).unwrap();
            check_count(command, count)
        };
        let refused = |name, count| text(name, count).unwrap_err().split_once(": ").unwrap().1.to_owned();
        assert_eq!(refused("state", 0), "\"state\" requires exactly 1 argument(s)");
        assert_eq!(refused("kill", 3), "\"kill\" requires a maximum of 2 argument(s)");
        assert!(text("exec", 100).is_ok());
    }
}
