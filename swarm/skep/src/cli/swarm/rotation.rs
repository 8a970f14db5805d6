//! How far a change of the root CA is (docker/cli `cli/command/swarm/progress/root_rotation.go`): bars on a terminal,
//! a line for each change elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::super::client::{CliError, Client};
use super::super::{print, text};

/// How often the nodes are looked at.
const POLL: Duration = Duration::from_millis(200);

/// What is counted.
const CERTIFICATES: &str = "  rotated TLS certificates:";
const ROOTS: &str = "  rotated CA certificates: ";

/// Waits until the change is over; the swarm then, or nothing when the user wants to wait no longer.
pub(super) async fn follow(client: &Client, quiet: bool) -> Result<Option<Value>, CliError> {
    let mut shown = Shown::new(quiet);
    loop {
        let swarm: Value = client.get("/swarm").await?;
        let nodes: Vec<Value> = client.get("/nodes").await?;
        let progress = Progress::of(&swarm, &nodes);
        shown.update(&progress)?;
        if !progress.under_way {
            shown.finish();
            return Ok(Some(swarm));
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = tokio::signal::ctrl_c() => {
                shown.finish();
                if !quiet {
                    print("Operation continuing in background.\nUse `skep info` to check progress.\n")?;
                }
                return Ok(None);
            }
        }
    }
}

/// How far the change is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Progress {
    /// Of the root that the swarm shows.
    digest: String,
    /// Nodes with a certificate of the wanted issuer.
    certificates: u64,
    /// Nodes that trust the new root alone; none before all have new certificates.
    roots: u64,
    nodes: u64,
    under_way: bool,
}

impl Progress {
    fn of(swarm: &Value, nodes: &[Value]) -> Self {
        let same = |node: &Value, pointer: &str| {
            text(node, &format!("/Description{pointer}")) == text(swarm, pointer)
        };
        let issued = |node: &&Value| {
            same(node, "/TLSInfo/CertIssuerSubject") && same(node, "/TLSInfo/CertIssuerPublicKey")
        };
        let count = |found: usize| u64::try_from(found).unwrap_or(u64::MAX);
        let certificates = count(nodes.iter().filter(issued).count());
        let under_way = swarm["RootRotationInProgress"].as_bool() == Some(true);
        let roots = nodes.iter().filter(|node| same(node, "/TLSInfo/TrustRoot")).count();
        Self {
            digest: format!("sha256:{}", hex::encode(Sha256::digest(text(swarm, "/TLSInfo/TrustRoot")))),
            certificates,
            roots: if under_way { 0 } else { count(roots) },
            nodes: count(nodes.len()),
            under_way,
        }
    }

    /// A line for each part that has changed since `before`.
    fn lines(&self, before: Option<&Self>) -> String {
        let changed = |part: fn(&Self) -> u64| {
            before.is_none_or(|before| part(before) != part(self) || before.nodes != self.nodes)
        };
        let mut lines = String::new();
        if before.is_none_or(|before| before.digest != self.digest) {
            lines.push_str(&format!("desired root digest: {}\n", self.digest));
        }
        if changed(|progress| progress.certificates) {
            lines.push_str(&format!("{CERTIFICATES} {}/{} nodes\n", self.certificates, self.nodes));
        }
        if changed(|progress| progress.roots) {
            lines.push_str(&format!("{ROOTS} {}/{} nodes\n", self.roots, self.nodes));
        }
        lines
    }
}

/// What the user sees of it.
enum Shown {
    Nothing,
    Lines(Option<Progress>),
    Bars { digest: ProgressBar, certificates: ProgressBar, roots: ProgressBar },
}

impl Shown {
    fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Nothing;
        }
        if !std::io::stdout().is_terminal() || !std::io::stderr().is_terminal() {
            return Self::Lines(None);
        }
        let bars = MultiProgress::new();
        let add = |template: &str, name: &'static str| {
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
            bars.add(ProgressBar::new(0)).with_style(style).with_prefix(name)
        };
        let counted = "{prefix} [{bar:50}] {pos}/{len} nodes";
        Self::Bars {
            digest: add("{prefix} {msg}", "desired root digest:"),
            certificates: add(counted, CERTIFICATES),
            roots: add(counted, ROOTS),
        }
    }

    fn update(&mut self, progress: &Progress) -> Result<(), CliError> {
        match self {
            Self::Nothing => {}
            Self::Lines(before) => {
                print(&progress.lines(before.as_ref()))?;
                *before = Some(progress.clone());
            }
            Self::Bars { digest, certificates, roots } => {
                digest.set_message(progress.digest.clone());
                for (bar, done) in [(certificates, progress.certificates), (roots, progress.roots)] {
                    bar.set_length(progress.nodes);
                    bar.set_position(done);
                }
            }
        }
        Ok(())
    }

    /// Leaves the bars as they are.
    fn finish(&self) {
        if let Self::Bars { digest, certificates, roots } = self {
            for bar in [digest, certificates, roots] {
                bar.abandon();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_is_told_in_lines_when_it_changes() {
        let tls = |root: &str, issuer: &str| json!({ "TrustRoot": root, "CertIssuerSubject": issuer, "CertIssuerPublicKey": issuer });
        let node = |root: &str, issuer: &str| json!({ "Description": { "TLSInfo": tls(root, issuer) } });
        let swarm = |root: &str, under_way: bool| json!({ "RootRotationInProgress": under_way, "TLSInfo": tls(root, "new") });
        let first = Progress::of(&swarm("old", true), &[node("old", "old"), node("old", "new")]);
        let digest = hex::encode(Sha256::digest("old"));
        assert_eq!(
            first.lines(None),
            format!(
                "desired root digest: sha256:{digest}\n  rotated TLS certificates: 1/2 nodes\n  rotated CA certificates:  0/2 nodes\n"
            )
        );
        assert_eq!(first.lines(Some(&first)), "");
        let second = Progress::of(&swarm("old", true), &[node("old", "new"), node("old", "new")]);
        assert_eq!(second.lines(Some(&first)), "  rotated TLS certificates: 2/2 nodes\n");
        let last = Progress::of(&swarm("new", false), &[node("new", "new"), node("new", "new")]);
        assert!(!last.under_way);
        let told = last.lines(Some(&second));
        assert!(told.starts_with("desired root digest: sha256:"), "{told}");
        assert!(told.ends_with("\n  rotated CA certificates:  2/2 nodes\n"), "{told}");
    }
}
