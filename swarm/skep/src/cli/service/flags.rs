//! The flags of `service create` and `service update`, and the specs that they make.

use clap::Args;
use skep_state::spec::{
    ContainerSpec, EndpointSpec, FailureAction, GlobalService, Limit, Mount, Placement, PortConfig,
    PortProtocol, PublishMode, ReplicatedService, ResolutionMode, ResourceRequirements, Resources,
    RestartCondition, RestartPolicy, ServiceMode, ServiceSpec, StringMap, UpdateConfig, UpdateOrder,
};

use crate::cli::client::CliError;
use crate::cli::time::{parse_bytes, parse_cpus, parse_duration};

/// Replicas as typed: kept signed, so that `--replicas -1` is told what is wrong with it.
fn parse_replicas(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("invalid replicas value {text:?}: it must be 0 or a positive whole number"))
}

/// Flags that `create` and `update` share: each, when given, sets one field.
#[derive(Debug, Args)]
pub(crate) struct CommonFlags {
    /// Number of tasks
    #[arg(long, value_parser = parse_replicas, allow_hyphen_values = true)]
    replicas: Option<u64>,
    /// Tasks of the service on one node at most
    #[arg(long)]
    replicas_max_per_node: Option<u64>,
    /// User: name or UID[:GID]
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory in the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Host name of the containers
    #[arg(long)]
    hostname: Option<String>,
    /// Replaces the image's entrypoint
    #[arg(long)]
    entrypoint: Option<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Signal that stops a container
    #[arg(long)]
    stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL
    #[arg(long, value_parser = parse_duration)]
    stop_grace_period: Option<u64>,
    /// CPUs at most, as 0.5
    #[arg(long, value_parser = parse_cpus)]
    limit_cpu: Option<i64>,
    /// Memory at most, as 64m
    #[arg(long, value_parser = parse_bytes)]
    limit_memory: Option<i64>,
    /// Processes at most
    #[arg(long)]
    limit_pids: Option<i64>,
    /// CPUs that must be free on a node
    #[arg(long, value_parser = parse_cpus)]
    reserve_cpu: Option<i64>,
    /// Memory that must be free on a node
    #[arg(long, value_parser = parse_bytes)]
    reserve_memory: Option<i64>,
    /// When to run again: none, on-failure or any
    #[arg(long, value_parser = ["none", "on-failure", "any"])]
    restart_condition: Option<String>,
    /// Pause before running again
    #[arg(long, value_parser = parse_duration)]
    restart_delay: Option<u64>,
    /// How often to run again
    #[arg(long)]
    restart_max_attempts: Option<u64>,
    /// The time in which attempts are counted
    #[arg(long, value_parser = parse_duration)]
    restart_window: Option<u64>,
    /// Tasks to update at once; 0 means all
    #[arg(long)]
    update_parallelism: Option<u64>,
    /// Pause between updates
    #[arg(long, value_parser = parse_duration)]
    update_delay: Option<u64>,
    /// How long an updated task is watched
    #[arg(long, value_parser = parse_duration)]
    update_monitor: Option<u64>,
    /// When an update fails: pause, continue or rollback
    #[arg(long, value_parser = ["pause", "continue", "rollback"])]
    update_failure_action: Option<String>,
    /// Share of tasks that may fail in an update
    #[arg(long)]
    update_max_failure_ratio: Option<f64>,
    /// Which task goes first: stop-first or start-first
    #[arg(long, value_parser = ["stop-first", "start-first"])]
    update_order: Option<String>,
    /// Tasks to roll back at once; 0 means all
    #[arg(long)]
    rollback_parallelism: Option<u64>,
    /// Pause between rollbacks
    #[arg(long, value_parser = parse_duration)]
    rollback_delay: Option<u64>,
    /// How long a rolled back task is watched
    #[arg(long, value_parser = parse_duration)]
    rollback_monitor: Option<u64>,
    /// When a rollback fails: pause or continue
    #[arg(long, value_parser = ["pause", "continue"])]
    rollback_failure_action: Option<String>,
    /// Share of tasks that may fail in a rollback
    #[arg(long)]
    rollback_max_failure_ratio: Option<f64>,
    /// Which task goes first in a rollback
    #[arg(long, value_parser = ["stop-first", "start-first"])]
    rollback_order: Option<String>,
    /// vip or dnsrr
    #[arg(long, value_parser = ["vip", "dnsrr"])]
    endpoint_mode: Option<String>,
}

