//! Snapshots, old snapshots and log entries are kept as the swarm's settings say, also when they change.

use super::*;

/// Puts the settings, which must have been put `before` times already by this.
async fn set(node: &RaftNode, interval: u64, old: u64, entries: u64) {
    let mut cluster = node.read(|state| state.cluster.clone()).unwrap_or_default();
    cluster.spec.raft.snapshot_interval = interval;
    cluster.spec.raft.keep_old_snapshots = Some(old);
    cluster.spec.raft.log_entries_for_slow_followers = entries;
    let changes = vec![Change::PutCluster(Box::new(cluster))];
    node.propose(Transaction { at: Timestamp::from_nanos(1), changes }).await.unwrap();
}

async fn write(node: &RaftNode, round: usize, count: usize) {
    for number in 0..count {
        node.propose(put(&format!("r{round}-{number}"), 0)).await.unwrap();
    }
}

fn snapshot_index(node: &RaftNode) -> u64 {
    node.inner.raft.metrics().borrow().snapshot.map_or(0, |log_id| log_id.index)
}

/// Waits for a snapshot beyond `index`; its own index.
async fn snapshot_after(node: &RaftNode, index: u64) -> u64 {
    until("a snapshot", || Some(snapshot_index(node)).filter(|&new| new > index)).await
}

fn old_files(cluster: &Cluster) -> usize {
    let items = std::fs::read_dir(cluster.path(0)).unwrap();
    items.filter(|item| item.as_ref().unwrap().file_name().to_string_lossy().starts_with("snapshot-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_the_swarm_count_also_when_they_change() {
    // The options alone would make a snapshot after 10,000 entries.
    let mut cluster = Cluster::of(1).await;
    let node = cluster.node(0);
    set(&node, 20, 2, 5).await;
    let mut last = 0;
    for round in 0..5 {
        write(&node, round, 25).await;
        last = snapshot_after(&node, last).await;
    }
    assert_eq!(old_files(&cluster), 2, "beside the one that counts");
    until("all but five entries to be purged", || {
        let purged = node.inner.raft.metrics().borrow().purged?;
        (purged.index + 5 == snapshot_index(&node)).then_some(())
    })
    .await;

    set(&node, 5_000, 1, 5).await;
    let last = snapshot_index(&node);
    write(&node, 10, 50).await;
    // Twice as long as the longest time between two looks.
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert_eq!(snapshot_index(&node), last);
    set(&node, 10, 1, 30).await;
    let last = snapshot_after(&node, last).await;
    assert_eq!(old_files(&cluster), 1);
    set(&node, 10, 0, 30).await;
    write(&node, 11, 12).await;
    snapshot_after(&node, last).await;
    assert_eq!(old_files(&cluster), 0);

    drop(node);
    cluster.kill(0).await;
    let node = cluster.open(0).await;
    assert!(has(&node, "r0-0") && has(&node, "r11-11"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_is_sealed_and_still_whole() {
    let cluster = Cluster::of(1).await;
    let node = cluster.node(0);
    set(&node, 10, 4, 5).await;
    let mut last = 0;
    for round in 0..2 {
        write(&node, round, 12).await;
        last = snapshot_after(&node, last).await;
    }
    let items = std::fs::read_dir(cluster.path(0)).unwrap().map(|item| item.unwrap().path());
    let old: Vec<PathBuf> = items.filter(|path| path.to_string_lossy().contains("snapshot-")).collect();
    let [old] = old.as_slice() else { panic!("{old:?}") };
    let key = skep_seal::Key::from_bytes([7; 32]);
    let past = Machine::open(old.clone(), &key).unwrap();
    assert!(past.read(|state| state.service_by_name("r0-0").is_some()));
    assert!(past.applied().unwrap().index < last);
    assert!(Machine::open(old.clone(), &skep_seal::Key::from_bytes([8; 32])).is_err());
}
