//! `service ps` and `node ps`: docker/cli `cli/command/task/print.go` and `formatter.go`.

use clap::Args;
use serde_json::Value;
use skep_state::Timestamp;

use super::client::{CliError, Client, filters, parse_filter};
use super::node::{self, capitalised};
use super::table::{Column, Table};
use super::time::ago;
use super::{natural, print, several, text};

/// Errors are shown up to this length (docker/cli `maxErrLength`).
const ERROR_LENGTH: usize = 30;

/// Flags of `ps`, of services and of nodes.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Show only what matches, as `desired-state=running`
    #[arg(short, long, value_parser = parse_filter, value_name = "NAME=VALUE")]
    filter: Vec<(String, String)>,
    /// `table`, `json` or a template
    #[arg(long)]
    format: Option<String>,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Show whole IDs, errors and digests
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs of nodes and services in place of names
    #[arg(long)]
    no_resolve: bool,
    /// Services (or nodes)
    pub(super) targets: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Image", "IMAGE"),
    ("Node", "NODE"),
    ("DesiredState", "DESIRED STATE"),
    ("CurrentState", "CURRENT STATE"),
    ("Error", "ERROR"),
    ("Ports", "PORTS"),
];

/// Lists the tasks of the services or nodes that were found, then reports the failures of finding others.
pub(super) async fn list(
    flags: &Ps,
    kind: &str,
    of: &[Value],
    failures: Vec<String>,
    client: &Client,
) -> Result<(), CliError> {
    if of.is_empty() {
        return several(failures);
    }
    let mut pairs = Vec::new();
    for (key, value) in &flags.filter {
        let own = key == "node" && value == "self";
        let value = if own { node::resolve(value, client).await? } else { value.clone() };
        pairs.push((key.clone(), value));
    }
    pairs.extend(of.iter().map(|object| (kind.to_owned(), text(object, "/ID"))));
    let tasks: Vec<Value> = client.get(&format!("/tasks?{}", filters(&pairs))).await?;
    let names = if flags.no_resolve { Names::default() } else { Names::get(client).await? };
    print(&table(tasks, &names, flags, now()).render(flags.format.as_deref(), flags.quiet)?)?;
    several(failures)
}

/// The names of services and nodes; without them IDs are shown.
#[derive(Debug, Default)]
struct Names {
    services: Vec<Value>,
    nodes: Vec<Value>,
}

impl Names {
    async fn get(client: &Client) -> Result<Self, CliError> {
        Ok(Self { services: client.get("/services").await?, nodes: client.get("/nodes").await? })
    }

    fn service(&self, id: &str) -> String {
        Self::find(&self.services, id, &["/Spec/Name"])
    }

    fn node(&self, id: &str) -> String {
        Self::find(&self.nodes, id, &["/Spec/Name", "/Description/Hostname"])
    }

    fn find(objects: &[Value], id: &str, pointers: &[&str]) -> String {
        let object = objects.iter().find(|object| text(object, "/ID") == id);
        let mut names =
            object.into_iter().flat_map(|object| pointers.iter().map(|pointer| text(object, pointer)));
        names.find(|name| !name.is_empty()).unwrap_or_else(|| id.to_owned())
    }

    fn task(&self, task: &Value) -> String {
        let service = self.service(&text(task, "/ServiceID"));
        let slot = text(task, "/Slot");
        format!("{service}.{}", if slot.is_empty() { text(task, "/NodeID") } else { slot })
    }
}

/// The tasks by name, within a slot newest first; earlier ones are indented where it is a table.
fn table(tasks: Vec<Value>, names: &Names, flags: &Ps, now: Timestamp) -> Table {
    let mut tasks: Vec<(String, Value)> = tasks.into_iter().map(|task| (names.task(&task), task)).collect();
    tasks.sort_by(|(name, task), (other_name, other)| {
        natural::compare(name, other_name)
            .then_with(|| text(other, "/CreatedAt").cmp(&text(task, "/CreatedAt")))
    });
    let indent = match flags.format.as_deref() {
        None | Some("") => " \\_ ",
        Some(format) if format.starts_with("table") => " \\_ ",
        Some(_) => "",
    };
    let mut table = Table::new(COLUMNS);
    let mut previous = "";
    for (name, task) in &tasks {
        let shown = if name == previous { format!("{indent}{name}") } else { name.clone() };
        previous = name;
        let id = text(task, "/ID");
        let since: Timestamp =
            serde_json::from_value(task["Status"]["Timestamp"].clone()).unwrap_or_default();
        table.row(vec![
            if flags.no_trunc { id } else { id.chars().take(12).collect() },
            shown,
            image(&text(task, "/Spec/ContainerSpec/Image"), flags.no_trunc),
            names.node(&text(task, "/NodeID")),
            capitalised(&text(task, "/DesiredState")),
            format!("{} {}", capitalised(&text(task, "/Status/State")), ago(since, now).to_lowercase()),
            error(&text(task, "/Status/Err"), flags.no_trunc),
            ports(&task["Status"]["PortStatus"]["Ports"]),
        ]);
    }
    table
}

