use std::{future::poll_fn, task::Poll};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limit(limit: usize) -> (ConnectionLimit, Deadlines) {
    (SharedDescriptors::default().limit(limit), Deadlines::default())
}

fn connected(limit: &ConnectionLimit, deadlines: &Deadlines) -> ConnectionPermit {
    limit.take(deadlines, true).unwrap()
}

impl ConnectionPermit {
    fn holds(&self, hold: fn(u64) -> Hold) {
        self.slot.publish(hold, clock::instant);
    }
}

/// Waits for a permit for `limit`, as an acceptor does.
async fn is_freed(permit: &mut (impl Future<Output = ConnectionPermit> + Unpin), within: Duration) -> bool {
    timeout(within, permit).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_permits_than_the_limit_which_can_be_changed() {
    let (limit, deadlines) = limit(2);
    let first = connected(&limit, &deadlines);
    let _second = connected(&limit, &deadlines);
    assert!(limit.take(&deadlines, true).is_none());
    limit.set_limit(3);
    let third = connected(&limit, &deadlines);
    assert_eq!(limit.connected_and_limit(), (3, 3));
    limit.set_limit(1);
    drop((first, third));
    assert!(limit.take(&deadlines, true).is_none());
    assert_eq!(limit.0.lock().slots.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_connection_that_needs_its_place_least_is_asked_and_no_other_until_it_has_decided() {
    let (limit, deadlines) = limit(6);
    let [busy, older, newer, head, late_head, stalled] = [(); 6].map(|()| connected(&limit, &deadlines));
    late_head.holds(Hold::Head);
    stalled.holds(Hold::Stalled);
    tokio::time::advance(SECOND).await;
    older.holds(Hold::Idle);
    tokio::time::advance(SECOND / 10).await;
    newer.holds(Hold::Idle);
    head.holds(Hold::Head);
    let mut permit = Box::pin(limit.permit(&deadlines, true));
    let mut gone = Vec::new();
    for next in [&late_head, &older, &newer, &head] {
        assert!(!is_freed(&mut permit, SECOND / 20).await);
        let others = [&busy, &older, &newer, &head, &late_head, &stalled].map(|other| Arc::as_ptr(&other.slot));
        let asked = |slot: &Arc<Slot>| slot.is_asked();
        let slots = [&busy, &older, &newer, &head, &late_head, &stalled];
        assert_eq!(slots.iter().filter(|other| asked(&other.slot)).count(), 1, "{others:?}");
        assert!(asked(&next.slot));
        // It has become busy at the same moment, and refuses.
        next.holds(|_| Hold::Busy);
        assert!(!next.slot.decide());
        gone.push(next);
    }
    // The stalled one has 10 s.
    assert!(!is_freed(&mut permit, 8 * SECOND).await);
    assert!(!stalled.slot.is_asked());
    assert!(!is_freed(&mut permit, 2 * SECOND).await);
    assert!(stalled.slot.decide());
    drop(stalled);
    let _found = permit.await;
}

#[tokio::test(start_paused = true)]
async fn where_one_client_after_the_other_waits_idle_connections_are_evicted_ahead_and_new_ones_are_not() {
    let (limit, deadlines) = limit(AHEAD);
    let idle = [(); AHEAD - 2].map(|()| connected(&limit, &deadlines));
    for connection in &idle {
        connection.holds(Hold::Idle);
    }
    tokio::time::advance(SECOND / 10).await;
    let new = [(); 2].map(|()| connected(&limit, &deadlines));
    for connection in &new {
        connection.holds(Hold::Silent);
    }
    let asked = |all: &[ConnectionPermit]| all.iter().filter(|connection| connection.slot.is_asked()).count();
    assert!(!is_freed(&mut Box::pin(limit.permit(&deadlines, true)), SECOND / 1000).await);
    assert_eq!((asked(&idle), asked(&new)), (1, 0), "nobody has waited before");
    assert!(!is_freed(&mut Box::pin(limit.permit(&deadlines, true)), SECOND / 1000).await);
    assert_eq!((asked(&idle), asked(&new)), (AHEAD - 2, 0));
    // Where there are no others, they make room for clients that wait, once they have had their time for the first bytes.
    drop(idle);
    let _others = [(); AHEAD - 2].map(|()| connected(&limit, &deadlines));
    assert!(!is_freed(&mut Box::pin(limit.permit(&deadlines, true)), 9 * SECOND / 10).await);
    assert_eq!(asked(&new), 0);
    assert!(!is_freed(&mut Box::pin(limit.permit(&deadlines, true)), SECOND / 10).await);
    assert_eq!(asked(&new), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_still_as_it_was_seen_agrees_and_one_that_has_changed_does_not() {
    let (limit, deadlines) = limit(1);
    let only = connected(&limit, &deadlines);
    assert!(!only.slot.decide(), "nobody asks");
    only.holds(Hold::Idle);
    only.slot.evict_now();
    assert!(only.slot.decide());
    only.slot.evict_now();
    only.holds(Hold::Head);
    assert!(!only.slot.decide());
    only.slot.evict_now();
    only.holds(|_| Hold::Busy);
    tokio::time::advance(SECOND).await;
    only.holds(Hold::Head);
    assert!(!only.slot.decide(), "it is another head");
}

#[tokio::test(start_paused = true)]
async fn an_evicted_connections_task_is_woken() {
    let (limit, deadlines) = limit(1);
    let only = connected(&limit, &deadlines);
    only.holds(Hold::Idle);
    let slot = Arc::clone(&only.slot);
    let deciding = tokio::spawn(async move {
        poll_fn(|cx| {
            assert!(slot.deadline.poll_passed(cx).is_pending());
            if slot.decide() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop(only);
    });
    tokio::task::yield_now().await;
    drop(limit.permit(&deadlines, true).await);
    deciding.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_of_this_machine_is_closed_after_all_others() {
    let (limit, deadlines) = limit(2);
    let here = connected(&limit, &deadlines);
    here.holds(Hold::Idle);
    tokio::time::advance(SECOND).await;
    let elsewhere = limit.take(&deadlines, false).unwrap();
    elsewhere.holds(Hold::Head);
    assert!(limit.0.evict_first().is_none() && elsewhere.slot.is_asked() && !here.slot.is_asked());
    drop(elsewhere);
    let stalled = limit.take(&deadlines, false).unwrap();
    stalled.holds(Hold::Stalled);
    assert!(limit.0.evict_first().is_none() && here.slot.is_asked(), "one that may go now comes first");
}

#[tokio::test(start_paused = true)]
async fn a_client_of_this_machine_that_may_go_soon_is_not_hidden_by_one_from_elsewhere_that_may_not() {
    for elsewhere_holds in [|_| Hold::Busy, Hold::Stalled] {
        let (limit, deadlines) = limit(2);
        let elsewhere = limit.take(&deadlines, false).unwrap();
        elsewhere.holds(elsewhere_holds);
        let here = connected(&limit, &deadlines);
        here.holds(Hold::Idle);
        let mut permit = Box::pin(limit.permit(&deadlines, true));
        assert!(!is_freed(&mut permit, SECOND / 2).await);
        assert!(here.slot.is_asked() && !elsewhere.slot.is_asked());
        drop(here);
        drop(permit.await);
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_flood_of_answers_of_our_own_a_probe_on_a_kept_connection_is_answered_within_a_second() {
    let (shared, deadlines) = (SharedDescriptors::default(), Deadlines::default());
    for (limit, longest) in [(shared.limit(1), LONGEST), (shared.limit_of_probes(1), LONGEST_OF_PROBES)] {
        let kept = connected(&limit, &deadlines);
        let due = (0..100_000).map(|_| kept.slot.book_own_answer(0)).max().unwrap();
        assert_eq!(kept.slot.instant(due).saturating_duration_since(clock::instant()), longest);
    }
    assert!(LONGEST_OF_PROBES < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_free_permit_goes_to_a_client_that_waits() {
    let (limit, deadlines) = limit(1);
    let only = connected(&limit, &deadlines);
    let mut waiting = Box::pin(limit.permit(&deadlines, true));
    assert!(!is_freed(&mut waiting, SECOND).await);
    assert!(only.slot.is_wanted());
    drop(only);
    assert!(limit.take(&deadlines, true).is_none());
    drop(waiting.await);
    assert!(limit.take(&deadlines, true).is_some());
}

#[tokio::test(start_paused = true)]
async fn each_client_that_waits_gets_a_place() {
    let (limit, deadlines) = limit(2);
    let [first, second] = [(); 2].map(|()| connected(&limit, &deadlines));
    let waiting = || limit.permit(&deadlines, true);
    let evicted = async {
        for permit in [first, second] {
            permit.holds(Hold::Idle);
            while !permit.slot.decide() {
                tokio::time::sleep(SECOND / 10).await;
            }
        }
    };
    let (_one, _other, ()) = tokio::join!(waiting(), waiting(), evicted);
    assert_eq!(limit.connected_and_limit(), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn when_descriptors_run_out_the_longest_idle_connection_of_any_address_is_closed() {
    let (shared, deadlines) = (SharedDescriptors::default(), Deadlines::default());
    let (here, elsewhere) = (shared.limit(10), shared.limit(10));
    let longest = connected(&elsewhere, &deadlines);
    longest.holds(Hold::Idle);
    tokio::time::advance(SECOND).await;
    let idle = connected(&here, &deadlines);
    idle.holds(Hold::Idle);
    let start = clock::instant();
    let (slot, closing) = (Arc::clone(&longest.slot), longest);
    let closed = async {
        tokio::task::yield_now().await;
        assert!(slot.decide());
        drop(closing);
    };
    tokio::join!(shared.free_descriptor(60 * SECOND), closed);
    assert!(start.elapsed() < SECOND && !idle.slot.is_asked());
    // Where none can go, the acceptor tries again after a while.
    drop((idle, here.take(&deadlines, true)));
    shared.free_descriptor(SECOND).await;
    assert!(start.elapsed() >= SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_may_give_its_permit_back_before_but_only_a_few_at_a_time() {
    let (limit, deadlines) = limit(ENDING + 1);
    let connections: Vec<ConnectionPermit> = (0..=ENDING).map(|_| connected(&limit, &deadlines)).collect();
    let (last, first) = connections.split_last().unwrap();
    for (gone, connection) in first.iter().enumerate() {
        assert!(connection.give_back_early());
        assert!(!connection.give_back_early(), "once");
        assert_eq!(limit.connected_and_limit().0, ENDING - gone);
    }
    assert!(!last.give_back_early());
    drop(connections);
    assert_eq!(limit.connected_and_limit().0, 0);
    assert!(connected(&limit, &deadlines).give_back_early());
}
