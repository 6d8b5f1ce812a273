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
fn read(from: &PeerId, to: &PeerId, bytes: &[u8]) -> Option<(SessionId, Message)> {
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
    /// From the moment when messages flow again.
    settled: Duration,
    caught: usize,
}

async fn play(cluster: &Cluster, case: &Case, random: &mut StdRng) -> Outcome {
    let peers: Vec<PeerId> = cluster.nodes.iter().map(|node| node.options.identity.peer_id()).collect();
    let (how, kinds, edges) = (case.how, case.said, case.edges.clone());
    let first: Arc<Mutex<Option<Instant>>> = Arc::default();
    let caught = Arc::new(Mutex::new(0));
    let (noted, counted) = (Arc::clone(&first), Arc::clone(&caught));
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
        noted.lock().unwrap().get_or_insert_with(Instant::now);
        let mut count = counted.lock().unwrap();
        *count += 1;
        match how {
            How::Lost => Fate::Drop,
            How::Withheld => Fate::Hold,
            How::Late => Fate::Delay(Duration::from_millis(lateness[*count % lateness.len()])),
            How::Twice => Fate::Duplicate,
        }
    });
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
    while refreshed.is_none() && first.lock().unwrap().is_none_or(|first| first.elapsed() < patience) {
        refreshed = tokio::time::timeout(Duration::from_millis(50), &mut task).await.ok().map(|done| done.unwrap());
    }
    // Whoever is in the epoch of most members can pay, whatever is withheld.
    let during = epochs(cluster).await;
    let most = majority(&during).unwrap_or_else(|| panic!("{case:?}: three epochs: {during:?}"));
    let payer = during.iter().position(|epoch| *epoch == most).unwrap();
    wait_for(case, "the majority signs", Duration::from_secs(20), async || {
        send(&cluster.nodes[payer].wallet("w"), SOME).await.is_ok()
    })
    .await;
    let reached = epochs(cluster).await.into_iter().max().unwrap();
    cluster.hub.clear_rule();
    cluster.hub.release();
    let healed = Instant::now();
    let refreshed = match refreshed {
        Some(done) => done,
        None => task.await.unwrap(),
    };
    let least = if refreshed { reached.max(before + 1) } else { reached };
    let mut since = (Instant::now(), Vec::new());
    // A ceremony may still be under way among others: for a while it stays so.
    wait_for(case, "all come to one epoch", TIMEOUT.saturating_sub(healed.elapsed()) + STAYS, async || {
        let now = epochs(cluster).await;
        if now != since.1 {
            since = (Instant::now(), now);
        }
        since.1.iter().all(|epoch| *epoch == since.1[0] && *epoch >= least) && since.0.elapsed() > STAYS
    })
    .await;
    let settled = since.0 - healed;
    two_of_three_sign(cluster, case, random).await;
    let caught = *caught.lock().unwrap();
    Outcome { refreshed, settled, caught }
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
        let Outcome { refreshed, settled, caught } = play(&cluster, &case, &mut random).await;
        longest = longest.max(settled);
        cluster.chain.mine(&ScriptBuf::new_op_return([]));
        println!("{case:?}: {caught} messages caught, refreshed {refreshed}, one epoch {settled:?} after");
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
    println!("{} cases; all in one epoch at most {longest:?} after messages flowed again", cases.len());
}
