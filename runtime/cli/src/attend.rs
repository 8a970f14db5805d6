//! A container in the foreground: signals go in, its terminal comes out, and its end is waited for.

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, WaitStatus};
use skep_runtime::container::Container;
use skep_runtime::process::Process;

use crate::error::Failure;
use crate::notify::Notify;
use crate::terminal::Relay;

/// All signals, held back from this process.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// From here on signals are for the container.
    pub(crate) fn hold() -> Result<Self, Failure> {
        let all = SigSet::all();
        all.thread_block().map_err(Failure::system("sigprocmask"))?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Ok(Self { fd: fd.map_err(Failure::system("signalfd"))? })
    }
}

/// Waits for the end of a container or a further process in it: the exit code, or 128 + the signal.
pub(crate) fn attend(
    container: &Container,
    process: Option<&Process>,
    signals: &Signals,
    mut relay: Option<Relay>,
    mut notify: Option<Notify>,
) -> Result<i32, Failure> {
    // It may have ended before signals were held.
    let mut code = reap(container.pid())?;
    while code.is_none() {
        let ready = wait(signals, relay.as_ref(), notify.as_ref())?;
        if let (Some(relay), Some(ready)) = (&mut relay, ready) {
            relay.carry(ready);
        }
        hand_on(&mut notify);
        while let Ok(Some(signal)) = signals.fd.read_signal() {
            match signal.ssi_signo as i32 {
                libc::SIGCHLD => code = code.or(reap(container.pid())?),
                libc::SIGWINCH if relay.is_some() => {
                    if let Some(relay) = &relay {
                        relay.resize();
                    }
                }
                // One that has just ended gets none.
                signal => drop(process.map(|process| process.signal(signal))),
            }
        }
    }
    // It may have been ready and ended at once.
    hand_on(&mut notify);
    if let Some(relay) = relay {
        relay.finish();
    }
    Ok(code.unwrap_or_default())
}

/// Tells a service manager, once, that the container is ready.
fn hand_on(notify: &mut Option<Notify>) {
    if let Some(wish) = notify
        && let Some(line) = wish.ready()
    {
        // This process stands for the container. A manager that is gone is none of the container's business.
        let _ = wish.tell(&line, std::process::id() as i32);
        *notify = None;
    }
}

/// Returns what became ready of the relay's.
fn wait(
    signals: &Signals,
    relay: Option<&Relay>,
    notify: Option<&Notify>,
) -> Result<Option<[PollFlags; 3]>, Failure> {
    let mut fds = vec![PollFd::new(&signals.fd, PollFlags::IN)];
    fds.extend(notify.and_then(Notify::fd).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let mut places = [None; 3];
    // One that nothing is wanted of would still report its end, again and again.
    for (place, (fd, flags)) in places.iter_mut().zip(relay.map(Relay::interests).into_iter().flatten()) {
        if !flags.is_empty() {
            *place = Some(fds.len());
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
    }
    rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(Failure::system("poll"))?;
    let ready = |place: Option<usize>| place.map_or(PollFlags::empty(), |place| fds[place].revents());
    Ok(relay.map(|_| places.map(ready)))
}

/// Reaps whatever has ended: as a subreaper this process gets orphans too. Returns the code of `pid`.
fn reap(pid: i32) -> Result<Option<i32>, Failure> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((ended, status))) => {
                if ended.as_raw_nonzero().get() == pid {
                    code = Some(exit_code(status));
                }
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Failure::System { what: "wait", source: errno.into() }),
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255)
}
