//! Every refusal by which a member answers another one's request, made to fire: a member without a node asks a node.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, OutPoint, Psbt, ScriptBuf, TxOut, Txid};
use keyless_node::quorum::names::Claim;
use keyless_node::quorum::refusal::Refusal;
use keyless_node::quorum::wire::{
    Blob, CoinChoice, InputKey, Invitation, LeaseRange, Message, OutputKey, PROTOCOL_VERSION, SignRequest,
    SignerNonces, Subject, Topic,
};
use keyless_node::quorum::{Core, Holding};
use keyless_node::wallets::ChainView;
use keyless_rpc::wallet::backend::{WalletHandle, Wallets};
use tss_wallet::policy::{Action, Conditions, Denial, Limit, Policy, Rule};
use tss_wallet::store::{Batch, Sync};
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId, KeyId};
use tss_wallet::{DkgParams, Epoch, Family, MemberId, Roster, SessionId, Split, WalletId};

use crate::chain::FakeChain;
use crate::frames::{Raw, spend_to};
use crate::guards::{rule, strict};
use crate::node::{Cluster, fund};

const VALUE: Amount = Amount::from_int_btc(50);
const FEE: Amount = Amount::from_sat(10_000);

/// One that asks, and the node that is asked.
pub struct Asker {
    pub cluster: Cluster,
    pub raw: Raw,
    pub victim: MemberId,
    coin: OutPoint,
    output: TxOut,
    pub key: KeyId,
}

impl Asker {
    /// With a coin of this type.
    async fn new(kind: AddressType) -> Self {
        Self::over(FakeChain::new(), kind).await
    }

    pub async fn over(chain: FakeChain, kind: AddressType) -> Self {
        let mut cluster = Cluster::over(chain, 3);
        cluster.nodes[0].create("w").await.unwrap();
        let wallet = cluster.nodes[0].wallet("w");
        fund(&cluster.chain, &wallet).await;
        let address = wallet.new_address("", kind).await.unwrap().script_pubkey();
        let coin = OutPoint::new(cluster.chain.mine(&address)[0].compute_txid(), 0);
        wallet.synced().await.unwrap();
        let output = cluster.chain.output(&coin).unwrap();
        let victim = MemberId(cluster.nodes[0].options.identity.public_key());
        let raw = Raw::replace(&mut cluster, 1).await;
        let chain = ChainId { address_type: kind, branch: Branch::External };
        let is_it = |index: &u32| {
            raw.holding.keys().derive(KeyId { chain, index: *index }).unwrap().script == output.script_pubkey
        };
        let index = (0..100).find(is_it).unwrap();
        Self { cluster, raw, victim, coin, output, key: KeyId { chain, index } }
    }

    pub fn core(&self) -> Arc<Core> {
        self.cluster.nodes[0].manager.core().unwrap().clone()
    }

    pub fn holding(&self) -> Arc<Holding> {
        self.core().holding_named("w").unwrap()
    }

    pub fn wallet(&self) -> Arc<dyn WalletHandle> {
        self.cluster.nodes[0].wallet("w")
    }

    fn request(&self) -> SignRequest {
        let mut signers =
            [self.raw.holding.me(), self.raw.holding.index_of(&self.victim).unwrap()].map(|one| one.get());
        signers.sort_unstable();
        let psbt = spend_to(self.coin, VALUE - FEE);
        let sighash = u8::from(self.key.chain.address_type != AddressType::Bech32m);
        SignRequest {
            idempotency_key: None,
            signers: signers.to_vec(),
            nonces: Vec::new(),
            subject: Subject::Transaction {
                psbt: Blob(psbt.serialize()),
                inputs: vec![InputKey { input: 0, key: self.key, sighash }],
                change: Vec::new(),
                first: 0,
                count: 1,
            },
            coins: CoinChoice::Caller,
            patience_ms: 2_000,
            approval_seconds: 60,
            agreed: Vec::new(),
        }
    }

    /// The node's answer to the request with this changed.
    async fn answer(&mut self, change: impl FnOnce(&mut SignRequest)) -> Message {
        let topic = self.raw.topic();
        self.answer_in(topic, change).await
    }

    async fn answer_in(&mut self, topic: Topic, change: impl FnOnce(&mut SignRequest)) -> Message {
        let mut request = self.request();
        change(&mut request);
        let answer = self.raw.ask_in(&topic, self.victim, &Message::Sign(request)).await;
        // What was begun is over.
        let over = Message::Refuse(Refusal::Aborted("a test".to_owned()));
        self.raw.send(self.victim, &topic, &over);
        answer
    }

