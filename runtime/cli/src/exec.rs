//! `exec`: one more process in a container.

use std::path::Path;

use skep_runtime::container::{self, ExecOptions};
use skep_runtime::spec::oci::{Capability, LinuxCapabilities, Process, Spec};
use skep_runtime::spec::{no_capabilities, parse_process};

use crate::app::Context;
use crate::attend::{Signals, attend};
use crate::bundle::{check_process, warn_of_capabilities};
use crate::create::{debug_seccomp, opened};
use crate::error::Failure;
use crate::flags::Words;
use crate::log::Level;
use crate::record::{Init, Status};
use crate::sockets::{self, Wishes};
use crate::store::kept_spec;
use crate::terminal::Offer;

/// Largest process description that is read: as for a whole specification.
const PROCESS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Runs a process, and in the foreground waits for its end: the exit code.
pub(crate) fn exec(context: &Context, words: &Words, wishes: &Wishes) -> Result<u8, Failure> {
    let id = words.arguments.first().map_or("", String::as_str);
    let record = context.store.load(id)?;
    let directory = context.store.directory(id)?;
    let refuse = |text: &str| Err(Failure::Refused(text.to_owned()));
    match record.status(&directory) {
        Status::Stopped | Status::Creating => return refuse("cannot exec in a stopped container"),
        Status::Paused if !words.switch("ignore-paused") => {
            return refuse("cannot exec in a paused container (use --ignore-paused to override)");
        }
        _ => {}
    }
    let spec = kept_spec(&directory)?;
    let (process, warnings) = process(words, &spec)?;
    context.tell(&warnings);
    let unknown: Vec<&str> = words.list("cap").filter(|name| capability(name).is_none()).collect();
    if !unknown.is_empty() {
        let text = format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" "));
        context.tell(&[text]);
    }
    let init = record.init.and_then(Init::open).ok_or(Failure::NotRunning)?;
    let detach = words.switch("detach");
    let terminal = process.terminal() == Some(true);
    wishes.check_terminal(detach, terminal)?;
    let sub: Vec<_> = words.list("cgroup").collect();
    let group = record.cgroup.as_ref().map(|place| place.within(&sub)).transpose()?;
    let offer = if terminal && !detach { Some(Offer::new()?) } else { None };
    let (offer, console) = match (offer, &wishes.console) {
        (Some((offer, socket)), _) => (Some(offer), Some(socket)),
        (None, Some(path)) => (None, Some(sockets::connect(path)?)),
        (None, None) => (None, None),
    };
    warn_of_capabilities(context, &spec, &process);
    context.log.line(Level::Debug, "nsexec container setup");
    debug_seccomp(context, &spec);
    let mut started = container::exec(ExecOptions {
        id,
        init: &init,
        bundle: &record.bundle,
        spec: &spec,
        process: &process,
        stdio: sockets::own_stdio()?,
        console,
        preserve_fds: wishes.preserve,
        no_new_keyring: false,
        cgroup: group.as_ref(),
    })?;
    let run = (|| {
        let relay = offer.map(Offer::accept).transpose()?;
        let handle = opened(&started);
        // A signal that comes as soon as the program runs is the program's.
        let signals = if detach { None } else { Some(Signals::hold()?) };
        context.log.line(Level::Debug, &format!("child process in init(): {}", started.pid()));
        context.log.line(Level::Debug, "setns_init: about to exec");
        started.start()?;
        wishes.tell(started.pid(), started.pidfd())?;
        let Some(signals) = signals else { return Ok(0) };
        attend(&started, handle.as_ref(), &signals, relay, None)
    })();
    if run.is_err() {
        drop(started.kill(rustix::process::Signal::KILL));
        drop(started.wait());
    }
    run.map(|code| code as u8)
}

/// The process, from a file, or from the container's own with what the command line changes.
fn process(words: &Words, spec: &Spec) -> Result<(Process, Vec<String>), Failure> {
    if let Some(path) = words.text("process") {
        let (process, warnings) = read(Path::new(path))?;
        check_process(Some(&process))?;
        return Ok((process, warnings));
    }
    let process = spec.process().clone();
    let mut process =
        process.ok_or_else(|| Failure::Refused("process property must not be empty".to_owned()))?;
    if words.arguments.len() < 2 {
        return Err(Failure::Refused("process args cannot be empty".to_owned()));
    }
    change(&mut process, words)?;
    check_process(Some(&process))?;
    Ok((process, Vec::new()))
}

fn read(path: &Path) -> Result<(Process, Vec<String>), Failure> {
    let size = std::fs::metadata(path).map_err(Failure::path("open", path))?.len();
    if size > PROCESS_BYTES_MAX {
        return Err(Failure::Refused(format!("{} is too large: {size} bytes", path.display())));
    }
    let text = std::fs::read(path).map_err(Failure::path("open", path))?;
    parse_process(&text).map_err(|source| Failure::Json { what: path.display().to_string(), source })
}

