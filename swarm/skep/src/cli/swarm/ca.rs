//! `swarm ca`: shows the root CA, or changes it and waits until every node has a certificate of the new one
//! (docker/cli `cli/command/swarm/ca.go`).

use clap::Args;
use serde_json::{Map, Value, json};

use super::super::client::{CliError, Client};
use super::super::time::parse_duration;
use super::super::{print, text};
use super::rotation;

/// Flags of `ca`.
#[derive(Debug, Default, Args)]
pub(crate) struct Ca {
    /// Change to a new root CA: one that the swarm makes, or the one that is given
    #[arg(long)]
    rotate: bool,
    /// Certificate of the new root CA, a PEM file
    #[arg(long, value_parser = read_pem, value_name = "FILE")]
    ca_cert: Option<String>,
    /// Key of the new root CA, a PEM file; without one an outside CA must sign
    #[arg(long, value_parser = read_pem, value_name = "FILE")]
    ca_key: Option<String>,
    /// Life of the nodes' certificates
    #[arg(long, value_parser = parse_duration)]
    cert_expiry: Option<u64>,
    /// Outside CAs that sign for the new root CA: protocol=cfssl,url=https://…
    #[arg(long, value_parser = parse_external)]
    external_ca: Vec<Value>,
    /// Do not wait until all nodes have new certificates
    #[arg(short, long)]
    detach: bool,
    /// Show nothing while waiting, and not the new root CA either
    #[arg(short, long)]
    quiet: bool,
}

/// Shows or changes the root CA.
pub(super) async fn run(flags: Ca, client: &Client) -> Result<(), CliError> {
    let swarm: Value = client.get("/swarm").await?;
    check(&flags)?;
    if !flags.rotate {
        return print_root(&swarm);
    }
    let (detach, quiet) = (flags.detach, flags.quiet);
    let spec = rotated(&swarm["Spec"], flags);
    client.post(&format!("/swarm/update?version={}", text(&swarm, "/Version/Index")), &spec).await?;
    if detach {
        return Ok(());
    }
    match rotation::follow(client, quiet).await? {
        Some(swarm) if !quiet => print_root(&swarm),
        _ => Ok(()),
    }
}

/// What does not go together, in Docker's words.
fn check(flags: &Ca) -> Result<(), CliError> {
    if !flags.rotate {
        let given = [
            ("ca-cert", flags.ca_cert.is_some()),
            ("ca-key", flags.ca_key.is_some()),
            ("cert-expiry", flags.cert_expiry.is_some()),
            ("external-ca", !flags.external_ca.is_empty()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(CliError::Usage(format!("`--{name}` flag requires the `--rotate` flag to update the CA")))
            }
            None => Ok(()),
        };
    }
    let external = !flags.external_ca.is_empty();
    if external && flags.ca_cert.is_none() {
        return Err(CliError::Usage(
            "rotating to an external CA requires the `--ca-cert` flag to specify the external CA's cert - to add an external CA with the current root CA certificate, use the `update` command instead"
                .to_owned(),
        ));
    }
    if flags.ca_cert.is_some() && !external && flags.ca_key.is_none() {
        return Err(CliError::Usage(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The settings that order the rotation. External CAs of before stay: each is for one root CA only, and the one of the
/// present root is needed to sign the new root across.
fn rotated(spec: &Value, flags: Ca) -> Value {
    let mut spec = spec.clone();
    let config = &mut spec["CAConfig"];
    if flags.ca_cert.is_none() && flags.ca_key.is_none() {
        config["ForceRotate"] = (config["ForceRotate"].as_u64().unwrap_or(0) + 1).into();
    }
    let cert = flags.ca_cert.unwrap_or_default();
    if let Some(expiry) = flags.cert_expiry {
        config["NodeCertExpiry"] = expiry.into();
    }
    if !flags.external_ca.is_empty() {
        config["ExternalCAs"] = pinned(flags.external_ca, &cert);
    }
    config["SigningCACert"] = cert.into();
    config["SigningCAKey"] = flags.ca_key.unwrap_or_default().into();
    spec
}

/// External CAs as those of one root CA. One without a root would be taken for the signer of whatever root the swarm
/// has, also after the next rotation.
pub(super) fn pinned(external: Vec<Value>, cert: &str) -> Value {
    let pin = |mut external: Value| {
        external["CACert"] = cert.into();
        external
    };
    external.into_iter().map(pin).collect()
}

fn print_root(swarm: &Value) -> Result<(), CliError> {
    let root = text(swarm, "/TLSInfo/TrustRoot");
    if root.is_empty() {
        return Err(CliError::Usage("No CA information available".to_owned()));
    }
    print(&format!("{}\n", root.trim_end()))
}

fn read_pem(path: &str) -> Result<String, String> {
    let contents = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    if contents.contains("-----BEGIN ") {
        Ok(contents)
    } else {
        Err(format!("{path}: file contents must be in PEM format"))
    }
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
            "cacert" => external["CACert"] = read_pem(value)?.into(),
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

    fn external() -> Vec<Value> {
        vec![parse_external("protocol=cfssl,url=https://ca").unwrap()]
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused_in_dockers_words() {
        let cert = || Some("CERT".to_owned());
        let words = |flags: Ca| check(&flags).unwrap_err().to_string();
        let rotate = || Ca { rotate: true, ..Ca::default() };
        assert_eq!(
            words(Ca { external_ca: external(), ..rotate() }),
            "rotating to an external CA requires the `--ca-cert` flag to specify the external CA's cert - to add an external CA with the current root CA certificate, use the `update` command instead"
        );
        assert_eq!(
            words(Ca { ca_cert: cert(), ..rotate() }),
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well"
        );
        assert_eq!(
            words(Ca { cert_expiry: Some(1), ..Ca::default() }),
            "`--cert-expiry` flag requires the `--rotate` flag to update the CA"
        );
        for right in [
            Ca::default(),
            rotate(),
            Ca { ca_cert: cert(), ca_key: cert(), ..rotate() },
            Ca { ca_cert: cert(), external_ca: external(), ..rotate() },
            Ca { cert_expiry: Some(1), ..rotate() },
        ] {
            check(&right).unwrap();
        }
    }

    #[test]
    fn a_rotation_is_ordered_by_a_counter_or_by_a_root() {
        let old = json!({ "Name": "default", "CAConfig": {
            "ForceRotate": 3, "ExternalCAs": [{ "URL": "https://old", "CACert": "OLD" }],
        } });
        let spec = rotated(&old, Ca { rotate: true, cert_expiry: Some(7), ..Ca::default() });
        assert_eq!(
            spec,
            json!({ "Name": "default", "CAConfig": {
                "ForceRotate": 4, "ExternalCAs": [{ "URL": "https://old", "CACert": "OLD" }],
                "NodeCertExpiry": 7, "SigningCACert": "", "SigningCAKey": "",
            } })
        );
        let flags =
            Ca { rotate: true, ca_cert: Some("NEW".to_owned()), external_ca: external(), ..Ca::default() };
        let config = &rotated(&old, flags)["CAConfig"];
        assert_eq!((&config["ForceRotate"], &config["SigningCACert"]), (&json!(3), &json!("NEW")));
        assert_eq!(config["ExternalCAs"][0]["CACert"], "NEW");
        assert_eq!(config["ExternalCAs"].as_array().unwrap().len(), 1);
    }
}
