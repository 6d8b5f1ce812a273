//! Every refusal by which a member answers the proposal to deal shares again, made to fire.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Network;
use bitcoin::hashes::Hash;
use keyless_node::quorum::fence::{self, Mark, Reached};
use keyless_node::quorum::refusal::Refusal;
use keyless_node::quorum::wire::{Blob, LeaseRange, Message, PROTOCOL_VERSION, Proposal, RedealKind, Topic};
use keyless_node::quorum::{Policy, peer_name};
use tss_wallet::keys::Certificate;
use tss_wallet::policy::Denial;
use tss_wallet::redeal::MAX_EPOCH_JUMP;
use tss_wallet::seal::SealKey;
use tss_wallet::store::{Batch, Sync};
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::{
    Epoch, Family, KeyShare, MemberId, Outgoing, PublicKeys, Recipient, Redeal, RedealParams, Roster, SessionId,
    ShareStore, SigningIdentity, Split, WalletId,
};

use crate::chain::FakeChain;
use crate::refusals::Asker;

/// A member that proposes, and the node that is asked.
struct Proposer {
    asker: Asker,
    /// Of all three members.
    identities: Vec<SigningIdentity>,
    third: MemberId,
}

fn malformed(why: &str) -> Refusal {
    Refusal::Malformed(why.to_owned())
}

impl Proposer {
    async fn over(chain: FakeChain) -> Self {
        let asker = Asker::over(chain, AddressType::Bech32).await;
        let nodes = asker.cluster.nodes.iter().map(|node| SigningIdentity::from_seed(node.options.identity.seed()));
        let mut identities: Vec<SigningIdentity> = nodes.collect();
        let third = identities[1].member_id();
        identities.push(asker.raw.identity.clone());
        // What is refused here is not mended meanwhile.
        let core = asker.core();
        core.set_policy(Policy { repairs_itself: false, ..core.policy() });
        Self { asker, identities, third }
    }

    fn keys(&self) -> PublicKeys {
        (**self.asker.raw.holding.public()).clone()
    }

    /// Other keys, as if all members had made them.
    fn signed(&self, keys: PublicKeys) -> PublicKeys {
        let (statement, mut certificate) = (keys.statement(), Certificate::default());
        for identity in &self.identities {
            let party = keys.roster.index_of(&identity.member_id()).unwrap();
            certificate.add(&keys.roster, &statement, party, &Certificate::sign(identity, &statement)).unwrap();
        }
        let keys = PublicKeys { certificate, ..keys };
        keys.verify().unwrap();
        keys
    }

    /// A refresh with all three.
    fn refresh(&self) -> Proposal {
        let mut facts = self.asker.raw.holding.facts().clone();
        facts.version = PROTOCOL_VERSION;
        Proposal {
            version: PROTOCOL_VERSION,
            kind: RedealKind::Refresh,
            facts,
            made_by: SessionId([0; 32]),
            keys: of(&self.keys()),
            epoch: Epoch(1),
            dealers: self.keys().roster.members().to_vec(),
            absent: Vec::new(),
        }
    }

    /// Of a wallet that the node has never heard of.
    fn unknown(&self) -> Proposal {
        let keys = self.signed(PublicKeys { wallet: WalletId([9; 32]), ..self.keys() });
        Proposal { keys: of(&keys), ..self.refresh() }
    }

    /// The same with everyone but the node as dealers: it is to get a share.
    fn joining(&self) -> Proposal {
        Proposal { dealers: vec![self.asker.raw.me, self.third], ..self.unknown() }
    }

    async fn propose(&mut self, proposal: Proposal) -> (Topic, Message) {
        let (wallet, epoch) = match postcard::from_bytes::<PublicKeys>(&proposal.keys.0) {
            Ok(keys) => (keys.wallet, keys.epoch),
            Err(_) => (self.keys().wallet, self.keys().epoch),
        };
        let topic = Topic { wallet, epoch, session: SessionId(rand::random()) };
        let message = Message::Redeal(Box::new(proposal));
        let answer = self.asker.raw.ask_in(&topic, self.asker.victim, &message).await;
        (topic, answer)
    }

