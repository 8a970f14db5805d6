//! `skep`: a container node with a built-in swarm, and its command line.
//!
//! One binary is everything: the daemon, the keeper that owns the containers, the command line (a client of the
//! daemon's API), the playground, and the program of the built-in `whoami` image.

mod cli;
mod daemon;
mod keeper;
mod playground;
mod whoami;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A container node with a built-in swarm
#[derive(Debug, Parser)]
#[command(name = "skep", version, propagate_version = true, disable_help_subcommand = true)]
struct Arguments {
    /// The daemon to talk to: unix:///path/to/socket or tcp://host:port
    #[arg(short = 'H', long, global = true)]
    host: Option<String>,
    #[command(flatten)]
    tls: cli::tls::TlsFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Client(cli::Command),
    /// Run a node
    Daemon(daemon::Daemon),
    /// A cluster on this machine, to try things out
    #[command(subcommand)]
    Playground(playground::Command),
    /// Own this node's containers (started by the daemon)
    #[command(hide = true)]
    Keeper(keeper::Keeper),
    /// Serve the built-in image's page (the program of the image `whoami`)
    #[command(hide = true)]
    Whoami {
        /// Port to listen on
        #[arg(long, default_value_t = 80)]
        port: u16,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; a group without a command shows its help.
            use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoCommand;
            if !error.use_stderr() || error.kind() == NoCommand {
                let _ = error.print();
                return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            }
            eprintln!("{}", one_line(&error.to_string()));
            return ExitCode::FAILURE;
        }
    };
    let host = arguments
        .host
        .or_else(|| std::env::var("SKEP_HOST").ok())
        .or_else(|| std::env::var("DOCKER_HOST").ok())
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| cli::client::DEFAULT_HOST.to_owned());
    let result: Result<ExitCode, String> = match arguments.command {
        Command::Client(command) => run_client(command, &host, &arguments.tls),
        Command::Daemon(flags) => {
            daemon::run(&flags).map(|()| ExitCode::SUCCESS).map_err(|error| describe(&error))
        }
        Command::Playground(command) => playground::run(command),
        Command::Keeper(flags) => {
            keeper::run(flags).map(|()| ExitCode::SUCCESS).map_err(|error| describe(&error))
        }
        Command::Whoami { port } => whoami::serve(port)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| format!("cannot serve on port {port}: {error}")),
    };
    result.unwrap_or_else(|message| {
        eprintln!("{message}");
        ExitCode::FAILURE
    })
}

fn run_client(command: cli::Command, host: &str, tls: &cli::tls::TlsFlags) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime
        .block_on(cli::run(command, host, tls))
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| error.to_string())
}

/// The first paragraph of a usage error, which says what is wrong, on one line.
fn one_line(text: &str) -> String {
    let text = text.trim().trim_start_matches("error: ");
    let paragraph = text.split("\n\n").next().unwrap_or(text);
    paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ") + " (see `skep --help`)"
}

/// An error with all that caused it, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let error = Arguments::try_parse_from(["skep", "swarm", "join", "1.2.3.4:2377"]).unwrap_err();
        let line = one_line(&error.to_string());
        assert!(!line.contains('\n'), "{line}");
        assert!(line.contains("--token"), "{line}");
    }
}
