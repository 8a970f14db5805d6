//! The keeper's process: one thread, one loop, nothing that waits but the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::door::{self, Door, INHERIT, watch};
use super::error::KeeperError;
use super::logs::Stream;
use super::managed::{self, Managed};
use super::options::KeeperOptions;
use super::protocol::{ContainerStatus, Event, Exit, Frame, MAX_MESSAGE, Outcome, Reply};
use super::records::{Records, boot_id};
use super::respawn::Respawn;
use super::wire::{self, WireError};
use crate::cgroup::Cgroups;
use crate::process::Stat;
use crate::seccomp::FilterCache;
use crate::selfexe;
use crate::sys;

/// Clients at the same time. The daemon has two connections; the rest is for people.
const CLIENTS_MAX: usize = 64;

/// What stands for the door among the events.
const DOOR_TOKEN: u64 = 0;

/// How long nothing has to happen before the keeper gives back memory: a start right after that takes a fraction of a
/// millisecond longer.
const REST_AFTER: Duration = Duration::from_secs(5);

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 32;

/// The body of a keeper's process. Returns when it was told to end; the process should then exit with 0.
///
/// Must be called by a process with a single thread, with the working directory of no importance.
///
/// # Errors
/// See [`KeeperError`].
pub fn main(options: KeeperOptions) -> Result<(), KeeperError> {
    let executable = selfexe::seal()?;
    let mut server = Server::start(options)?;
    match server.run()? {
        End::Exit => Ok(()),
        End::Reexec => {
            let inherit = server.bequeath()?;
            let path = if executable.exists() { executable } else { PathBuf::from("/proc/self/exe") };
            let mut command = Command::new(&path);
            let source = command.args(std::env::args_os().skip(1)).env(INHERIT, inherit).exec();
            Err(KeeperError::Exec { path, source })
        }
    }
}

/// How the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Exit,
    Reexec,
}

/// What an event's token stands for.
#[derive(Clone, Debug)]
enum Source {
    Door,
    Signals,
    Client,
    Init(String),
    Pipe(String, Stream),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    /// The daemon's process, if this is the daemon.
    pub(super) daemon: Option<OwnedFd>,
    pub(super) subscribed: bool,
    /// It waits for this container to be gone.
    pub(super) deleting: Option<String>,
    /// It waits for the keeper's end.
    pub(super) shutdown: bool,
}

/// The keeper.
pub(super) struct Server {
    pub(super) options: KeeperOptions,
    pub(super) cgroups: Cgroups,
    pub(super) records: Records,
    /// Filters of this keeper's containers.
    pub(super) filters: FilterCache,
    pub(super) boot: String,
    pub(super) containers: BTreeMap<String, Managed>,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) respawn: Respawn,
    /// The process of the daemon that was last seen.
    last_daemon: Option<OwnedFd>,
    /// The process that the respawn command became.
    spawned: Option<i32>,
    pub(super) end: Option<End>,
    /// When memory is given back, if nothing happens until then.
    rest: Option<Instant>,
    epoll: Epoll,
    door: Door,
    signals: SignalFd,
    sources: BTreeMap<u64, Source>,
    next_token: u64,
    pub(super) buffer: Vec<u8>,
    lock: File,
}

