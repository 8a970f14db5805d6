//! The program, its arguments and its environment.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::CString;
use std::rc::Rc;

use oci_spec::runtime::Process;

use crate::container::{CreateError, c_string};
use crate::sys::CStringArray;

/// Longest home directory that is taken from the container's `/etc/passwd` (PATH_MAX).
const HOME_BYTES_MAX: usize = 4096;

/// What is executed.
pub(in crate::container) struct Program {
    /// `argv[0]` as the spec has it.
    pub(in crate::container) command: String,
    /// Where the program may be, in the order of `PATH`.
    pub(in crate::container) programs: Vec<CString>,
    pub(in crate::container) argv: CStringArray,
    pub(in crate::container) envp: CStringArray,
    /// The variable `HOME`, last in `envp`, if it is to be found inside the container.
    pub(in crate::container) home: Option<Rc<[Cell<u8>]>>,
}

pub(in crate::container) fn plan(process: &Process) -> Result<Program, CreateError> {
    let args = process.args().as_deref().unwrap_or_default();
    let command = args.first().cloned();
    let command = command.ok_or_else(|| CreateError::Invalid("no command specified".to_owned()))?;
    let env = environment(process.env().as_deref().unwrap_or_default())?;
    let strings = |list: &[&str], what| {
        list.iter().map(|text| c_string(text.as_bytes(), what)).collect::<Result<Vec<_>, _>>()
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let home = (!env.iter().any(|variable| variable.starts_with("HOME="))).then(home);
    Ok(Program {
        programs: programs(&command, &env)?,
        command,
        argv: CStringArray::new(strings(&args, "an argument")?),
        envp: CStringArray::with_room(strings(&env, "an environment variable")?, home.clone()),
        home,
    })
}

/// Every variable once, with its last value, as runc has it; an empty `HOME` is none.
fn environment(env: &[String]) -> Result<Vec<&str>, CreateError> {
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(env.len());
    for variable in env.iter().rev() {
        let name = match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => name,
            _ => {
                return Err(CreateError::Invalid(format!(
                    "the environment variable {variable:?} has no name or value"
                )));
            }
        };
        if seen.insert(name) && variable != "HOME=" {
            kept.push(variable.as_str());
        }
    }
    kept.reverse();
    Ok(kept)
}

fn home() -> Rc<[Cell<u8>]> {
    let mut text = b"HOME=/".to_vec();
    text.resize("HOME=".len() + HOME_BYTES_MAX + 1, 0);
    text.into_iter().map(Cell::new).collect()
}

/// Where a program may be: itself if it has a slash, else in each directory of the environment's `PATH` (execvp(3)).
fn programs(command: &str, env: &[&str]) -> Result<Vec<CString>, CreateError> {
    if command.is_empty() {
        // A directory's own name is no program in it.
        return Ok(Vec::new());
    }
    if command.contains('/') {
        return Ok(vec![c_string(command, "the command")?]);
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH="));
    let directories = path.unwrap_or("/bin:/usr/bin").split(':');
    directories
        .map(|directory| {
            let directory = if directory.is_empty() { "." } else { directory };
            c_string(format!("{directory}/{command}"), "the command")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(env: &[&str]) -> Vec<String> {
        env.iter().map(|variable| (*variable).to_owned()).collect()
    }

    #[test]
    fn programs_come_from_the_last_path_variable() {
        let env = owned(&["PATH=/x", "PATH=/a::/b"]);
        let env = environment(&env).unwrap();
        let found = programs("sh", &env).unwrap();
        assert_eq!(found, [c"/a/sh".to_owned(), c"./sh".to_owned(), c"/b/sh".to_owned()]);
        assert_eq!(programs("./sh", &env).unwrap(), [c"./sh".to_owned()]);
    }

    #[test]
    fn the_last_value_of_a_variable_counts_and_its_place_too() {
        let env = owned(&["A=1", "B=2", "A=3", "C=", "HOME=/x", "HOME="]);
        assert_eq!(environment(&env).unwrap(), ["B=2", "A=3", "C="]);
        for bad in ["A", "", "=x"] {
            assert!(matches!(environment(&owned(&["B=2", bad])), Err(CreateError::Invalid(_))), "{bad:?}");
        }
    }
}
