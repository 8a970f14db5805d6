//! Questions to whoever sits at the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use nix::sys::termios::{self, LocalFlags, SetArg};

use super::client::CliError;

/// A line that is not shown while it is typed.
pub(crate) fn read_unseen(prompt: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let mut stderr = io::stderr();
    stderr.write_all(prompt.as_bytes())?;
    stderr.flush()?;
    let before = termios::tcgetattr(&stdin)?;
    let mut unseen = before.clone();
    unseen.local_flags.remove(LocalFlags::ECHO);
    unseen.local_flags.insert(LocalFlags::ECHONL);
    termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &unseen)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    // Also after a failure, or the shell would stay mute.
    let restored = termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
    read?;
    restored?;
    Ok(line)
}

/// Whether the question was answered with yes; no where nobody can be asked.
pub(crate) fn confirm(explanation: &str, question: &str) -> Result<bool, CliError> {
    let failed = |source| CliError::Io { what: "cannot ask".to_owned(), source };
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut stderr = io::stderr();
    stderr.write_all(format!("{explanation}{question}").as_bytes()).map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
