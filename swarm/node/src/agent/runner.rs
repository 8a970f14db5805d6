//! One task of this node, from its assignment to its removal.
//!
//! ```text
//!            image here     desired >= running    exec'd, listens exit 0
//! accepted -> preparing -> ready -> starting -> running ---------------> complete
//!                |            |         |          |------ exit != 0 --> failed
//!                v            |         v          |
//!             rejected        |       failed       `- desired > running: signal, grace, SIGKILL -> shutdown
//!                             `- desired > running -> shutdown
//! ```
//!
//! A daemon that starts finds the containers of its tasks at the keeper and goes on where they are: running ones are
//! adopted, ended ones reported. A task that had been running and has no container any more lost it with the power:
//! it has failed, and the orchestrator decides what follows.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use skep_netns::Attachment;
use skep_runtime::keeper::{
    ClientError, ContainerStatus as Kept, CreateContainer, Exit, LogOptions, RefusalKind, Rootfs,
};
use skep_state::object::ContainerStatus;
use skep_state::{Task, TaskState, TaskStatus};
use tokio::sync::{oneshot, watch};

use super::AgentContext;
use super::bundle::{self, BundleInput};
use super::listening;
use crate::clock;
use crate::keeper::Keeper;

/// Time between the moment at which a task gets no new connections any more (on every node, the same commit tells
/// them) and its stop signal.
const DRAIN: Duration = Duration::from_secs(1);

/// Time between the stop signal and SIGKILL when the service does not say (Docker's default).
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Largest packet of a container, the same as the mesh's.
pub(crate) const MTU: u32 = 1400;

/// What the managers want of a task: the task as they know it, or `None` once it shall be forgotten.
pub(super) type Wish = Option<Task>;

/// Runs one task.
pub(super) struct Runner {
    pub context: Arc<AgentContext>,
    pub task: Task,
    pub wish: watch::Receiver<Wish>,
}

/// Why a task could not come up.
#[derive(Debug)]
struct Failure {
    state: TaskState,
    message: String,
}

