//! What a container may ask of the kernel: the service's word for it, else Docker's default profile.

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::bundle::BundleError;

/// Applies a service's `Privileges` (Docker's API) to a spec whose capabilities are what they will be.
pub(super) fn apply(spec: &mut Spec, privileges: Option<&Value>) -> Result<(), BundleError> {
    let said = |pointer: &str| privileges.and_then(|privileges| privileges.pointer(pointer));
    if said("/NoNewPrivileges").and_then(Value::as_bool) == Some(true)
        && let Some(process) = spec.process_mut()
    {
        process.set_no_new_privileges(Some(true));
    }
    match said("/Seccomp/Mode").and_then(Value::as_str).unwrap_or_default() {
        "unconfined" => Ok(()),
        "" | "default" => {
            skep_runtime::spec::confine(spec).map_err(|error| BundleError::Configuration(Box::new(error)))
        }
        mode => Err(BundleError::Seccomp(mode.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(privileges: Option<Value>) -> Result<(bool, bool), BundleError> {
        let mut spec = skep_runtime::spec::default_spec();
        apply(&mut spec, privileges.as_ref())?;
        let filtered = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
        let no_new = spec.process().as_ref().and_then(|process| process.no_new_privileges());
        Ok((filtered, no_new == Some(true)))
    }

    #[test]
    fn filtered_unless_the_service_says_otherwise() {
        assert_eq!(applied(None).unwrap(), (true, false));
        assert_eq!(applied(Some(json!({ "Seccomp": { "Mode": "default" } }))).unwrap(), (true, false));
        let free = json!({ "Seccomp": { "Mode": "unconfined" }, "NoNewPrivileges": true });
        assert_eq!(applied(Some(free)).unwrap(), (false, true));
        let own = json!({ "Seccomp": { "Mode": "custom", "Profile": "e30=" } });
        assert!(applied(Some(own)).unwrap_err().to_string().contains("custom"));
    }
}
