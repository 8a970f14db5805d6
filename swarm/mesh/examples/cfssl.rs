//! Has a manager's and a worker's certificate signed by a running cfssl and makes identities of them:
//! `cargo run -p skep-mesh --example cfssl -- CA.pem URL…` (cfssl's `sign` URL; several are tried in turn).

use std::error::Error;

use skep_mesh::{ExternalCa, Identity, NewKey, Role, not_after};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("the CA's certificate is missing")?;
    let external = ExternalCa { ca_pem: std::fs::read_to_string(file)?, urls: arguments.collect() };
    let mut identity = None;
    for role in [Role::Manager, Role::Worker] {
        let key = NewKey::generate()?;
        let leaf = external.sign(identity.as_ref(), key.csr_pem(), "node1", "cluster1", role).await?;
        let made = Identity::from_pem(key.key_pem(), &leaf, &external.ca_pem)?;
        println!("{:?} until {:?}, issued by {}", made.role(), not_after(&leaf)?, made.issuer_digest());
        identity = Some(made);
    }
    Ok(())
}
