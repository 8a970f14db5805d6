//! `node inspect --pretty`: docker/cli `cli/command/node/formatter.go`, to the letter, for scripts read it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::text;
use super::super::time::{go_time, memory_size};

/// A node for people.
pub(super) fn node(node: &Value) -> String {
    let mut shown = Lines::default();
    let at = |pointer: &str| text(node, pointer);
    shown.field("ID", "\t\t\t", &at("/ID"));
    if !at("/Spec/Name").is_empty() {
        shown.field("Name", "\t\t\t", &at("/Spec/Name"));
    }
    shown.labels("Labels", &node["Spec"]["Labels"]);
    shown.field("Hostname", "              \t", &at("/Description/Hostname"));
    shown.field("Joined at", "             \t", &worded(&go_time(&at("/CreatedAt"))));
    shown.title("Status");
    shown.field(" State", "\t\t\t", &worded(&at("/Status/State")));
    if !at("/Status/Message").is_empty() {
        shown.field(" Message", "              \t", &worded(&at("/Status/Message")));
    }
    shown.field(" Availability", "         \t", &worded(&at("/Spec/Availability")));
    if !at("/Status/Addr").is_empty() {
        shown.field(" Address", "\t\t", &at("/Status/Addr"));
    }
    if let Some(status) = node.get("ManagerStatus").filter(|status| !status.is_null()) {
        shown.title("Manager Status");
        shown.field(" Address", "\t\t", &text(status, "/Addr"));
        shown.field(" Raft Status", "\t\t", &worded(&text(status, "/Reachability")));
        let leads = status["Leader"].as_bool() == Some(true);
        shown.field(" Leader", "\t\t", if leads { "Yes" } else { "No" });
    }
    let description = &node["Description"];
    shown.title("Platform");
    shown.field(" Operating System", "\t", &text(description, "/Platform/OS"));
    shown.field(" Architecture", "\t\t", &text(description, "/Platform/Architecture"));
    shown.title("Resources");
    let cpus = description["Resources"]["NanoCPUs"].as_i64().unwrap_or(0) / 1_000_000_000;
    shown.field(" CPUs", "\t\t\t", &cpus.to_string());
    let memory = description["Resources"]["MemoryBytes"].as_i64().filter(|bytes| *bytes != 0);
    shown.field(" Memory", "\t\t", &memory.map(memory_size).unwrap_or_default());
    shown.plugins(&description["Engine"]["Plugins"]);
    shown.field("Engine Version", "\t\t", &text(description, "/Engine/EngineVersion"));
    shown.labels("Engine Labels", &description["Engine"]["Labels"]);
    let tls = &description["TLSInfo"];
    if tls.as_object().is_some_and(|tls| !tls.is_empty()) {
        shown.title("TLS Info");
        shown.title(" TrustRoot");
        shown.line(&text(tls, "/TrustRoot"));
        shown.field(" Issuer Subject", "\t", &text(tls, "/CertIssuerSubject"));
        shown.field(" Issuer Public Key", "\t", &text(tls, "/CertIssuerPublicKey"));
    }
    shown.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn title(&mut self, name: &str) {
        self.line(&format!("{name}:"));
    }

    fn field(&mut self, name: &str, gap: &str, value: &str) {
        self.line(&format!("{name}:{gap}{value}"));
    }

    fn labels(&mut self, title: &str, labels: &Value) {
        let Some(labels) = labels.as_object().filter(|labels| !labels.is_empty()) else { return };
        self.title(title);
        for (key, value) in labels {
            match value.as_str() {
                None | Some("") => self.line(&format!(" - {key}")),
                Some(value) => self.line(&format!(" - {key}={value}")),
            }
        }
    }

    /// By type, each with all its names.
    fn plugins(&mut self, plugins: &Value) {
        let mut by_type: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for plugin in plugins.as_array().into_iter().flatten() {
            by_type.entry(text(plugin, "/Type")).or_default().push(text(plugin, "/Name"));
        }
        if by_type.is_empty() {
            return;
        }
        self.title("Plugins");
        for (kind, names) in by_type {
            self.field(&format!(" {kind}"), "\t\t", &names.join(", "));
        }
    }
}

