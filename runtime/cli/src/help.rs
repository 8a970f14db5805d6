//! Help and version, laid out as runc's.

use std::fmt::Write as _;

use crate::commands::{COMMANDS, Command, GLOBAL};
use crate::flags::{Flag, HELP, Kind};

/// Name of the program, as it is called: who puts it in runc's place finds runc's name in what it says.
pub(crate) fn name() -> String {
    let called = std::env::args_os().next();
    let name = called.as_deref().and_then(|path| std::path::Path::new(path).file_name());
    name.map_or_else(|| "skep-runtime".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The OCI runtime specification that this runtime follows.
pub(crate) const SPEC_VERSION: &str = "1.3.0";

/// What `--version` prints: programs that use an OCI runtime read these lines. A packager's runc has its version for a
/// commit too.
pub(crate) fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{} version {version}\ncommit: {version}\nspec: {SPEC_VERSION}\n", name())
}

/// Help for all.
pub(crate) fn program() -> String {
    let name = name();
    let mut text = format!("NAME:\n   {name} - Open Container Initiative runtime\n\n");
    let _ = writeln!(
        text,
        "USAGE:\n   {name} [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {}\n\nCOMMANDS:",
        env!("CARGO_PKG_VERSION")
    );
    for command in COMMANDS {
        let _ = writeln!(text, "   {:<10} {}", command.name, command.usage);
    }
    text.push_str("   help, h    show this, or the help of a command\n\nGLOBAL OPTIONS:\n");
    options(&mut text, GLOBAL.iter().chain([&HELP]));
    text
}

/// Help for a command.
pub(crate) fn command(command: &Command) -> String {
    let name = name();
    let mut text = format!("NAME:\n   {name} {} - {}\n\nUSAGE:\n   ", command.name, command.usage);
    let _ = write!(text, "{name} {}", command.name);
    if !command.flags.is_empty() {
        text.push_str(" [command options]");
    }
    let _ = writeln!(text, " {}", command.arguments);
    text.push_str("\nOPTIONS:\n");
    options(&mut text, command.flags.iter().flat_map(|table| table.iter()).chain([&HELP]));
    text
}

fn options<'a>(text: &mut String, flags: impl Iterator<Item = &'a Flag>) {
    for flag in flags {
        let value = if flag.kind == Kind::Switch { "" } else { " value" };
        let mut shown = format!("--{}{value}", flag.long);
        if let Some(short) = flag.short {
            let _ = write!(shown, ", -{short}{value}");
        }
        let _ = writeln!(text, "   {shown:<34} {}", flag.help);
    }
}
