//! Managers that come and go, and those that are far behind.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn managers_are_added_through_a_follower_and_removed() {
    let mut cluster = Cluster::of(2).await;
    cluster.open(2).await;
    let leader = cluster.leader(&[0, 1]).await;
    let follower = cluster.node(1 - leader);
    follower.add_manager(&name(2)).await.unwrap();
    follower.add_manager(&name(2)).await.unwrap();
    let new = cluster.node(2);
    until("the new one to vote", || {
        new.members().iter().find(|member| member.node_id == name(2) && member.voter).map(drop)
    })
    .await;
    new.propose(put("by the new one", 0)).await.unwrap();
    follower.remove_manager(&name(2)).await.unwrap();
    follower.remove_manager(&name(2)).await.unwrap();
    assert_eq!(cluster.node(leader).members().len(), 2);
    until("the removed one to have no leader", || new.leader().is_none().then_some(())).await;
    cluster.node(leader).propose(put("without it", 0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_is_replaced() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    let others: Vec<usize> = (0..3).filter(|&number| number != old).collect();
    cluster.node(others[0]).remove_manager(&name(old)).await.unwrap();
    let new = cluster.leader(&others).await;
    cluster.node(new).propose(put("after", 0)).await.unwrap();
    until("two members", || (cluster.node(new).members().len() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_manager_stays() {
    let cluster = Cluster::of(1).await;
    let refused = cluster.node(0).remove_manager(&name(0)).await.unwrap_err();
    assert_eq!(refused, MembershipError::LastManager { node_id: name(0) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_manager_can_be_removed() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let dead = (leader + 1) % 3;
    cluster.kill(dead).await;
    cluster.node(leader).remove_manager(&name(dead)).await.unwrap();
    assert_eq!(cluster.node(leader).members().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_far_behind_gets_a_snapshot_and_the_log_is_purged() {
    let mut cluster = Cluster::with_interval(3, 50).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let behind = (leader + 1) % 3;
    cluster.kill(behind).await;
    let node = cluster.node(leader);
    for number in 0..400 {
        node.propose(put(&format!("s{number}"), 0)).await.unwrap();
    }
    until("the log to be purged", || {
        node.inner.raft.metrics().borrow().purged.filter(|purged| purged.index > 300)
    })
    .await;
    assert!(cluster.path(leader).join("snapshot").exists());
    let late = cluster.open(behind).await;
    let mut subscription = late.subscribe();
    late.read_barrier().await.unwrap();
    assert!((0..400).all(|number| has(&late, &format!("s{number}"))));
    assert_eq!(subscription.next().await, Some(Update::Resync));
    assert_eq!(late.read(Clone::clone), node.read(Clone::clone));
    // What it was given is on its disk.
    drop(late);
    cluster.kill(behind).await;
    for number in (0..3).filter(|&number| number != behind) {
        cluster.cut(number);
    }
    let again = cluster.open(behind).await;
    assert!(has(&again, "s300"));
}