impl Server {
    pub(super) fn start(options: KeeperOptions) -> Result<Self, KeeperError> {
        let file = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| KeeperError::File { action, path, source }
        };
        let system =
            |call| move |errno: nix::errno::Errno| KeeperError::System { call, source: errno.into() };
        std::fs::create_dir_all(&options.run_dir).map_err(file("make", &options.run_dir))?;
        let inherited = door::inherited();
        let (lock, listener) = match inherited {
            Some((lock, listener)) => (File::from(lock), Some(listener)),
            None => (door::lock(&options.run_dir.join("keeper.lock"))?, None),
        };
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| KeeperError::System { call: "prctl", source: errno.into() })?;
        let mask =
            SigSet::from_iter([NixSignal::SIGCHLD, NixSignal::SIGTERM, NixSignal::SIGHUP, NixSignal::SIGINT]);
        mask.thread_block().map_err(system("sigprocmask"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(system("signalfd"))?;
        let records = Records::open(&options.state_dir).map_err(file("open", &options.state_dir))?;
        let cgroups = Cgroups::detect()?;
        let socket_path = options.socket_path();
        let listener = match listener {
            Some(listener) => listener,
            None => door::listen(&socket_path).map_err(file("listen at", &socket_path))?,
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("epoll_create"))?;
        let door = Door::open(listener, &epoll, DOOR_TOKEN)?;
        let mut server = Self {
            options,
            cgroups,
            records,
            filters: FilterCache::default(),
            boot: boot_id(),
            containers: BTreeMap::new(),
            clients: BTreeMap::new(),
            respawn: Respawn::new(),
            last_daemon: None,
            spawned: None,
            end: None,
            rest: Some(Instant::now() + REST_AFTER),
            epoll,
            door,
            signals,
            sources: BTreeMap::from([(DOOR_TOKEN, Source::Door)]),
            next_token: DOOR_TOKEN + 1,
            buffer: vec![0; MAX_MESSAGE + 1],
            lock,
        };
        server.adopt()?;
        let token = server.token(Source::Signals);
        watch(&server.epoll, server.signals.as_fd(), token)?;
        // What ended between the exec and here has no signal left to give.
        server.reap();
        Ok(server)
    }

    /// Leaves the lock and the socket open across an exec, so that no other keeper gets in between and no client finds
    /// the door shut. The value for [`INHERIT`].
    fn bequeath(&self) -> Result<String, KeeperError> {
        for fd in [self.lock.as_fd(), self.door.listener().as_fd()] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
                .map_err(|errno| KeeperError::System { call: "fcntl", source: errno.into() })?;
        }
        Ok(format!("{}:{}:{}", std::process::id(), self.lock.as_raw_fd(), self.door.listener().as_raw_fd()))
    }

    /// Takes over what an earlier keeper left: living containers, statuses, and nothing else below the cgroup parent.
    fn adopt(&mut self) -> Result<(), KeeperError> {
        let path = self.options.state_dir.clone();
        let (records, complaints) =
            self.records.load().map_err(|source| KeeperError::File { action: "read", path, source })?;
        for complaint in complaints {
            eprintln!("keeper: a record cannot be read: {complaint}");
        }
        let own = std::process::id() as i32;
        for (id, record) in records {
            let cgroup = self.cgroups.group(&self.options.cgroup_parent, &id)?;
            let alive = record.alive();
            let log =
                if alive { managed::open_log(record.info.log.as_ref()).unwrap_or_default() } else { None };
            let mut managed = Managed::new(record, cgroup, log);
            let stat = Stat::read(managed.record.pid);
            let same = managed.record.boot == self.boot
                && stat.is_some_and(|stat| stat.start_time == managed.record.pid_start);
            if alive {
                let [stdout, stderr] = managed::reopen_pipes(&self.options.run_dir, &id);
                let found = same && managed.open_init().is_ok();
                managed.child = found && stat.is_some_and(|stat| stat.parent == own);
                self.add(id.clone(), managed, [stdout, stderr])?;
                if !found {
                    self.ended(&id, Outcome::Unknown);
                }
            } else {
                self.containers.insert(id, managed);
            }
        }
        let keep: BTreeSet<String> = self.containers.keys().cloned().collect();
        if let Err(error) = self.cgroups.remove_stale(&self.options.cgroup_parent, &keep) {
            eprintln!("keeper: a stale cgroup stays: {error}");
        }
        for entry in std::fs::read_dir(self.options.run_dir.join("io")).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !self.containers.contains_key(name)) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// Puts a container under the loop's eyes. Its record must be on disk already.
    pub(super) fn add(
        &mut self,
        id: String,
        mut managed: Managed,
        pipes: [Option<OwnedFd>; 2],
    ) -> Result<(), KeeperError> {
        for (pipe, stream) in pipes.into_iter().zip([Stream::Stdout, Stream::Stderr]) {
            if let Some(pipe) = pipe {
                let token = self.token(Source::Pipe(id.clone(), stream));
                watch(&self.epoll, pipe.as_fd(), token)?;
                managed.pipes[stream as usize] = Some((pipe, token));
            }
        }
        // A child's end is told by SIGCHLD, anybody else's only by its descriptor.
        if let Some(pidfd) = managed.pidfd()
            && !managed.child
        {
            let token = self.next_token;
            watch(&self.epoll, pidfd, token)?;
            managed.pidfd_token = Some(self.token(Source::Init(id.clone())));
        }
        self.containers.insert(id, managed);
        Ok(())
    }

    fn run(&mut self) -> Result<End, KeeperError> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            if let Some(end) = self.end {
                return Ok(end);
            }
            let rested = self.rest.take_if(|at| *at <= Instant::now()).is_some();
            let next = self.respawn.next().into_iter().chain(self.door.next()).chain(self.rest).min();
            let timeout = match next {
                // Rounded up, so that it is due when the wait is over.
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
                }
                None => EpollTimeout::NONE,
            };
            if rested {
                // Last, so that little of the program comes back for what is still to be done.
                sys::give_back_memory();
            }
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => return Err(KeeperError::System { call: "epoll_wait", source: errno.into() }),
            };
            for event in events.iter().take(count) {
                self.handle(event.data(), event.events());
            }
            let now = Instant::now();
            if count > 0 {
                self.rest = Some(now + REST_AFTER);
            }
            self.door.open_if_due(&self.epoll, now);
            self.respawn_if_due();
        }
    }

    fn handle(&mut self, token: u64, flags: EpollFlags) {
        // An earlier event of the same batch may have closed this one's source.
        let Some(source) = self.sources.get(&token).cloned() else { return };
        match source {
            Source::Door => self.accept(),
            Source::Signals => self.take_signals(),
            Source::Client => self.take_request(token),
            Source::Init(id) => self.ended(&id, Outcome::Unknown),
            Source::Pipe(id, stream) => {
                let Some(managed) = self.containers.get_mut(&id) else { return };
                let more = managed.pump(stream, &mut self.buffer, now());
                if !more && flags.contains(EpollFlags::EPOLLHUP) {
                    // Nobody holds the other end; a later start of the init is not possible without it.
                    managed.pipes[stream as usize] = None;
                    self.sources.remove(&token);
                }
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == NixSignal::SIGTERM as u32 {
                // The containers stay: the next keeper adopts them.
                self.end = Some(End::Exit);
            }
        }
        self.reap();
    }

    /// Collects every child that ended: inits, what was orphaned onto this subreaper, the respawned daemon.
    fn reap(&mut self) {
        loop {
            let (pid, outcome) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), Outcome::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), Outcome::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if self.spawned == Some(pid) {
                self.spawned = None;
                self.respawn.exited(Instant::now());
            }
            let init = self
                .containers
                .iter()
                .find(|(_, managed)| managed.record.pid == pid && managed.record.alive());
            if let Some(id) = init.map(|(id, _)| id.clone()) {
                self.ended(&id, outcome);
            }
        }
    }

    /// A container's init is gone: log, then disk, then everybody else.
    pub(super) fn ended(&mut self, id: &str, outcome: Outcome) {
        let Some(managed) = self.containers.get_mut(id) else { return };
        let at = now();
        // With a PID namespace of its own nothing is left now; without one there may be.
        if !managed.cgroup.processes().is_empty() {
            managed.cgroup.kill();
        }
        for (_, token) in managed.pipes.iter().flatten() {
            self.sources.remove(token);
        }
        if let Some(token) = managed.pidfd_token.take() {
            self.sources.remove(&token);
        }
        managed.drain(&mut self.buffer, at);
        managed.container = None;
        managed.pidfd = None;
        let oom_killed = managed.cgroup.usage().oom_kills.is_some_and(|kills| kills > 0);
        let exit = Exit { outcome, at, oom_killed };
        managed.record.info.status = ContainerStatus::Exited(exit.clone());
        managed.record.info.pid = None;
        // Flushing costs some 10 ms, and is for those who ask later; a container being deleted has no later.
        let deleting =
            self.clients.values().any(|client| client.shutdown || client.deleting.as_deref() == Some(id));
        if let Err(error) = self.records.save(&managed.record, !deleting) {
            eprintln!("keeper: the end of container {id} ({outcome:?}) is not on disk: {error}");
        }
        self.publish(&Event::Exited { id: id.to_owned(), exit });
        self.finish_deletes(id);
        self.finish_shutdown();
    }

    /// Sends an event to every subscriber; one that does not read is dropped and has to list again.
    fn publish(&mut self, event: &Event) {
        let frame = Frame::Event(event.clone());
        let tokens: Vec<u64> =
            self.clients.iter().filter(|(_, client)| client.subscribed).map(|(token, _)| *token).collect();
        for token in tokens {
            self.send(token, &frame);
        }
    }

    /// Answers a client.
    pub(super) fn reply(&mut self, token: u64, reply: Reply) {
        self.send(token, &Frame::Reply(reply));
    }

    fn send(&mut self, token: u64, frame: &Frame) {
        let Some(client) = self.clients.get(&token) else { return };
        if wire::send(&client.socket, frame, None, false).is_err() {
            self.drop_client(token);
        }
    }

    fn accept(&mut self) {
        let Some(socket) = self.door.accept(&self.epoll, Instant::now()) else { return };
        // The socket's mode keeps strangers out; this keeps them out where a directory's mode was changed.
        let root = rustix::net::sockopt::socket_peercred(&socket)
            .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
        if root && self.clients.len() < CLIENTS_MAX {
            self.admit(socket);
        }
    }

    /// Listens to a connection from now on.
    pub(super) fn admit(&mut self, socket: OwnedFd) -> Option<u64> {
        let token = self.token(Source::Client);
        if watch(&self.epoll, socket.as_fd(), token).is_err() {
            self.sources.remove(&token);
            return None;
        }
        let client = Client { socket, daemon: None, subscribed: false, deleting: None, shutdown: false };
        self.clients.insert(token, client);
        Some(token)
    }

    pub(super) fn take_request(&mut self, token: u64) {
        let Some(client) = self.clients.get(&token) else { return };
        match wire::receive(&client.socket, &mut self.buffer, false) {
            Ok((request, fd)) => self.request(token, request, fd),
            Err(WireError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if !matches!(error, WireError::Closed) {
                    eprintln!("keeper: a client is dropped: {error}");
                }
                self.drop_client(token);
            }
        }
    }

    pub(super) fn drop_client(&mut self, token: u64) {
        self.sources.remove(&token);
        let Some(client) = self.clients.remove(&token) else { return };
        if let Some(process) = client.daemon {
            self.last_daemon = Some(process);
            let another = self.clients.values().any(|client| client.daemon.is_some());
            if !another && self.options.respawn.is_some() {
                self.respawn.lost(Instant::now());
            }
        }
    }

    fn respawn_if_due(&mut self) {
        let now = Instant::now();
        if !self.respawn.due(now) || self.end.is_some() {
            return;
        }
        // It closed its connection and lives: two daemons on one node are worse than none for a moment.
        let lives = self.last_daemon.as_ref().is_some_and(|process| !readable(process.as_fd()));
        if lives || self.spawned.is_some() {
            self.respawn.postpone(now);
            return;
        }
        match self.run_daemon() {
            Ok(pid) => {
                self.spawned = Some(pid);
                self.respawn.started(now);
            }
            Err(error) => {
                eprintln!("keeper: the daemon cannot be started: {error}");
                self.respawn.postpone(now);
            }
        }
    }

    fn run_daemon(&self) -> io::Result<i32> {
        let words = self.options.respawn.as_deref().unwrap_or_default();
        let (program, args) =
            words.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let log = self.options.daemon_log.clone().unwrap_or_else(|| self.options.run_dir.join("daemon.log"));
        let out = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(args).env_remove(INHERIT).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        sys::detach(&mut command, false);
        // The child is reaped with all others.
        Ok(command.spawn()?.id() as i32)
    }

    fn token(&mut self, source: Source) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.sources.insert(token, source);
        token
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
