//! Leaders that die, links that break, disks that are cut short.

use super::*;
use crate::StoreError;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_and_no_acknowledged_write_is_lost() {
    let mut cluster = Cluster::of(3).await;
    let mut all = BTreeSet::from([0, 1, 2]);
    let leader = cluster.leader(&[0, 1, 2]).await;
    let survivor = *all.iter().find(|&&number| number != leader).unwrap();
    let writer = cluster.node(survivor);
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let writing = tokio::spawn({
        let acknowledged = Arc::clone(&acknowledged);
        async move {
            for number in 0.. {
                let service = format!("w{number}");
                match writer.propose(put(&service, 0)).await {
                    Ok(_) => acknowledged.lock().push(service),
                    // Whether these were made is unknown: they are not counted either way.
                    Err(ProposeError::LeaderLost | ProposeError::Timeout) => {}
                    Err(error) => panic!("{service}: {error}"),
                }
            }
        }
    });
    until("some writes", || (acknowledged.lock().len() > 20).then_some(())).await;
    cluster.kill(leader).await;
    all.remove(&leader);
    let survivors: Vec<usize> = all.into_iter().collect();
    let new = cluster.leader(&survivors).await;
    assert_ne!(new, leader);
    let so_far = acknowledged.lock().len();
    until("writes under the new leader", || (acknowledged.lock().len() > so_far + 20).then_some(())).await;
    writing.abort();
    let names = acknowledged.lock().clone();
    let returned = cluster.open(leader).await;
    returned.read_barrier().await.unwrap();
    for &number in &[0, 1, 2] {
        let node = cluster.node(number);
        node.read_barrier().await.unwrap();
        let missing: Vec<_> = names.iter().filter(|service| !has(&node, service)).collect();
        assert!(missing.is_empty(), "node {number} lacks {missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_steps_aside_and_its_writes_are_not_acknowledged() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    let others: Vec<usize> = (0..3).filter(|&number| number != old).collect();
    cluster.cut(old);
    let lost = cluster.node(old);
    let orphan = tokio::spawn({
        let lost = lost.clone();
        async move { lost.propose(put("orphan", 0)).await }
    });
    let new = cluster.leader(&others).await;
    cluster.node(new).propose(put("kept", 0)).await.unwrap();
    until("the old leader to say that it leads no more", || (lost.leader().is_none()).then_some(())).await;
    assert!(matches!(orphan.await.unwrap(), Err(ProposeError::LeaderLost | ProposeError::NoLeader)));
    cluster.heal(old);
    until("the old leader to follow", || (lost.leader() == Some(name(new))).then_some(())).await;
    lost.read_barrier().await.unwrap();
    // Its entry was overwritten: nobody has it, itself included.
    for number in 0..3 {
        assert!(has(&cluster.node(number), "kept") && !has(&cluster.node(number), "orphan"), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_cut_off_does_not_unseat_the_leader() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let cut = (leader + 1) % 3;
    let term = cluster.node(leader).term();
    cluster.cut(cut);
    let follower = cluster.node(cut);
    until("the follower to miss its leader", || follower.leader().is_none().then_some(())).await;
    // Long enough for several election timeouts of openraft's own kind.
    let waited = Instant::now();
    until("some time", || (waited.elapsed() > Duration::from_secs(3)).then_some(())).await;
    cluster.heal(cut);
    until("the follower to find its leader", || follower.leader().is_some().then_some(())).await;
    follower.propose(put("after", 0)).await.unwrap();
    assert_eq!((cluster.node(leader).term(), cluster.node(leader).is_leader()), (term, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_proposals_are_refused_soon_and_reads_too() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    for number in (0..3).filter(|&number| number != leader) {
        cluster.kill(number).await;
    }
    let node = cluster.node(leader);
    until("the leader to notice", || node.leader().is_none().then_some(())).await;
    assert_eq!(node.read_barrier().await, Err(ProposeError::NoLeader));
    assert_eq!(node.propose(put("lonely", 0)).await, Err(ProposeError::NoLeader));
    // Once it has been without a majority for a while, at once.
    let asked = Instant::now();
    assert_eq!(node.propose(put("lonely", 0)).await, Err(ProposeError::NoLeader));
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    let words = ProposeError::NoLeader.to_string();
    assert!(words.starts_with("The swarm does not have a leader."), "{words}");
    let other = (leader + 1) % 3;
    cluster.open(other).await;
    until("a majority", || node.leader().or_else(|| cluster.node(other).leader())).await;
    node.propose(put("together", 0)).await.unwrap();
    assert!(!has(&node, "lonely"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_swarm_comes_back_from_its_disks() {
    let mut cluster = Cluster::of(3).await;
    for number in 0..30 {
        cluster.node(number % 3).propose(put(&format!("s{number}"), 0)).await.unwrap();
    }
    for number in 0..3 {
        cluster.kill(number).await;
    }
    for number in 0..3 {
        cluster.open(number).await;
    }
    cluster.leader(&[0, 1, 2]).await;
    for number in 0..3 {
        let node = cluster.node(number);
        node.read_barrier().await.unwrap();
        assert!((0..30).all(|service| has(&node, &format!("s{service}"))), "{number}");
    }
}

/// A copy of the folder while it is written to is what a power cut could leave.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_a_copy_of_the_folder() {
    let mut cluster = Cluster::of(1).await;
    let node = cluster.node(0);
    for number in 0..20 {
        node.propose(put(&format!("s{number}"), 0)).await.unwrap();
    }
    let copy = cluster.dir.path().join("copy");
    copy_folder(&cluster.path(0), &copy);
    node.shutdown().await;
    let mut options = cluster.options(0);
    options.dir = copy;
    let link = Link { switch: Arc::clone(&cluster.switch), from: name(0) };
    let node = RaftNode::open(options, Arc::new(link)).await.unwrap();
    cluster.nodes.insert(name(0), node.clone());
    cluster.leader(&[0]).await;
    node.read_barrier().await.unwrap();
    assert!((0..20).all(|number| has(&node, &format!("s{number}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_reported_with_file_and_offset() {
    let mut cluster = Cluster::of(1).await;
    for number in 0..20 {
        cluster.node(0).propose(put(&format!("s{number}"), 0)).await.unwrap();
    }
    cluster.kill(0).await;
    let segment = cluster.path(0).join("log/0000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let link = Link { switch: Arc::default(), from: name(0) };
    let refused = RaftNode::open(cluster.options(0), Arc::new(link)).await.err().unwrap();
    let OpenError::Store(StoreError::Corrupt { path, offset, .. }) = &refused else { panic!("{refused}") };
    assert_eq!(path, &segment);
    assert!(*offset <= middle as u64 && *offset > middle as u64 - 1000, "{refused}");
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "a damaged file was changed");
}
