//! What a request may ask for, and how a refusal is worded.

use super::protocol::{CreateContainer, MAX_NOTE, Refusal, RefusalKind};
use crate::container::{CreateError, StartError};
use crate::spec::oci::Spec;

/// Longest container ID.
const ID_BYTES_MAX: usize = 128;

pub(super) fn check(request: &CreateContainer, netns: bool) -> Result<(), Refusal> {
    let invalid = |message: String| Err(refuse(RefusalKind::Invalid, message));
    let id = &request.id;
    let fine = id.len() <= ID_BYTES_MAX
        && id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if !fine {
        return invalid(format!(
            "{id:?} is not a container ID: letters, digits, '_', '.', '-', at most {ID_BYTES_MAX}"
        ));
    }
    if !request.bundle.is_absolute() {
        return invalid(format!("the bundle {} is not an absolute path", request.bundle.display()));
    }
    if request.note.len() > MAX_NOTE {
        return invalid(format!("a note of {} bytes; at most {MAX_NOTE} can be", request.note.len()));
    }
    if request.netns != netns {
        return invalid("the network namespace's descriptor did not come as the request says".to_owned());
    }
    Ok(())
}

/// Refuses what has the creator run or wait for somebody else's program: the keeper has one thread, for all containers.
/// No node asks for it.
pub(super) fn check_spec(spec: &Spec) -> Result<(), Refusal> {
    let invalid =
        |what: &str| Err(refuse(RefusalKind::Invalid, format!("{what}: not in a keeper's containers")));
    if let Some(hooks) = spec.hooks() {
        // `prestart` is deprecated and still what the engines use.
        #[allow(deprecated)]
        let lists = [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        if let Some((kind, _)) =
            lists.iter().find(|(_, list)| list.as_ref().is_some_and(|list| !list.is_empty()))
        {
            return invalid(&format!("hooks.{kind}"));
        }
    }
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    if seccomp.is_some_and(|seccomp| seccomp.listener_path().is_some()) {
        return invalid("linux.seccomp.listenerPath");
    }
    Ok(())
}

pub(super) fn create_refusal(error: &CreateError) -> Refusal {
    let kind = match error {
        CreateError::CommandNotFound { .. } => RefusalKind::CommandNotFound,
        CreateError::CommandNotExecutable { .. } => RefusalKind::CommandNotExecutable,
        CreateError::Unsupported(_)
        | CreateError::Invalid(_)
        | CreateError::Kernel { .. }
        | CreateError::Nul { .. }
        | CreateError::Seccomp(_) => RefusalKind::Invalid,
        _ => RefusalKind::Failed,
    };
    // The two about the program are word for word what Docker says.
    let exact = matches!(kind, RefusalKind::CommandNotFound | RefusalKind::CommandNotExecutable);
    refuse(kind, if exact { error.to_string() } else { chain(error) })
}

pub(super) fn start_refusal(error: &StartError) -> Refusal {
    let kind = match error {
        StartError::Exec { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            RefusalKind::CommandNotFound
        }
        StartError::Exec { .. } => RefusalKind::CommandNotExecutable,
        StartError::Started => RefusalKind::WrongState,
        StartError::Hook { .. } | StartError::Died | StartError::Silent { .. } => RefusalKind::Failed,
    };
    refuse(kind, error.to_string())
}

pub(super) fn not_found(id: &str) -> Refusal {
    refuse(RefusalKind::NotFound, format!("no such container: {id}"))
}

pub(super) fn refuse(kind: RefusalKind, message: String) -> Refusal {
    Refusal { kind, message }
}

/// An error with its causes on one line, none said twice.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_could_hold_the_keeper_up_is_refused_by_name() {
        let check = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut spec = json!({
                "ociVersion": "1.3.0",
                "hooks": { "createRuntime": [], "poststart": [] },
                "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } },
            });
            change(&mut spec);
            check_spec(&serde_json::from_value(spec).unwrap()).map_err(|refusal| refusal.message)
        };
        assert_eq!(check(&|_| {}), Ok(()));
        for kind in
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        {
            let refused = check(&|spec| spec["hooks"][kind] = json!([{ "path": "/bin/true" }])).unwrap_err();
            assert!(refused.contains(&format!("hooks.{kind}")), "{refused}");
        }
        let refused =
            check(&|spec| spec["linux"]["seccomp"]["listenerPath"] = "/run/agent".into()).unwrap_err();
        assert!(refused.contains("listenerPath"), "{refused}");
    }
}
