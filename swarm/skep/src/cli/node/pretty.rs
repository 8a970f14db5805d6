//! `node inspect --pretty`: docker/cli `cli/command/node/formatter.go`.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::text;
use super::super::time::human_size;
use super::capitalised;

/// A node for people.
pub(super) fn node(node: &Value) -> String {
    let mut shown = String::new();
    // Writing to a string cannot fail.
    let mut line = |depth: usize, name: &str, value: &str| {
        let _ =
            writeln!(shown, "{}{:width$}{value}", " ".repeat(depth), format!("{name}:"), width = 24 - depth);
    };
    line(0, "ID", &text(node, "/ID"));
    if !text(node, "/Spec/Name").is_empty() {
        line(0, "Name", &text(node, "/Spec/Name"));
    }
    labels(&mut line, "Labels", &node["Spec"]["Labels"]);
    line(0, "Hostname", &text(node, "/Description/Hostname"));
    line(0, "Joined at", &text(node, "/CreatedAt"));
    line(0, "Status", "");
    line(1, "State", &capitalised(&text(node, "/Status/State")));
    if !text(node, "/Status/Message").is_empty() {
        line(1, "Message", &capitalised(&text(node, "/Status/Message")));
    }
    line(1, "Availability", &capitalised(&text(node, "/Spec/Availability")));
    if !text(node, "/Status/Addr").is_empty() {
        line(1, "Address", &text(node, "/Status/Addr"));
    }
    if let Some(status) = node.get("ManagerStatus").filter(|status| !status.is_null()) {
        line(0, "Manager Status", "");
        line(1, "Address", &text(status, "/Addr"));
        line(1, "Raft Status", &capitalised(&text(status, "/Reachability")));
        let leads = status["Leader"].as_bool() == Some(true);
        line(1, "Leader", if leads { "Yes" } else { "No" });
    }
    line(0, "Platform", "");
    line(1, "Operating System", &text(node, "/Description/Platform/OS"));
    line(1, "Architecture", &text(node, "/Description/Platform/Architecture"));
    line(0, "Resources", "");
    let cpus = node["Description"]["Resources"]["NanoCPUs"].as_i64().unwrap_or(0) / 1_000_000_000;
    line(1, "CPUs", &cpus.to_string());
    line(1, "Memory", &human_size(node["Description"]["Resources"]["MemoryBytes"].as_i64().unwrap_or(0)));
    line(0, "Engine Version", &text(node, "/Description/Engine/EngineVersion"));
    labels(&mut line, "Engine Labels", &node["Description"]["Engine"]["Labels"]);
    if let Some(tls) = node["Description"].get("TLSInfo") {
        line(0, "TLS Info", "");
        line(1, "TrustRoot", "");
        for certificate in text(tls, "/TrustRoot").lines() {
            let _ = writeln!(shown, "{certificate}");
        }
        let _ = writeln!(shown, "\n Issuer Subject:\t{}", text(tls, "/CertIssuerSubject"));
        let _ = writeln!(shown, " Issuer Public Key:\t{}", text(tls, "/CertIssuerPublicKey"));
    }
    shown
}

fn labels(line: &mut impl FnMut(usize, &str, &str), title: &str, labels: &Value) {
    let Some(labels) = labels.as_object().filter(|labels| !labels.is_empty()) else { return };
    line(0, title, "");
    for (key, value) in labels {
        line(1, &format!("- {key}={}", value.as_str().unwrap_or_default()), "");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manager_is_shown_with_its_place_in_raft() {
        let value = json!({
            "ID": "abc", "CreatedAt": "2026-01-02T03:04:05Z",
            "Spec": { "Availability": "active", "Role": "manager", "Labels": { "zone": "a" } },
            "Description": {
                "Hostname": "host1", "Platform": { "OS": "linux", "Architecture": "x86_64" },
                "Resources": { "NanoCPUs": 2_000_000_000_i64, "MemoryBytes": 1_073_741_824_i64 },
                "Engine": { "EngineVersion": "0.1.0" },
            },
            "Status": { "State": "ready", "Addr": "10.0.0.1" },
            "ManagerStatus": { "Addr": "10.0.0.1:2377", "Reachability": "reachable", "Leader": true },
        });
        let shown = node(&value);
        for expected in [
            "ID:                     abc",
            "Hostname:               host1",
            " Raft Status:           Reachable",
            " Leader:                Yes",
            "zone=a",
            " CPUs:                  2",
        ] {
            assert!(shown.contains(expected), "{expected:?} in\n{shown}");
        }
    }
}