    async fn refused(&mut self, proposal: Proposal) -> Refusal {
        match self.propose(proposal).await.1 {
            Message::Refuse(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// Accepted; then it is called off.
    async fn accepted(&mut self, proposal: Proposal) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.propose(proposal.clone()).await {
                (topic, Message::Accept) => return self.call_off(&topic).await,
                // The last one is not over there.
                (_, Message::Refuse(Refusal::Busy | Refusal::UnderWay)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (_, other) => panic!("{other:?}"),
            }
        }
    }

    /// Another ceremony may begin once the node has said that this one is over.
    async fn call_off(&mut self, topic: &Topic) {
        self.asker.raw.send(self.asker.victim, topic, &Message::Refuse(Refusal::Aborted("a test".to_owned())));
        let over = self.asker.raw.hear(topic).await;
        assert!(matches!(over, Message::Refuse(Refusal::Failed(_))), "{over:?}");
    }
}

fn of(keys: &PublicKeys) -> Blob {
    Blob(postcard::to_allocvec(keys).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_does_not_fit_is_refused_by_its_name() {
    let mut one = Proposer::over(FakeChain::new()).await;
    let (base, keys, third, me) = (one.refresh(), one.keys(), one.third, one.asker.raw.me);
    let victim = one.asker.victim;
    let facts = |change: &dyn Fn(&mut keyless_node::quorum::wire::Invitation)| {
        let mut changed = base.clone();
        change(&mut changed.facts);
        changed
    };
    let epoch = |epoch| Proposal { epoch: Epoch(epoch), ..base.clone() };
    let named = |name: &str| {
        let mut changed = one.joining();
        changed.facts.name = name.to_owned();
        changed
    };
    // Keys of this wallet's id with group keys that are not its own, and with shares that it does not know.
    let swapped = PublicKeys {
        ecdsa: keys.schnorr,
        schnorr: keys.ecdsa,
        ecdsa_shares: keys.schnorr_shares.clone(),
        schnorr_shares: keys.ecdsa_shares.clone(),
        ..keys.clone()
    };
    let (swapped, other) = (one.signed(swapped), one.signed(PublicKeys { transcript: [7; 32], ..keys.clone() }));
    let with = |keys: &PublicKeys| Proposal { keys: of(keys), ..base.clone() };
    let unsigned = PublicKeys { certificate: Certificate::default(), ..keys.clone() };
    let other_members = "a refresh or a repair changes neither members nor threshold";
    let cases = [
        (Proposal { version: PROTOCOL_VERSION + 1, ..base.clone() }, Refusal::OtherVersion(PROTOCOL_VERSION)),
        (facts(&|facts| facts.network = [0; 4]), Refusal::OtherNetwork),
        (facts(&|facts| facts.genesis = bitcoin::BlockHash::all_zeros()), Refusal::OtherNetwork),
        (Proposal { keys: Blob(vec![1; 9]), ..base.clone() }, malformed("the public keys")),
        (with(&unsigned), malformed("the public keys")),
        (facts(&|facts| facts.threshold = 3), malformed(other_members)),
        (epoch(0), malformed("epoch 0 does not follow epoch 0")),
        (epoch(MAX_EPOCH_JUMP + 1), malformed("epoch 2001 lies too far above epoch 0")),
        // Whoever proposes deals, and whoever is asked takes part.
        (Proposal { dealers: vec![victim, third], ..base.clone() }, Refusal::UnknownCoordinator),
        (Proposal { dealers: vec![me, third], absent: vec![victim], ..base.clone() }, Refusal::UnknownCoordinator),
        (with(&swapped), malformed("the keys are not those of the wallet")),
        (with(&other), Refusal::OtherEpoch(0)),
        (one.unknown(), Refusal::UnknownWallet),
        (named("../w"), Refusal::UnsafeName("../w".to_owned())),
        (named("w"), Refusal::NameTaken("w".to_owned())),
    ];
    for (proposal, refusal) in cases {
        assert_eq!(one.refused(proposal).await, refusal);
    }
    let few = one.refused(Proposal { dealers: vec![me], ..base.clone() }).await;
    assert!(matches!(&few, Refusal::Malformed(why) if why.starts_with("1 members with a share take part")), "{few:?}");
    let topic = Topic { wallet: WalletId([7; 32]), ..one.asker.raw.topic() };
    let elsewhere = one.asker.raw.ask_in(&topic, victim, &Message::Redeal(Box::new(base.clone()))).await;
    assert_eq!(elsewhere, Message::Refuse(malformed("the topic does not fit the keys")));
    // One at a time.
    let (begun, answer) = one.propose(base.clone()).await;
    assert_eq!(answer, Message::Accept);
    assert_eq!(one.refused(base.clone()).await, Refusal::UnderWay);
    one.call_off(&begun).await;
    one.accepted(base.clone()).await;
    one.asker.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_is_in_the_middle_of_stands_before_a_proposal() {
    let mut one = Proposer::over(FakeChain::new()).await;
    let base = one.refresh();
    let wallet = one.asker.wallet();
    let third = peer_name(&one.third);
    wallet.suspend(&third, Some("a test")).await.unwrap();
    assert_eq!(one.refused(base.clone()).await, Refusal::Suspended(third.clone()));
    wallet.suspend(&third, None).await.unwrap();
    wallet.encrypt("words").await.unwrap();
    assert_eq!(one.refused(base.clone()).await, Refusal::Locked);
    wallet.unlock("words", 600).await.unwrap();
    one.accepted(base.clone()).await;
    // Rolled back: another member holds a mark that this one signed, of more than it remembers.
    let (holding, core) = (one.asker.holding(), one.asker.core());
    let reached = Reached { epoch: Epoch(0), count: 99 };
    let statement = [
        b"keyless/mark/v2".as_slice(),
        holding.wallet().as_bytes(),
        &reached.epoch.0.to_be_bytes(),
        &reached.count.to_be_bytes(),
    ]
    .concat();
    let mark = |by: usize| Mark { reached, signature: Blob(one.identities[by].sign(&statement).to_vec()) };
    fence::compare(&core, &holding, one.asker.raw.me, Some(&mark(1)));
    assert!(!holding.is_fenced(), "only its own signature shuts a member");
    fence::compare(&core, &holding, one.asker.raw.me, Some(&mark(0)));
    assert_eq!(one.refused(base.clone()).await, Refusal::Fenced);
    assert_eq!(one.asker.refused(|_| {}).await, Refusal::Fenced);
    let (chain, victim) = (one.asker.key.chain, one.asker.victim);
    let lease = Message::Lease(vec![LeaseRange { chain, first: 1_000, count: 1 }]);
    assert_eq!(one.asker.raw.ask(victim, &lease).await, Message::Refuse(Refusal::Fenced));
    // To mend others it deals.
    one.accepted(Proposal { kind: RedealKind::Repair(one.third), ..base }).await;
    drop((holding, core, wallet));
    one.asker.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_regtest_what_the_operator_has_not_said_is_refused_by_its_name() {
    let mut one = Proposer::over(FakeChain::on(Network::Signet)).await;
    assert_eq!(one.asker.refused(|_| {}).await, Refusal::Policy(Denial::NoPolicy));
    let repair = RedealKind::Repair(one.third);
    // A member without the wallet has nobody to ask: what its configuration does not say, it refuses.
    assert_eq!(one.refused(Proposal { kind: repair, ..one.joining() }).await, Refusal::NotConfirmed);
    let mut other_threshold = Proposal { kind: RedealKind::Reshare, ..one.joining() };
    other_threshold.facts.threshold = 3;
    assert_eq!(one.refused(other_threshold).await, Refusal::NotConfirmed);
    let as_configured = Proposal { kind: RedealKind::Reshare, ..one.joining() };
    assert_eq!(one.refused(as_configured).await, Refusal::NameTaken("w".to_owned()));
    // With the wallet its operator is asked.
    let proposal = Proposal { kind: repair, ..one.refresh() };
    assert_eq!(one.refused(proposal.clone()).await, Refusal::NeedsApproval);
    let wallet = one.asker.wallet();
    let pending = wallet.pending_approvals().unwrap();
    assert_eq!((pending.len(), pending[0].rule.as_str()), (1, "roster change"));
    wallet.answer_approval(&pending[0].id, Some("no")).await.unwrap();
    assert_eq!(one.refused(proposal).await, Refusal::Policy(Denial::Rejected("no".to_owned())));
    one.accepted(one.refresh()).await;
    drop(wallet);
    one.asker.cluster.shutdown().await;
}

/// Deals a share of the next epoch to these, in one thread.
fn deal(
    params: &RedealParams,
    members: Vec<(SigningIdentity, Option<Arc<KeyShare>>)>,
) -> BTreeMap<MemberId, Arc<KeyShare>> {
    let mut machines: BTreeMap<MemberId, Redeal> = BTreeMap::new();
    let mut queue: VecDeque<(MemberId, Outgoing)> = VecDeque::new();
    for (identity, share) in members {
        let member = identity.member_id();
        let started = Redeal::start(params.clone(), identity, share.as_deref(), rand::random());
        let (machine, out) = started.unwrap();
        queue.extend(out.into_iter().map(|message| (member, message)));
        machines.insert(member, machine);
    }
    while let Some((from, message)) = queue.pop_front() {
        let mut sent = Vec::new();
        for (to, machine) in machines.iter_mut().filter(|(to, _)| **to != from) {
            if message.to == Recipient::All || message.to == Recipient::One(machine.me()) {
                let sender = machine.index_of(&from).unwrap();
                let out = machine.receive(sender, &message.body).unwrap();
                sent.extend(out.into_iter().map(|message| (*to, message)));
            }
        }
        queue.extend(sent);
    }
    machines.into_iter().filter_map(|(member, machine)| Some((member, machine.share()?.clone()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_deals_nothing_while_what_it_signed_may_be_in_force_among_others() {
    let mut one = Proposer::over(FakeChain::new()).await;
    let (holding, victim, me) = (one.asker.holding(), one.asker.victim, one.asker.raw.me);
    // It has signed for an epoch with two new members, and has not seen the certificate.
    let new = [[21; 32], [22; 32]].map(|seed| SigningIdentity::from_seed(&seed));
    let roster = vec![victim, new[0].member_id(), new[1].member_id()];
    let params = RedealParams {
        old: Arc::clone(holding.public()),
        epoch: Epoch(1),
        roster: Roster::new(2, roster, Split::Refused).unwrap(),
        dealers: [victim, me].into(),
        absent: BTreeSet::new(),
        session: SessionId([5; 32]),
        context: [0; 32],
    };
    let members = vec![
        (one.identities[0].clone(), holding.share()),
        (one.asker.raw.identity.clone(), one.asker.raw.holding.share()),
        (new[0].clone(), None),
        (new[1].clone(), None),
    ];
    let share = deal(&params, members).remove(&victim).unwrap();
    let seal = SealKey::load(&one.asker.cluster.nodes[0].options.keyless_dir.join("seal.key")).unwrap();
    let store = ShareStore::new(Arc::clone(holding.db()), victim);
    store.put_pending(&share, &seal, &rand::random()).unwrap();

    assert_eq!(one.refused(one.refresh()).await, Refusal::OtherEpoch(1));
    let next = Proposal { epoch: Epoch(2), ..one.refresh() };
    let refused = one.refused(next.clone()).await;
    let Refusal::Unsettled(1, names) = &refused else { panic!("{refused:?}") };
    assert!(new.iter().all(|member| names.contains(&peer_name(&member.member_id()))), "{names}");
    // Nor does it coordinate that.
    let error = one.asker.wallet().refresh_shares().await.unwrap_err();
    assert!(error.message.contains("epoch 1, which it signed for, may be in force at"), "{error}");
    // One of the two takes part: without it the other cannot sign.
    let mut with_one = Proposal { kind: RedealKind::Reshare, ..next.clone() };
    with_one.facts.members = vec![victim, me, new[0].member_id()];
    one.accepted(with_one).await;
    // What it has signed for cannot be read.
    let mut batch = Batch::new();
    batch.put(Family::Share, b"pending/public".as_slice(), b"?".as_slice());
    holding.db().write(&batch, Sync::Yes).unwrap();
    let damaged = one.refused(next).await;
    assert!(matches!(&damaged, Refusal::Storage(why) if why.contains("public keys cannot be read")), "{damaged:?}");
    drop((holding, store));
    one.asker.cluster.shutdown().await;
}
