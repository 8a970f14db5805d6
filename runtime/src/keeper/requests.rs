//! What each request does.

use std::cell::OnceCell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::process::{PidfdFlags, pidfd_open};

use super::managed::{self, Managed};
use super::protocol::{
    ContainerInfo, ContainerStatus, CreateContainer, LIST_PAGE_BYTES, Refusal, RefusalKind, Reply, Request,
};
use super::records::Record;
use super::refusals::{chain, check, check_spec, create_refusal, not_found, refuse, start_refusal};
use super::server::{End, Server, now};
use crate::cgroup::Limits;
use crate::container::{self, CreateOptions, Gate, Meanwhile, RootAhead, resctrl};
use crate::process::Stat;
use crate::seccomp::Filter;
use crate::spec::oci::Spec;
use crate::spec::{ReadProfile, read_bundle_knowing};

/// The last signal there is (signal(7)).
const SIGNAL_MAX: i32 = 64;

/// What a container is built of, beside what the request says.
struct Prepared<'a> {
    netns: Option<&'a OwnedFd>,
    root: Option<RootAhead>,
    filter: Option<Arc<Filter>>,
    /// Called with the init's number; whether the program may run as soon as all is ready.
    note: &'a dyn Fn(i32) -> bool,
}

impl Server {
    /// Carries out one request. The answer to a delete or a forced shutdown may come later.
    pub(super) fn request(&mut self, token: u64, request: Request, fd: Option<OwnedFd>) {
        let answer = match request {
            Request::Ping => Ok(Some(Reply::Pong {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            })),
            Request::Hello { daemon } => self.hello(token, daemon).map(Some),
            Request::Create(container) => self.create(&container, fd).map(Some),
            Request::Start { id } => self.start_container(&id).map(Some),
            Request::Kill { id, signal, all } => self.kill(&id, signal, all).map(Some),
            Request::Delete { id } => self.delete(token, &id),
            Request::Get { id } => {
                self.find(&id).map(|managed| Some(Reply::Container(Box::new(managed.record.info.clone()))))
            }
            Request::List { after } => Ok(Some(self.list(after.as_deref()))),
            Request::Subscribe => {
                if let Some(client) = self.clients.get_mut(&token) {
                    client.subscribed = true;
                }
                Ok(Some(Reply::Done))
            }
            Request::Shutdown { force } => self.shutdown(token, force),
            Request::DaemonStopping => {
                self.respawn.goodbye();
                if let Some(client) = self.clients.get_mut(&token) {
                    client.daemon = None;
                }
                Ok(Some(Reply::Done))
            }
            Request::Reexec => {
                self.end = Some(End::Reexec);
                Ok(Some(Reply::Done))
            }
        };
        match answer {
            Ok(Some(reply)) => self.reply(token, reply),
            Ok(None) => {}
            Err(refusal) => self.reply(token, Reply::Refused(refusal)),
        }
    }

    fn hello(&mut self, token: u64, daemon: u32) -> Result<Reply, Refusal> {
        let Some(client) = self.clients.get_mut(&token) else { return Ok(Reply::Done) };
        let peer = rustix::net::sockopt::socket_peercred(&client.socket);
        let peer =
            peer.map_err(|errno| refuse(RefusalKind::Failed, format!("no peer credentials: {errno}")))?.pid;
        if peer.as_raw_nonzero().get() != daemon as i32 {
            return Err(refuse(RefusalKind::Invalid, format!("process {daemon} is not the caller")));
        }
        let process = pidfd_open(peer, PidfdFlags::empty());
        client.daemon =
            Some(process.map_err(|errno| refuse(RefusalKind::Failed, format!("pidfd_open: {errno}")))?);
        self.respawn.hello(std::time::Instant::now());
        Ok(Reply::Done)
    }

