//! What is left of a swarm becomes one of a single manager; and what the disk tells without the key.

use super::*;
use crate::{RaftError, StoreError, make_single, seed};

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_goes_on_alone_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let survivor = (leader + 1) % 3;
    for number in 0..50 {
        // Through the survivor: it has applied what it acknowledges.
        cluster.node(survivor).propose(put(&format!("s{number}"), 0)).await.unwrap();
    }
    for number in 0..3 {
        cluster.kill(number).await;
    }
    let last = make_single(cluster.options(survivor)).await.unwrap();
    assert!(last >= 50);
    // Once more, as after a crash in between: it stays what it is.
    assert_eq!(make_single(cluster.options(survivor)).await.unwrap(), last);
    let node = cluster.open(survivor).await;
    cluster.leader(&[survivor]).await;
    assert!((0..50).all(|number| has(&node, &format!("s{number}"))));
    assert_eq!(node.members().len(), 1);
    node.propose(put("alone", 0)).await.unwrap();
    // It grows again, by managers that are new.
    cluster.open(7).await;
    node.add_manager(&name(7)).await.unwrap();
    let new = cluster.node(7);
    until("the new manager to have it all", || has(&new, "alone").then_some(())).await;
    assert!(has(&new, "s49"));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_nobody_has_committed_count_as_well() {
    let mut cluster = Cluster::of(2).await;
    let leader = cluster.leader(&[0, 1]).await;
    let node = cluster.node(leader);
    cluster.cut(1 - leader);
    let refused = node.propose_within(put("in the log only", 0), Duration::from_millis(300)).await;
    assert!(refused.is_err());
    drop(node);
    cluster.kill(leader).await;
    make_single(cluster.options(leader)).await.unwrap();
    let node = cluster.open(leader).await;
    cluster.leader(&[leader]).await;
    assert!(has(&node, "in the log only"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_from_a_copy_is_a_swarm_of_its_own() {
    let mut cluster = Cluster::of(1).await;
    cluster.node(0).propose(put("kept", 0)).await.unwrap();
    let state = cluster.node(0).read(Clone::clone);
    let index = state.index;
    seed(cluster.options(5), state.clone()).await.unwrap();
    let again = seed(cluster.options(5), state).await.unwrap_err();
    assert!(matches!(again, RaftError::NotEmpty { .. }), "{again}");
    let node = cluster.open(5).await;
    cluster.leader(&[5]).await;
    assert!(has(&node, "kept"));
    assert!(node.propose(put("new", 0)).await.unwrap() > index);
    drop(node);
    cluster.kill(5).await;
    assert!(has(&cluster.open(5).await, "kept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_a_swarm_cannot_be_made_single() {
    let cluster = Cluster::of(1).await;
    let refused = make_single(cluster.options(4)).await.unwrap_err();
    assert!(matches!(refused, RaftError::Empty { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_tells_nothing_without_the_key() {
    const SECRET: &str = "planted-secret";
    let mut cluster = Cluster::with_interval(1, 10).await;
    for number in 0..40 {
        cluster.node(0).propose(put(&format!("{SECRET}-{number}"), 0)).await.unwrap();
    }
    let snapshot = cluster.path(0).join("snapshot");
    until("a snapshot", || snapshot.exists().then_some(())).await;
    cluster.kill(0).await;
    let mut files = 0;
    let mut folders = vec![cluster.path(0)];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!found, "{} shows it", path.display());
        }
    }
    assert!(files >= 3, "log, snapshot and the node's name");
    let mut options = cluster.options(0);
    options.key = skep_seal::Key::from_bytes([8; 32]);
    let link = Link { switch: Arc::default(), from: name(0) };
    let refused = RaftNode::open(options, Arc::new(link)).await.map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Store(StoreError::WrongKey { .. })), "{refused}");
    assert!(has(&cluster.open(0).await, &format!("{SECRET}-39")), "and nothing was lost by the attempt");
}
