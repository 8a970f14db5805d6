//! A node's identity on disk: `node.key` (sealed, mode 0600), `node.crt` (the certificate and what came with it) and
//! `ca.crt` (the trust bundle), in one folder.
//!
//! ```text
//! renewal:      ca.crt := former and new CAs --> node.crt := new --> ca.crt := new
//! another key:  node.crt removed --> node.key := new --> ca.crt, node.crt
//! ```
//! Each arrow is durable before the next step begins. A power cut leaves the former identity or the new one, with a CA
//! more than needed at worst; while the key is being changed it leaves none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use skep_seal::Vault;
use zeroize::Zeroizing;

use crate::identity::{Identity, IdentityError};

const KEY_FILE: &str = "node.key";
const CERTIFICATE_FILE: &str = "node.crt";
const TRUST_FILE: &str = "ca.crt";
/// What the sealed key is good for: no other sealed file can take its place.
const KEY_CONTEXT: &[u8] = b"skep node key";
/// No certificate chain or key of ours comes near this size.
const MAX_FILE: u64 = 256 * 1024;

impl Identity {
    /// Reads the identity in a folder.
    pub fn load(dir: &Path, vault: &Vault) -> Result<Self, IdentityError> {
        let key = read_key(dir, vault)?;
        let chain = text(&dir.join(CERTIFICATE_FILE))?;
        Self::from_pem(&key, &chain, &text(&dir.join(TRUST_FILE))?)
    }

    /// Writes the identity into a folder (made if missing).
    pub fn save(&self, dir: &Path, vault: &Vault) -> Result<(), IdentityError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Write { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let (key, trust, certificate) =
            (dir.join(KEY_FILE), dir.join(TRUST_FILE), dir.join(CERTIFICATE_FILE));
        let write =
            |path: &Path, content: &[u8], mode| write_durably(path, content, mode).map_err(failed(path));
        if read_key(dir, vault).is_ok_and(|former| *former == self.key_pem()) {
            let former = text(&trust).unwrap_or_default();
            if former != self.trust_pem() {
                write(&trust, format!("{}\n{former}", self.trust_pem()).as_bytes(), 0o644)?;
            }
        } else {
            remove(&certificate).map_err(failed(&certificate))?;
            write(&key, &vault.seal(KEY_CONTEXT, self.key_pem().as_bytes()), 0o600)?;
        }
        write(&certificate, self.chain_pem().as_bytes(), 0o644)?;
        write(&trust, self.trust_pem().as_bytes(), 0o644)
    }
}

fn read_key(dir: &Path, vault: &Vault) -> Result<Zeroizing<String>, IdentityError> {
    let path = dir.join(KEY_FILE);
    let sealed = read(&path)?;
    let opened = vault.open_sealed(KEY_CONTEXT, &sealed);
    let key = opened.map_err(|source| IdentityError::Sealed { path: path.clone(), source })?;
    let damaged = |error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error);
        IdentityError::Read { path, source }
    };
    String::from_utf8(key).map(Zeroizing::new).map_err(|error| damaged(error.utf8_error()))
}

fn text(path: &Path) -> Result<String, IdentityError> {
    String::from_utf8(read(path)?).map_err(|error| IdentityError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes"))));
    }
    fs::read(path).map_err(failed)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sync_folder(path)
}

/// Temporary name, fsync, rename, fsync of the folder.
fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // create_new: never write a key into a file that someone else made and can read.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("a file without a folder"))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    use super::*;
    use crate::ca::{CertificateAuthority, DEFAULT_VALIDITY};
    use crate::identity::{NewKey, Role};

    struct Place {
        dir: tempfile::TempDir,
        vault: Vault,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let vault = Vault::create(&dir.path().join("vault"), None).unwrap();
            Self { dir, vault }
        }

        fn folder(&self) -> std::path::PathBuf {
            self.dir.path().join("certificates")
        }

        fn load(&self) -> Result<Identity, IdentityError> {
            Identity::load(&self.folder(), &self.vault)
        }

        fn save(&self, identity: &Identity) {
            identity.save(&self.folder(), &self.vault).unwrap();
        }
    }

    fn identity(ca: &CertificateAuthority, role: Role) -> Identity {
        let key = NewKey::generate().unwrap();
        let now = SystemTime::now();
        let chain = ca.sign_csr(key.csr_pem(), "node1", "c", role, now, DEFAULT_VALIDITY).unwrap();
        Identity::from_pem(key.key_pem(), &chain, ca.certificate_pem()).unwrap()
    }

    #[test]
    fn saves_and_loads_with_the_key_sealed() {
        let place = Place::new();
        let ca = CertificateAuthority::generate(SystemTime::now()).unwrap();
        let first = identity(&ca, Role::Worker);
        place.save(&first);
        assert_eq!(place.load().unwrap().key_digest(), first.key_digest());
        let path = place.folder().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let stored = fs::read(&path).unwrap();
        for secret in [first.key_bytes(), first.key_pem().as_bytes(), b"PRIVATE"] {
            assert!(!stored.windows(secret.len()).any(|window| window == secret));
        }
        let stranger = Place::new();
        assert!(matches!(
            Identity::load(&place.folder(), &stranger.vault),
            Err(IdentityError::Sealed { .. })
        ));
        place.save(&identity(&ca, Role::Manager));
        assert_eq!(place.load().unwrap().role(), Role::Manager);
        let mut left = fs::read_dir(place.folder()).unwrap().map(|entry| entry.unwrap().path());
        assert!(!left.any(|path| path.extension() == Some("new".as_ref())));
        assert!(matches!(
            Identity::load(Path::new("/nonexistent"), &place.vault),
            Err(IdentityError::Read { .. })
        ));
    }

    /// Every order of files that a power cut can leave when certificate and CA change together.
    #[test]
    fn a_crash_in_a_renewal_leaves_an_identity() {
        let place = Place::new();
        let now = SystemTime::now();
        let (old, new) =
            (CertificateAuthority::generate(now).unwrap(), CertificateAuthority::generate(now).unwrap());
        let former = identity(&old, Role::Worker);
        let csr = former.csr_pem().unwrap();
        let chain = new.sign_csr(&csr, "node1", "c", Role::Manager, now, DEFAULT_VALIDITY).unwrap();
        let renewed = former.renewed(&chain, new.certificate_pem()).unwrap();
        place.save(&former);
        let both = format!("{}{}", old.certificate_pem(), new.certificate_pem());
        let write = |name: &str, text: &str| fs::write(place.folder().join(name), text).unwrap();
        write(TRUST_FILE, &both);
        assert_eq!(place.load().unwrap().role(), Role::Worker);
        write(CERTIFICATE_FILE, &chain);
        assert_eq!(place.load().unwrap().role(), Role::Manager);
        // And a save goes on from there.
        place.save(&renewed);
        let loaded = place.load().unwrap();
        assert_eq!((loaded.role(), loaded.trust_pem()), (Role::Manager, new.certificate_pem()));
    }
}