    fn create(&mut self, request: &CreateContainer, netns: Option<OwnedFd>) -> Result<Reply, Refusal> {
        let id = &request.id;
        check(request, netns.is_some())?;
        if self.containers.contains_key(id) {
            return Err(refuse(RefusalKind::Exists, format!("container {id} exists already")));
        }
        let root = RootAhead::begin(&request.rootfs, &request.bundle);
        let (spec, filter) = self.read_bundle(&request.bundle)?;
        let log = managed::open_log(request.log.as_ref())
            .map_err(|error| refuse(RefusalKind::Failed, format!("cannot open the log file: {error}")))?;
        let user =
            spec.process().as_ref().map_or((0, 0), |process| (process.user().uid(), process.user().gid()));
        let recorded = OnceCell::new();
        // On disk before exec: a keeper that dies in between leaves nothing running that the next does not know.
        let note = |pid: i32| {
            let record = self.record(request, &spec, pid);
            let saved = self.records.save(&record, false);
            let may_run = request.start && saved.is_ok();
            // Called once a container.
            drop(recorded.set((record, saved)));
            may_run
        };
        let result =
            self.build(request, &spec, user, Prepared { netns: netns.as_ref(), root, filter, note: &note });
        let (container, group, pipes) = result.inspect_err(|_| self.clear(id))?;
        let pid = container.pid();
        let (record, saved) = recorded
            .into_inner()
            .unwrap_or_else(|| (self.record(request, &spec, pid), Err(std::io::ErrorKind::Other.into())));
        let mut managed = Managed::new(record, group, log);
        managed.child = true;
        managed.pidfd = container.pidfd().try_clone_to_owned().ok();
        managed.container = Some(container);
        let result = saved
            .map_err(|error| {
                refuse(RefusalKind::Failed, format!("cannot write the container's record: {error}"))
            })
            .and_then(|()| {
                let started = match (&mut managed.container, request.start) {
                    (Some(container), true) => container.start().map_err(|error| start_refusal(&error)),
                    _ => Ok(()),
                };
                if request.start {
                    managed.container = None;
                }
                started
            });
        if let Err(refusal) = result {
            // Its end is collected with all other children's; nobody knows the ID by then.
            let _ = managed.signal(libc::SIGKILL);
            let _ = managed.pidfd().map(|pidfd| {
                rustix::process::waitid(
                    rustix::process::WaitId::PidFd(pidfd),
                    rustix::process::WaitIdOptions::EXITED,
                )
            });
            let resctrl = managed.record.resctrl.take();
            drop(managed);
            self.clear(id);
            let _ = resctrl::remove_group(id, resctrl.as_ref());
            return Err(refusal);
        }
        self.add(id.clone(), managed, pipes)
            .map_err(|error| refuse(RefusalKind::Failed, error.to_string()))?;
        Ok(Reply::Created { pid })
    }

    #[allow(clippy::type_complexity)] // used once, right above
    fn build(
        &self,
        request: &CreateContainer,
        spec: &Spec,
        user: (u32, u32),
        prepared: Prepared<'_>,
    ) -> Result<(container::Container, crate::cgroup::Cgroup, [Option<OwnedFd>; 2]), Refusal> {
        let (stdio, pipes) = managed::make_pipes(&self.options.run_dir, request, user).map_err(|error| {
            refuse(RefusalKind::Failed, format!("cannot make the container's pipes: {error}"))
        })?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let limits = resources.map(Limits::from_oci).unwrap_or_default();
        let group = self
            .cgroups
            .create(&self.options.cgroup_parent, &request.id, &limits)
            .map_err(|error| refuse(RefusalKind::Failed, chain(&error)))?;
        let container = container::create(CreateOptions {
            id: &request.id,
            bundle: &request.bundle,
            spec,
            rootfs: &request.rootfs,
            netns: prepared.netns.map(AsFd::as_fd),
            stdio,
            console: None,
            no_pivot: false,
            preserve_fds: 0,
            no_new_keyring: false,
            gate: Gate::Owner,
            cgroup: Some((&self.cgroups, &group)),
            placement: None,
            root: prepared.root,
            filter: prepared.filter,
            meanwhile: Some(Meanwhile(prepared.note)),
        });
        Ok((container.map_err(|error| create_refusal(&error))?, group, pipes))
    }

