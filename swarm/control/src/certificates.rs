//! Certificates and the swarm's CA: who gets which role, who issues, whom to trust, when a change of the CA ends.
//!
//! A node asks for a certificate when its old one nears its end, when its role changes and when the CA changes. Any
//! manager may answer: it takes [`role_to_issue`], signs with [`current_issuer`], commits [`issued`], and only then hands
//! the certificate out. Nothing here parses or signs: what cryptography finds out comes in as arguments.
//!
//! A change of the CA (swarmkit `ca/reconciler.go`):
//!
//! ```text
//!            update_cluster                every node's certificate is of the new CA: rotation_done
//!  Stable ───────────────────▶ Rotating ───────────────────────────────────────────────────────────▶ Stable, new CA
//!    ▲                          │    │ ▲                                                             and new tokens
//!    └──────────────────────────┘    └─┘ update_cluster names another CA: start again with that one
//!      update_cluster names the old CA
//! ```
//!
//! While Rotating, nodes trust the old and the new CA; the new one issues, and what it issues is shown with the new CA's
//! certificate signed by the old one, so that a node that has not heard of the change accepts it too. That also holds for
//! certificates of a CA whose rotation was given up half way: they lead to the old CA, which stays trusted throughout. So
//! one rotation may replace another at any time; only the old CA is cross-signed from, never the one given up.

use std::collections::BTreeSet;

use skep_state::spec::{ExternalCa, NodeRole};
use skep_state::{Certificate, Change, Cluster, JoinTokens, Raft, State};

use crate::pem;

/// Who issues certificates now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Issuer<'a> {
    /// Certificate of the issuing CA, PEM.
    pub cert: &'a str,
    /// Its key, PEM; empty when an external CA holds it.
    pub key: &'a str,
    /// Its name and key in a certificate signed by the CA that is being replaced, PEM. A chain is then: the node's
    /// certificate, this one, [`Cluster::ca_cert`]. `None` while no change is under way, and when the CA that is being
    /// replaced is external and did not sign: then nodes must hear of the new CA before they meet its certificates.
    pub cross_signed: Option<&'a str>,
}

impl std::fmt::Debug for Issuer<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        formatter.debug_struct("Issuer").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// Who issues certificates now: the swarm's CA, or the one that replaces it.
pub fn current_issuer(cluster: &Cluster) -> Issuer<'_> {
    match &cluster.rotation {
        None => Issuer { cert: &cluster.ca_cert, key: &cluster.ca_key, cross_signed: None },
        Some(next) => {
            let cross_signed = Some(next.cross_signed.as_str()).filter(|cross| !cross.is_empty());
            Issuer { cert: &next.ca_cert, key: &next.ca_key, cross_signed }
        }
    }
}

/// Whether the CA with the certificate `ca_cert` is (still) the one that issues. Asked in the same look at the state from
/// which [`issued`] or a new node is made: a certificate that was signed before a change of the CA and committed after
/// its end would strand its node. When false, sign again.
pub fn is_issuer(state: &State, ca_cert: &str) -> bool {
    state.cluster.as_ref().is_some_and(|cluster| pem::same(current_issuer(cluster).cert, ca_cert))
}

/// The CAs that nodes trust now, PEM: the swarm's, and during a rotation also the one that replaces it, in this order.
pub fn trust_bundle(cluster: &Cluster) -> String {
    let mut bundle = with_newline(&cluster.ca_cert);
    if let Some(next) = &cluster.rotation {
        bundle.push_str(&with_newline(&next.ca_cert));
    }
    bundle
}

/// Where the CA with the certificate `ca_cert` can be asked to sign, by the settings: the URLs of the external CAs named
/// for it. An external CA without a certificate of its own stands for the swarm's present CA.
///
/// As in swarmkit, an external CA is asked first where there is one, even if the managers have the key.
pub fn external_urls(cluster: &Cluster, ca_cert: &str) -> Vec<String> {
    external_for(&cluster.spec.ca_config.external_cas, cluster, ca_cert)
}

