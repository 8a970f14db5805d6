//! Checks of the container of a task (swarmkit `manager/controlapi/service.go`, `validateContainerSpec`; mounts as
//! moby `volume/mounts/linux_parser.go`).

use std::collections::{BTreeMap, BTreeSet};

use skep_state::spec::{ContainerSpec, HealthConfig, Mount};

use super::Refusal;

/// The longest image reference without its tag or digest (distribution/reference `NameTotalLengthMax`).
const IMAGE_NAME_LENGTH_MAX: usize = 255;
/// The shortest time in a health check, in nanoseconds.
const HEALTH_TIME_MIN: i64 = 1_000_000;

/// Checks image, mounts, files and health check.
pub(super) fn check_container(container: &ContainerSpec) -> Result<(), Refusal> {
    if let Some(health) = &container.healthcheck {
        check_health(health)?;
    }
    check_image(&container.image)?;
    check_mounts(&container.mounts)?;
    check_targets(
        "secret",
        container.secrets.iter().map(|reference| {
            (reference.secret_id.as_str(), reference.secret_name.as_str(), reference.file.as_ref())
        }),
    )?;
    check_targets(
        "config",
        container.configs.iter().map(|reference| {
            (reference.config_id.as_str(), reference.config_name.as_str(), reference.file.as_ref())
        }),
    )?;
    if !(-1000..=1000).contains(&container.oom_score_adj) {
        return Err(Refusal::invalid(format!(
            "invalid value {}, range for oom score adj is [-1000, 1000]",
            container.oom_score_adj
        )));
    }
    if let Some(bad) = container.env.iter().find(|line| line.is_empty() || line.starts_with('=')) {
        return Err(Refusal::invalid(format!("invalid environment variable: {bad}")));
    }
    Ok(())
}

/// The rough shape of an image reference: no white space or control characters, lower-case repository.
fn check_image(image: &str) -> Result<(), Refusal> {
    if image.is_empty() {
        return Err(Refusal::invalid("ContainerSpec: image reference must be provided"));
    }
    let wrong = || Refusal::invalid(format!("ContainerSpec: {image:?} is not a valid repository/tag"));
    let (named, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    if digest.is_some_and(|digest| !digest.contains(':') || digest.ends_with(':')) {
        return Err(wrong());
    }
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let slash = named.rfind('/').map_or(0, |position| position + 1);
    let (name, tag) = match named[slash..].split_once(':') {
        Some((last, tag)) => (&named[..slash + last.len()], Some(tag)),
        None => (named, None),
    };
    let tag_good = tag.is_none_or(|tag| {
        !tag.is_empty()
            && tag.len() <= 128
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
            && !tag.starts_with(['.', '-'])
    });
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, name),
    };
    let host_good = host
        .is_none_or(|host| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte)));
    let path_good = path.split('/').all(|part| {
        let edge =
            |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().next_back())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
    });
    if tag_good && host_good && path_good && name.len() <= IMAGE_NAME_LENGTH_MAX {
        Ok(())
    } else {
        Err(wrong())
    }
}

