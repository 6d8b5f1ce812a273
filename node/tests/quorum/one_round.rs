//! Taproot signatures in one round: how many frames they take, what nonces outlive, and who is waited for.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{Amount, OutPoint, Psbt, TapSighashType, TxOut};
use keyless_node::quorum::Holding;
use keyless_node::quorum::blame::accusations;
use keyless_node::quorum::refusal::Refusal;
use keyless_node::quorum::wire::{
    self, Blob, CoinChoice, Frame, InputKey, Message, SignRequest, SignerNonces, Subject, Topic,
};
use keyless_node::wallets::ChainView;
use keyless_p2p::cosigners::Event;
use keyless_p2p::cosigners::memory::Fate;
use keyless_rpc::wallet::backend::{PsbtOptions, WalletHandle, Wallets};
use tss_wallet::sign::nonces::POOL_TARGET;
use tss_wallet::sign::{Commitment, NoncePool, Roast, Started};
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId, KeyId};
use tss_wallet::{MemberId, SessionId, SignItem, Signature};

use crate::frames::{self, Raw, spend, spend_to};
use crate::node::Cluster;

fn holding(cluster: &Cluster, index: usize) -> Arc<Holding> {
    cluster.nodes[index].manager.core().unwrap().holding_named("w").unwrap()
}

fn me(cluster: &Cluster, index: usize) -> MemberId {
    MemberId(cluster.nodes[index].options.identity.public_key())
}

/// A wallet of three nodes with taproot coins.
pub async fn funded(coins: usize) -> (Cluster, Vec<OutPoint>) {
    with_coins(Cluster::new(3), coins).await
}

pub async fn with_coins(cluster: Cluster, coins: usize) -> (Cluster, Vec<OutPoint>) {
    cluster.nodes[0].create("w").await.unwrap();
    let wallet = cluster.nodes[0].wallet("w");
    let script = wallet.new_address("", AddressType::Bech32m).await.unwrap().script_pubkey();
    let mine = |_| OutPoint::new(cluster.chain.mine(&script)[0].compute_txid(), 0);
    let coins: Vec<OutPoint> = (0..coins).map(mine).collect();
    wallet.synced().await.unwrap();
    (cluster, coins)
}