/// As [`external_urls`], for the external CAs of settings that are not in force yet.
pub fn external_for(external: &[ExternalCa], cluster: &Cluster, ca_cert: &str) -> Vec<String> {
    external
        .iter()
        .filter(|external| {
            let named = if external.ca_cert.trim().is_empty() { &cluster.ca_cert } else { &external.ca_cert };
            pem::same(named, ca_cert)
        })
        .map(|external| external.url.clone())
        .collect()
}

/// The role for a node's next certificate. `raft_members` are all members of Raft, learners included.
///
/// ```text
///  wanted   given    in Raft
///  manager  manager  any      manager
///  worker   manager  any      manager  until the leader has taken it out of Raft and committed the role
///  manager  worker   no       manager  the promotion happens with this certificate
///  manager  worker   yes      worker   what is left of its last time as a manager goes first
///  worker   worker   any      worker
///  not listed                 worker   and `issued` refuses it
/// ```
pub fn role_to_issue(state: &State, node_id: &str, raft_members: &BTreeSet<String>) -> NodeRole {
    let Some(node) = state.nodes.get(node_id) else { return NodeRole::Worker };
    match (node.role, node.spec.role) {
        (NodeRole::Manager, _) => NodeRole::Manager,
        (NodeRole::Worker, NodeRole::Manager) if !raft_members.contains(node_id) => NodeRole::Manager,
        (NodeRole::Worker, _) => NodeRole::Worker,
    }
}

/// What to commit before a certificate is handed out; `None` when it must not be: the node was removed, it has another
/// key, or the role is not (or no longer) one that it may have. After a conflict decide again from [`role_to_issue`].
///
/// Makes a worker that is to be a manager one, with `raft_id` (`skep_raft::raft_id` of the node) as its place in Raft.
/// Never takes a role away: [`crate::roles::next`] does, once the node is out of Raft.
pub fn issued(
    state: &State,
    node_id: &str,
    role: NodeRole,
    certificate: Certificate,
    raft_id: u64,
) -> Option<Vec<Change>> {
    let mut node = state.nodes.get(node_id)?.clone();
    let known = &node.certificate.key_digest;
    if !known.is_empty() && *known != certificate.key_digest {
        return None;
    }
    match (node.role, role) {
        (NodeRole::Manager, NodeRole::Manager) | (NodeRole::Worker, NodeRole::Worker) => {}
        (NodeRole::Worker, NodeRole::Manager) if node.spec.role == NodeRole::Manager => {
            node.role = NodeRole::Manager;
        }
        (NodeRole::Worker, NodeRole::Manager) | (NodeRole::Manager, NodeRole::Worker) => return None,
    }
    node.raft = (node.role == NodeRole::Manager).then(|| node.raft.unwrap_or(Raft { id: raft_id }));
    node.certificate = certificate;
    Some(vec![Change::PutNode(Box::new(node))])
}

/// What ends a change of the CA: the new CA takes the old one's place, with join tokens that name it. `None` while there
/// is none under way or a node still has a certificate of another CA; nodes that are down count too.
///
/// `digest_of` gives a CA certificate's digest (PEM in; as in [`Certificate::issuer_digest`]), `None` when it cannot be
/// parsed; `tokens` makes the tokens for the new CA. Neither is called unless needed.
pub fn rotation_done(
    state: &State,
    digest_of: impl FnOnce(&str) -> Option<String>,
    tokens: impl FnOnce(&str) -> Option<JoinTokens>,
) -> Option<Vec<Change>> {
    let cluster = state.cluster.as_ref()?;
    let next = cluster.rotation.as_ref()?;
    let digest = digest_of(&next.ca_cert)?;
    if state.nodes.values().any(|node| node.certificate.issuer_digest != digest) {
        return None;
    }
    let join_tokens = tokens(&next.ca_cert)?;
    let done = Cluster {
        ca_cert: next.ca_cert.clone(),
        ca_key: next.ca_key.clone(),
        rotation: None,
        join_tokens,
        ..cluster.clone()
    };
    Some(vec![Change::PutCluster(Box::new(done))])
}

