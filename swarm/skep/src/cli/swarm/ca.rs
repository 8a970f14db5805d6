//! `swarm ca`: shows the root CA, or changes it and waits until every node has a certificate of the new one.

use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::super::client::{CliError, Client};
use super::super::time::parse_duration;
use super::super::{print, text};

/// How often the nodes are looked at.
const POLL: Duration = Duration::from_millis(200);

/// Flags of `ca`.
#[derive(Debug, Args)]
pub(crate) struct Ca {
    /// Change to a new root CA: one that the swarm makes, or the one that is given
    #[arg(long)]
    rotate: bool,
    /// Certificate of the new root CA, a PEM file
    #[arg(long, value_parser = read_file, value_name = "FILE", requires = "rotate")]
    ca_cert: Option<String>,
    /// Key of the new root CA, a PEM file; without one an outside CA must sign
    #[arg(long, value_parser = read_file, value_name = "FILE", requires = "rotate")]
    ca_key: Option<String>,
    /// Life of the nodes' certificates
    #[arg(long, value_parser = parse_duration, requires = "rotate")]
    cert_expiry: Option<u64>,
    /// Outside CAs that sign for the new root CA: protocol=cfssl,url=https://…
    #[arg(long, value_parser = parse_external, requires = "rotate")]
    external_ca: Vec<Value>,
    /// Do not wait until all nodes have new certificates
    #[arg(short, long)]
    detach: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Shows or changes the root CA.
pub(super) async fn run(flags: Ca, client: &Client) -> Result<(), CliError> {
    let swarm: Value = client.get("/swarm").await?;
    if !flags.rotate {
        return print_root(&swarm);
    }
    if flags.ca_key.is_some() && flags.ca_cert.is_none() {
        return Err(CliError::Usage(
            "the --ca-key flag requires that a --ca-cert flag and/or --external-ca flag be provided as well"
                .to_owned(),
        ));
    }
    let mut spec = swarm["Spec"].clone();
    let config = &mut spec["CAConfig"];
    let counter = config["ForceRotate"].as_u64().unwrap_or(0) + 1;
    config["ForceRotate"] = counter.into();
    config["SigningCACert"] = flags.ca_cert.clone().unwrap_or_default().into();
    config["SigningCAKey"] = flags.ca_key.unwrap_or_default().into();
    if let Some(expiry) = flags.cert_expiry {
        config["NodeCertExpiry"] = expiry.into();
    }
    if !flags.external_ca.is_empty() {
        let external = flags.external_ca.into_iter().map(|mut external| {
            external["CACert"] = flags.ca_cert.clone().unwrap_or_default().into();
            external
        });
        config["ExternalCAs"] = external.collect();
    } else if flags.ca_cert.is_none() || !text(config, "/SigningCAKey").is_empty() {
        // The swarm will have the key itself: an outside CA of before signs for it no more.
        config["ExternalCAs"] = json!([]);
    }
    client.post(&format!("/swarm/update?version={}", text(&swarm, "/Version/Index")), &spec).await?;
    if flags.detach {
        return Ok(());
    }
    let swarm = follow(client, flags.quiet).await?;
    print_root(&swarm)
}

/// Waits until the change is over, and shows how far it is.
async fn follow(client: &Client, quiet: bool) -> Result<Value, CliError> {
    let bars = if quiet {
        MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden())
    } else {
        MultiProgress::new()
    };
    let bar = |name: &'static str| {
        let style = ProgressStyle::with_template("  {prefix:26}[{bar:50}] {pos}/{len} nodes");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
        bars.add(ProgressBar::new(0)).with_style(style).with_prefix(name)
    };
    let (certificates, roots) = (bar("rotated TLS certificates:"), bar("rotated CA certificates:"));
    loop {
        let swarm: Value = client.get("/swarm").await?;
        let nodes: Vec<Value> = client.get("/nodes").await?;
        let same = |node: &Value, pointer: &str| {
            text(node, &format!("/Description{pointer}")) == text(&swarm, pointer)
        };
        let issued = nodes.iter().filter(|node| {
            same(node, "/TLSInfo/CertIssuerSubject") && same(node, "/TLSInfo/CertIssuerPublicKey")
        });
        let trusting = nodes.iter().filter(|node| same(node, "/TLSInfo/TrustRoot"));
        for (bar, done) in [(&certificates, issued.count()), (&roots, trusting.count())] {
            bar.set_length(nodes.len() as u64);
            bar.set_position(done as u64);
        }
        if swarm["RootRotationInProgress"].as_bool() != Some(true) {
            certificates.finish();
            roots.finish();
            return Ok(swarm);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn print_root(swarm: &Value) -> Result<(), CliError> {
    let root = text(swarm, "/TLSInfo/TrustRoot");
    if root.is_empty() {
        return Err(CliError::Usage("No CA information available".to_owned()));
    }
    print(&format!("{}\n", root.trim_end()))
}

fn read_file(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

/// `protocol=cfssl,url=https://…[,cacert=FILE][,option=value]`, as docker/cli `opts/swarm.go` reads it.
pub(super) fn parse_external(text: &str) -> Result<Value, String> {
    let mut external = json!({ "Protocol": "", "URL": "", "Options": {} });
    let mut options = Map::new();
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.trim().to_lowercase().as_str() {
            "protocol" if value.eq_ignore_ascii_case("cfssl") => external["Protocol"] = "cfssl".into(),
            "protocol" => return Err(format!("unrecognized external CA protocol {value}")),
            "url" => external["URL"] = value.into(),
            "cacert" => external["CACert"] = read_file(value)?.into(),
            other => drop(options.insert(other.to_owned(), value.into())),
        }
    }
    if external["Protocol"] == "" {
        return Err("the external-ca option needs a protocol= parameter".to_owned());
    }
    if external["URL"] == "" {
        return Err("the external-ca option needs a url= parameter".to_owned());
    }
    external["Options"] = options.into();
    Ok(external)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_cas_are_dockers() {
        let parsed = parse_external("protocol=cfssl,url=https://ca:8888/sign,label=x").unwrap();
        assert_eq!(
            parsed,
            json!({ "Protocol": "cfssl", "URL": "https://ca:8888/sign", "Options": { "label": "x" } })
        );
        for (wrong, words) in [
            ("", "key=value"),
            ("protocol=none,url=x", "unrecognized external CA protocol none"),
            ("url=https://ca", "needs a protocol="),
            ("protocol=cfssl", "needs a url="),
            ("protocol=cfssl,url=x,cacert=/no/such/file", "/no/such/file"),
        ] {
            let error = parse_external(wrong).unwrap_err();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }
}
