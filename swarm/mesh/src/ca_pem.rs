//! The authority's certificate and key as text.

use rcgen::{Error, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::der;

/// Characters in a line (RFC 7468, 2).
const LINE: usize = 64;
/// RFC 5480, 2.1.1: the algorithm and the two curves, without tag and length.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// A certificate as text.
pub(crate) fn certificate(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(LINE) {
        // Base 64 is ASCII.
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// A private key, whether wrapped (PKCS #8) or bare (SEC 1; PKCS #1 is refused).
pub(crate) fn key(pem: &str) -> Result<KeyPair, Error> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::CouldNotParseKeyPair)?;
    match der {
        PrivateKeyDer::Sec1(bare) => {
            let wrapped = Zeroizing::new(wrap(bare.secret_sec1_der()).ok_or(Error::CouldNotParseKeyPair)?);
            KeyPair::try_from(wrapped.as_slice())
        }
        PrivateKeyDer::Pkcs8(key) => KeyPair::try_from(&key),
        _ => Err(Error::CouldNotParseKeyPair),
    }
}

/// RFC 5208, 5, around RFC 5915, 3. The curve follows from the private key's length.
fn wrap(sec1: &[u8]) -> Option<Vec<u8>> {
    let (_, content, _) = der::split(sec1)?;
    let (_, _version, rest) = der::split(content)?;
    let (_, secret, _) = der::split(rest)?;
    let curve = match secret.len() {
        32 => P256,
        48 => P384,
        _ => return None,
    };
    let algorithm = der::value(
        der::SEQUENCE,
        &[&der::value(der::OID, &[EC_PUBLIC_KEY]), &der::value(der::OID, &[curve])],
    );
    let key = der::value(der::OCTET_STRING, &[sec1]);
    Some(der::value(der::SEQUENCE, &[&der::value(der::INTEGER, &[&[0]]), &algorithm, &key]))
}