fn with_newline(pem: &str) -> String {
    let mut pem = pem.trim().to_owned();
    pem.push('\n');
    pem
}

#[cfg(test)]
mod tests {
    use skep_state::{Node, RootRotation};

    use super::*;

    fn pem(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    fn node(id: &str, wanted: NodeRole, given: NodeRole) -> Node {
        let mut node = Node { role: given, ..Node::default() };
        node.meta.id = id.to_owned();
        node.spec.role = wanted;
        node.raft = (given == NodeRole::Manager).then_some(Raft { id: 1 });
        node.certificate = certificate("key", "one");
        node
    }

    fn certificate(key: &str, issuer: &str) -> Certificate {
        Certificate { key_digest: key.to_owned(), issuer_digest: issuer.to_owned(), ..Certificate::default() }
    }

    fn state(nodes: impl IntoIterator<Item = Node>) -> State {
        let cluster = Cluster { ca_cert: pem("ONE"), ca_key: "key1".to_owned(), ..Cluster::default() };
        let nodes = nodes.into_iter().map(|node| (node.meta.id.clone(), node)).collect();
        State { cluster: Some(cluster), nodes, ..State::default() }
    }

    fn rotating(mut state: State) -> State {
        state.cluster.as_mut().unwrap().rotation = Some(RootRotation {
            ca_cert: pem("TWO").trim().to_owned(),
            ca_key: "key2".to_owned(),
            cross_signed: pem("CROSS"),
        });
        state
    }

    #[test]
    fn the_new_ca_issues_while_both_are_trusted() {
        let stable = state([]);
        let cluster = stable.cluster.as_ref().unwrap();
        assert_eq!(current_issuer(cluster), Issuer { cert: &pem("ONE"), key: "key1", cross_signed: None });
        assert_eq!(trust_bundle(cluster), pem("ONE"));
        assert!(is_issuer(&stable, &pem("ONE")) && !is_issuer(&stable, &pem("TWO")));
        let rotating = rotating(stable.clone());
        let cluster = rotating.cluster.as_ref().unwrap();
        let issuer = current_issuer(cluster);
        assert_eq!((issuer.key, issuer.cross_signed), ("key2", Some(pem("CROSS").as_str())));
        assert_eq!(trust_bundle(cluster), format!("{}{}", pem("ONE"), pem("TWO")));
        assert!(is_issuer(&rotating, &pem("TWO")) && !is_issuer(&rotating, &pem("ONE")));
        assert!(!format!("{issuer:?}").contains("key2"));
        let mut unsigned = cluster.clone();
        unsigned.rotation.as_mut().unwrap().cross_signed.clear();
        assert_eq!(current_issuer(&unsigned).cross_signed, None);
    }

    #[test]
    fn an_external_ca_belongs_to_the_certificate_it_names_or_to_the_present_one() {
        let mut state = rotating(state([]));
        let cluster = state.cluster.as_mut().unwrap();
        cluster.spec.ca_config.external_cas = [("https://a", ""), ("https://b", "TWO"), ("https://c", "ONE")]
            .map(|(url, cert)| ExternalCa {
                url: url.to_owned(),
                ca_cert: if cert.is_empty() { String::new() } else { pem(cert) },
                ..ExternalCa::default()
            })
            .into();
        assert_eq!(external_urls(cluster, &pem("ONE")), ["https://a", "https://c"]);
        assert_eq!(external_urls(cluster, &pem("TWO")), ["https://b"]);
        assert!(external_urls(cluster, &pem("THREE")).is_empty());
    }

    #[test]
    fn the_role_follows_the_wanted_one_as_far_as_raft_allows() {
        use NodeRole::{Manager, Worker};
        let inside = BTreeSet::from(["n".to_owned()]);
        let outside = BTreeSet::new();
        for (wanted, given, members, role) in [
            (Manager, Manager, &inside, Manager),
            (Manager, Manager, &outside, Manager),
            (Worker, Manager, &inside, Manager),
            (Worker, Manager, &outside, Manager),
            (Manager, Worker, &outside, Manager),
            (Manager, Worker, &inside, Worker),
            (Worker, Worker, &outside, Worker),
        ] {
            let state = state([node("n", wanted, given)]);
            assert_eq!(role_to_issue(&state, "n", members), role, "{wanted:?} {given:?} {members:?}");
        }
        assert_eq!(role_to_issue(&state([]), "n", &outside), Worker);
    }

    fn issue(state: &State, role: NodeRole, certificate: Certificate) -> Option<Node> {
        let changes = issued(state, "n", role, certificate, 9)?;
        let [Change::PutNode(node)] = changes.as_slice() else { panic!("{changes:?}") };
        Some((**node).clone())
    }

    #[test]
    fn a_promotion_happens_with_the_certificate() {
        use NodeRole::{Manager, Worker};
        let new = || certificate("key", "two");
        let promoted = issue(&state([node("n", Manager, Worker)]), Manager, new()).unwrap();
        assert_eq!((promoted.role, promoted.raft), (Manager, Some(Raft { id: 9 })));
        assert_eq!(promoted.certificate, new());
        let renewed = issue(&state([node("n", Manager, Manager)]), Manager, new()).unwrap();
        assert_eq!((renewed.role, renewed.raft), (Manager, Some(Raft { id: 1 })), "its place stays");
        let leaving = issue(&state([node("n", Worker, Manager)]), Manager, new()).unwrap();
        assert_eq!(leaving.role, Manager, "the role is taken away by the leader alone");
        assert_eq!(issue(&state([node("n", Worker, Worker)]), Worker, new()).unwrap().raft, None);
    }

    #[test]
    fn what_the_state_does_not_allow_is_not_issued() {
        use NodeRole::{Manager, Worker};
        let new = || certificate("key", "two");
        assert_eq!(issue(&state([]), Worker, new()), None, "removed");
        assert_eq!(issue(&state([node("n", Worker, Worker)]), Manager, new()), None, "called off meanwhile");
        assert_eq!(issue(&state([node("n", Worker, Manager)]), Worker, new()), None, "still in Raft");
        let other = certificate("another key", "two");
        assert_eq!(issue(&state([node("n", Worker, Worker)]), Worker, other.clone()), None);
        let mut unknown = node("n", Worker, Worker);
        unknown.certificate = Certificate::default();
        assert_eq!(issue(&state([unknown]), Worker, other.clone()).unwrap().certificate, other);
    }

    #[test]
    fn a_rotation_ends_when_every_node_has_a_new_certificate() {
        let tokens = |cert: &str| {
            assert!(cert.contains("TWO"));
            Some(JoinTokens { worker: "w2".to_owned(), manager: "m2".to_owned() })
        };
        let digest = |cert: &str| Some(if cert.contains("TWO") { "two" } else { "one" }.to_owned());
        let mut state = state(["a", "b"].map(|id| node(id, NodeRole::Worker, NodeRole::Worker)));
        assert_eq!(rotation_done(&state, digest, tokens), None, "none is under way");
        state = rotating(state);
        let renew = |state: &mut State, id: &str| {
            state.nodes.get_mut(id).unwrap().certificate = certificate("key", "two");
        };
        renew(&mut state, "a");
        assert_eq!(rotation_done(&state, digest, tokens), None, "b has not");
        renew(&mut state, "b");
        assert_eq!(rotation_done(&state, |_| None, tokens), None);
        let changes = rotation_done(&state, digest, tokens).unwrap();
        let [Change::PutCluster(cluster)] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!((cluster.rotation.as_ref(), cluster.ca_key.as_str()), (None, "key2"));
        assert!(cluster.ca_cert.contains("TWO"));
        assert_eq!((cluster.join_tokens.worker.as_str(), cluster.join_tokens.manager.as_str()), ("w2", "m2"));
    }
}