    /// A bundle's spec, and the filter of the profile in it.
    fn read_bundle(&mut self, bundle: &Path) -> Result<(Spec, Option<Arc<Filter>>), Refusal> {
        let (spec, profile) = read_bundle_knowing(bundle, |text| self.filters.find(text))
            .map_err(|error| refuse(RefusalKind::Invalid, chain(&error)))?;
        // Of a profile that is known only what was refused before could be wrong, and nothing of that is kept.
        check_spec(&spec)?;
        let filter = match (profile, spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref())) {
            (ReadProfile::Known(filter), _) => Some(filter),
            (ReadProfile::New(text), Some(profile)) => {
                let filter = Filter::compile(profile).map_err(|error| create_refusal(&error.into()))?;
                let filter = Arc::new(filter);
                self.filters.keep(text, Arc::clone(&filter));
                Some(filter)
            }
            _ => None,
        };
        Ok((spec, filter))
    }

    /// What is written down of a container with this init.
    fn record(&self, request: &CreateContainer, spec: &Spec, pid: i32) -> Record {
        let mut info = ContainerInfo {
            id: request.id.clone(),
            pid: Some(pid),
            status: ContainerStatus::Created,
            bundle: request.bundle.clone(),
            log: request.log.clone(),
            created_at: now(),
            started_at: None,
            note: request.note.clone(),
        };
        if request.start {
            info.status = ContainerStatus::Running;
            info.started_at = Some(info.created_at);
        }
        let pid_start = Stat::read(pid).map_or(0, |stat| stat.start_time);
        let resctrl = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().clone());
        Record { info, pid, pid_start, boot: self.boot.clone(), resctrl }
    }

    fn start_container(&mut self, id: &str) -> Result<Reply, Refusal> {
        let managed = self.find_mut(id)?;
        if managed.record.info.status != ContainerStatus::Created {
            return Err(refuse(RefusalKind::WrongState, format!("container {id} was started already")));
        }
        let Some(mut container) = managed.container.take() else {
            return Err(refuse(
                RefusalKind::WrongState,
                format!("container {id} was created by a keeper that ended, and can only be deleted"),
            ));
        };
        // Said first: should the keeper die in between, "running" is the truth or soon found out.
        let mut record = managed.record.clone();
        record.info.status = ContainerStatus::Running;
        record.info.started_at = Some(now());
        managed.record = record.clone();
        if let Err(error) = self.records.save(&record, false) {
            eprintln!("keeper: the start of container {id} is not on disk: {error}");
        }
        // A failed exec ends the init with 126 or 127, which is collected as any end.
        container.start().map_err(|error| start_refusal(&error))?;
        Ok(Reply::Done)
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<Reply, Refusal> {
        let managed = self.find_mut(id)?;
        if !managed.record.alive() {
            return Err(refuse(RefusalKind::WrongState, format!("container {id} is not running")));
        }
        // Real-time signals too: some images ask to be stopped by one.
        if !(1..=SIGNAL_MAX).contains(&signal) {
            return Err(refuse(RefusalKind::Invalid, format!("{signal} is not a signal")));
        }
        if all && signal == libc::SIGKILL {
            managed.cgroup.kill();
        } else if all {
            managed.cgroup.signal(signal);
        } else {
            managed.signal(signal).map_err(|error| {
                refuse(RefusalKind::WrongState, format!("container {id} is not running: {error}"))
            })?;
        }
        Ok(Reply::Done)
    }

    fn delete(&mut self, token: u64, id: &str) -> Result<Option<Reply>, Refusal> {
        let managed = self.find_mut(id)?;
        if managed.record.alive() {
            managed.container = None;
            let _ = managed.signal(libc::SIGKILL);
            if let Some(client) = self.clients.get_mut(&token) {
                client.deleting = Some(id.to_owned());
            }
            return Ok(None);
        }
        self.remove(id).map(|()| Some(Reply::Done))
    }

    /// Answers those who wait for this container, which has ended now.
    pub(super) fn finish_deletes(&mut self, id: &str) {
        let waiting: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.deleting.as_deref() == Some(id))
            .map(|(token, _)| *token)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let reply = match self.remove(id) {
            Ok(()) => Reply::Done,
            Err(refusal) => Reply::Refused(refusal),
        };
        for token in waiting {
            if let Some(client) = self.clients.get_mut(&token) {
                client.deleting = None;
            }
            self.reply(token, reply.clone());
        }
    }

    /// Removes an ended container's cgroup, pipes and record. On failure it stays, to be tried again.
    fn remove(&mut self, id: &str) -> Result<(), Refusal> {
        let managed = self.find(id)?;
        managed.cgroup.remove().map_err(|error| refuse(RefusalKind::Failed, chain(&error)))?;
        let fail = |error: std::io::Error| {
            refuse(RefusalKind::Failed, format!("cannot remove container {id}: {error}"))
        };
        resctrl::remove_group(id, managed.record.resctrl.as_ref()).map_err(fail)?;
        managed::remove_pipes(&self.options.run_dir, id).map_err(fail)?;
        self.records.remove(id).map_err(fail)?;
        self.containers.remove(id);
        Ok(())
    }

    /// Undoes a failed creation.
    fn clear(&self, id: &str) {
        let removed = self.cgroups.group(&self.options.cgroup_parent, id).and_then(|group| group.remove());
        if let Err(error) = removed {
            eprintln!("keeper: after a failed creation: {error}");
        }
        let _ = managed::remove_pipes(&self.options.run_dir, id);
        let _ = self.records.remove(id);
    }

    fn list(&self, after: Option<&str>) -> Reply {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Vec::new();
        let mut bytes = 0;
        for managed in self.containers.range::<str, _>((from, Bound::Unbounded)).map(|(_, managed)| managed) {
            bytes += serde_json::to_vec(&managed.record.info).map_or(0, |bytes| bytes.len());
            if bytes > LIST_PAGE_BYTES && !page.is_empty() {
                return Reply::Containers { page, more: true };
            }
            page.push(managed.record.info.clone());
        }
        Reply::Containers { page, more: false }
    }

    fn shutdown(&mut self, token: u64, force: bool) -> Result<Option<Reply>, Refusal> {
        let alive = self.containers.values().filter(|managed| managed.record.alive()).count();
        if alive > 0 && !force {
            return Err(refuse(RefusalKind::WrongState, format!("{alive} containers are alive")));
        }
        self.respawn.goodbye();
        if !force {
            self.cgroups.remove_parent(&self.options.cgroup_parent);
            self.end = Some(End::Exit);
            return Ok(Some(Reply::Done));
        }
        if let Some(client) = self.clients.get_mut(&token) {
            client.shutdown = true;
            client.daemon = None;
        }
        for managed in self.containers.values_mut().filter(|managed| managed.record.alive()) {
            managed.container = None;
            let _ = managed.signal(libc::SIGKILL);
        }
        self.finish_shutdown();
        Ok(None)
    }

    /// Ends the keeper if somebody asked for it and the last container has ended.
    pub(super) fn finish_shutdown(&mut self) {
        let waiting: Vec<u64> =
            self.clients.iter().filter(|(_, client)| client.shutdown).map(|(token, _)| *token).collect();
        if waiting.is_empty() || self.containers.values().any(|managed| managed.record.alive()) {
            return;
        }
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        let mut reply = Reply::Done;
        for id in ids {
            if let Err(refusal) = self.remove(&id) {
                reply = Reply::Refused(refusal);
            }
        }
        self.cgroups.remove_parent(&self.options.cgroup_parent);
        self.end = Some(End::Exit);
        for token in waiting {
            self.reply(token, reply.clone());
        }
    }

    fn find(&self, id: &str) -> Result<&Managed, Refusal> {
        self.containers.get(id).ok_or_else(|| not_found(id))
    }

    fn find_mut(&mut self, id: &str) -> Result<&mut Managed, Refusal> {
        self.containers.get_mut(id).ok_or_else(|| not_found(id))
    }
}
