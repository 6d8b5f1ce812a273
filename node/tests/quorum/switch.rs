//! The switch of epochs with every message of it in the hands of the test: the proposal and its answers, signatures of the
//! certificate, the word that a share is stored, questions for keys. Any subset of them is lost, withheld until things
//! heal, late (so that others overtake it) or comes twice.
//!
//! Meanwhile the majority signs. Once messages flow again all are in one epoch within one timeout, in the new one if
//! anyone was, and any two of three sign. `KEYLESS_SWITCHES=200` for many cases (`contrib/long switches`); a few here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bitcoin::{Amount, ScriptBuf};
use keyless_node::quorum::wire::{self, Frame, Message, Topic};
use keyless_p2p::cosigners::memory::Fate;
use keyless_p2p::cosigners::{PeerId, public_key_of};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tss_wallet::{Epoch, MemberId, SessionId, WalletId};

use crate::node::{Cluster, fund, send};

const MEMBERS: usize = 3;
const SOME: Amount = Amount::from_sat(20_000);
/// A member waits 8 s and 3 s for each other one without progress, is looked after every 3 s, and asks for a second.
/// The rest is the CPU of other tests.
const TIMEOUT: Duration = Duration::from_secs(8 + 2 * 3 + 3 + 1 + 12);
const STAYS: Duration = Duration::from_millis(800);
/// The round of the certificate.
const CERTIFICATE: u8 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Proposal,
    Accept,
    Begin,
    Certificate,
    Stored,
    AskKeys,
    Keys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Lost,
    Withheld,
    Late,
    Twice,
}

/// What happens to the messages of these kinds between these senders and receivers.
#[derive(Debug, Clone)]
struct Case {
    said: &'static [Said],
    how: How,
    edges: Vec<(usize, usize)>,
}

fn all_cases() -> Vec<Case> {
    let kinds: [&[Said]; 8] = [
        &[Said::Certificate],
        &[Said::Stored],
        &[Said::Certificate, Said::Stored],
        &[Said::Certificate, Said::AskKeys],
        &[Said::Certificate, Said::Keys],
        &[Said::Proposal],
        &[Said::Accept],
        &[Said::Begin],
    ];
    let pairs: Vec<(usize, usize)> =
        (0..MEMBERS).flat_map(|from| (0..MEMBERS).filter(move |to| *to != from).map(move |to| (from, to))).collect();
    let mut cases = Vec::new();
    for said in kinds {
        for how in [How::Lost, How::Withheld, How::Late, How::Twice] {
            for mask in 1_u32..1 << pairs.len() {
                let chosen = pairs.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
                cases.push(Case { said, how, edges: chosen.map(|(_, edge)| *edge).collect() });
            }
        }
    }
    cases
}

/// Reads a frame as its receiver would.
pub fn read(from: &PeerId, to: &PeerId, bytes: &[u8]) -> Option<(SessionId, Message)> {
    let member = |peer: &PeerId| public_key_of(peer).map(MemberId);
    let frame = Frame::parse(bytes.to_vec()).ok()?;
    let (from, me) = (member(from)?, member(to)?);
    if frame.opens {
        return wire::open_first(&frame, me, from).ok().map(|(topic, message)| (topic.session, message));
    }
    // Magic, wallet, epoch: the head of an envelope.
    let wallet = frame.envelope.get(4..36)?.try_into().ok()?;
    let epoch = u32::from_be_bytes(frame.envelope.get(36..40)?.try_into().ok()?);
    let topic = Topic { wallet: WalletId(wallet), epoch: Epoch(epoch), session: frame.session };
    wire::open(&frame.envelope, me, from, &topic).ok().map(|message| (topic.session, message))
}

fn said(message: &Message) -> Option<Said> {
    Some(match message {
        Message::Redeal(_) => Said::Proposal,
        Message::Accept => Said::Accept,
        Message::Begin => Said::Begin,
        Message::Protocol(bodies) if bodies.iter().any(|body| body.0.first() == Some(&CERTIFICATE)) => {
            Said::Certificate
        }
        Message::Stored => Said::Stored,
        Message::AskKeys => Said::AskKeys,
        Message::Keys(_) => Said::Keys,
        _ => return None,
    })
}

/// Frames of the switch are small; those of oblivious transfer are not looked into.
const LOOKED_AT: usize = 16 << 10;

async fn epochs(cluster: &Cluster) -> Vec<u64> {
    let mut epochs = Vec::new();
    for node in &cluster.nodes {
        epochs.push(node.wallet("w").quorum().await.unwrap().unwrap().epoch);
    }
    epochs
}

/// The epoch that most members are in: two of three.
fn majority(epochs: &[u64]) -> Option<u64> {
    epochs.iter().copied().find(|epoch| epochs.iter().filter(|other| *other == epoch).count() >= 2)
}

