//! What works while nothing fails.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_node_works_and_comes_back() {
    let mut cluster = Cluster::of(1).await;
    let node = cluster.node(0);
    let index = node.propose(put("web", 0)).await.unwrap();
    assert!(has(&node, "web"));
    assert_eq!(node.read(|state| state.index), index);
    assert!(node.is_leader());
    assert_eq!(node.initialize(put("again", 0)).await, Err(MembershipError::AlreadyInitialized));
    let before = node.read(Clone::clone);
    drop(node);
    // Dropped, not shut down.
    cluster.kill(0).await;
    let node = cluster.open(0).await;
    cluster.leader(&[0]).await;
    node.read_barrier().await.unwrap();
    assert_eq!(node.read(Clone::clone), before);
    assert!(node.is_initialized());
    let next = node.propose(put("more", 0)).await.unwrap();
    assert!(next > index);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_agree_and_followers_forward() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    for number in 0..3 {
        let node = cluster.node(number);
        let index = node.propose(put(&format!("from{number}"), 0)).await.unwrap();
        // Read your writes, on the node that proposed.
        assert!(has(&node, &format!("from{number}")), "{number} {index}");
    }
    for number in 0..3 {
        let node = cluster.node(number);
        node.read_barrier().await.unwrap();
        assert!((0..3).all(|from| has(&node, &format!("from{from}"))), "{number}");
        assert_eq!(node.leader(), Some(name(leader)));
        let members = node.members();
        assert_eq!(members.iter().filter(|member| member.voter).count(), 3);
        assert_eq!(members.iter().filter(|member| member.leader).count(), 1);
    }
    let states: Vec<State> = (0..3).map(|number| cluster.node(number).read(Clone::clone)).collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_reaches_whoever_proposed() {
    let cluster = Cluster::of(3).await;
    for number in 0..3 {
        let refused = cluster.node(number).propose(put("first", 0)).await.unwrap_err();
        assert!(
            matches!(&refused, ProposeError::Conflict(Conflict::OutOfSequence { given: 0, .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_proposals_share_entries_and_all_get_their_own_answer() {
    let cluster = Cluster::of(3).await;
    cluster.leader(&[0, 1, 2]).await;
    let mut proposing = tokio::task::JoinSet::new();
    for number in 0..200 {
        let node = cluster.node(number % 3);
        // Every name twice: exactly one of each pair must win.
        proposing.spawn(async move { node.propose(put(&format!("s{}", number / 2), 0)).await });
    }
    let outcomes = proposing.join_all().await;
    let applied: Vec<u64> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect();
    assert_eq!(applied.len(), 100);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(ProposeError::Conflict(_)))));
    let entries: BTreeSet<u64> = applied.into_iter().collect();
    assert!(entries.len() < 100, "nothing was put together: {}", entries.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_see_every_event_or_are_told_to_resync() {
    let cluster = Cluster::of(1).await;
    let node = cluster.node(0);
    let mut subscription = node.subscribe();
    let index = node.propose(put("web", 0)).await.unwrap();
    let Some(Update::Events { index: seen, events }) = subscription.next().await else { panic!("no events") };
    assert_eq!((seen, events[0].id.as_str()), (index, "id-web"));
    assert!(subscription.applied_at_least(index).await);
    for number in 0..=crate::options::EVENTS_KEPT {
        node.propose(put(&format!("s{number}"), 0)).await.unwrap();
    }
    assert_eq!(subscription.next().await, Some(Update::Resync));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_gets_an_answer_and_a_false_name_is_refused() {
    let cluster = Cluster::of(2).await;
    let node = cluster.node(0);
    for garbage in [&b""[..], b"\0", b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1", b"\0\0\0\0"] {
        let answer = node.handle_rpc(&name(1), Bytes::from_static(garbage)).await;
        assert!(matches!(rpc::decode::<Answer>(&answer), Ok((Answer::Bad(_), _))), "{garbage:?}");
    }
    let vote = openraft::Vote::new(99, raft_id(&name(1)));
    let request = Request::Vote(openraft::raft::VoteRequest::new(vote, None));
    let answer = node.handle_rpc("somebody else", rpc::encode(&request, &[]).unwrap()).await;
    assert!(matches!(rpc::decode::<Answer>(&answer), Ok((Answer::Bad(_), _))));
    assert!(node.term() < 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_too_large_is_refused() {
    let cluster = Cluster::of(1).await;
    let refused = cluster.node(0).propose(put(&"x".repeat(2_000_000), 0)).await.unwrap_err();
    assert!(matches!(refused, ProposeError::TooLarge { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_used_once_and_by_its_node() {
    let cluster = Cluster::of(1).await;
    let link = || Arc::new(Link { switch: Arc::default(), from: name(0) });
    let refused = RaftNode::open(cluster.options(0), link()).await.err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    cluster.node(0).shutdown().await;
    let mut options = cluster.options(0);
    options.node_id = name(7);
    let refused = RaftNode::open(options, link()).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherNode { .. }), "{refused}");
    assert_eq!(cluster.node(0).propose(put("late", 0)).await, Err(ProposeError::Stopped));
}
