//! What clients see of the swarm's authority.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
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
    /// Of a certificate in PEM; one that cannot be read is shown alone.
    pub(crate) fn of(certificate: &str) -> Self {
        let parsed = parse_x509_pem(certificate.as_bytes()).ok();
        let names = parsed.and_then(|(_, pem)| {
            let certificate = pem.parse_x509().ok()?;
            let subject = STANDARD.encode(certificate.tbs_certificate.subject.as_raw());
            Some((subject, STANDARD.encode(certificate.tbs_certificate.subject_pki.raw)))
        });
        let (cert_issuer_subject, cert_issuer_public_key) = names.unwrap_or_default();
        Self { trust_root: certificate.to_owned(), cert_issuer_subject, cert_issuer_public_key }
    }
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
}