/// Flags of `service create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = false)]
pub(crate) struct CreateFlags {
    /// Name of the service
    #[arg(long)]
    name: Option<String>,
    /// replicated or global
    #[arg(long, default_value = "replicated", value_parser = ["replicated", "global"])]
    mode: String,
    /// Publish a port: PUBLISHED:TARGET[/PROTOCOL] or published=,target=,mode=,protocol=
    #[arg(short, long)]
    publish: Vec<String>,
    /// Environment, NAME=VALUE
    #[arg(short, long)]
    env: Vec<String>,
    /// Labels of the service, KEY=VALUE
    #[arg(short, long)]
    label: Vec<String>,
    /// Labels of the containers, KEY=VALUE
    #[arg(long)]
    container_label: Vec<String>,
    /// Where tasks may run, as node.role==worker
    #[arg(long)]
    constraint: Vec<String>,
    /// Mount: type=,source=,target=[,readonly]
    #[arg(long)]
    mount: Vec<String>,
    /// Capabilities to add
    #[arg(long)]
    cap_add: Vec<String>,
    /// Capabilities to drop
    #[arg(long)]
    cap_drop: Vec<String>,
    #[command(flatten)]
    common: CommonFlags,
    /// Return at once
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Image of the tasks
    image: String,
    /// Command and arguments in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Flags of `service update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateFlags {
    /// Image of the tasks
    #[arg(long)]
    image: Option<String>,
    /// Command and arguments
    #[arg(long, allow_hyphen_values = true)]
    args: Option<String>,
    /// Update though nothing changed
    #[arg(long)]
    force: bool,
    /// Go back to the previous spec
    #[arg(long)]
    pub(super) rollback: bool,
    /// Publish a further port
    #[arg(long)]
    publish_add: Vec<String>,
    /// Publish no longer, by target port: TARGET[/PROTOCOL]
    #[arg(long)]
    publish_rm: Vec<String>,
    /// Environment to set, NAME=VALUE
    #[arg(long)]
    env_add: Vec<String>,
    /// Environment to remove
    #[arg(long)]
    env_rm: Vec<String>,
    /// Labels to set
    #[arg(long)]
    label_add: Vec<String>,
    /// Labels to remove
    #[arg(long)]
    label_rm: Vec<String>,
    /// Container labels to set
    #[arg(long)]
    container_label_add: Vec<String>,
    /// Container labels to remove
    #[arg(long)]
    container_label_rm: Vec<String>,
    /// Constraints to add
    #[arg(long)]
    constraint_add: Vec<String>,
    /// Constraints to remove
    #[arg(long)]
    constraint_rm: Vec<String>,
    /// Mounts to add
    #[arg(long)]
    mount_add: Vec<String>,
    /// Mounts to remove, by target
    #[arg(long)]
    mount_rm: Vec<String>,
    #[command(flatten)]
    common: CommonFlags,
    /// Return at once
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Service
    pub(super) service: String,
}

impl CreateFlags {
    /// The spec that the flags make.
    pub(super) fn spec(&self) -> Result<ServiceSpec, CliError> {
        let mode = if self.mode == "global" {
            if self.common.replicas.is_some() {
                return Err(CliError::Usage(
                    "replicas can only be used with replicated or replicated-job mode".to_owned(),
                ));
            }
            ServiceMode { global: Some(GlobalService {}), ..ServiceMode::default() }
        } else {
            ServiceMode {
                replicated: Some(ReplicatedService { replicas: Some(1) }),
                ..ServiceMode::default()
            }
        };
        let mut spec = ServiceSpec {
            name: self.name.clone().unwrap_or_default(),
            labels: pairs(&self.label),
            mode,
            endpoint_spec: Some(EndpointSpec {
                mode: Some(ResolutionMode::Vip),
                ports: self.publish.iter().map(|text| parse_port(text)).collect::<Result<_, _>>()?,
            }),
            ..ServiceSpec::default()
        };
        let container = &mut spec.task_template.container_spec;
        *container = ContainerSpec {
            image: self.image.clone(),
            args: self.args.clone(),
            env: self.env.iter().map(|line| with_value(line)).collect(),
            labels: pairs(&self.container_label),
            mounts: self.mount.iter().map(|text| parse_mount(text)).collect::<Result<_, _>>()?,
            capability_add: self.cap_add.iter().map(|name| capability(name)).collect(),
            capability_drop: self.cap_drop.iter().map(|name| capability(name)).collect(),
            ..ContainerSpec::default()
        };
        if !self.constraint.is_empty() {
            spec.task_template.placement.get_or_insert_default().constraints.clone_from(&self.constraint);
        }
        self.common.apply(&mut spec)?;
        Ok(spec)
    }
}