/// What a container of this task is called: derived, so that nothing about it needs to be remembered.
pub(super) fn container_id(task_id: &str) -> String {
    Sha256::digest(task_id.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The host end of a container's link: the prefix, then as much of the container's ID as a link name holds.
pub(super) fn host_ifname(prefix: &str, container_id: &str) -> String {
    prefix.chars().chain(container_id.chars()).take(15).collect()
}

impl Runner {
    /// Runs the task to its end, waits until it may be forgotten, and removes every trace.
    pub(super) async fn run(mut self) {
        let id = container_id(&self.task.meta.id);
        let ended = self.live(&id).await;
        if let Some((state, message, exit_code)) = ended {
            self.report_end(&id, state, message, exit_code);
        }
        // The status must be with the managers before the keeper's record of it goes.
        self.context.exits.forget(&id);
        let known = |wish: &Wish| wish.as_ref().is_none_or(|task| task.status.state.is_terminal());
        wished(&mut self.wish, known).await;
        self.remove_container(&id).await;
        wished(&mut self.wish, Option::is_none).await;
        self.context.statuses.forget(&self.task.meta.id);
        self.context.images_used.lock().remove(&self.task.meta.id);
        let folder = self.folder(&id);
        if let Err(error) = tokio::fs::remove_dir_all(&folder).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot remove a container's folder");
        }
    }

    /// From wherever the task is to its end: the state, why, and the exit code.
    async fn live(&mut self, id: &str) -> Option<(TaskState, String, Option<i32>)> {
        if self.task.status.state.is_terminal() {
            return None;
        }
        let mut exit = self.context.exits.expect(id);
        let kept = self.ask(id, |keeper, id| keeper.get(id)).await;
        match kept {
            Ok(container) => match container.status {
                Kept::Running => {
                    tracing::info!(task = %self.task.name(), pid = ?container.pid, "adopted a running container");
                    let pid = container.pid.unwrap_or(0);
                    if self.task.status.state < TaskState::Running {
                        listening::until(pid, &self.task.listens).await;
                    }
                    self.report_running(id, pid);
                    if let Some(image) = self.context.images.id(&self.task.spec.container_spec.image).await {
                        self.context.images_used.lock().insert(self.task.meta.id.clone(), image);
                    }
                    return Some(self.until_end(id, exit).await);
                }
                Kept::Exited(exit) => return Some(verdict(&exit)),
                // Built, but the daemon died before it was started: build it again.
                Kept::Created => {
                    self.remove_container(id).await;
                    exit = self.context.exits.expect(id);
                }
            },
            Err(ClientError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {
                if self.task.status.state >= TaskState::Running {
                    return Some((
                        TaskState::Failed,
                        "the container was lost when its host went down".to_owned(),
                        None,
                    ));
                }
            }
            Err(error) => return Some((TaskState::Failed, format!("cannot ask the keeper: {error}"), None)),
        }
        match self.bring_up(id).await {
            Ok(Some(pid)) => {
                self.report_running(id, pid);
                Some(self.until_end(id, exit).await)
            }
            Ok(None) => Some((TaskState::Shutdown, String::new(), None)),
            Err(failure) => Some((failure.state, failure.message, None)),
        }
    }

    /// Prepares and starts the container; its process ID, or `None` when the task is not wanted any more.
    async fn bring_up(&mut self, id: &str) -> Result<Option<i32>, Failure> {
        self.report(TaskState::Preparing, "preparing");
        let reference = self.task.spec.container_spec.image.clone();
        let rejected = |message: String| Failure { state: TaskState::Rejected, message };
        let context = Arc::clone(&self.context);
        let mut wish = self.wish.clone();
        let obtained = tokio::select! {
            obtained = context.images.obtain(&reference) => obtained,
            () = wished(&mut wish, unwanted) => return Ok(None),
        };
        let (image, layers) = obtained.map_err(|error| rejected(error.to_string()))?;
        self.context.images_used.lock().insert(self.task.meta.id.clone(), image.id.to_string());
        let folder = self.folder(id);
        let node = (context.node_id.clone(), context.hostname.clone());
        let (task, container, volumes, lower) =
            (self.task.clone(), id.to_owned(), context.root.join("volumes"), layers.clone());
        let bundle_folder = folder.clone();
        let written = blocking(move || {
            let input = BundleInput {
                task: &task,
                image: &image.config,
                layers: &lower,
                container_id: &container,
                node: (&node.0, &node.1),
                volumes: &volumes,
            };
            bundle::write(&bundle_folder, &input).map_err(|error| error.to_string())
        });
        written.await.map_err(rejected)?;
        if self.wish.borrow().as_ref().is_some_and(|task| task.desired_state < TaskState::Running) {
            self.report(TaskState::Ready, "prepared");
        }
        let wanted = |wish: &Wish| wish.as_ref().is_none_or(|task| task.desired_state >= TaskState::Running);
        wished(&mut self.wish, wanted).await;
        if unwanted(&self.wish.borrow()) {
            return Ok(None);
        }
        self.report(TaskState::Starting, "starting");
        let pid = self.start(id, folder, layers).await?;
        // It may end or be unwanted meanwhile: whoever waits for its end finds that out right after.
        tokio::select! {
            () = listening::until(pid, &self.task.listens) => {}
            () = wished(&mut wish, unwanted) => {}
        }
        Ok(Some(pid))
    }

    async fn start(&self, id: &str, folder: PathBuf, lower: Vec<PathBuf>) -> Result<i32, Failure> {
        let context = Arc::clone(&self.context);
        let id = id.to_owned();
        let address = self.task.address();
        let note = self.task.meta.id.clone();
        let started = blocking(move || {
            let namespace = context.namespaces.take().map_err(|error| error.to_string())?;
            let host_ifname = host_ifname(&context.host_prefix, &id);
            if let Some(address) = address {
                let attachment = Attachment {
                    host_ifname: host_ifname.clone(),
                    address,
                    mtu: MTU,
                    container_ifname: "eth0".to_owned(),
                };
                context.network.attach(&namespace, &attachment).map_err(|error| with_sources(&error))?;
            }
            let container = CreateContainer {
                id: id.clone(),
                bundle: folder.clone(),
                rootfs: Rootfs::Overlay { lower, upper: folder.join("upper"), work: folder.join("work") },
                netns: true,
                log: Some(LogOptions::new(folder.join("log").join("json.log"))),
                start: true,
                note,
            };
            context.keeper.create(&container, Some(namespace.as_fd())).map_err(|error| {
                if address.is_some() {
                    let _ = context.network.detach(&host_ifname);
                }
                with_sources(&error)
            })
        });
        started.await.map_err(|message| Failure { state: TaskState::Failed, message })
    }

    /// Waits for the container's end, or stops it when it is not wanted any more.
    async fn until_end(
        &mut self,
        id: &str,
        mut exit: oneshot::Receiver<Exit>,
    ) -> (TaskState, String, Option<i32>) {
        let mut wish = self.wish.clone();
        tokio::select! {
            exit = &mut exit => return ended(exit),
            () = wished(&mut wish, unwanted) => {}
        }
        tokio::select! {
            exit = &mut exit => return ended(exit),
            () = tokio::time::sleep(DRAIN) => {}
        }
        let container = &self.task.spec.container_spec;
        let signal = stop_signal(&container.stop_signal);
        let grace = container.stop_grace_period.map_or(DEFAULT_GRACE, Duration::from_nanos);
        if let Err(error) = self.ask(id, move |keeper, id| keeper.kill(id, signal, false)).await {
            tracing::warn!(task = %self.task.name(), %error, "cannot send the stop signal");
        }
        let code = match tokio::time::timeout(grace, &mut exit).await {
            Ok(exit) => exit.ok().map(|exit| exit.code()),
            Err(_) => {
                if let Err(error) = self.ask(id, |keeper, id| keeper.kill(id, nix::libc::SIGKILL, true)).await
                {
                    tracing::warn!(task = %self.task.name(), %error, "cannot kill");
                }
                exit.await.ok().map(|exit| exit.code())
            }
        };
        (TaskState::Shutdown, String::new(), code)
    }

    async fn remove_container(&self, id: &str) {
        let removed = self.ask(id, |keeper, id| keeper.delete(id)).await;
        if let Err(error) = removed
            && !matches!(&error, ClientError::Refused(refusal) if refusal.kind == RefusalKind::NotFound)
        {
            tracing::warn!(task = %self.task.name(), %error, "cannot remove the container");
        }
        let context = Arc::clone(&self.context);
        let name = host_ifname(&context.host_prefix, id);
        // Usually the link is gone already, with the container's network namespace.
        let _ = blocking(move || context.network.detach(&name).map_err(|error| error.to_string())).await;
    }

    /// Asks the keeper off the async threads.
    async fn ask<T, F>(&self, id: &str, question: F) -> Result<T, ClientError>
    where
        T: Send + 'static,
        F: FnOnce(&Keeper, &str) -> Result<T, ClientError> + Send + 'static,
    {
        let (keeper, id) = (Arc::clone(&self.context.keeper), id.to_owned());
        tokio::task::spawn_blocking(move || question(&keeper, &id))
            .await
            .unwrap_or_else(|error| Err(ClientError::Wire(error.to_string())))
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.context.root.join("containers").join(id)
    }

    fn report(&self, state: TaskState, message: &str) {
        self.set(TaskStatus {
            timestamp: clock::now(),
            state,
            message: message.to_owned(),
            ..TaskStatus::default()
        });
    }

    fn report_running(&self, id: &str, pid: i32) {
        self.set(TaskStatus {
            timestamp: clock::now(),
            state: TaskState::Running,
            message: "started".to_owned(),
            container_status: Some(ContainerStatus { container_id: id.to_owned(), pid, exit_code: 0 }),
            ..TaskStatus::default()
        });
    }

    fn report_end(&self, id: &str, state: TaskState, message: String, exit_code: Option<i32>) {
        tracing::info!(task = %self.task.name(), ?state, %message, ?exit_code, "task ended");
        let words = match state {
            TaskState::Complete => "finished",
            TaskState::Shutdown => "shutdown",
            TaskState::Rejected => "preparing",
            _ => "started",
        };
        self.set(TaskStatus {
            timestamp: clock::now(),
            state,
            message: words.to_owned(),
            err: message,
            container_status: exit_code.map(|exit_code| ContainerStatus {
                container_id: id.to_owned(),
                pid: 0,
                exit_code,
            }),
        });
    }

    fn set(&self, status: TaskStatus) {
        self.context.statuses.set(&self.task.meta.id, status);
    }
}

/// Waits until the managers wish something. When nobody can wish any more the daemon stops: the task is left as it is,
/// for the next daemon to go on with.
async fn wished(wish: &mut watch::Receiver<Wish>, is: impl FnMut(&Wish) -> bool) {
    if wish.wait_for(is).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn unwanted(wish: &Wish) -> bool {
    wish.as_ref().is_none_or(|task| task.desired_state > TaskState::Running)
}

fn ended(exit: Result<Exit, oneshot::error::RecvError>) -> (TaskState, String, Option<i32>) {
    exit.map_or_else(
        |_| (TaskState::Failed, "lost sight of the container".to_owned(), None),
        |exit| verdict(&exit),
    )
}

/// What a container's end means for its task, in Docker's words.
fn verdict(exit: &Exit) -> (TaskState, String, Option<i32>) {
    let code = exit.code();
    if code == 0 {
        return (TaskState::Complete, String::new(), Some(code));
    }
    let reason = if exit.oom_killed { " (out of memory)" } else { "" };
    (TaskState::Failed, format!("task: non-zero exit ({code}){reason}"), Some(code))
}

/// A signal's number from `SIGTERM`, `TERM` or `15`; SIGTERM when it is none of these.
fn stop_signal(text: &str) -> i32 {
    let name = text.trim().to_uppercase();
    let number = name.parse::<i32>().ok().filter(|number| (1..=64).contains(number));
    let full = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    number
        .or_else(|| full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32))
        .unwrap_or(nix::libc::SIGTERM)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// An error with all that caused it, on one line.
fn with_sources(error: &dyn std::error::Error) -> String {
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
    use skep_runtime::keeper::Outcome;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(stop_signal("SIGQUIT"), 3);
        assert_eq!(stop_signal("int"), 2);
        assert_eq!(stop_signal("9"), 9);
        assert_eq!(stop_signal(""), 15);
        assert_eq!(stop_signal("99"), 15);
    }

    #[test]
    fn an_end_becomes_a_state_in_dockers_words() {
        let exit = |outcome, oom_killed| Exit { outcome, at: 0, oom_killed };
        assert_eq!(verdict(&exit(Outcome::Code(0), false)).0, TaskState::Complete);
        let (state, message, code) = verdict(&exit(Outcome::Signal(9), true));
        assert_eq!((state, code), (TaskState::Failed, Some(137)));
        assert_eq!(message, "task: non-zero exit (137) (out of memory)");
    }

    #[test]
    fn names_fit_the_kernel() {
        let id = container_id("abc");
        assert_eq!(id.len(), 64);
        assert_eq!(host_ifname("skv", &id).len(), 15);
    }
}