struct Outcome {
    refreshed: bool,
    /// For how long members were in different epochs after messages flowed again.
    apart: Duration,
    caught: usize,
}

/// What the hub has caught so far.
#[derive(Default)]
struct Caught {
    first: Option<Instant>,
    count: usize,
}

/// Bends the messages of a case until the rule is cleared.
fn bend(cluster: &Cluster, case: &Case, random: &mut StdRng) -> Arc<Mutex<Caught>> {
    let peers: Vec<PeerId> = cluster.nodes.iter().map(|node| node.options.identity.peer_id()).collect();
    let (how, kinds, edges) = (case.how, case.said, case.edges.clone());
    let caught: Arc<Mutex<Caught>> = Arc::default();
    let counted = Arc::clone(&caught);
    let lateness: Vec<u64> = (0..64).map(|_| random.gen_range(20..2_500)).collect();
    let at = move |peer: &PeerId| peers.iter().position(|other| other == peer);
    // Signing has some of the same messages.
    let mut ceremonies = BTreeSet::new();
    cluster.hub.set_rule(move |from, to, bytes| {
        if bytes.len() > LOOKED_AT {
            return Fate::Deliver;
        }
        let Some((session, message)) = read(from, to, bytes) else { return Fate::Deliver };
        if matches!(message, Message::Redeal(_)) {
            ceremonies.insert(session);
        }
        let ours = ceremonies.contains(&session) || matches!(message, Message::AskKeys | Message::Keys(_));
        let edge = at(from).zip(at(to)).is_some_and(|edge| edges.contains(&edge));
        if !ours || !edge || !said(&message).is_some_and(|said| kinds.contains(&said)) {
            return Fate::Deliver;
        }
        let mut caught = counted.lock().unwrap();
        caught.first.get_or_insert_with(Instant::now);
        caught.count += 1;
        match how {
            How::Lost => Fate::Drop,
            How::Withheld => Fate::Hold,
            How::Late => Fate::Delay(Duration::from_millis(lateness[caught.count % lateness.len()])),
            How::Twice => Fate::Duplicate,
        }
    });
    caught
}

async fn play(cluster: &Cluster, case: &Case, random: &mut StdRng) -> Outcome {
    let caught = bend(cluster, case, random);
    let before = epochs(cluster).await[0];
    // Some are said by the coordinator alone, or to it.
    let coordinates = match case.said {
        [Said::Proposal | Said::Begin] => case.edges.choose(random).unwrap().0,
        [Said::Accept] => case.edges.choose(random).unwrap().1,
        _ => random.gen_range(0..MEMBERS),
    };
    let coordinator = cluster.nodes[coordinates].wallet("w");
    let mut task = tokio::spawn(async move { coordinator.refresh_shares().await.is_ok() });
    // Until some of it has been caught for a while, or the refresh is over.
    let patience = Duration::from_millis(random.gen_range(300..4_000));
    let mut refreshed = None;
    while refreshed.is_none() && caught.lock().unwrap().first.is_none_or(|first| first.elapsed() < patience) {
        refreshed = tokio::time::timeout(Duration::from_millis(50), &mut task).await.ok().map(|done| done.unwrap());
    }
    // Whoever is in the epoch of most members can pay, whatever is withheld.
    wait_for(case, "the majority signs", Duration::from_secs(20), async || {
        let now = epochs(cluster).await;
        let most = majority(&now).unwrap_or_else(|| panic!("{case:?}: three epochs: {now:?}"));
        let payer = now.iter().position(|epoch| *epoch == most).unwrap();
        send(&cluster.nodes[payer].wallet("w"), SOME).await.is_ok()
    })
    .await;
    let reached = epochs(cluster).await.into_iter().max().unwrap();
    cluster.hub.clear_rule();
    cluster.hub.release();
    let apart = come_together(cluster, case).await;
    let refreshed = match refreshed {
        Some(done) => done,
        None => task.await.unwrap(),
    };
    let apart = apart.max(come_together(cluster, case).await);
    let after = epochs(cluster).await[0];
    assert!(after >= reached, "{case:?}: back from epoch {reached} to {after}");
    assert!(after > before || !refreshed, "{case:?}: refreshed, and still in epoch {before}");
    two_of_three_sign(cluster, case, random).await;
    let caught = caught.lock().unwrap().count;
    Outcome { refreshed, apart, caught }
}

