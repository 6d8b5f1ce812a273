//! The in-memory twin keeps the same promises, and bends as tests want.

use std::time::Duration;

use keyless_p2p::cosigners::limits::MAX_FRAME_BYTES;
use keyless_p2p::cosigners::memory::{Fate, Hub};
use keyless_p2p::cosigners::{Carrier, DownReason, Event, Events, Identity, PeerId, SendError};

use crate::friends::identities;

fn peers(count: usize) -> Vec<PeerId> {
    identities(count).iter().map(Identity::peer_id).collect()
}

fn drain(events: &mut Events) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv()).collect()
}

#[test]
fn embedded_members_see_each_other_and_carry_frames() {
    let ids = peers(3);
    let hub = Hub::new();
    let (first, mut first_events) = hub.member(ids[0]);
    let (second, mut second_events) = hub.member(ids[1]);
    let (third, _third_events) = hub.member(ids[2]);
    assert_eq!(drain(&mut first_events), vec![Event::Up(ids[1]), Event::Up(ids[2])]);
    assert_eq!(drain(&mut second_events), vec![Event::Up(ids[0]), Event::Up(ids[2])]);
    let carriers: [&dyn Carrier; 3] = [&first, &second, &third];
    for carrier in carriers {
        assert_eq!(carrier.peers().len(), 2);
        assert!(carrier.peers().iter().all(|peer| peer.online));
    }
    third.set_height(9);
    assert_eq!(first.peer(&ids[2]).unwrap().blocks, Some(9));
    second.send(&ids[0], b"frame".to_vec()).unwrap();
    assert_eq!(first_events.try_recv(), Some(Event::Frame { from: ids[1], bytes: b"frame".to_vec() }));
    assert_eq!(first.send(&ids[0], vec![]), Err(SendError::NotConnected), "oneself is no peer");
    assert_eq!(first.send(&ids[1], vec![0; MAX_FRAME_BYTES + 1]), Err(SendError::TooLarge));
}

#[test]
fn a_member_that_is_gone_is_told_and_comes_back() {
    let ids = peers(2);
    let hub = Hub::new();
    let (first, mut events) = hub.member(ids[0]);
    let (_second, _second_events) = hub.member(ids[1]);
    drain(&mut events);
    hub.detach(&ids[1]);
    assert_eq!(drain(&mut events), vec![Event::Down(ids[1], DownReason::ConnectionLost)]);
    assert_eq!(first.send(&ids[1], vec![1]), Err(SendError::NotConnected));
    assert!(!first.is_online(&ids[1]));
    hub.attach(&ids[1]);
    assert_eq!(drain(&mut events), vec![Event::Up(ids[1])]);
    hub.cut(&ids[0], &ids[1]);
    assert_eq!(first.send(&ids[1], vec![1]), Err(SendError::NotConnected));
    hub.heal(&ids[0], &ids[1]);
    assert_eq!(drain(&mut events), vec![Event::Down(ids[1], DownReason::ConnectionLost), Event::Up(ids[1])]);
    first.send(&ids[1], vec![1]).unwrap();
}

#[test]
fn a_member_that_does_not_read_fills_only_its_own_queue() {
    let ids = peers(3);
    let hub = Hub::new();
    let (first, _first_events) = hub.member(ids[0]);
    let (_deaf, _deaf_events) = hub.member(ids[1]);
    let (_third, mut third_events) = hub.member(ids[2]);
    let refused = (0..100_000).find_map(|_| first.send(&ids[1], vec![0; 100]).err());
    assert_eq!(refused, Some(SendError::QueueFull));
    first.send(&ids[2], b"through".to_vec()).unwrap();
    assert!(drain(&mut third_events).contains(&Event::Frame { from: ids[0], bytes: b"through".to_vec() }));
}

#[tokio::test]
async fn rules_drop_duplicate_hold_and_delay() {
    let ids = peers(2);
    let hub = Hub::new();
    let (first, _first_events) = hub.member(ids[0]);
    let (_second, mut events) = hub.member(ids[1]);
    drain(&mut events);
    hub.set_rule(|_, _, bytes| match bytes {
        b"drop" => Fate::Drop,
        b"twice" => Fate::Duplicate,
        b"hold" => Fate::Hold,
        b"late" => Fate::Delay(Duration::from_millis(20)),
        _ => Fate::Deliver,
    });
    for text in ["drop", "late", "hold", "twice", "plain"] {
        first.send(&ids[1], text.as_bytes().to_vec()).unwrap();
    }
    let text = |event: Event| match event {
        Event::Frame { bytes, .. } => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    };
    let at_once: Vec<String> = drain(&mut events).into_iter().map(text).collect();
    assert_eq!(at_once, ["twice", "twice", "plain"]);
    assert_eq!(hub.release(), 1);
    assert_eq!(events.recv().await.map(text).as_deref(), Some("hold"));
    assert_eq!(events.recv().await.map(text).as_deref(), Some("late"));
    hub.clear_rule();
    first.send(&ids[1], b"drop".to_vec()).unwrap();
    assert_eq!(events.recv().await.map(text).as_deref(), Some("drop"));
}