pub async fn sign(wallet: &Arc<dyn WalletHandle>, psbt: Psbt) -> Result<Duration, String> {
    let started = Instant::now();
    let options = PsbtOptions { sign: true, sighash: None, bip32_derivs: false, finalize: true };
    let processed = wallet.process_psbt(psbt, options).await.map_err(|error| error.message)?;
    assert!(processed.complete);
    Ok(started.elapsed())
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The kinds of frames of signing, as they pass; `true`: from the coordinator.
fn record(cluster: &Cluster) -> Arc<Mutex<Vec<(bool, &'static str)>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (coordinator, log) = (cluster.nodes[0].options.identity.peer_id(), Arc::clone(&seen));
    cluster.hub.set_rule(move |from, to, bytes| {
        let kind = match frames::message(from, to, bytes) {
            Some((_, Message::Sign(_))) => "sign",
            Some((_, Message::AskNonces { .. })) => "ask",
            Some((_, Message::Nonces(_))) => "nonces",
            Some((_, Message::Share { .. })) => "share",
            Some((_, Message::Signatures(_))) => "signatures",
            Some((_, Message::Protocol(_) | Message::Stuck(_) | Message::Refuse(_))) => "other",
            _ => return Fate::Deliver,
        };
        log.lock().unwrap().push((*from == coordinator, kind));
        Fate::Deliver
    });
    seen
}

/// Signs until members have told nonces ahead. Gives how often.
pub async fn warm(cluster: &Cluster, coin: OutPoint, stocked: impl Fn(&Cluster) -> bool) -> usize {
    let deadline = Instant::now() + Duration::from_secs(20);
    for times in 1.. {
        sign(&cluster.nodes[0].wallet("w"), spend(coin)).await.unwrap();
        if stocked(cluster) {
            return times;
        }
        assert!(Instant::now() < deadline, "nobody tells nonces ahead");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    0
}

/// What the first node holds of another one, and what that one has told it.
pub fn pools(cluster: &Cluster, index: usize) -> (u16, usize) {
    let (mine, theirs) = (holding(cluster, 0), holding(cluster, index));
    (mine.nonces().stock(&me(cluster, index)), theirs.nonces().told(&me(cluster, 0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taproot_signature_takes_one_round_trip_once_members_have_told_nonces() {
    let (cluster, coins) = funded(4).await;
    let seen = record(&cluster);
    let most = |cluster: &Cluster| pools(cluster, 1).0.max(pools(cluster, 2).0);
    let before = warm(&cluster, coins[0], |cluster| most(cluster) > 3).await;
    let first = std::mem::take(&mut *seen.lock().unwrap());
    assert!(first.contains(&(true, "ask")) && first.contains(&(false, "nonces")), "{first:?}");
    for coin in &coins[1..] {
        sign(&cluster.nodes[0].wallet("w"), spend(*coin)).await.unwrap();
        let frames = std::mem::take(&mut *seen.lock().unwrap());
        // One frame to the member and one back; what it is told afterwards nobody waits for.
        assert_eq!(frames, [(true, "sign"), (false, "share"), (true, "signatures")]);
    }
    assert!(usize::from(most(&cluster)) >= POOL_TARGET / 2, "the stock is filled by the answers");
    let signed = |index: usize| {
        let entries = holding(&cluster, index).guard().entries(1_000, 0).unwrap();
        entries.iter().filter(|(_, _, entry)| entry.outcome == "signed").count()
    };
    let all = before + 3;
    until("both have the signatures in their logs", || signed(0) == all && signed(1) + signed(2) == all).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_end_with_their_epoch_their_process_and_their_members_readiness() {
    let (mut cluster, coins) = funded(6).await;
    let third = cluster.nodes[2].options.identity.peer_id();
    cluster.hub.detach(&third);
    let stocked = |cluster: &Cluster| {
        let (stock, told) = pools(cluster, 1);
        stock > 0 && told > 0
    };
    assert_eq!(pools(&cluster, 1), (0, 0));
    warm(&cluster, coins[0], stocked).await;
    // A member that is suspended, at either end.
    let wallet = cluster.nodes[1].wallet("w");
    let name = cluster.nodes[0].options.identity.peer_id().to_string();
    wallet.suspend(&name, Some("a test")).await.unwrap();
    assert_eq!(pools(&cluster, 1).1, 0);
    wallet.suspend(&name, None).await.unwrap();
    // What the coordinator still holds is not known any more: it asks again.
    assert!(pools(&cluster, 1).0 > 0);
    warm(&cluster, coins[1], stocked).await;
    let own = cluster.nodes[1].options.identity.peer_id().to_string();
    wallet.suspend(&own, Some("a test")).await.unwrap();
    assert_eq!(pools(&cluster, 1).1, 0);
    wallet.suspend(&own, None).await.unwrap();
    warm(&cluster, coins[2], stocked).await;
    drop(wallet);
    // An epoch.
    cluster.hub.attach(&third);
    cluster.nodes[0].wallet("w").refresh_shares().await.unwrap();
    until("the other is in the epoch", || holding(&cluster, 1).epoch().0 == 1).await;
    assert_eq!(pools(&cluster, 1), (0, 0));
    cluster.hub.detach(&third);
    warm(&cluster, coins[3], stocked).await;
    // A restart, of the member and of the coordinator.
    for index in [1, 0] {
        let hub = cluster.hub.clone();
        let node = cluster.nodes.remove(index).restart(&cluster.chain, Some(&hub)).await;
        cluster.nodes.insert(index, node);
        until("it is there", || cluster.nodes[index].manager.list() == ["w"]).await;
        until("the other has heard of it", || pools(&cluster, 1) == (0, 0)).await;
        warm(&cluster, coins[4 + usize::from(index == 0)], stocked).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_that_locks_the_share_drops_its_nonces() {
    let (cluster, coins) = funded(2).await;
    cluster.hub.detach(&cluster.nodes[2].options.identity.peer_id());
    let (wallet, other) = (cluster.nodes[0].wallet("w"), cluster.nodes[1].wallet("w"));
    let told = |cluster: &Cluster| pools(cluster, 1).1 > 0;
    warm(&cluster, coins[0], told).await;
    other.encrypt("words").await.unwrap();
    assert!(!told(&cluster));
    let error = sign(&wallet, spend(coins[1])).await.unwrap_err();
    assert!(error.contains("its share is locked"), "{error}");
    other.unlock("words", 600).await.unwrap();
    warm(&cluster, coins[1], told).await;
    other.lock().await.unwrap();
    assert!(!told(&cluster));
    cluster.shutdown().await;
}

/// A coordinator that keeps to nothing, beside one honest member.
struct Liar {
    raw: Raw,
    victim: MemberId,
    output: TxOut,
    key: KeyId,
}

impl Liar {
    async fn nonces(&mut self, count: u16) -> Vec<Commitment> {
        let ask = Message::AskNonces { count, stock: u16::MAX };
        let Message::Nonces(told) = self.raw.ask(self.victim, &ask).await else { panic!("no nonces") };
        Commitment::parse_all(&told.0).unwrap()
    }

    fn items(&self, psbt: &Psbt) -> Vec<SignItem> {
        let mut cache = SighashCache::new(&psbt.unsigned_tx);
        let prevouts = [self.output.clone()];
        let hash = cache.taproot_key_spend_signature_hash(0, &Prevouts::All(&prevouts), TapSighashType::Default);
        vec![SignItem { key: self.key, message: hash.unwrap().to_byte_array() }]
    }

    fn begin(&self, psbt: &Psbt, nonces: Vec<Commitment>) -> (Roast, SessionId, Started) {
        let mut roast = Roast::new(self.raw.holding.share().unwrap(), self.items(psbt)).unwrap();
        let victim = self.raw.holding.index_of(&self.victim).unwrap();
        assert!(roast.offer(victim, nonces).unwrap());
        let session = SessionId(rand::random());
        let started = roast.start(session, &[victim], &rand::random()).unwrap();
        (roast, session, started)
    }

    fn request(&self, psbt: &Psbt, started: &Started) -> SignRequest {
        let nonces = started.commitments.values();
        let nonces = nonces.map(|list| SignerNonces { commitments: Blob(Commitment::concat(list)), stock: u16::MAX });
        SignRequest {
            idempotency_key: None,
            signers: started.signers.iter().map(|party| party.get()).collect(),
            nonces: nonces.collect(),
            subject: Subject::Transaction {
                psbt: Blob(psbt.serialize()),
                inputs: vec![InputKey { input: 0, key: self.key, sighash: 0 }],
                change: Vec::new(),
                first: 0,
                count: 1,
            },
            coins: CoinChoice::Caller,
            patience_ms: 300,
            approval_seconds: 60,
            agreed: Vec::new(),
        }
    }

    async fn ask(&mut self, psbt: &Psbt, nonces: Vec<Commitment>) -> Result<Vec<Signature>, Refusal> {
        let (mut roast, session, started) = self.begin(psbt, nonces);
        let request = self.request(psbt, &started);
        self.send(&mut roast, session, request).await
    }

    async fn send(
        &mut self,
        roast: &mut Roast,
        session: SessionId,
        request: SignRequest,
    ) -> Result<Vec<Signature>, Refusal> {
        let topic = Topic { session, ..self.raw.topic() };
        match self.raw.ask_in(&topic, self.victim, &Message::Sign(request)).await {
            Message::Share { answer, .. } => {
                let victim = self.raw.holding.index_of(&self.victim).unwrap();
                Ok(roast.receive(session, victim, &answer.0).unwrap().unwrap())
            }
            Message::Refuse(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_gets_nothing_for_a_nonce_that_was_used_and_is_named_where_it_lies() {
    let (mut cluster, coins) = funded(1).await;
    let victim = me(&cluster, 0);
    let chain = ChainId { address_type: AddressType::Bech32m, branch: Branch::External };
    let output = cluster.chain.output(&coins[0]).unwrap();
    let raw = Raw::replace(&mut cluster, 1).await;
    let index = (0..50).find(|index| {
        raw.holding.keys().derive(KeyId { chain, index: *index }).unwrap().script == output.script_pubkey
    });
    let key = KeyId { chain, index: index.unwrap() };
    let mut liar = Liar { raw, victim, output, key };
    let (one, other) = (spend(coins[0]), spend_to(coins[0], Amount::from_int_btc(49)));
    let blamed = || accusations(&holding(&cluster, 0)).unwrap();

    let told = liar.nonces(3).await;
    assert_eq!(told.len(), 3);
    assert_eq!(liar.ask(&one, vec![told[0]]).await.unwrap().len(), 1);
    assert_eq!(liar.ask(&one, vec![told[0]]).await, Err(Refusal::NonceUsed));
    assert!(blamed().is_empty(), "the same message twice may be an accident");
    assert_eq!(liar.ask(&other, vec![told[0]]).await, Err(Refusal::NonceUsed));
    let named = blamed();
    assert_eq!((named.len(), named[0].member, named[0].kind.as_str()), (1, liar.raw.me, "nonce reuse"));
    assert!(!named[0].evidence.is_empty());
    // Nonces of somebody else, or of nobody.
    let (_, _, started) = liar.begin(&one, vec![told[1]]);
    let own = started.commitments[&liar.raw.holding.me()].clone();
    assert_eq!(liar.ask(&one, own).await, Err(Refusal::NonceUnknown));
    // A request with more or fewer nonces than it must have, or with bytes that are none.
    let malformed = Err(Refusal::Malformed("its nonces".to_owned()));
    let edits: [fn(&mut SignRequest); 4] = [
        |request| request.nonces.truncate(1),
        |request| request.nonces[0].commitments.0.truncate(65),
        |request| request.nonces[1].commitments.0.clear(),
        |request| request.nonces[0].commitments.0.fill(0),
    ];
    for edit in edits {
        let (mut roast, session, started) = liar.begin(&one, vec![told[1]]);
        let mut request = liar.request(&one, &started);
        edit(&mut request);
        assert_eq!(liar.send(&mut roast, session, request).await, malformed);
    }
    // None of that used a nonce up.
    assert_eq!(liar.ask(&other, vec![told[1]]).await.unwrap().len(), 1);
    // More in a time than there are to have.
    let mut asked = 0;
    let ask = Message::AskNonces { count: u16::MAX, stock: u16::MAX };
    let refused = loop {
        match liar.raw.ask(victim, &ask).await {
            Message::Nonces(told) => asked += Commitment::parse_all(&told.0).unwrap().len(),
            refused => break refused,
        }
        assert!(asked < 40_000);
    };
    assert_eq!(refused, Message::Refuse(Refusal::Busy));
    assert_eq!(blamed().len(), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withheld_answer_costs_a_moment_and_garbage_names_its_maker() {
    let (mut cluster, coins) = funded(3).await;
    let wallet = cluster.nodes[0].wallet("w");
    // Both members have told nonces.
    sign(&wallet, spend(coins[0])).await.unwrap();
    let withheld = Arc::new(Mutex::new(None));
    let silent = Arc::clone(&withheld);
    cluster.hub.set_rule(move |from, to, bytes| {
        let share = matches!(frames::message(from, to, bytes), Some((_, Message::Share { .. })));
        let mut silent = silent.lock().unwrap();
        // Whoever answers first is not heard any more.
        if share && silent.is_none_or(|silent| silent == *from) {
            *silent = Some(*from);
            return Fate::Drop;
        }
        Fate::Deliver
    });
    let took = sign(&wallet, spend(coins[1])).await.unwrap();
    assert!(withheld.lock().unwrap().is_some());
    println!("beside a withheld answer: {took:?}");
    assert!(took > Duration::from_millis(300) && took < Duration::from_millis(1_500), "{took:?}");
    let blamed = accusations(&holding(&cluster, 0)).unwrap();
    assert!(blamed.is_empty(), "silence is no evidence: {blamed:?}");
    cluster.hub.clear_rule();

    let other = cluster.nodes[2].options.identity.peer_id();
    let mut raw = Raw::replace(&mut cluster, 1).await;
    let (coordinator, liar_id) = (me(&cluster, 0), raw.me);
    // It alone can be asked, until it has lied.
    cluster.hub.detach(&other);
    let hub = cluster.hub.clone();
    let liar = tokio::spawn(async move {
        let mut pool = NoncePool::default();
        loop {
            let Some(Event::Frame { bytes, .. }) = raw.events.recv().await else { continue };
            let Ok(frame) = Frame::parse(bytes) else { continue };
            let Ok((topic, message)) = wire::open_first(&frame, raw.me, coordinator) else {
                continue;
            };
            match message {
                Message::AskNonces { count, .. } => {
                    let share = raw.holding.share().unwrap();
                    let told = pool.issue(&share, usize::from(count), &rand::random());
                    raw.send(coordinator, &topic, &Message::Nonces(Blob(Commitment::concat(&told))));
                }
                Message::Sign(_) => {
                    hub.attach(&other);
                    let share = Message::Share { answer: Blob(vec![2; 97]), next: Blob(Vec::new()) };
                    raw.send(coordinator, &topic, &share);
                    return raw.me;
                }
                _ => {}
            }
        }
    });
    until("the coordinator sees the liar", || cluster.nodes[0].manager.core().unwrap().is_member_online(&liar_id))
        .await;
    let took = sign(&wallet, spend(coins[2])).await.unwrap();
    let liar = liar.await.unwrap();
    let blamed = accusations(&holding(&cluster, 0)).unwrap();
    assert!(blamed.iter().any(|row| row.member == liar && row.kind == "malformed" && !row.evidence.is_empty()));
    println!("beside garbage: {took:?}");
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    cluster.shutdown().await;
}