/// Until all are in one epoch, and stay there for a while: a ceremony may still be under way. How long they were apart.
async fn come_together(cluster: &Cluster, case: &Case) -> Duration {
    let (mut apart, mut together) = (Duration::ZERO, None);
    let mut since = Instant::now();
    loop {
        let now = epochs(cluster).await;
        if now.iter().all(|epoch| *epoch == now[0]) {
            let began: Instant = *together.get_or_insert_with(Instant::now);
            if began.elapsed() > STAYS {
                return apart;
            }
        } else {
            if together.take().is_some() {
                since = Instant::now();
            }
            apart = apart.max(since.elapsed());
            assert!(apart < TIMEOUT, "{case:?}: apart for {apart:?}: {now:?}");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

async fn two_of_three_sign(cluster: &Cluster, case: &Case, random: &mut StdRng) {
    let away = random.gen_range(0..MEMBERS);
    let peer = cluster.nodes[away].options.identity.peer_id();
    cluster.hub.detach(&peer);
    for payer in (0..MEMBERS).filter(|payer| *payer != away) {
        wait_for(case, "two of three sign", Duration::from_secs(20), async || {
            send(&cluster.nodes[payer].wallet("w"), SOME).await.is_ok()
        })
        .await;
    }
    cluster.hub.attach(&peer);
    let online = async || {
        cluster.nodes.iter().all(|node| {
            node.manager.core().unwrap().is_member_online(&MemberId(cluster.nodes[away].options.identity.public_key()))
                || node.options.identity.peer_id() == peer
        })
    };
    wait_for(case, "the third is back", Duration::from_secs(5), online).await;
}

async fn wait_for(case: &Case, what: &str, patience: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds().await {
        assert!(Instant::now() < deadline, "{case:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Plays cases one after the other with a quorum of its own.
async fn lane(cases: Vec<Case>, seed: u64) -> Duration {
    if cases.is_empty() {
        return Duration::ZERO;
    }
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::new(MEMBERS);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let mut longest = Duration::ZERO;
    for case in cases {
        let Outcome { refreshed, apart, caught } = play(&cluster, &case, &mut random).await;
        longest = longest.max(apart);
        cluster.chain.mine(&ScriptBuf::new_op_return([]));
        println!("{case:?}: {caught} messages caught, refreshed {refreshed}, {apart:?} in different epochs after");
    }
    cluster.shutdown().await;
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_lost_at_the_switch_of_epochs_all_come_to_one_that_signs() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("KEYLESS_SWITCHES_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut cases = all_cases();
    cases.shuffle(&mut StdRng::seed_from_u64(seed));
    cases.truncate(usize::try_from(number("KEYLESS_SWITCHES").unwrap_or(2)).unwrap());
    let mine = |lane_number: usize| cases.iter().skip(lane_number).step_by(4).cloned().collect::<Vec<_>>();
    let (a, b, c, d) =
        tokio::join!(lane(mine(0), seed), lane(mine(1), seed ^ 1), lane(mine(2), seed ^ 2), lane(mine(3), seed ^ 3));
    let longest = a.max(b).max(c).max(d);
    println!("{} cases; in different epochs at most {longest:?} after messages flowed again", cases.len());
}

/// Member 0 alone sees the whole certificate, and is away from then on: its share of the new epoch has no partner. The two
/// others deal again, since two are more than it; when it is back, it learns of the later epoch and is dealt a share.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_switched_alone_and_went_away_comes_back_to_the_epoch_of_the_others() {
    let cluster = Cluster::new(MEMBERS);
    cluster.nodes[0].create("w").await.unwrap();
    fund(&cluster.chain, &cluster.nodes[0].wallet("w")).await;
    let case = Case {
        said: &[Said::Certificate, Said::Stored, Said::AskKeys, Said::Keys],
        how: How::Lost,
        edges: vec![(0, 1), (0, 2)],
    };
    let random = &mut StdRng::seed_from_u64(0);
    bend(&cluster, &case, random);
    let away = cluster.nodes[0].options.identity.peer_id();
    let coordinator = cluster.nodes[0].wallet("w");
    let task = tokio::spawn(async move { coordinator.refresh_shares().await.is_ok() });
    wait_for(&case, "one has switched", TIMEOUT, async || epochs(&cluster).await == [1, 0, 0]).await;
    cluster.hub.detach(&away);
    assert!(task.await.unwrap(), "it holds the whole certificate");
    cluster.hub.clear_rule();
    wait_for(&case, "two sign with the old shares", TIMEOUT, async || {
        send(&cluster.nodes[1].wallet("w"), SOME).await.is_ok()
    })
    .await;
    wait_for(&case, "two deal again", TIMEOUT, async || cluster.nodes[2].wallet("w").refresh_shares().await.is_ok())
        .await;
    wait_for(&case, "both are there", TIMEOUT, async || epochs(&cluster).await[1..] == [2, 2]).await;
    assert_eq!(epochs(&cluster).await[0], 1);
    cluster.hub.attach(&away);
    wait_for(&case, "all are in one epoch", TIMEOUT, async || {
        let now = epochs(&cluster).await;
        now[0] > 2 && now.iter().all(|epoch| *epoch == now[0])
    })
    .await;
    two_of_three_sign(&cluster, &case, random).await;
    cluster.shutdown().await;
}