impl UpdateFlags {
    /// Changes a spec as the flags say.
    pub(super) fn apply(&self, spec: &mut ServiceSpec) -> Result<(), CliError> {
        let container = &mut spec.task_template.container_spec;
        if let Some(image) = &self.image {
            container.image.clone_from(image);
        }
        if let Some(args) = &self.args {
            container.args = args.split_whitespace().map(str::to_owned).collect();
        }
        container.env.retain(|line| !self.env_rm.iter().any(|name| line.split('=').next() == Some(name)));
        for line in &self.env_add {
            let line = with_value(line);
            let name = line.split('=').next().map(str::to_owned);
            container.env.retain(|known| known.split('=').next().map(str::to_owned) != name);
            container.env.push(line);
        }
        change_pairs(&mut container.labels, &self.container_label_add, &self.container_label_rm);
        container.mounts.retain(|mount| !self.mount_rm.contains(&mount.target));
        for text in &self.mount_add {
            container.mounts.push(parse_mount(text)?);
        }
        change_pairs(&mut spec.labels, &self.label_add, &self.label_rm);
        if !self.constraint_add.is_empty() || !self.constraint_rm.is_empty() {
            let placement: &mut Placement = spec.task_template.placement.get_or_insert_default();
            placement.constraints.retain(|known| !self.constraint_rm.contains(known));
            placement.constraints.extend(self.constraint_add.iter().cloned());
        }
        if !self.publish_add.is_empty() || !self.publish_rm.is_empty() {
            let endpoint = spec.endpoint_spec.get_or_insert_default();
            for text in &self.publish_rm {
                let (port, protocol) = target_port(text)?;
                endpoint.ports.retain(|known| !(known.target_port == port && known.protocol == protocol));
            }
            for text in &self.publish_add {
                endpoint.ports.push(parse_port(text)?);
            }
        }
        if self.force {
            spec.task_template.force_update += 1;
        }
        self.common.apply(spec)
    }
}

impl CommonFlags {
    fn apply(&self, spec: &mut ServiceSpec) -> Result<(), CliError> {
        if let Some(replicas) = self.replicas {
            match &mut spec.mode.replicated {
                Some(replicated) => replicated.replicas = Some(replicas),
                None => {
                    return Err(CliError::Usage(
                        "replicas can only be used with replicated or replicated-job mode".to_owned(),
                    ));
                }
            }
        }
        let template = &mut spec.task_template;
        let container = &mut template.container_spec;
        set(&mut container.user, &self.user);
        set(&mut container.dir, &self.workdir);
        set(&mut container.hostname, &self.hostname);
        set(&mut container.stop_signal, &self.stop_signal);
        if let Some(entrypoint) = &self.entrypoint {
            container.command = entrypoint.split_whitespace().map(str::to_owned).collect();
        }
        container.read_only |= self.read_only;
        if self.stop_grace_period.is_some() {
            container.stop_grace_period = self.stop_grace_period;
        }
        if let Some(most) = self.replicas_max_per_node {
            template.placement.get_or_insert_default().max_replicas = most;
        }
        let resources: &mut ResourceRequirements = template.resources.get_or_insert_default();
        let limits: &mut Limit = resources.limits.get_or_insert_default();
        limits.nano_cpus = self.limit_cpu.unwrap_or(limits.nano_cpus);
        limits.memory_bytes = self.limit_memory.unwrap_or(limits.memory_bytes);
        limits.pids = self.limit_pids.unwrap_or(limits.pids);
        let reservations: &mut Resources = resources.reservations.get_or_insert_default();
        reservations.nano_cpus = self.reserve_cpu.unwrap_or(reservations.nano_cpus);
        reservations.memory_bytes = self.reserve_memory.unwrap_or(reservations.memory_bytes);
        self.apply_restart(template.restart_policy.get_or_insert_default());
        if template.restart_policy == Some(RestartPolicy::default()) {
            template.restart_policy = None;
        }
        if let Some(mode) = &self.endpoint_mode {
            let mode = if mode == "dnsrr" { ResolutionMode::Dnsrr } else { ResolutionMode::Vip };
            spec.endpoint_spec.get_or_insert_default().mode = Some(mode);
        }
        change_update(
            &mut spec.update_config,
            self.update_parallelism,
            self.update_delay,
            self.update_monitor,
            self.update_failure_action.as_deref(),
            self.update_max_failure_ratio,
            self.update_order.as_deref(),
        );
        change_update(
            &mut spec.rollback_config,
            self.rollback_parallelism,
            self.rollback_delay,
            self.rollback_monitor,
            self.rollback_failure_action.as_deref(),
            self.rollback_max_failure_ratio,
            self.rollback_order.as_deref(),
        );
        Ok(())
    }

