use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The folder as a crash would leave it.
fn copy(dir: &Path) -> TempDir {
    let to = folder();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_open_vault_opens_without_a_key_and_a_locked_one_does_not() {
    let dir = folder();
    let dir = dir.path().join("deep/vault");
    assert!(matches!(Vault::open(&dir, None), Err(VaultError::Missing { .. })));
    let vault = Vault::create(&dir, None).unwrap();
    assert!(matches!(Vault::create(&dir, None), Err(VaultError::Exists { .. })));
    assert!(!vault.is_locked());
    assert_eq!(Vault::open(&dir, None).unwrap().key(), vault.key());
    assert_eq!(Vault::open(&dir, Some(&UnlockKey::random())).unwrap().key(), vault.key());
    let sealed = vault.seal(b"here", b"secret");
    let unlock = UnlockKey::random();
    vault.set_unlock_key(Some(&unlock)).unwrap();
    assert!(vault.is_locked());
    assert_eq!(names(&dir), ["vault"]);
    assert!(matches!(Vault::open(&dir, None), Err(VaultError::Locked { .. })));
    assert!(matches!(Vault::open(&dir, Some(&UnlockKey::random())), Err(VaultError::WrongKey { .. })));
    let again = Vault::open(&dir, Some(&unlock)).unwrap();
    assert_eq!(again.open_sealed(b"here", &sealed).unwrap(), b"secret");
    assert!(again.is_locked());
    again.set_unlock_key(None).unwrap();
    assert_eq!(names(&dir), ["key", "vault"]);
    assert_eq!(Vault::open(&dir, None).unwrap().key(), vault.key());
}

#[test]
fn a_vault_made_locked_never_has_a_key_file() {
    let dir = folder();
    let unlock = UnlockKey::random();
    let vault = Vault::create(dir.path(), Some(&unlock)).unwrap();
    assert!(vault.is_locked());
    assert_eq!(names(dir.path()), ["vault"]);
    assert_eq!(Vault::open(dir.path(), Some(&unlock)).unwrap().key(), vault.key());
}

#[test]
fn only_the_owner_may_read() {
    let dir = folder();
    let dir = dir.path().join("vault");
    Vault::create(&dir, None).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("vault")), 0o600);
    assert_eq!(mode(&dir.join("key")), 0o600);
}

