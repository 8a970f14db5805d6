//! From a task and its image to an OCI bundle on disk.
//!
//! ```text
//! <root>/containers/<container ID>/
//!     config.json                        the OCI configuration
//!     hostname hosts resolv.conf         bind-mounted into /etc
//!     upper/ work/                       what the container writes (overlayfs)
//!     log/                               its output
//! ```

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    Capability, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, Mount as OciMount,
    MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Spec, User, UserBuilder,
};
use skep_state::Task;
use skep_state::spec::{ContainerSpec, Mount, ResourceRequirements};

use super::confinement;

/// Where a host keeps its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The search path of a container whose image sets none, as Docker's.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The period in which a CPU limit is counted, in microseconds (the kernel's and Docker's default).
const CPU_PERIOD_US: u64 = 100_000;

/// The first port that a program may listen on without privileges.
const UNPRIVILEGED_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

/// What `--cap-add ALL` stands for (capabilities(7)).
const ALL_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a bundle is made from.
#[derive(Debug)]
pub(crate) struct BundleInput<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its image's configuration.
    pub image: &'a ImageConfiguration,
    /// The image's unpacked layers, topmost first.
    pub layers: &'a [PathBuf],
    /// 64 hex digits.
    pub container_id: &'a str,
    /// ID and host name of this node.
    pub node: (&'a str, &'a str),
    /// Where volumes are.
    pub volumes: &'a Path,
}