/// The first letter in upper case, the others in lower case (docker/cli `PrettyPrint`).
fn worded(words: &str) -> String {
    super::capitalised(&words.to_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manager_is_shown_as_docker_shows_it() {
        let value = json!({
            "ID": "abc", "CreatedAt": "2026-01-02T03:04:05.5Z",
            "Spec": { "Availability": "active", "Role": "manager", "Labels": { "zone": "a", "ssd": "" } },
            "Description": {
                "Hostname": "host1", "Platform": { "OS": "linux", "Architecture": "x86_64" },
                "Resources": { "NanoCPUs": 2_000_000_000_i64, "MemoryBytes": 20_971_520_i64 },
                "Engine": { "EngineVersion": "0.1.0", "Labels": { "engine": "label" }, "Plugins": [
                    { "Type": "Volume", "Name": "local" }, { "Type": "Network", "Name": "bridge" },
                    { "Type": "Network", "Name": "overlay" },
                ] },
                "TLSInfo": { "TrustRoot": "-----BEGIN-----\nroot\n", "CertIssuerSubject": "c3ViamVjdA==",
                    "CertIssuerPublicKey": "a2V5" },
            },
            "Status": { "State": "ready", "Addr": "10.0.0.1" },
            "ManagerStatus": { "Addr": "10.0.0.1:2377", "Reachability": "reachable", "Leader": true },
        });
        let expected = [
            "ID:\t\t\tabc",
            "Labels:",
            " - ssd",
            " - zone=a",
            "Hostname:              \thost1",
            "Joined at:             \t2026-01-02 03:04:05.5 +0000 utc",
            "Status:",
            " State:\t\t\tReady",
            " Availability:         \tActive",
            " Address:\t\t10.0.0.1",
            "Manager Status:",
            " Address:\t\t10.0.0.1:2377",
            " Raft Status:\t\tReachable",
            " Leader:\t\tYes",
            "Platform:",
            " Operating System:\tlinux",
            " Architecture:\t\tx86_64",
            "Resources:",
            " CPUs:\t\t\t2",
            " Memory:\t\t20MiB",
            "Plugins:",
            " Network:\t\tbridge, overlay",
            " Volume:\t\tlocal",
            "Engine Version:\t\t0.1.0",
            "Engine Labels:",
            " - engine=label",
            "TLS Info:",
            " TrustRoot:",
            "-----BEGIN-----",
            "root",
            "",
            " Issuer Subject:\tc3ViamVjdA==",
            " Issuer Public Key:\ta2V5",
            "",
        ];
        assert_eq!(node(&value), expected.join("\n"));
    }

    #[test]
    fn a_worker_is_shown_with_what_there_is() {
        let value = json!({
            "ID": "abc", "CreatedAt": "2026-01-02T03:04:05Z",
            "Spec": { "Name": "name", "Availability": "drain", "Labels": {} },
            "Description": { "Hostname": "host2", "Platform": { "OS": "linux", "Architecture": "aarch64" },
                "Resources": {}, "Engine": { "EngineVersion": "0.1.0" }, "TLSInfo": {} },
            "Status": { "State": "down", "Message": "heartbeat Failure" },
        });
        let expected = [
            "ID:\t\t\tabc",
            "Name:\t\t\tname",
            "Hostname:              \thost2",
            "Joined at:             \t2026-01-02 03:04:05 +0000 utc",
            "Status:",
            " State:\t\t\tDown",
            " Message:              \tHeartbeat failure",
            " Availability:         \tDrain",
            "Platform:",
            " Operating System:\tlinux",
            " Architecture:\t\taarch64",
            "Resources:",
            " CPUs:\t\t\t0",
            " Memory:\t\t",
            "Engine Version:\t\t0.1.0",
            "",
        ];
        assert_eq!(node(&value), expected.join("\n"));
    }
}
