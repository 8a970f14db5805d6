//! Attacks on the built command, each tried on real containers; needs root.
//!
//! A test of an attack that fails says nothing if the attack could never have worked. So each is tried twice: on the
//! command as it is, where the host must be unharmed, and, where `SKEP_RUNTIME_WEAKENED` names a command that was built
//! with the feature `weakened`, on that one with the one defence off that the attack is about, where it must break
//! through (`just attacks`). `SKEP_ATTACK_ROUNDS` says how often a race is run.
//!
//! This program is the tests and, statically linked as it is, the only file in the containers' root filesystem
//! (`/probe`).

// The whole program is a test, but clippy knows only functions marked as such.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "attacks/house.rs"]
mod house;
#[path = "attacks/identity.rs"]
mod identity;
#[path = "attacks/links.rs"]
mod links;
#[path = "attacks/probe.rs"]
mod probe;
#[path = "attacks/processes.rs"]
mod processes;
#[path = "attacks/procfs.rs"]
mod procfs;
#[path = "attacks/races.rs"]
mod races;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::house::House;

/// One way to get out of a container.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// Where it was first seen.
    pub(crate) seen: &'static str,
    /// The defence that stops it, by its name in `skep_runtime::weak`.
    pub(crate) weakness: &'static str,
    /// Tries it. `Some`: how the host, or the container's confinement, was harmed.
    pub(crate) attempt: fn(&House) -> Option<String>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args[0] == "/probe" {
        return probe::main(&args[1..]);
    }
    let attacks: Vec<&Attack> =
        [links::ATTACKS, procfs::ATTACKS, processes::ATTACKS, identity::ATTACKS, races::ATTACKS]
            .into_iter()
            .flatten()
            .collect();
    run(&attacks, &args[1..])
}

/// As cargo's own runner: a filter, and `--list`.
fn run(attacks: &[&Attack], args: &[String]) -> ExitCode {
    if args.iter().any(|arg| arg == "--list") {
        for attack in attacks {
            println!("{}: test", attack.name);
        }
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "these tests make containers and need root");
    let weakened = std::env::var_os("SKEP_RUNTIME_WEAKENED").map(PathBuf::from);
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut failed = Vec::new();
    for attack in attacks.iter().filter(|attack| chosen(attack.name)) {
        let normal = attempt(attack, Path::new(env!("CARGO_BIN_EXE_skep-runtime")), None);
        let weak = weakened.as_ref().map(|program| attempt(attack, program, Some(attack.weakness)));
        let fine = normal.held && weak.as_ref().is_none_or(|weak| weak.broke);
        let Attack { name, seen, weakness, .. } = attack;
        println!("test {name} ... {} [{seen}]", if fine { "ok" } else { "FAILED" });
        println!("    as it is:          {}", normal.text);
        if let Some(weak) = &weak {
            println!("    without {weakness:<11}{}", weak.text);
        }
        if !fine {
            failed.push(name);
        }
    }
    println!("\n{} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What became of an attack.
struct Outcome {
    held: bool,
    broke: bool,
    text: String,
}

fn attempt(attack: &Attack, program: &Path, weakness: Option<&'static str>) -> Outcome {
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let house = House::new(program, weakness);
        let harm = (attack.attempt)(&house);
        (harm, house.close())
    }));
    match result {
        Err(_) => Outcome { held: false, broke: false, text: "the attack itself failed".to_owned() },
        Ok((None, notes)) => Outcome { held: true, broke: false, text: format!("held{notes}") },
        Ok((Some(harm), notes)) => {
            Outcome { held: false, broke: true, text: format!("BROKE THROUGH: {harm}{notes}") }
        }
    }
}
