//! One test for each kind of refusal of a spec.

use skep_state::spec::{
    ConfigReference, Limit, NetworkAttachmentConfig, ReplicatedJob, Resources, SecretReference, ServiceMode,
};

use super::*;

fn spec() -> ServiceSpec {
    let mut spec = ServiceSpec { name: "web".to_owned(), ..ServiceSpec::default() };
    spec.task_template.container_spec.image = "whoami".to_owned();
    normalize(&mut spec);
    spec
}

#[track_caller]
fn refused(change: impl FnOnce(&mut ServiceSpec), words: &str) -> Refusal {
    let mut spec = spec();
    assert_eq!(check_spec(&spec), Ok(()));
    change(&mut spec);
    let refusal = check_spec(&spec).unwrap_err();
    assert!(refusal.message.contains(words), "{refusal}");
    refusal
}

#[test]
fn resources_have_minimums() {
    let limit = |limit: Limit| ResourceRequirements { limits: Some(limit), ..Default::default() };
    refused(
        |spec| spec.task_template.resources = Some(limit(Limit { nano_cpus: 999_999, ..Limit::default() })),
        "invalid cpu value 0.000999999: Must be at least 0.001",
    );
    refused(
        |spec| spec.task_template.resources = Some(limit(Limit { nano_cpus: -1, ..Limit::default() })),
        "invalid cpu value",
    );
    refused(
        |spec| spec.task_template.resources = Some(limit(Limit { pids: -1, ..Limit::default() })),
        "invalid pids limit",
    );
    let small = Resources { memory_bytes: 4_194_303, ..Resources::default() };
    refused(
        |spec| {
            spec.task_template.resources =
                Some(ResourceRequirements { reservations: Some(small), ..Default::default() });
        },
        "invalid memory value 4194303: Must be at least 4MiB",
    );
}

#[test]
fn constraints_must_parse() {
    let constrain = |text: &'static str| {
        move |spec: &mut ServiceSpec| {
            spec.task_template.placement =
                Some(Placement { constraints: vec![text.to_owned()], ..Placement::default() });
        }
    };
    refused(constrain("node.role=manager"), "constraint expected one operator from ==, !=");
    refused(constrain("node role==manager"), "key 'node role' is invalid");
    refused(constrain("node.role== "), "value '' is invalid");
    let mut good = spec();
    constrain("node.labels.a-b != x y")(&mut good);
    assert_eq!(check_spec(&good), Ok(()));
}

#[test]
fn ratio_mode_and_runtime_are_checked() {
    for ratio in [-0.1, 1.1, f64::NAN] {
        let update = UpdateConfig { max_failure_ratio: ratio, ..UpdateConfig::default() };
        refused(|spec| spec.rollback_config = Some(update), "update-maxfailureratio");
    }
    let job = ServiceMode { replicated_job: Some(ReplicatedJob::default()), ..ServiceMode::default() };
    refused(
        |spec| {
            spec.mode = job;
            spec.update_config = Some(UpdateConfig::default());
        },
        "update config is not allowed for a job",
    );
    refused(|spec| spec.task_template.runtime = "plugin".to_owned(), "only containers");
    let many = ReplicatedService { replicas: Some(REPLICAS_MAX + 1) };
    refused(|spec| spec.mode.replicated = Some(many), "invalid replica count 100001");
}

#[test]
fn what_is_referred_to_must_exist() {
    let mut state = State::default();
    for (id, name, ingress) in [("net1", "ingress", true), ("net2", "back", false)] {
        let mut network = Network { name: name.to_owned(), ingress, ..Network::default() };
        network.meta.id = id.to_owned();
        state.networks.insert(id.to_owned(), network);
    }
    let attach = |target: &str| {
        let mut spec = spec();
        spec.task_template.networks =
            vec![NetworkAttachmentConfig { target: target.to_owned(), ..Default::default() }];
        spec
    };
    let mut by_name = attach("back");
    check_references(&state, &mut by_name).unwrap();
    assert_eq!(by_name.task_template.networks[0].target, "net2");
    assert_eq!(check_references(&state, &mut attach("nope")).unwrap_err().message, "network nope not found");
    assert!(
        check_references(&state, &mut attach("ingress"))
            .unwrap_err()
            .message
            .contains("explicitly attached to the ingress network \"ingress\"")
    );

    let mut spec = spec();
    spec.task_template.container_spec.configs =
        vec![ConfigReference { config_name: "c".to_owned(), ..ConfigReference::default() }];
    assert!(check_references(&state, &mut spec).unwrap_err().message.ends_with("config not found: c"));
    let secret = |name: &str| SecretReference { secret_name: name.to_owned(), ..SecretReference::default() };
    spec.task_template.container_spec.secrets = vec![secret("a"), secret("b")];
    assert!(check_references(&state, &mut spec).unwrap_err().message.ends_with("secrets not found: a, b"));
}

#[test]
fn a_spec_that_was_read_and_sent_back_is_the_same() {
    let stored = spec();
    let mut read = stored.clone();
    read.task_template.runtime = "container".to_owned();
    read.task_template.container_spec.isolation = "default".to_owned();
    normalize(&mut read);
    assert_eq!(read, stored);

    let mut job = ServiceSpec::default();
    job.mode.replicated_job = Some(ReplicatedJob { max_concurrent: Some(3), total_completions: None });
    normalize(&mut job);
    assert_eq!(job.mode.replicated_job.and_then(|job| job.total_completions), Some(3));
    assert_eq!(job.mode.replicated, None);
}