fn check_mounts(mounts: &[Mount]) -> Result<(), Refusal> {
    let mut targets = BTreeSet::new();
    for mount in mounts {
        let wrong = |what: &str| {
            Refusal::invalid(format!("invalid mount config for type {:?}: {what}", mount.r#type))
        };
        if !targets.insert(&mount.target) {
            return Err(Refusal::invalid(format!("ContainerSpec: duplicate mount point: {}", mount.target)));
        }
        if mount.target.is_empty() {
            return Err(wrong("field Target must not be empty"));
        }
        if !mount.target.starts_with('/') {
            return Err(wrong(&format!(
                "invalid mount path: '{}' mount path must be absolute",
                mount.target
            )));
        }
        if mount.target.split('/').all(|part| part.is_empty() || part == "." || part == "..") {
            return Err(wrong("destination can't be '/'"));
        }
        match mount.r#type.as_str() {
            "bind" if mount.source.is_empty() => return Err(wrong("field Source must not be empty")),
            "bind" if !mount.source.starts_with('/') => {
                return Err(wrong(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            "tmpfs" if !mount.source.is_empty() => return Err(wrong("field Source must not be specified")),
            "bind" | "volume" | "tmpfs" => {}
            "npipe" | "cluster" | "image" => {
                return Err(Refusal::unimplemented(format!(
                    "mounts of type {:?} are not supported",
                    mount.r#type
                )));
            }
            _ => return Err(wrong("mount type unknown")),
        }
    }
    Ok(())
}

/// Files made from secrets or configs: complete references, and no two at one place.
fn check_targets<'a>(
    kind: &str,
    references: impl Iterator<Item = (&'a str, &'a str, Option<&'a skep_state::spec::FileTarget>)>,
) -> Result<(), Refusal> {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (id, name, file) in references {
        if id.is_empty() || name.is_empty() {
            return Err(Refusal::invalid(format!("malformed {kind} reference")));
        }
        let Some(file) = file else { continue };
        if file.name.is_empty() {
            return Err(Refusal::invalid(format!("malformed {kind} reference, no target provided")));
        }
        if let Some(first) = taken.insert(&file.name, name) {
            return Err(Refusal::invalid(format!(
                "{kind} references '{first}' and '{name}' have a conflicting target: '{}'",
                file.name
            )));
        }
    }
    Ok(())
}

fn check_health(health: &HealthConfig) -> Result<(), Refusal> {
    let times = [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ];
    for (name, time) in times {
        if time != 0 && time < HEALTH_TIME_MIN {
            return Err(Refusal::invalid(format!(
                "ContainerSpec: {name} in HealthConfig cannot be less than one millisecond"
            )));
        }
    }
    if health.retries < 0 {
        return Err(Refusal::invalid("ContainerSpec: Retries in HealthConfig cannot be negative"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skep_state::spec::{FileTarget, SecretReference};

    use super::*;

    fn container() -> ContainerSpec {
        ContainerSpec { image: "whoami".to_owned(), ..ContainerSpec::default() }
    }

    #[track_caller]
    fn refused(container: &ContainerSpec, words: &str) {
        let refusal = check_container(container).unwrap_err();
        assert!(refusal.message.contains(words), "{refusal}");
    }

    #[test]
    fn image_references() {
        for good in [
            "whoami",
            "bb:1",
            "docker.io/library/x:1.2-a",
            "localhost:5000/a/b",
            "a/b_c.d@sha256:ab",
            "host.example:443/x:t@sha256:00",
        ] {
            assert_eq!(check_image(good), Ok(()), "{good}");
        }
        for bad in ["Upper", "a b", "x:", "x:!", "x@sha256", "/x", "x/", "a//b", "x\n", "-x", "x:.t"] {
            assert!(check_image(bad).is_err(), "{bad}");
        }
        refused(&ContainerSpec::default(), "image reference must be provided");
        refused(
            &ContainerSpec { image: "X".to_owned(), ..container() },
            "\"X\" is not a valid repository/tag",
        );
    }

    #[test]
    fn mounts() {
        let mount = |kind: &str, source: &str, target: &str| Mount {
            r#type: kind.to_owned(),
            source: source.to_owned(),
            target: target.to_owned(),
            ..Mount::default()
        };
        let with = |mounts: Vec<Mount>| ContainerSpec { mounts, ..container() };
        assert_eq!(check_container(&with(vec![mount("bind", "/a", "/b"), mount("tmpfs", "", "/c")])), Ok(()));
        refused(&with(vec![mount("tmpfs", "", "/a"), mount("tmpfs", "", "/a")]), "duplicate mount point: /a");
        refused(&with(vec![mount("bind", "", "/a")]), "field Source must not be empty");
        refused(&with(vec![mount("bind", "a", "/a")]), "mount path must be absolute");
        refused(&with(vec![mount("tmpfs", "x", "/a")]), "field Source must not be specified");
        refused(&with(vec![mount("tmpfs", "", "")]), "field Target must not be empty");
        refused(&with(vec![mount("tmpfs", "", "a")]), "mount path must be absolute");
        refused(&with(vec![mount("tmpfs", "", "/./..")]), "destination can't be '/'");
        refused(&with(vec![mount("nfs", "", "/a")]), "mount type unknown");
        refused(&with(vec![mount("cluster", "", "/a")]), "not supported");
    }

    #[test]
    fn files_health_and_the_rest() {
        let secret = |name: &str, target: &str| SecretReference {
            file: Some(FileTarget { name: target.to_owned(), ..FileTarget::default() }),
            secret_id: "id".to_owned(),
            secret_name: name.to_owned(),
        };
        let with = |secrets| ContainerSpec { secrets, ..container() };
        refused(
            &with(vec![secret("a", "x"), secret("b", "x")]),
            "'a' and 'b' have a conflicting target: 'x'",
        );
        refused(&with(vec![secret("a", "")]), "no target provided");
        refused(&with(vec![secret("", "x")]), "malformed secret reference");
        let health = HealthConfig { interval: 999_999, ..HealthConfig::default() };
        refused(
            &ContainerSpec { healthcheck: Some(health), ..container() },
            "Interval in HealthConfig cannot be less than one millisecond",
        );
        refused(&ContainerSpec { oom_score_adj: 1001, ..container() }, "oom score adj");
        refused(&ContainerSpec { env: vec!["=x".to_owned()], ..container() }, "environment variable: =x");
    }
}