fn change(process: &mut Process, words: &Words) -> Result<(), Failure> {
    process.set_args(Some(words.arguments[1..].to_vec()));
    if let Some(cwd) = words.text("cwd") {
        process.set_cwd(cwd.into());
    }
    if let Some(profile) = words.text("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = words.text("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    let added: Vec<Capability> = words.list("cap").filter_map(capability).collect();
    if !added.is_empty() {
        let sets = process.capabilities().clone().unwrap_or_else(no_capabilities);
        process.set_capabilities(Some(with_capabilities(sets, &added)));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(words.list("env").map(str::to_owned));
    process.set_env(Some(env));
    process.set_terminal(Some(words.switch("tty")));
    if let Some(forbid) = words.switch_given("no-new-privs") {
        process.set_no_new_privileges(Some(forbid));
    }
    let mut user = process.user().clone();
    if let Some(text) = words.text("user") {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        if let Some(gid) = gid {
            user.set_gid(number(gid, "gid")?);
        }
        user.set_uid(number(uid, "uid")?);
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in words.list("additional-gids") {
        groups.push(
            gid.parse()
                .map_err(|_| Failure::Refused(format!("additional-gids must be a positive number {gid}")))?,
        );
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    Ok(())
}

fn number(text: &str, what: &str) -> Result<u32, Failure> {
    text.parse().map_err(|_| Failure::Refused(format!("bad {what}: parsing {text:?}: invalid syntax")))
}

/// By the kernel's name, as in a spec.
fn capability(name: &str) -> Option<Capability> {
    name.strip_prefix("CAP_").filter(|bare| *bare == bare.to_ascii_uppercase())?.parse().ok()
}

/// As runc: ambient ones too only if the process has inheritable ones at all, for without those they cannot be.
fn with_capabilities(mut sets: LinuxCapabilities, added: &[Capability]) -> LinuxCapabilities {
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added);
        Some(set)
    };
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    if sets.inheritable().is_some() {
        sets.set_ambient(with(sets.ambient()));
    }
    sets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commands::COMMANDS;

    fn changed(line: &str) -> Result<Process, Failure> {
        let command = COMMANDS.iter().find(|command| command.name == "exec").unwrap();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let words = crate::flags::parse(command.flags, command.order, &words).unwrap();
        process(&words, &crate::spec::example(true)).map(|read| read.0)
    }

    #[test]
    fn the_command_line_changes_the_containers_own_process() {
        let process =
            changed("-u 7:8 -g 9 -g 10 -e A=1 --cwd /tmp -t --no-new-privs=false --cap CAP_KILL id sh -c x")
                .unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.user().additional_gids().as_deref(), Some(&[9, 10][..]));
        assert_eq!(process.args().as_deref().unwrap(), ["sh", "-c", "x"]);
        assert!(process.env().as_ref().unwrap().ends_with(&["A=1".to_owned()]));
        assert_eq!(process.cwd(), Path::new("/tmp"));
        assert_eq!((process.terminal(), process.no_new_privileges()), (Some(true), Some(false)));
        assert!(
            process
                .capabilities()
                .as_ref()
                .unwrap()
                .effective()
                .as_ref()
                .unwrap()
                .contains(&Capability::Kill)
        );
    }

    #[test]
    fn a_process_from_a_file_is_read_as_leniently_as_a_config() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, r#"{"cwd": "/", "args": ["x"], "capabilities": {"bounding": ["CAP_TO_FLY"]}}"#)
            .unwrap();
        let (process, warnings) = read(file.path()).unwrap();
        assert_eq!(process.user().uid(), 0);
        assert!(warnings[0].contains("CAP_TO_FLY"), "{warnings:?}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, word) in [
            ("id", "args cannot be empty"),
            ("-u a id x", "bad uid"),
            ("-u 1:b id x", "bad gid"),
            ("-g -1 id x", "positive number -1"),
            ("--cwd rel id x", "absolute"),
        ] {
            let text = changed(line).unwrap_err().to_string();
            assert!(text.contains(word), "{line}: {text}");
        }
    }

    proptest! {
        /// crun took `-u 1` for user 0 (CVE-2026-30892).
        #[test]
        fn a_user_is_who_was_named_or_nobody(uid in any::<u64>(), gid in any::<Option<u64>>()) {
            let text = gid.map_or_else(|| uid.to_string(), |gid| format!("{uid}:{gid}"));
            match changed(&format!("-u {text} id x")) {
                Ok(process) => {
                    prop_assert_eq!(u64::from(process.user().uid()), uid);
                    prop_assert_eq!(u64::from(process.user().gid()), gid.unwrap_or_default());
                }
                Err(_) => prop_assert!(uid.max(gid.unwrap_or_default()) > u64::from(u32::MAX)),
            }
        }

        #[test]
        fn what_is_no_number_is_no_user(text in "[-+:x0-9]{1,12}") {
            if let Ok(process) = changed(&format!("-u={text} id x")) {
                let uid = text.split(':').next().unwrap();
                prop_assert_eq!(uid.parse::<u32>().ok(), Some(process.user().uid()), "{}", text);
            }
        }
    }
}