    pub async fn refused(&mut self, change: impl FnOnce(&mut SignRequest)) -> Refusal {
        match self.answer(change).await {
            Message::Refuse(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    async fn accepted(&mut self, change: impl FnOnce(&mut SignRequest)) {
        let answer = self.answer(change).await;
        assert!(matches!(answer, Message::Protocol(_)), "{answer:?}");
    }

    async fn with_policy(&mut self, policy: Policy, change: impl FnOnce(&mut SignRequest)) -> Denial {
        self.wallet().set_signing_policy(policy).await.unwrap();
        match self.refused(change).await {
            Refusal::Policy(denial) => denial,
            other => panic!("{other:?}"),
        }
    }
}

fn edit(request: &mut SignRequest, change: impl FnOnce(&mut Psbt, &mut Vec<InputKey>, &mut Vec<OutputKey>)) {
    let Subject::Transaction { psbt, inputs, change: keys, .. } = &mut request.subject else { panic!("a message") };
    let mut decoded = Psbt::deserialize(&psbt.0).unwrap();
    change(&mut decoded, inputs, keys);
    psbt.0 = decoded.serialize();
}

fn part(request: &mut SignRequest, part: (u32, u32)) {
    let Subject::Transaction { first, count, .. } = &mut request.subject else { panic!("a message") };
    (*first, *count) = part;
}

fn nobodys() -> OutPoint {
    OutPoint::new(Txid::from_byte_array([9; 32]), 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_refused_by_its_name() {
    let mut asker = Asker::new(AddressType::Bech32).await;
    asker.accepted(|_| {}).await;
    let other_wallet = Topic { wallet: WalletId([7; 32]), ..asker.raw.topic() };
    assert_eq!(asker.answer_in(other_wallet, |_| {}).await, Message::Refuse(Refusal::UnknownWallet));
    let other_epoch = Topic { epoch: Epoch(3), ..asker.raw.topic() };
    assert_eq!(asker.answer_in(other_epoch, |_| {}).await, Message::Refuse(Refusal::OtherEpoch(0)));
    let third = (1..=3).find(|index| !asker.request().signers.contains(index)).unwrap();
    let me = asker.raw.holding.me().get();
    let mut without_it = vec![me, third];
    without_it.sort_unstable();
    assert_eq!(asker.refused(|request| request.signers = without_it).await, Refusal::NotASigner);
    let set = Refusal::Malformed("the set of signers".to_owned());
    assert_eq!(asker.refused(|request| request.signers.reverse()).await, set);
    assert_eq!(asker.refused(|request| request.signers = vec![1, 2, 3]).await, set);
    let outside = Refusal::Malformed("a signer outside the roster".to_owned());
    assert_eq!(asker.refused(|request| request.signers[0] = 0).await, outside);
    assert_eq!(asker.refused(|request| request.signers[1] = 9).await, outside);
    assert_eq!(asker.refused(|request| part(request, (0, 0))).await, Refusal::Nothing);
    assert_eq!(asker.refused(|request| edit(request, |_, inputs, _| inputs.clear())).await, Refusal::Nothing);
    let no_part = Refusal::Malformed("a part of the inputs".to_owned());
    assert_eq!(asker.refused(|request| part(request, (u32::MAX, 2))).await, no_part);
    assert_eq!(asker.refused(|request| part(request, (0, 2))).await, no_part);
    let many = asker.refused(|request| edit(request, |_, inputs, _| *inputs = vec![inputs[0]; 2_001])).await;
    assert_eq!(many, Refusal::Malformed("more than 2000 signatures".to_owned()));
    let absent = asker.refused(|request| edit(request, |_, inputs, _| inputs[0].input = 5)).await;
    assert_eq!(absent, Refusal::NoSuchInput(5));
    let unknown = asker.refused(|request| {
        edit(request, |psbt, _, _| psbt.unsigned_tx.input[0].previous_output = nobodys());
    });
    assert_eq!(unknown.await, Refusal::UnknownPrevout(0));
    let output = asker.output.clone();
    let false_amount = asker.refused(|request| {
        edit(request, |psbt, _, _| psbt.inputs[0].witness_utxo = Some(TxOut { value: Amount::ONE_BTC, ..output }));
    });
    assert_eq!(false_amount.await, Refusal::OtherPrevout(0));
    let other_key = asker.refused(|request| edit(request, |_, inputs, _| inputs[0].key.index += 1)).await;
    assert_eq!(other_key, Refusal::OtherScript(0));
    // SINGLE without an output of its own, and a byte that is no type.
    for (sighash, outputs) in [(0x55, 1), (3, 0), (0x83, 0)] {
        let refused = asker.refused(|request| {
            edit(request, |psbt, inputs, _| {
                inputs[0].sighash = sighash;
                psbt.unsigned_tx.output.truncate(outputs);
                psbt.outputs.truncate(outputs);
            });
        });
        assert_eq!(refused.await, Refusal::SighashType(0), "{sighash:#x}");
    }
    for (output, branch) in [(0, Branch::Change), (7, Branch::Change), (0, Branch::External)] {
        let chain = ChainId { branch, ..asker.key.chain };
        let refused = asker.refused(|request| {
            edit(request, |_, _, keys| keys.push(OutputKey { output, key: KeyId { chain, index: 0 } }));
        });
        assert_eq!(refused.await, Refusal::NotChange(output));
    }
    let message = |kind| Subject::Message {
        text: "hello".to_owned(),
        key: KeyId { chain: ChainId { address_type: kind, branch: Branch::External }, index: 0 },
    };
    let taproot = asker.refused(|request| request.subject = message(AddressType::Bech32m)).await;
    assert_eq!(taproot, Refusal::OtherScript(0), "messages are signed with legacy keys alone");
    asker.accepted(|request| request.subject = message(AddressType::Legacy)).await;
    let one_round = asker.refused(|request| {
        let signer = SignerNonces { commitments: Blob(vec![0; 66]), stock: 0 };
        request.nonces = vec![signer; 2];
    });
    assert_eq!(one_round.await, Refusal::Malformed("its nonces".to_owned()));
    asker.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_has_promised_or_forbidden_stands_before_a_request() {
    let mut asker = Asker::new(AddressType::Bech32).await;
    let (holding, me) = (asker.holding(), asker.raw.me);
    // A name that was used for another transaction, with no coin in common.
    let name = Some("rent".to_owned());
    holding.remember_payment("rent", Txid::from_byte_array([1; 32]), &[nobodys()]).unwrap();
    let used = asker.refused(|request| request.idempotency_key.clone_from(&name)).await;
    assert_eq!(used, Refusal::OtherTransaction);
    // What it has promised cannot be read.
    let rows = holding.db().rows_with_prefix(Family::Claims, b"payment/").unwrap();
    let mut batch = Batch::new();
    for (key, _) in rows {
        batch.put(Family::Claims, key.to_vec(), b"?".as_slice());
    }
    holding.db().write(&batch, Sync::Yes).unwrap();
    let damaged = asker.refused(|request| request.idempotency_key.clone_from(&name)).await;
    assert!(matches!(&damaged, Refusal::Storage(why) if why.contains("a payment cannot be read")), "{damaged:?}");
    // A coin that somebody else is spending.
    let third = holding.others().find(|member| *member != me).unwrap();
    let taken = holding.take_coins(third, Txid::from_byte_array([2; 32]), &[asker.coin]).unwrap();
    assert_eq!(asker.refused(|request| request.coins = CoinChoice::Wallet).await, Refusal::CoinTaken(0));
    // What is refused for its coin does not take the place of the payment that is known under the name.
    let coin = asker.coin;
    let known = Some(Claim { txid: Txid::from_byte_array([3; 32]), inputs: vec![coin] });
    holding.remember_payment("bread", Txid::from_byte_array([3; 32]), &[coin]).unwrap();
    let change = |request: &mut SignRequest| {
        request.idempotency_key = Some("bread".to_owned());
        request.coins = CoinChoice::Wallet;
    };
    assert_eq!(asker.refused(change).await, Refusal::CoinTaken(0));
    assert_eq!(holding.payment("bread"), known);
    // A note is taken back if nothing came of it, and not once a share has left.
    let txid = Txid::from_byte_array([4; 32]);
    holding.remember_payment("salt", txid, &[coin]).unwrap();
    holding.forget_payment("salt", txid, None).unwrap();
    assert_eq!(holding.payment("salt"), None);
    assert!(holding.release_payment("salt", txid, &[coin]).unwrap());
    holding.forget_payment("salt", txid, None).unwrap();
    assert_eq!(holding.payment("salt"), Some(Claim { txid, inputs: vec![coin] }));
    assert!(!holding.release_payment("salt", Txid::from_byte_array([5; 32]), &[nobodys()]).unwrap());
    holding.forget_payment("bread", Txid::from_byte_array([9; 32]), None).unwrap();
    assert_eq!(holding.payment("bread"), known, "another one's");
    asker.accepted(|_| {}).await;
    drop(taken);
    asker.accepted(|request| request.coins = CoinChoice::Wallet).await;
    // Whom it takes part in nothing with.
    let peer = keyless_node::quorum::peer_name(&me);
    let own = asker.cluster.nodes[0].options.identity.peer_id().to_string();
    for suspended in [&peer, &own] {
        asker.wallet().suspend(suspended, Some("a test")).await.unwrap();
        assert_eq!(asker.refused(|_| {}).await, Refusal::Suspended(suspended.clone()));
        let nonces = asker.raw.ask(asker.victim, &Message::AskNonces { count: 1, stock: 0 }).await;
        assert_eq!(nonces, Message::Refuse(Refusal::Suspended(suspended.clone())));
        let chain = asker.key.chain;
        let lease = Message::Lease(vec![LeaseRange { chain, first: 1_000, count: 1 }]);
        assert_eq!(asker.raw.ask(asker.victim, &lease).await, Message::Refuse(Refusal::Suspended(suspended.clone())));
        asker.wallet().suspend(suspended, None).await.unwrap();
    }
    // A check that failed.
    let party = holding.index_of(&me).unwrap();
    holding.ban(party, "a failed check".to_owned(), 7).unwrap();
    assert_eq!(asker.refused(|_| {}).await, Refusal::Excluded(u16::from(party.get())));
    asker.cluster.shutdown().await;

    let mut asker = Asker::new(AddressType::Bech32m).await;
    let (holding, me) = (asker.holding(), asker.raw.me);
    holding.ban(holding.index_of(&me).unwrap(), "a failed check".to_owned(), 7).unwrap();
    asker.accepted(|_| {}).await;
    // Garbage in the protocol, and an operator who ends it.
    let topic = asker.raw.topic();
    asker.raw.ask_in(&topic, asker.victim, &Message::Sign(asker.request())).await;
    asker.raw.send(asker.victim, &topic, &Message::Protocol(vec![Blob(vec![1; 3])]));
    let failed = asker.raw.hear(&topic).await;
    assert!(matches!(&failed, Message::Refuse(Refusal::Failed(why)) if why.contains("malformed")), "{failed:?}");
    let topic = asker.raw.topic();
    asker.raw.ask_in(&topic, asker.victim, &Message::Sign(asker.request())).await;
    assert!(asker.core().abort_session(&topic.session));
    let ended = asker.raw.hear(&topic).await;
    assert!(matches!(&ended, Message::Refuse(Refusal::Aborted(_))), "{ended:?}");
    asker.wallet().encrypt("words").await.unwrap();
    assert_eq!(asker.refused(|_| {}).await, Refusal::Locked);
    asker.wallet().unlock("words", 600).await.unwrap();
    asker.accepted(|_| {}).await;
    // A share from a backup, before others have confirmed it.
    keyless_node::quorum::holding::set_unconfirmed(asker.holding().db(), true).unwrap();
    drop(holding);
    let hub = asker.cluster.hub.clone();
    hub.detach(&asker.cluster.nodes[1].options.identity.peer_id());
    let node = asker.cluster.nodes.remove(0).restart(&asker.cluster.chain, Some(&hub)).await;
    asker.cluster.nodes.insert(0, node);
    let restored = async {
        loop {
            let loaded = asker.cluster.nodes[0].manager.list() == ["w"];
            let core = asker.core();
            let online = core.is_member_online(&me);
            if loaded && online && core.holding_named("w").is_some_and(|holding| holding.is_unconfirmed()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), restored).await.unwrap();
    asker.wallet().unlock("words", 600).await.unwrap();
    assert_eq!(asker.refused(|_| {}).await, Refusal::Restored);
    asker.cluster.shutdown().await;
}

fn all(action: Action) -> Vec<Rule> {
    vec![rule("all", None, action)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_denies_is_refused_by_its_name() {
    let mut asker = Asker::new(AddressType::Bech32).await;
    let open = Policy { test_acceptance: false, resign: true, ..strict(all(Action::Sign)) };
    asker.wallet().set_signing_policy(open.clone()).await.unwrap();
    asker.accepted(|_| {}).await;
    assert_eq!(asker.with_policy(strict(Vec::new()), |_| {}).await, Denial::NoRule);
    let fee = Policy { max_fee: Some(Amount::from_sat(9_999)), ..open.clone() };
    assert_eq!(asker.with_policy(fee, |_| {}).await, Denial::Fee { fee: 10_000, cap: 9_999 });
    let rate = Policy { max_fee_rate_sat_kvb: Some(1_000), ..open.clone() };
    assert!(matches!(asker.with_policy(rate, |_| {}).await, Denial::FeeRate { cap: 1_000, .. }));
    let limits = vec![Limit { amount: Amount::ONE_BTC, window_seconds: 3_600 }];
    let limited = Policy { limits: limits.clone(), ..open.clone() };
    assert!(matches!(asker.with_policy(limited, |_| {}).await, Denial::Limit { limit: 100_000_000, .. }));
    let none = |request: &mut SignRequest| edit(request, |_, inputs, _| inputs[0].sighash = 2);
    assert_eq!(asker.with_policy(open.clone(), none).await, Denial::Sighash(0));
    // A second coin that this node does not know, though the request says what it is worth.
    let output = asker.output.clone();
    let add = |told: bool| {
        let output = output.clone();
        move |request: &mut SignRequest| {
            edit(request, |psbt, _, _| {
                let mut input = psbt.unsigned_tx.input[0].clone();
                input.previous_output = nobodys();
                psbt.unsigned_tx.input.push(input);
                psbt.inputs.push(Default::default());
                psbt.inputs[1].witness_utxo = told.then_some(output);
            });
        }
    };
    assert_eq!(asker.with_policy(open.clone(), add(true)).await, Denial::UnknownPrevout(1));
    let trusting = Policy { unknown_prevouts: true, limits, ..open.clone() };
    let missing = Denial::Missing { what: "the fee".to_owned() };
    assert_eq!(asker.with_policy(trusting, add(true)).await, missing);
    let old = Policy { max_tip_age_seconds: Some(0), ..open.clone() };
    assert_eq!(asker.with_policy(old, |_| {}).await, Denial::NotCurrent);
    let text = |request: &mut SignRequest| {
        let chain = ChainId { address_type: AddressType::Legacy, branch: Branch::External };
        request.subject = Subject::Message { text: "hello".to_owned(), key: KeyId { chain, index: 0 } };
    };
    assert_eq!(asker.with_policy(open.clone(), text).await, Denial::Messages);
    let refuse = Policy { rules: all(Action::Refuse), ..open.clone() };
    assert_eq!(asker.with_policy(refuse, |_| {}).await, Denial::Rule("all".to_owned()));
    // It signs the coin, and then not for other recipients.
    let once = Policy { resign: false, ..open.clone() };
    asker.wallet().set_signing_policy(once.clone()).await.unwrap();
    asker.accepted(|_| {}).await;
    let other = |request: &mut SignRequest| {
        edit(request, |psbt, _, _| psbt.unsigned_tx.output[0].script_pubkey = ScriptBuf::new_op_return([]));
    };
    assert!(matches!(asker.with_policy(once, other).await, Denial::Resign(_)));
    // Its mempool.
    let tested = Policy { test_acceptance: true, unknown_prevouts: true, ..open.clone() };
    asker.wallet().set_signing_policy(tested).await.unwrap();
    let missing = asker.refused(add(true)).await;
    assert_eq!(missing, Refusal::Mempool("bad-txns-inputs-missingorspent".to_owned()));
    // Its operator.
    let ask = Policy { rules: all(Action::Ask), ..open.clone() };
    asker.wallet().set_signing_policy(ask).await.unwrap();
    assert_eq!(asker.refused(|_| {}).await, Refusal::NeedsApproval);
    let late = asker.wallet().pending_approvals().unwrap().remove(0);
    asker.cluster.chain.mine(&ScriptBuf::new_op_return([]));
    let expired = asker.wallet().answer_approval(&late.id, None).await.unwrap_err();
    assert!(expired.message.contains("the request has expired"), "{expired}");
    assert_eq!(asker.refused(|_| {}).await, Refusal::NeedsApproval);
    let nobodys = asker.wallet().answer_approval(&"00".repeat(32), None).await.unwrap_err();
    assert!(nobodys.message.contains("no such request is waiting"), "{nobodys}");
    let pending = asker.wallet().pending_approvals().unwrap().remove(0);
    asker.wallet().answer_approval(&pending.id, Some("no")).await.unwrap();
    assert_eq!(asker.refused(|_| {}).await, Refusal::Policy(Denial::Rejected("no".to_owned())));
    let wrong_hours = Conditions { coordinators: Some([asker.victim].into()), ..Conditions::default() };
    let rules = vec![Rule { name: "own".to_owned(), conditions: wrong_hours, action: Action::Sign }];
    assert_eq!(asker.with_policy(Policy { rules, ..open }, |_| {}).await, Denial::NoRule);
    asker.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_that_does_not_fit_is_refused_by_its_name() {
    let mut asker = Asker::new(AddressType::Bech32).await;
    let core = asker.core();
    let members = asker.raw.holding.members().to_vec();
    let base = Invitation {
        version: PROTOCOL_VERSION,
        name: "x".to_owned(),
        network: core.network().magic().to_bytes(),
        genesis: core.genesis(),
        threshold: 2,
        members: members.clone(),
        split: false,
        birth_time: 0,
        birth_height: 0,
        avoid_reuse: false,
    };
    let two: Vec<MemberId> = vec![asker.victim, asker.raw.me];
    let name = |name: &str| Invitation { name: name.to_owned(), ..base.clone() };
    let cases = [
        (Invitation { version: PROTOCOL_VERSION - 1, ..base.clone() }, Refusal::OtherVersion(PROTOCOL_VERSION)),
        (Invitation { network: [0; 4], ..base.clone() }, Refusal::OtherNetwork),
        (Invitation { genesis: bitcoin::BlockHash::all_zeros(), ..base.clone() }, Refusal::OtherNetwork),
        (Invitation { members: two, ..base.clone() }, Refusal::OtherMembers),
        (Invitation { threshold: 3, ..base.clone() }, Refusal::OtherThreshold(2)),
        (Invitation { split: true, ..base.clone() }, Refusal::OtherThreshold(2)),
        (name("../w"), Refusal::UnsafeName("../w".to_owned())),
        (name("w"), Refusal::NameTaken("w".to_owned())),
    ];
    let topic = |invitation: &Invitation| {
        let split = if invitation.split { Split::Accepted } else { Split::Refused };
        let roster = Roster::new(invitation.threshold, invitation.members.clone(), split).unwrap();
        let session = SessionId(rand::random());
        let wallet = DkgParams::wallet_id(&invitation.name, core.network(), &roster, &session);
        Topic { wallet, epoch: Epoch(0), session }
    };
    for (invitation, refusal) in cases {
        let topic = topic(&invitation);
        let answer = asker.raw.ask_in(&topic, asker.victim, &Message::Invite(invitation)).await;
        assert_eq!(answer, Message::Refuse(refusal));
    }
    let lie = Topic { wallet: WalletId([3; 32]), ..topic(&base) };
    let answer = asker.raw.ask_in(&lie, asker.victim, &Message::Invite(base.clone())).await;
    assert!(matches!(answer, Message::Refuse(Refusal::Malformed(_))), "{answer:?}");
    let roster = Invitation { threshold: 9, ..base.clone() };
    let answer = asker.raw.ask_in(&topic(&base), asker.victim, &Message::Invite(roster)).await;
    assert!(matches!(answer, Message::Refuse(Refusal::Malformed(_))), "{answer:?}");
    assert_eq!(asker.raw.ask_in(&topic(&base), asker.victim, &Message::Invite(base.clone())).await, Message::Accept);
    // Leases that cannot be.
    let chain = asker.key.chain;
    let range = |first, count| LeaseRange { chain, first, count };
    for ranges in
        [Vec::new(), vec![range(0, 0)], vec![range(0, 10_001)], vec![range(u32::MAX, 1)], vec![range(0, 1); 2]]
    {
        let answer = asker.raw.ask(asker.victim, &Message::Lease(ranges)).await;
        assert!(matches!(answer, Message::Refuse(Refusal::Malformed(_))), "{answer:?}");
    }
    drop(core);
    asker.cluster.shutdown().await;
}
