//! `node ls`: docker/cli `cli/command/node/formatter.go`, and how each node is reached.

use serde_json::Value;

use super::super::client::{CliError, Client, filters};
use super::super::table::{Column, Table};
use super::super::{ListFlags, natural, print, text};
use super::capitalised;

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Self", ""),
    ("Hostname", "HOSTNAME"),
    ("Status", "STATUS"),
    ("Availability", "AVAILABILITY"),
    ("ManagerStatus", "MANAGER STATUS"),
    ("EngineVersion", "ENGINE VERSION"),
    ("Path", "PATH"),
    ("TLSStatus", "TLS STATUS"),
];

/// What people see of it.
const TABLE: &str = "{{.ID}} {{if .Self}}*{{else}} {{end}}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}\t{{.Path}}";

/// Lists the nodes.
pub(super) async fn run(flags: ListFlags, client: &Client) -> Result<(), CliError> {
    let nodes: Vec<Value> = client.get(&format!("/nodes?{}", filters(&flags.filter))).await?;
    let info: Value = client.get("/info").await?;
    // A daemon of an earlier version does not know it.
    let paths: Value = client.get("/skep/paths").await.unwrap_or_default();
    let swarm: Value = client.get("/swarm").await?;
    let table = table(nodes, &text(&info, "/Swarm/NodeID"), &paths, &swarm["TLSInfo"]);
    print(&table.render(flags.format.as_deref(), flags.quiet)?)
}

fn table(mut nodes: Vec<Value>, own: &str, paths: &Value, tls: &Value) -> Table {
    let hostname = |node: &Value| text(node, "/Description/Hostname");
    nodes.sort_by(|one, other| natural::compare(&hostname(one), &hostname(other)));
    let mut table = Table::shown_as(COLUMNS, TABLE);
    for node in &nodes {
        let id = text(node, "/ID");
        let manager = match node.get("ManagerStatus") {
            Some(status) if status["Leader"].as_bool() == Some(true) => "Leader".to_owned(),
            Some(status) => capitalised(&text(status, "/Reachability")),
            None => String::new(),
        };
        let path = if id == own { "-".to_owned() } else { shown_path(&paths[&id], &nodes) };
        table.values(vec![
            id.as_str().into(),
            (id == own).into(),
            hostname(node).into(),
            capitalised(&text(node, "/Status/State")).into(),
            capitalised(&text(node, "/Spec/Availability")).into(),
            manager.into(),
            text(node, "/Description/Engine/EngineVersion").into(),
            path.into(),
            tls_status(&node["Description"]["TLSInfo"], tls).into(),
        ]);
    }
    table
}

/// Whether a node has its certificate by the authority that the swarm shows.
fn tls_status(node: &Value, swarm: &Value) -> &'static str {
    let parts = ["/CertIssuerSubject", "/CertIssuerPublicKey", "/TrustRoot"];
    let unknown = |tls: &Value| parts.iter().all(|part| text(tls, part).is_empty());
    if unknown(node) || unknown(swarm) {
        "Unknown"
    } else if parts.iter().all(|part| text(node, part) == text(swarm, part)) {
        "Ready"
    } else {
        "Needs Rotation"
    }
}

/// How a node is reached: itself, or through another one.
fn shown_path(path: &Value, nodes: &[Value]) -> String {
    let host = |id: &str| {
        let node = nodes.iter().find(|node| text(node, "/ID") == id);
        node.map_or_else(|| id.to_owned(), |node| text(node, "/Description/Hostname"))
    };
    match text(path, "/Path").as_str() {
        "relayed" => format!("relayed via {}", host(&text(path, "/Via"))),
        "direct" => "direct".to_owned(),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Table {
        let node = |id: &str, host: &str, root: &str, manager: Value| {
            let mut node = json!({
                "ID": id, "Spec": { "Availability": "active" }, "Status": { "State": "ready" },
                "Description": { "Hostname": host, "Engine": { "EngineVersion": "0.1" }, "TLSInfo": {} },
            });
            if !root.is_empty() {
                node["Description"]["TLSInfo"] = json!({ "TrustRoot": root });
            }
            if !manager.is_null() {
                node["ManagerStatus"] = manager;
            }
            node
        };
        let nodes = vec![
            node("ten", "node-10", "", Value::Null),
            node("two", "node-2", "OLD", json!({ "Reachability": "unreachable" })),
            node("one", "node-1", "ROOT", json!({ "Leader": true, "Reachability": "reachable" })),
        ];
        let paths = json!({ "two": { "Path": "direct" }, "ten": { "Path": "relayed", "Via": "two" } });
        table(nodes, "one", &paths, &json!({ "TrustRoot": "ROOT" }))
    }

    #[test]
    fn people_see_a_star_at_the_own_node() {
        assert_eq!(
            sample().render(None, false).unwrap(),
            "ID      HOSTNAME   STATUS   AVAILABILITY   MANAGER STATUS   ENGINE VERSION   PATH\n\
             one *   node-1     Ready    Active         Leader           0.1              -\n\
             two     node-2     Ready    Active         Unreachable      0.1              direct\n\
             ten     node-10    Ready    Active                          0.1              relayed via node-2\n"
        );
        assert_eq!(sample().render(None, true).unwrap(), "one\ntwo\nten\n");
    }

    #[test]
    fn scripts_see_the_bare_id_and_a_switch() {
        let render = |format: &str| sample().render(Some(format), false).unwrap();
        assert_eq!(render("{{.ID}}"), "one\ntwo\nten\n");
        assert_eq!(render("{{if .Self}}self{{else}}other{{end}}"), "self\nother\nother\n");
        assert_eq!(
            render("{{.Hostname}}:{{.TLSStatus}}"),
            "node-1:Ready\nnode-2:Needs Rotation\nnode-10:Unknown\n"
        );
        let first = render("json").lines().next().map(str::to_owned).unwrap();
        let first: Value = serde_json::from_str(&first).unwrap();
        assert_eq!((&first["ID"], &first["Self"]), (&json!("one"), &json!(true)));
    }
}
