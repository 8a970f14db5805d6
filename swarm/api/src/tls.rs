//! What clients see of the swarm's authority.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use skep_state::Cluster;
use x509_parser::pem::parse_x509_pem;

/// The authority that signs the nodes' certificates (moby `api/types/swarm/common.go`, `TLSInfo`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TlsInfo {
    /// Its certificate, PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    trust_root: String,
    /// Its DER subject, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    cert_issuer_subject: String,
    /// Its DER public key, in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    cert_issuer_public_key: String,
}

impl TlsInfo {
    /// Of a certificate in PEM that is trusted and issues; one that cannot be read is shown alone.
    pub(crate) fn of(certificate: &str) -> Self {
        Self::of_two(certificate, certificate)
    }

    /// Of the certificate that nodes trust and of the one that issues theirs, which differ while the authority is
    /// being changed.
    fn of_two(trusted: &str, issuer: &str) -> Self {
        let parsed = parse_x509_pem(issuer.as_bytes()).ok();
        let names = parsed.and_then(|(_, pem)| {
            let certificate = pem.parse_x509().ok()?;
            let subject = STANDARD.encode(certificate.tbs_certificate.subject.as_raw());
            Some((subject, STANDARD.encode(certificate.tbs_certificate.subject_pki.raw)))
        });
        let (cert_issuer_subject, cert_issuer_public_key) = names.unwrap_or_default();
        Self { trust_root: trusted.to_owned(), cert_issuer_subject, cert_issuer_public_key }
    }
}

/// The swarm's authority, and the one that takes its place if a change is under way: by these clients tell how far the
/// change has come, for they compare what the swarm shows with what each node shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authorities {
    current: TlsInfo,
    /// Digest and what is shown of those who have a certificate of the new authority.
    next: Option<(String, TlsInfo)>,
}

impl Authorities {
    /// Of a swarm.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let next = cluster.rotation.as_ref().map(|rotation| {
            (digest(&rotation.ca_cert), TlsInfo::of_two(&cluster.ca_cert, &rotation.ca_cert))
        });
        Self { current: TlsInfo::of(&cluster.ca_cert), next }
    }

    /// What the swarm shows: the roots that are trusted, and who issues certificates now (as swarmkit's
    /// `IssuerFromAPIRootCA`).
    pub(crate) fn wanted(&self) -> &TlsInfo {
        self.next.as_ref().map_or(&self.current, |(_, info)| info)
    }

    /// What a node shows whose certificate an authority of that digest issued.
    pub(crate) fn of_node(&self, issuer_digest: &str) -> &TlsInfo {
        match &self.next {
            Some((digest, info)) if digest == issuer_digest => info,
            _ => &self.current,
        }
    }
}

/// SHA-256 of a certificate's DER, hex, as [`skep_state::object::Certificate`] has it; empty if it cannot be read.
fn digest(certificate: &str) -> String {
    let pem = parse_x509_pem(certificate.as_bytes()).ok();
    pem.map(|(_, pem)| hex::encode(Sha256::digest(&pem.contents))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_dockerd_shows_of_the_same_certificate() {
        let info = include_str!("../tests/fixtures/daemon-responses-1.41/info--info.json");
        let info: serde_json::Value = serde_json::from_str(info).unwrap();
        let shown = &info["Swarm"]["Cluster"]["TLSInfo"];
        let ours = TlsInfo::of(shown["TrustRoot"].as_str().unwrap());
        assert_eq!(serde_json::to_value(ours).unwrap(), *shown);
        assert_eq!(TlsInfo::of("junk").cert_issuer_subject, "");
    }

    #[test]
    fn a_rotation_shows_who_has_the_new_authoritys_certificate() {
        let info = include_str!("../tests/fixtures/daemon-responses-1.41/info--info.json");
        let info: serde_json::Value = serde_json::from_str(info).unwrap();
        let new = info["Swarm"]["Cluster"]["TLSInfo"]["TrustRoot"].as_str().unwrap();
        let rotation = skep_state::object::RootRotation { ca_cert: new.to_owned(), ..Default::default() };
        let mut cluster = Cluster { ca_cert: "old".to_owned(), ..Cluster::default() };
        let before = Authorities::of(&cluster);
        assert_eq!(before.of_node("any"), before.wanted());
        cluster.rotation = Some(rotation);
        let during = Authorities::of(&cluster);
        assert_ne!(during.of_node("old's digest"), during.wanted());
        assert_eq!(during.of_node(&digest(new)), during.wanted());
        assert_eq!(during.wanted().trust_root, "old", "the old one is what all nodes trust");
    }
}
