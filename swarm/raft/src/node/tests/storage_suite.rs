//! openraft's own tests of a store.

use openraft::testing::{StoreBuilder, Suite};

use super::*;
use crate::types::{StorageError, TypeConfig};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let dir = TempDir::new().unwrap();
        let key = skep_seal::Key::from_bytes([7; 32]);
        let log = LogStore::open(&dir.path().join("log"), &key, ()).unwrap();
        let machine = Machine::open(dir.path().join("snapshot"), &key).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn openraft_suite() {
    Suite::test_all(Builder).unwrap();
}