#[test]
fn damage_is_told_from_a_wrong_key() {
    let dir = folder();
    let unlock = UnlockKey::random();
    let vault = Vault::create(dir.path(), None).unwrap();
    let flip_each = |name: &str, unlock: Option<&UnlockKey>| {
        let path = dir.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x11;
            std::fs::write(&path, &damaged).unwrap();
            let outcome = Vault::open(dir.path(), unlock);
            assert!(matches!(outcome, Err(VaultError::Damaged { .. })), "{name} {at}: {outcome:?}");
            std::fs::write(&path, &whole[..at]).unwrap();
            let outcome = Vault::open(dir.path(), unlock);
            assert!(matches!(outcome, Err(VaultError::Damaged { .. })), "{name} cut at {at}: {outcome:?}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Vault::open(dir.path(), unlock).unwrap().key(), vault.key());
    };
    flip_each("vault", None);
    flip_each("key", None);
    vault.set_unlock_key(Some(&unlock)).unwrap();
    flip_each("vault", Some(&unlock));
    vault.set_unlock_key(None).unwrap();
    std::fs::remove_file(dir.path().join("key")).unwrap();
    assert!(matches!(Vault::open(dir.path(), None), Err(VaultError::Damaged { .. })));
    let other = folder();
    Vault::create(other.path(), None).unwrap();
    std::fs::copy(other.path().join("key"), dir.path().join("key")).unwrap();
    assert!(matches!(Vault::open(dir.path(), None), Err(VaultError::Damaged { .. })));
}

/// Whoever can write the folder, but has no key, cannot have the node take a locked vault for one of its own making.
#[test]
fn a_locked_vault_cannot_be_made_to_look_open() {
    let dir = folder();
    let unlock = UnlockKey::random();
    Vault::create(dir.path(), Some(&unlock)).unwrap();
    let (_, wrapped) = files::read_vault(dir.path()).unwrap();
    files::write_vault(dir.path(), Wrap::NodeKey, &wrapped, &mut Steps::unseen(), || ()).unwrap();
    files::write_node_key(dir.path(), unlock.key(), &mut Steps::unseen()).unwrap();
    assert!(matches!(Vault::open(dir.path(), None), Err(VaultError::Damaged { .. })));
}

#[test]
fn no_key_is_in_clear_where_it_must_not_be() {
    let dir = folder();
    let vault = Vault::create(dir.path(), None).unwrap();
    let node_key = files::read_node_key(dir.path()).unwrap();
    let unlock = UnlockKey::random();
    vault.set_unlock_key(Some(&unlock)).unwrap();
    for name in names(dir.path()) {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        for key in [&vault.key(), &node_key, unlock.key()] {
            assert!(!text.contains(&hex::encode(key.bytes())));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A crash between any two steps of any series of changes leaves a vault that opens with the old or the new key,
    /// with no other, and can go on to be changed.
    #[test]
    fn a_crash_leaves_the_old_or_the_new(
        first in proptest::option::of(0_usize..2),
        changes in proptest::collection::vec(proptest::option::of(0_usize..2), 1..5),
    ) {
        let keys = [UnlockKey::random(), UnlockKey::random()];
        let stranger = UnlockKey::random();
        let dir = folder();
        let vault = Vault::create(dir.path(), first.map(|at| &keys[at])).unwrap();
        let mut old = first;
        for new in changes {
            let mut crashes = Vec::new();
            vault
                .set_unlock_key_in(new.map(|at| &keys[at]), &mut Steps::seen(&mut || crashes.push(copy(dir.path()))))
                .unwrap();
            prop_assert!(crashes.len() >= 4 || (old.is_none() && new.is_none()));
            crashes.push(copy(dir.path()));
            let mut went_over = false;
            for crash in crashes {
                let opens = |with: Option<usize>| {
                    // A copy each, since opening cleans up.
                    let dir = copy(crash.path());
                    let opened = Vault::open(dir.path(), with.map(|at| &keys[at])).ok()?;
                    // One that is not locked opens with any: that is not this key's doing.
                    (opened.key() == vault.key() && opened.is_locked() == with.is_some()).then_some(())
                };
                let (with_old, with_new) = (opens(old).is_some(), opens(new).is_some());
                prop_assert!(with_old || with_new, "{old:?} -> {new:?}: {:?}", names(crash.path()));
                prop_assert!(old == new || !(with_old && with_new));
                went_over |= with_new;
                prop_assert!(!went_over || with_new, "it went back");
                let current = if with_new { new } else { old };
                if current.is_some() {
                    let wrong = Vault::open(crash.path(), Some(&stranger));
                    let told = matches!(wrong, Err(VaultError::WrongKey { .. }));
                    prop_assert!(told, "{wrong:?}");
                }
                // The next start: tidy, and able to do it again.
                let again = Vault::open(crash.path(), current.map(|at| &keys[at])).unwrap();
                let files: &[&str] = if current.is_some() { &["vault"] } else { &["key", "vault"] };
                prop_assert_eq!(names(crash.path()), files);
                again.set_unlock_key(new.map(|at| &keys[at])).unwrap();
                let opened = Vault::open(crash.path(), new.map(|at| &keys[at])).unwrap();
                prop_assert_eq!(opened.key(), vault.key());
                prop_assert_eq!(opened.is_locked(), new.is_some());
            }
            prop_assert!(went_over);
            old = new;
        }
    }
}

/// A crash while a vault is made leaves none, and it can be made again; or leaves it whole.
#[test]
fn a_crash_in_the_making_leaves_none_or_one() {
    let unlock = UnlockKey::random();
    for with in [None, Some(&unlock)] {
        let dir = folder();
        let mut crashes = Vec::new();
        let vault = Vault::new(dir.path(), Key::random(), Wrap::NodeKey);
        vault.wrap_anew(with, &mut Steps::seen(&mut || crashes.push(copy(dir.path())))).unwrap();
        assert!(crashes.len() >= 4);
        for crash in crashes {
            match Vault::open(crash.path(), with) {
                Ok(opened) => assert_eq!(opened.key(), vault.key()),
                Err(VaultError::Missing { .. }) => {
                    let made = Vault::create(crash.path(), with).unwrap();
                    assert_eq!(Vault::open(crash.path(), with).unwrap().key(), made.key());
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