    fn apply_restart(&self, policy: &mut RestartPolicy) {
        if let Some(condition) = &self.restart_condition {
            policy.condition = Some(match condition.as_str() {
                "none" => RestartCondition::None,
                "on-failure" => RestartCondition::OnFailure,
                _ => RestartCondition::Any,
            });
        }
        policy.delay = self.restart_delay.or(policy.delay);
        policy.max_attempts = self.restart_max_attempts.or(policy.max_attempts);
        policy.window = self.restart_window.or(policy.window);
    }
}

fn change_update(
    config: &mut Option<UpdateConfig>,
    parallelism: Option<u64>,
    delay: Option<u64>,
    monitor: Option<u64>,
    failure_action: Option<&str>,
    max_failure_ratio: Option<f64>,
    order: Option<&str>,
) {
    let given = parallelism.is_some()
        || delay.is_some()
        || monitor.is_some()
        || failure_action.is_some()
        || max_failure_ratio.is_some()
        || order.is_some();
    if !given {
        return;
    }
    let config = config.get_or_insert_with(|| UpdateConfig { parallelism: 1, ..UpdateConfig::default() });
    config.parallelism = parallelism.unwrap_or(config.parallelism);
    config.delay = delay.unwrap_or(config.delay);
    config.monitor = monitor.unwrap_or(config.monitor);
    config.max_failure_ratio = max_failure_ratio.unwrap_or(config.max_failure_ratio);
    config.failure_action = match failure_action {
        None => config.failure_action,
        Some("continue") => FailureAction::Continue,
        Some("rollback") => FailureAction::Rollback,
        Some(_) => FailureAction::Pause,
    };
    config.order = match order {
        None => config.order,
        Some("start-first") => UpdateOrder::StartFirst,
        Some(_) => UpdateOrder::StopFirst,
    };
}

fn set(field: &mut String, value: &Option<String>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// `NAME=VALUE`; a bare `NAME` takes the value from this process' environment, as Docker does it.
fn with_value(line: &str) -> String {
    if line.contains('=') {
        return line.to_owned();
    }
    std::env::var(line).map_or_else(|_| line.to_owned(), |value| format!("{line}={value}"))
}

fn capability(name: &str) -> String {
    let name = name.to_uppercase();
    if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

fn pairs(lines: &[String]) -> StringMap {
    let mut map = StringMap::new();
    change_pairs(&mut map, lines, &[]);
    map
}

fn change_pairs(map: &mut StringMap, add: &[String], remove: &[String]) {
    for key in remove {
        map.remove(key);
    }
    for line in add {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        map.insert(key.to_owned(), value.to_owned());
    }
}

fn parse_protocol(text: &str) -> Result<PortProtocol, CliError> {
    match text {
        "tcp" => Ok(PortProtocol::Tcp),
        "udp" => Ok(PortProtocol::Udp),
        "sctp" => Ok(PortProtocol::Sctp),
        other => Err(CliError::Usage(format!("invalid protocol value {other:?}: give tcp, udp or sctp"))),
    }
}

fn parse_number(text: &str, whole: &str) -> Result<u16, CliError> {
    text.parse()
        .map_err(|_| CliError::Usage(format!("invalid port {text:?} in {whole:?}: ports go from 0 to 65535")))
}

fn target_port(text: &str) -> Result<(u16, PortProtocol), CliError> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    Ok((parse_number(port, text)?, parse_protocol(protocol)?))
}

/// `PUBLISHED:TARGET[/PROTOCOL]`, `TARGET[/PROTOCOL]`, or `published=,target=,mode=,protocol=`.
fn parse_port(text: &str) -> Result<PortConfig, CliError> {
    let mut port = PortConfig::default();
    if !text.contains('=') {
        let (published, target) = text.split_once(':').unwrap_or(("0", text));
        (port.target_port, port.protocol) = target_port(target)?;
        port.published_port = parse_number(published, text)?;
        return Ok(port);
    }
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key.trim() {
            "published" => port.published_port = parse_number(value, text)?,
            "target" => port.target_port = parse_number(value, text)?,
            "protocol" => port.protocol = parse_protocol(value)?,
            "mode" => {
                port.publish_mode = match value {
                    "ingress" => PublishMode::Ingress,
                    "host" => PublishMode::Host,
                    other => {
                        return Err(CliError::Usage(format!(
                            "invalid publish mode value {other:?}: give ingress or host"
                        )));
                    }
                }
            }
            other => return Err(CliError::Usage(format!("invalid field {other:?} in port {text:?}"))),
        }
    }
    if port.target_port == 0 {
        return Err(CliError::Usage(format!("missing mandatory field \"target\" in port {text:?}")));
    }
    Ok(port)
}