/// Why a bundle could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// A file or folder of the bundle.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Neither image nor service says what to run.
    #[error("no command specified: neither the image nor the service names one")]
    NoCommand,
    /// The user is not in the image.
    #[error("user {user:?}: {source}")]
    User {
        /// As given.
        user: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A mount that cannot be made.
    #[error("mount {target}: {reason}")]
    Mount {
        /// Path in the container.
        target: String,
        /// Why not.
        reason: String,
    },
    /// A capability that does not exist.
    #[error("unknown capability {0:?}")]
    Capability(String),
    /// A seccomp profile of the service's own.
    #[error("seccomp mode {0:?}: this version has the default profile and \"unconfined\"")]
    Seccomp(String),
    /// A limit that does not exist.
    #[error("unknown ulimit {0:?}")]
    Ulimit(String),
    /// A limit out of range.
    #[error("resources: {0}")]
    Resources(#[from] oci_spec::OciSpecError),
    /// The configuration itself.
    #[error("cannot write the configuration: {0}")]
    Configuration(Box<dyn std::error::Error + Send + Sync>),
}

/// Writes the bundle into `folder`, which may exist from an earlier attempt.
pub(crate) fn write(folder: &Path, input: &BundleInput<'_>) -> Result<(), BundleError> {
    for part in ["upper", "work", "log"] {
        let path = folder.join(part);
        fs::create_dir_all(&path).map_err(|source| BundleError::Write { path, source })?;
    }
    let container = &input.task.spec.container_spec;
    let hostname = hostname(input);
    put(&folder.join("hostname"), &format!("{hostname}\n"))?;
    put(&folder.join("hosts"), &hosts(&hostname, input.task.address(), &container.hosts))?;
    put(
        &folder.join("resolv.conf"),
        &resolv_conf(container, &fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
    )?;
    let spec = spec(folder, input, &hostname)?;
    skep_runtime::spec::write_bundle(folder, &spec)
        .map_err(|source| BundleError::Configuration(Box::new(source)))
}

fn spec(folder: &Path, input: &BundleInput<'_>, hostname: &str) -> Result<Spec, BundleError> {
    let container = &input.task.spec.container_spec;
    let image = input.image.config().as_ref();
    let mut spec = skep_runtime::spec::default_spec();
    spec.set_hostname(Some(hostname.to_owned()));

    let user = [container.user.as_str(), image.and_then(|image| image.user().as_deref()).unwrap_or_default()]
        .into_iter()
        .find(|user| !user.is_empty())
        .unwrap_or_default();
    let user = if user.is_empty() {
        User::default()
    } else {
        let found = skep_runtime::spec::resolve_user(input.layers, user)
            .map_err(|source| BundleError::User { user: user.to_owned(), source: Box::new(source) })?;
        UserBuilder::default().uid(found.uid).gid(found.gid).additional_gids(found.additional_gids).build()?
    };
    let directory = [
        container.dir.as_str(),
        image.and_then(|image| image.working_dir().as_deref()).unwrap_or_default(),
        "/",
    ]
    .into_iter()
    .find(|directory| !directory.is_empty())
    .unwrap_or("/");

    if let Some(process) = spec.process_mut() {
        process.set_args(Some(command(container, input.image)?));
        process.set_env(Some(environment(input, hostname)));
        process.set_cwd(PathBuf::from(directory));
        process.set_user(user);
        process.set_terminal(Some(false));
        if container.oom_score_adj != 0 {
            process.set_oom_score_adj(i32::try_from(container.oom_score_adj).ok());
        }
        if !container.ulimits.is_empty() {
            process.set_rlimits(Some(rlimits(container)?));
        }
        if let Some(mut capabilities) = process.capabilities().clone() {
            let (add, drop) = (&container.capability_add, &container.capability_drop);
            let bounding = adjust(capabilities.bounding().clone().unwrap_or_default(), add, drop)?;
            capabilities.set_bounding(Some(bounding.clone()));
            capabilities.set_permitted(Some(bounding.clone()));
            capabilities.set_effective(Some(bounding));
            process.set_capabilities(Some(capabilities));
        }
    }
    if container.read_only
        && let Some(mut root) = spec.root().clone()
    {
        root.set_readonly(Some(true));
        spec.set_root(Some(root));
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(Some(resources(
            linux.resources().clone().unwrap_or_default(),
            input.task.spec.resources.as_ref(),
        )?));
        // As Docker: in a network of its own a program needs no privilege for the ports below 1024.
        let mut sysctls = HashMap::from([(UNPRIVILEGED_PORTS.to_owned(), "0".to_owned())]);
        sysctls.extend(container.sysctls.clone());
        linux.set_sysctl(Some(sysctls));
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for name in ["hostname", "hosts", "resolv.conf"] {
        mounts.push(bind(&folder.join(name), &format!("/etc/{name}"), container.read_only)?);
    }
    for mount in &container.mounts {
        mounts.push(user_mount(mount, input.volumes)?);
    }
    spec.set_mounts(Some(mounts));
    confinement::apply(&mut spec, container.privileges.as_ref())?;
    Ok(spec)
}

/// The image's entrypoint and command, with what the service puts in their place (Docker: a new entrypoint drops the
/// image's command).
fn command(container: &ContainerSpec, image: &ImageConfiguration) -> Result<Vec<String>, BundleError> {
    let config = image.config().as_ref();
    let image_entrypoint = config.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
    let image_command = config.and_then(|config| config.cmd().clone()).unwrap_or_default();
    let (entrypoint, defaults) = if container.command.is_empty() {
        (image_entrypoint, image_command)
    } else {
        (container.command.clone(), Vec::new())
    };
    let arguments = if container.args.is_empty() { defaults } else { container.args.clone() };
    let command: Vec<String> = entrypoint.into_iter().chain(arguments).collect();
    if command.is_empty() { Err(BundleError::NoCommand) } else { Ok(command) }
}

/// The image's environment, then the service's (templates filled in), then who and where the task is.
fn environment(input: &BundleInput<'_>, hostname: &str) -> Vec<String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => variables.push((name.to_owned(), value.to_owned())),
        }
    };
    set(DEFAULT_PATH);
    set(&format!("HOSTNAME={hostname}"));
    let task = input.task;
    set(&format!("SKEP_TASK_ID={}", task.meta.id));
    set(&format!("SKEP_TASK_NAME={}", task.name()));
    set(&format!("SKEP_SERVICE_NAME={}", task.service_name));
    set(&format!("SKEP_NODE_ID={}", input.node.0));
    set(&format!("SKEP_NODE_NAME={}", input.node.1));
    let from_image =
        input.image.config().as_ref().and_then(|config| config.env().clone()).unwrap_or_default();
    from_image.iter().for_each(|line| set(line));
    for line in &task.spec.container_spec.env {
        set(&expand(line, input));
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Docker's placeholders (Go templates over `.Service`, `.Node` and `.Task`); only plain field references.
fn expand(text: &str, input: &BundleInput<'_>) -> String {
    let task = input.task;
    let slot = if task.slot > 0 { task.slot.to_string() } else { input.node.0.to_owned() };
    let values = [
        (".Service.ID", task.service_id.clone()),
        (".Service.Name", task.service_name.clone()),
        (".Node.ID", input.node.0.to_owned()),
        (".Node.Hostname", input.node.1.to_owned()),
        (".Task.ID", task.meta.id.clone()),
        (".Task.Name", format!("{}.{}", task.name(), task.meta.id)),
        (".Task.Slot", slot),
    ];
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        result.push_str(before);
        let Some((field, tail)) = after.split_once("}}") else {
            result.push_str("{{");
            rest = after;
            continue;
        };
        match values.iter().find(|(name, _)| *name == field.trim()) {
            Some((_, value)) => result.push_str(value),
            None => {
                result.push_str("{{");
                result.push_str(field);
                result.push_str("}}");
            }
        }
        rest = tail;
    }
    result + rest
}

fn hostname(input: &BundleInput<'_>) -> String {
    let given = &input.task.spec.container_spec.hostname;
    if given.is_empty() { input.container_id.chars().take(12).collect() } else { expand(given, input) }
}

fn hosts(hostname: &str, address: Option<IpAddr>, extra: &[String]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if let Some(address) = address {
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    for line in extra {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The service's name servers, else the host's; a host's loopback resolver means nothing inside a container.
fn resolv_conf(container: &ContainerSpec, host: &str) -> String {
    let mut text = String::new();
    let dns = container.dns_config.clone().unwrap_or_default();
    if dns.nameservers.is_empty() {
        for line in host.lines().filter(|line| line.starts_with("nameserver")) {
            let server = line.split_whitespace().nth(1).unwrap_or_default();
            if !server.starts_with("127.") && server != "::1" {
                text.push_str(&format!("nameserver {server}\n"));
            }
        }
    }
    for server in &dns.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search: Vec<&str> = if dns.search.is_empty() {
        host.lines().filter_map(|line| line.strip_prefix("search ")).flat_map(str::split_whitespace).collect()
    } else {
        dns.search.iter().map(String::as_str).collect()
    };
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// Docker's rule for added and dropped capabilities: drops first (`ALL` drops all), then adds.
fn adjust(
    mut capabilities: std::collections::HashSet<Capability>,
    add: &[String],
    drop: &[String],
) -> Result<std::collections::HashSet<Capability>, BundleError> {
    for name in drop {
        if name.eq_ignore_ascii_case("all") {
            capabilities.clear();
        } else {
            capabilities.remove(&capability(name)?);
        }
    }
    for name in add {
        if name.eq_ignore_ascii_case("all") {
            capabilities.extend(ALL_CAPABILITIES.iter().filter_map(|name| capability(name).ok()));
        } else {
            capabilities.insert(capability(name)?);
        }
    }
    Ok(capabilities)
}

fn capability(name: &str) -> Result<Capability, BundleError> {
    name.to_uppercase()
        .trim_start_matches("CAP_")
        .parse()
        .map_err(|_| BundleError::Capability(name.to_owned()))
}

fn rlimits(container: &ContainerSpec) -> Result<Vec<PosixRlimit>, BundleError> {
    container
        .ulimits
        .iter()
        .map(|limit| {
            let kind: PosixRlimitType = serde_json::from_value(serde_json::Value::String(format!(
                "RLIMIT_{}",
                limit.name.to_uppercase()
            )))
            .map_err(|_| BundleError::Ulimit(limit.name.clone()))?;
            // Below 0 means without limit, as `ulimit -n unlimited`.
            let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
            Ok(PosixRlimitBuilder::default()
                .typ(kind)
                .hard(number(limit.hard))
                .soft(number(limit.soft))
                .build()?)
        })
        .collect()
}

fn resources(
    mut resources: LinuxResources,
    asked: Option<&ResourceRequirements>,
) -> Result<LinuxResources, BundleError> {
    let Some(asked) = asked else { return Ok(resources) };
    let limits = asked.limits.clone().unwrap_or_default();
    if limits.memory_bytes > 0 {
        // As Docker: no swap figure given means as much swap as memory; the kernel counts them together.
        let swap = asked.swap_bytes.unwrap_or(limits.memory_bytes).max(0);
        let swap = limits.memory_bytes.saturating_add(swap);
        resources
            .set_memory(Some(LinuxMemoryBuilder::default().limit(limits.memory_bytes).swap(swap).build()?));
    }
    if limits.nano_cpus > 0 {
        let quota = i128::from(limits.nano_cpus) * i128::from(CPU_PERIOD_US) / 1_000_000_000;
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        resources.set_cpu(Some(LinuxCpuBuilder::default().quota(quota).period(CPU_PERIOD_US).build()?));
    }
    if limits.pids > 0 {
        resources.set_pids(Some(LinuxPidsBuilder::default().limit(limits.pids).build()?));
    }
    Ok(resources)
}

fn bind(source: &Path, target: &str, read_only: bool) -> Result<OciMount, BundleError> {
    let mut options = vec!["rbind".to_owned(), "rprivate".to_owned()];
    if read_only {
        options.push("ro".to_owned());
    }
    Ok(MountBuilder::default().destination(target).typ("bind").source(source).options(options).build()?)
}

fn user_mount(mount: &Mount, volumes: &Path) -> Result<OciMount, BundleError> {
    let refuse = |reason: String| BundleError::Mount { target: mount.target.clone(), reason };
    match mount.r#type.as_str() {
        "bind" => {
            let source = Path::new(&mount.source);
            if !source.exists() {
                return Err(refuse(format!("bind source path does not exist: {}", mount.source)));
            }
            bind(source, &mount.target, mount.read_only)
        }
        "volume" => {
            // Names are checked when the service is made; a path could only come from a broken manager.
            if mount.source.is_empty() || mount.source.contains('/') || mount.source.starts_with('.') {
                return Err(refuse(format!("invalid volume name {:?}", mount.source)));
            }
            let source = volumes.join(&mount.source).join("_data");
            fs::create_dir_all(&source)
                .map_err(|source_error| BundleError::Write { path: source.clone(), source: source_error })?;
            bind(&source, &mount.target, mount.read_only)
        }
        "tmpfs" => {
            let number = |name: &str| mount.tmpfs_options.as_ref().and_then(|options| options[name].as_u64());
            let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
            if let Some(size) = number("SizeBytes").filter(|size| *size > 0) {
                options.push(format!("size={size}"));
            }
            if let Some(mode) = number("Mode").filter(|mode| *mode > 0) {
                options.push(format!("mode={mode:o}"));
            }
            if mount.read_only {
                options.push("ro".to_owned());
            }
            Ok(MountBuilder::default()
                .destination(&mount.target)
                .typ("tmpfs")
                .source("tmpfs")
                .options(options)
                .build()?)
        }
        other => Err(refuse(format!("mount type {other:?} is not supported"))),
    }
}

fn put(path: &Path, content: &str) -> Result<(), BundleError> {
    fs::write(path, content).map_err(|source| BundleError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder, RootFsBuilder};

    fn image() -> ImageConfiguration {
        let config = ConfigBuilder::default()
            .entrypoint(vec!["/entry".to_owned()])
            .cmd(vec!["default".to_owned()])
            .env(vec!["A=image".to_owned(), "PATH=/bin".to_owned()])
            .build()
            .unwrap();
        ImageConfigurationBuilder::default()
            .architecture("amd64")
            .os("linux")
            .config(config)
            .rootfs(RootFsBuilder::default().typ("layers").diff_ids(Vec::<String>::new()).build().unwrap())
            .history(Vec::new())
            .build()
            .unwrap()
    }

    fn input<'a>(task: &'a Task, image: &'a ImageConfiguration) -> BundleInput<'a> {
        BundleInput {
            task,
            image,
            layers: &[],
            container_id: "0123456789abcdef",
            node: ("n1", "node-1"),
            volumes: Path::new("/nonexistent"),
        }
    }

    #[test]
    fn commands_combine_as_docker_combines_them() {
        let image = image();
        let mut container = ContainerSpec::default();
        assert_eq!(command(&container, &image).unwrap(), ["/entry", "default"]);
        container.args = vec!["given".to_owned()];
        assert_eq!(command(&container, &image).unwrap(), ["/entry", "given"]);
        container.command = vec!["/other".to_owned()];
        container.args.clear();
        assert_eq!(
            command(&container, &image).unwrap(),
            ["/other"],
            "a new entrypoint drops the image's command"
        );
    }

    #[test]
    fn environment_is_overridden_in_order_and_templates_are_filled() {
        let image = image();
        let mut task = Task { service_name: "web".to_owned(), slot: 2, ..Task::default() };
        task.meta.id = "t1".to_owned();
        task.spec.container_spec.env =
            vec!["A={{.Task.Name}} on {{ .Node.Hostname }}".to_owned(), "B={{.Unknown}} {{open".to_owned()];
        let environment = environment(&input(&task, &image), "host");
        for expected in ["A=web.2.t1 on node-1", "B={{.Unknown}} {{open", "PATH=/bin", "SKEP_TASK_NAME=web.2"]
        {
            assert!(environment.iter().any(|line| line == expected), "{expected} not in {environment:?}");
        }
        assert_eq!(environment.iter().filter(|line| line.starts_with("PATH=")).count(), 1);
    }

    #[test]
    fn a_loopback_resolver_of_the_host_is_left_out() {
        let text =
            resolv_conf(&ContainerSpec::default(), "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch lan\n");
        assert_eq!(text, "nameserver 9.9.9.9\nsearch lan\n");
    }

    #[test]
    fn capabilities_drop_first_then_add() {
        let capabilities = adjust(
            [Capability::Chown].into_iter().collect(),
            &["CAP_NET_ADMIN".to_owned()],
            &["ALL".to_owned()],
        )
        .unwrap();
        assert_eq!(capabilities, [Capability::NetAdmin].into_iter().collect());
        assert!(matches!(capability("NOPE"), Err(BundleError::Capability(_))));
    }
}