/// The image, without the digest where it has a tag.
fn image(image: &str, whole: bool) -> String {
    match image.split_once('@') {
        Some((tagged, _)) if !whole && tagged.rsplit('/').next().is_some_and(|last| last.contains(':')) => {
            tagged.to_owned()
        }
        _ => image.to_owned(),
    }
}

fn error(error: &str, whole: bool) -> String {
    match error.chars().count() {
        0 => String::new(),
        length if length > ERROR_LENGTH && !whole => {
            format!("\"{}…\"", error.chars().take(ERROR_LENGTH - 1).collect::<String>())
        }
        _ => format!("\"{error}\""),
    }
}

/// Ports of the task's own: those in host mode.
fn ports(ports: &Value) -> String {
    let port = |port: &Value| {
        let field = |name: &str| text(port, name);
        format!("*:{}->{}/{}", field("/PublishedPort"), field("/TargetPort"), field("/Protocol"))
    };
    ports.as_array().into_iter().flatten().map(port).collect::<Vec<_>>().join(",")
}

fn now() -> Timestamp {
    let now = ::time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    Timestamp::from_nanos(i64::try_from(now).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flags(format: Option<&str>) -> Ps {
        Ps {
            filter: Vec::new(),
            format: format.map(str::to_owned),
            quiet: false,
            no_trunc: false,
            no_resolve: false,
            targets: Vec::new(),
        }
    }

    fn task(id: &str, slot: u64, created: &str, state: &str, error: &str) -> Value {
        json!({
            "ID": id, "ServiceID": "s1", "Slot": slot, "NodeID": "n1", "CreatedAt": created,
            "DesiredState": state, "Spec": { "ContainerSpec": { "Image": "web:1@sha256:00" } },
            "Status": { "State": state, "Timestamp": "1970-01-01T00:00:05Z", "Err": error, "PortStatus": {} },
        })
    }

    fn render(format: Option<&str>, names: &Names) -> String {
        let mut tasks = vec![
            task("twelve-and-more", 10, "1", "running", ""),
            task("old", 2, "1", "failed", "a task that ended with a long text"),
            task("new", 2, "2", "running", ""),
        ];
        tasks[2]["Status"]["PortStatus"] = json!({ "Ports": [
            { "Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host" },
            { "Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "host" },
        ] });
        let now = Timestamp::from_nanos(10_000_000_000);
        table(tasks, names, &flags(format), now).render(format, false).unwrap()
    }

    fn names() -> Names {
        Names {
            services: vec![json!({ "ID": "s1", "Spec": { "Name": "web" } })],
            nodes: vec![json!({ "ID": "n1", "Spec": {}, "Description": { "Hostname": "host" } })],
        }
    }

    #[test]
    fn a_table_shows_earlier_tasks_indented_and_host_ports() {
        assert_eq!(
            render(None, &names()),
            "ID             NAME        IMAGE   NODE   DESIRED STATE   CURRENT STATE           ERROR                              PORTS\n\
             new            web.2       web:1   host   Running         Running 5 seconds ago                                      *:8080->80/tcp,*:53->53/udp\n\
             old             \\_ web.2   web:1   host   Failed          Failed 5 seconds ago    \"a task that ended with a long…\"\n\
             twelve-and-m   web.10      web:1   host   Running         Running 5 seconds ago\n"
        );
    }

    #[test]
    fn scripts_get_names_as_they_are_and_ids_when_nothing_is_resolved() {
        assert_eq!(render(Some("{{.Name}}"), &names()), "web.2\nweb.2\nweb.10\n");
        assert_eq!(render(Some("{{.Name}} {{.Node}}"), &Names::default()), "s1.2 n1\ns1.2 n1\ns1.10 n1\n");
        assert_eq!(render(Some("table {{.Name}}"), &names()), "NAME\nweb.2\n \\_ web.2\nweb.10\n");
    }

    #[test]
    fn images_lose_a_digest_only_beside_a_tag() {
        assert_eq!(image("host:5000/web@sha256:00", false), "host:5000/web@sha256:00");
        assert_eq!(image("host:5000/web:1@sha256:00", false), "host:5000/web:1");
        assert_eq!(image("web:1@sha256:00", true), "web:1@sha256:00");
    }
}