/// `type=,source=,target=[,readonly]` and the options of tmpfs mounts.
fn parse_mount(text: &str) -> Result<Mount, CliError> {
    let mut mount = Mount { r#type: "volume".to_owned(), ..Mount::default() };
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key {
            "type" => value.clone_into(&mut mount.r#type),
            "source" | "src" => value.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
            "readonly" | "ro" => mount.read_only = matches!(value, "true" | "1"),
            "tmpfs-size" => {
                let bytes = parse_bytes(value).map_err(CliError::Usage)?;
                mount.tmpfs_options.get_or_insert_with(|| serde_json::json!({}))["SizeBytes"] = bytes.into();
            }
            other => {
                return Err(CliError::Usage(format!("unexpected key {other:?} in mount {text:?}")));
            }
        }
    }
    if mount.target.is_empty() {
        return Err(CliError::Usage(format!("target is required in mount {text:?}")));
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Create {
        #[command(flatten)]
        flags: CreateFlags,
    }

    fn spec(arguments: &[&str]) -> ServiceSpec {
        Create::try_parse_from([&["create"], arguments].concat()).unwrap().flags.spec().unwrap()
    }

    #[test]
    fn flags_make_the_spec_that_docker_makes() {
        let spec = spec(&[
            "--name",
            "web",
            "--replicas",
            "3",
            "-p",
            "8080:80",
            "-e",
            "A=b",
            "nginx:1",
            "sh",
            "-c",
            "x",
        ]);
        assert_eq!(spec.replicas(), Some(3));
        assert_eq!((spec.ports()[0].published_port, spec.ports()[0].target_port), (8080, 80));
        assert_eq!(spec.task_template.container_spec.args, ["sh", "-c", "x"]);
        assert_eq!(spec.update_config, None);
    }

    #[test]
    fn replicas_below_zero_are_refused_by_name() {
        let refused = Create::try_parse_from(["create", "--replicas", "-1", "x"]).err().unwrap().to_string();
        assert!(refused.contains("invalid replicas value \"-1\""), "{refused}");
    }

    #[test]
    fn ports_have_a_short_and_a_long_form() {
        let long = parse_port("published=53,target=5353,protocol=udp,mode=host").unwrap();
        assert_eq!(
            (long.published_port, long.protocol, long.publish_mode),
            (53, PortProtocol::Udp, PublishMode::Host)
        );
        assert_eq!(parse_port("80").unwrap().target_port, 80);
        for bad in ["70000:80", "80:80/x", "published=1", "a=b,target=1"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn update_changes_only_what_is_given() {
        #[derive(Parser)]
        struct Update {
            #[command(flatten)]
            flags: UpdateFlags,
        }
        let mut changed = spec(&["--name", "web", "-p", "8080:80", "-e", "A=1", "nginx:1"]);
        let arguments = [
            "update",
            "--image",
            "nginx:2",
            "--publish-rm",
            "80",
            "--publish-add",
            "81:80",
            "--env-add",
            "A=2",
            "web",
        ];
        Update::try_parse_from(arguments).unwrap().flags.apply(&mut changed).unwrap();
        assert_eq!(changed.task_template.container_spec.image, "nginx:2");
        assert_eq!(changed.task_template.container_spec.env, ["A=2"]);
        assert_eq!(changed.ports().len(), 1);
        assert_eq!(changed.ports()[0].published_port, 81);
        assert_eq!(changed.replicas(), Some(1));
    }
}
