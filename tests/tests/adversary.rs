//! Liars with real identities and real shares against real `keylessd` processes: a malicious coordinator that asks for
//! whatever it likes, and malicious signers in requests of the honest.
//!
//! Short by default; `KEYLESS_ADVERSARY_ROUNDS` repeats every cell so often (`contrib/adversary`).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, OutPoint, Psbt, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, transaction};
use keyless_node::quorum::refusal::Refusal;
use keyless_node::quorum::wire::{InputKey, Message, OutputKey, SignRequest, Subject, Topic};
use keyless_tests::quorum::Discovery;
use keyless_tests::rogue::{Behaviour, Outcome, Rogue, items_of, member_of, other_epoch};
use keyless_tests::wait::until_true;
use keyless_tests::{Quorum, RpcClient, sat};
use serde_json::{Value, json};
use tss_wallet::policy::Denial;
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId, KeyId};
use tss_wallet::{MemberId, SessionId, WalletId};

const DEADLINE: Duration = Duration::from_secs(30);
const FEE: u64 = 1_000;
/// What members sign by themselves.
const CAP_SAT: u64 = 50_000_000;

fn rounds() -> usize {
    std::env::var("KEYLESS_ADVERSARY_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Strict, but for the age of the tip, which mock blocks cannot keep.
fn strict() -> Value {
    json!({"max_fee": 0.001, "max_tip_age": null, "resign": true,
           "rules": [{"name": "small", "action": "sign", "max_amount": 0.5}]})
}

fn member(quorum: &Quorum, index: usize) -> MemberId {
    member_of(&quorum.peer_ids[index].parse().unwrap()).unwrap()
}

/// Three members, a wallet with some coins of one bitcoin, and the strict policy on the two honest ones.
fn quorum() -> Quorum {
    let quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet("w");
    let wallet = quorum.wallet(0, "w");
    let mining = wallet.call("getnewaddress", json!([])).as_str().unwrap().to_owned();
    quorum.members[0].call("generatetoaddress", json!([101, mining]));
    quorum.sync_blocks();
    for kind in ["bech32", "bech32m"] {
        for _ in 0..4 {
            let to = wallet.call("getnewaddress", json!(["", kind]));
            wallet.call("sendtoaddress", json!([to, 1]));
        }
    }
    quorum.members[0].call("generatetoaddress", json!([1, mining]));
    quorum.sync_blocks();
    for index in [0, 1] {
        quorum.wallet(index, "w").call("setsigningpolicy", json!([strict()]));
    }
    quorum
}

/// A coin of the wallet with the key that it belongs to.
#[derive(Clone)]
struct Coin {
    outpoint: OutPoint,
    output: TxOut,
    key: KeyId,
}

fn coins(wallet: &RpcClient, kind: AddressType) -> Vec<Coin> {
    let unspent = wallet.call("listunspent", json!([1]));
    let row = |coin: &Value| {
        let info = wallet.call("getaddressinfo", json!([coin["address"]]));
        let script = ScriptBuf::from_hex(coin["scriptPubKey"].as_str().unwrap()).unwrap();
        let path: Vec<u32> =
            info["hdkeypath"].as_str().unwrap().split('/').skip(1).map(|step| step.parse().unwrap()).collect();
        let branch = if path[3] == 1 { Branch::Change } else { Branch::External };
        let value = Amount::from_sat(u64::try_from(sat(&coin["amount"])).unwrap());
        (AddressType::of_script(&script) == Some(kind) && value == Amount::ONE_BTC).then(|| Coin {
            outpoint: OutPoint::new(
                coin["txid"].as_str().unwrap().parse().unwrap(),
                u32::try_from(coin["vout"].as_u64().unwrap()).unwrap(),
            ),
            output: TxOut { value, script_pubkey: script },
            key: KeyId { chain: ChainId { address_type: kind, branch }, index: path[4] },
        })
    };
    unspent.as_array().unwrap().iter().filter_map(row).collect()
}

fn theft() -> ScriptBuf {
    ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::from_byte_array([0x66; 20]))
}

fn change_key(kind: AddressType) -> KeyId {
    KeyId { chain: ChainId { address_type: kind, branch: Branch::Change }, index: 0 }
}

/// Pays `sat` to the thief, the rest as change.
fn payment(rogue: &Rogue, coin: &Coin, sat: u64) -> (Psbt, Vec<InputKey>, Vec<OutputKey>) {
    let change = change_key(coin.key.chain.address_type);
    let script = rogue.holding().keys().derive(change).unwrap().script;
    let rest = coin.output.value.to_sat() - sat - FEE;
    let tx = Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: coin.outpoint,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![
            TxOut { value: Amount::from_sat(sat), script_pubkey: theft() },
            TxOut { value: Amount::from_sat(rest), script_pubkey: script },
        ],
    };
    let mut psbt = Psbt::from_unsigned_tx(tx).unwrap();
    psbt.inputs[0].witness_utxo = Some(coin.output.clone());
    let sighash = u8::from(coin.key.chain.address_type != AddressType::Bech32m);
    (psbt, vec![InputKey { input: 0, key: coin.key, sighash }], vec![OutputKey { output: 1, key: change }])
}

type Case = (&'static str, fn(&mut SignRequest, &mut Topic, &Rogue, &Coin), fn(&Refusal) -> bool);

fn edit(request: &mut SignRequest, change: impl FnOnce(&mut Psbt, &mut Vec<InputKey>, &mut Vec<OutputKey>)) {
    let Subject::Transaction { psbt, inputs, change: keys, .. } = &mut request.subject else { return };
    let mut decoded = Psbt::deserialize(&psbt.0).unwrap();
    change(&mut decoded, inputs, keys);
    psbt.0 = decoded.serialize();
}

const CASES: &[Case] = &[
    (
        "more than the policy allows",
        |request, _, _, _| {
            edit(request, |psbt, _, _| {
                psbt.unsigned_tx.output[0].value = Amount::from_sat(CAP_SAT + 1);
                psbt.unsigned_tx.output[1].value = Amount::from_sat(100_000_000 - CAP_SAT - 1 - FEE);
            });
        },
        |refusal| *refusal == Refusal::Policy(Denial::NoRule),
    ),
    (
        "the thief's output as change",
        |request, _, _, _| edit(request, |_, _, keys| keys[0].output = 0),
        |refusal| *refusal == Refusal::NotChange(0),
    ),
    (
        "a receiving address as change",
        |request, _, rogue, coin| {
            let script = rogue.holding().keys().derive(coin.key).unwrap().script;
            let key = coin.key;
            edit(request, |psbt, _, keys| {
                psbt.unsigned_tx.output[1].script_pubkey = script;
                keys[0].key = key;
            });
        },
        |refusal| *refusal == Refusal::NotChange(1),
    ),
    (
        "change far outside the window",
        |request, _, rogue, coin| {
            let key = KeyId { index: 1_000_000, ..change_key(coin.key.chain.address_type) };
            let script = rogue.holding().keys().derive(key).unwrap().script;
            edit(request, |psbt, _, keys| {
                psbt.unsigned_tx.output[1].script_pubkey = script;
                keys[0].key = key;
            });
        },
        |refusal| *refusal == Refusal::NotChange(1),
    ),
    (
        "change that is not named counts as spending",
        |request, _, _, _| edit(request, |_, _, keys| keys.clear()),
        |refusal| *refusal == Refusal::Policy(Denial::NoRule),
    ),
    (
        "a false amount of the coin",
        |request, _, _, _| {
            edit(request, |psbt, _, _| {
                psbt.inputs[0].witness_utxo.as_mut().unwrap().value = Amount::from_sat(90_000_000);
            });
        },
        |refusal| *refusal == Refusal::OtherPrevout(0),
    ),
    (
        "a coin that nobody knows",
        |request, _, _, _| {
            edit(request, |psbt, _, _| {
                psbt.unsigned_tx.input[0].previous_output = OutPoint::new(Txid::from_byte_array([9; 32]), 0);
            });
        },
        |refusal| matches!(refusal, Refusal::Policy(Denial::UnknownPrevout(0)) | Refusal::Mempool(_)),
    ),
    (
        "another key's coin",
        |request, _, _, _| edit(request, |_, inputs, _| inputs[0].key.index += 1),
        |refusal| *refusal == Refusal::OtherScript(0),
    ),
    (
        "a fee above the cap",
        |request, _, _, _| {
            edit(request, |psbt, _, _| psbt.unsigned_tx.output[1].value = Amount::from_sat(50_000_000));
        },
        |refusal| matches!(refusal, Refusal::Policy(Denial::Fee { .. }) | Refusal::Mempool(_)),
    ),
    (
        "a signature that commits to no output",
        |request, _, _, coin| {
            let none = if coin.key.chain.address_type == AddressType::Bech32m { 2 } else { 0x82 };
            edit(request, |_, inputs, _| inputs[0].sighash = none);
        },
        |refusal| *refusal == Refusal::Policy(Denial::Sighash(0)),
    ),
    (
        "a transaction that no mempool takes yet",
        |request, _, _, _| {
            edit(request, |psbt, _, _| {
                psbt.unsigned_tx.lock_time = LockTime::from_height(100_000).unwrap();
            });
        },
        |refusal| matches!(refusal, Refusal::Mempool(reason) if reason.contains("non-final")),
    ),
    (
        "a transaction below the minimum fee",
        |request, _, _, _| {
            edit(request, |psbt, _, _| {
                psbt.unsigned_tx.output[1].value += Amount::from_sat(FEE);
            });
        },
        |refusal| matches!(refusal, Refusal::Mempool(reason) if reason.contains("fee")),
    ),
    ("another quorum", |_, topic, _, _| topic.wallet = WalletId([7; 32]), |refusal| *refusal == Refusal::UnknownWallet),
    (
        "another epoch",
        |_, topic, _, _| topic.epoch = other_epoch(topic.epoch),
        |refusal| matches!(refusal, Refusal::OtherEpoch(_)),
    ),
    (
        "signers without the one that is asked",
        |request, _, rogue, _| request.signers = vec![rogue.holding().me().get()],
        |refusal| matches!(refusal, Refusal::Malformed(_) | Refusal::NotASigner),
    ),
    (
        "a signer twice",
        |request, _, _, _| request.signers = vec![request.signers[0]; 2],
        |refusal| matches!(refusal, Refusal::Malformed(_)),
    ),
    (
        "bytes that are no PSBT",
        |request, _, _, _| {
            let Subject::Transaction { psbt, .. } = &mut request.subject else { return };
            psbt.0.truncate(20);
        },
        |refusal| matches!(refusal, Refusal::Malformed(_)),
    ),
    (
        "a part of the inputs that is not there",
        |request, _, _, _| {
            let Subject::Transaction { first, .. } = &mut request.subject else { return };
            *first = u32::MAX;
        },
        |refusal| matches!(refusal, Refusal::Malformed(_)),
    ),
    (
        "a message",
        |request, _, _, coin| {
            let chain = ChainId { address_type: AddressType::Legacy, ..coin.key.chain };
            request.subject = Subject::Message { text: "pay me".to_owned(), key: KeyId { chain, index: 0 } };
        },
        |refusal| *refusal == Refusal::Policy(Denial::Messages),
    ),
];

#[test]
fn a_malicious_coordinator_gets_no_signature_outside_the_policies() {
    let mut quorum = quorum();
    let of_kind: Vec<Vec<Coin>> =
        [AddressType::Bech32, AddressType::Bech32m].iter().map(|kind| coins(&quorum.wallet(0, "w"), *kind)).collect();
    quorum.members[2].stop();
    let mut rogue = Rogue::replace(&quorum.members[2], "w");
    let mut refused = 0;
    for _ in 0..rounds() {
        for coin in of_kind.iter().map(|coins| &coins[0]) {
            for (name, alter, expected) in CASES {
                for index in [0, 1] {
                    let to = member(&quorum, index);
                    let (psbt, inputs, change) = payment(&rogue, coin, 10_000_000);
                    let mut request = rogue.request(to, &psbt, inputs, change);
                    let mut topic = rogue.topic();
                    alter(&mut request, &mut topic, &rogue, coin);
                    let items = items_of(&request);
                    match rogue.ask(to, &topic, &request, &items, &mut |_| {}) {
                        Outcome::Refused(refusal) => assert!(expected(&refusal), "{name}: {refusal:?}"),
                        other => panic!("{name}: {other:?}"),
                    }
                    refused += 1;
                }
            }
        }
    }
    // The rogue is able: what the policies allow, it does get.
    let to = member(&quorum, 0);
    for coins in &of_kind {
        let (psbt, inputs, change) = payment(&rogue, &coins[1], 10_000_000);
        let request = rogue.request(to, &psbt, inputs, change);
        let items = items_of(&request);
        let topic = rogue.topic();
        let outcome = rogue.ask(to, &topic, &request, &items, &mut |_| {});
        assert!(matches!(outcome, Outcome::Signed(_)), "{outcome:?}");
        // The same frames again, and under another session: nobody answers.
        rogue.send(to, &topic, 0, &Message::Sign(request.clone()));
    }
    // A policy that changes while a request is under way holds before the share leaves.
    for coins in &of_kind {
        let (psbt, inputs, change) = payment(&rogue, &coins[2], 10_000_000);
        let request = rogue.request(to, &psbt, inputs, change);
        let items = items_of(&request);
        // After this message of the rogue the other would give its share.
        let last = if coins[2].key.chain.address_type == AddressType::Bech32m { 1 } else { 2 };
        let wallet = quorum.wallet(0, "w");
        let topic = rogue.topic();
        let outcome = rogue.ask(to, &topic, &request, &items, &mut |round| {
            if round == last {
                wallet.call("setsigningpolicy", json!([{"max_tip_age": null}]));
            }
        });
        assert_eq!(outcome, Outcome::Refused(Refusal::Policy(Denial::NoRule)));
        wallet.call("setsigningpolicy", json!([strict()]));
        // So does what its mempool says of the payment: it is worth less after the next block.
        let txid = psbt.unsigned_tx.compute_txid();
        let topic = rogue.topic();
        let outcome = rogue.ask(to, &topic, &request, &items, &mut |round| {
            if round == last {
                wallet.call("prioritisetransaction", json!([txid, 0, -1_000_000]));
                wallet.call("generatetoaddress", json!([1, wallet.call("getnewaddress", json!([]))]));
            }
        });
        let Outcome::Refused(Refusal::Mempool(reason)) = &outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("fee not met"), "{reason}");
        wallet.call("prioritisetransaction", json!([txid, 0, 1_000_000]));
    }
    for index in [0, 1] {
        let check = quorum.wallet(index, "w").call("verifyauditlog", json!([]));
        assert_eq!(check["valid"], json!(true), "{check}");
        assert_eq!(quorum.wallet(index, "w").call("listblame", json!([])), json!([]));
    }
    println!("{refused} requests refused by name, 0 signatures outside the policies");
}

/// Requests for each time that the liar shall be asked.
const TRIES: usize = 30;

const BEHAVIOURS: [Behaviour; 9] = [
    Behaviour::Silent,
    Behaviour::Stalls { round: 2 },
    Behaviour::Garbage,
    Behaviour::OtherSession,
    Behaviour::Equivocates,
    Behaviour::Floods,
    Behaviour::Wrong { round: 1 },
    Behaviour::Wrong { round: 2 },
    Behaviour::Wrong { round: 3 },
];

#[test]
fn signing_finishes_beside_a_malicious_signer_and_no_honest_member_is_blamed() {
    let mut quorum = quorum();
    for index in [0, 1] {
        let open = json!({"max_tip_age": null, "resign": true, "test_acceptance": false,
                          "rules": [{"name": "all", "action": "sign"}]});
        quorum.wallet(index, "w").call("setsigningpolicy", json!([open]));
    }
    quorum.members[2].stop();
    let mut rogue = Rogue::replace(&quorum.members[2], "w");
    until_true("the rogue is online", DEADLINE, || quorum.online(0) == 2);
    let rogue_id = quorum.peer_ids[2].clone();
    let (mut signed, mut delays) = (0, Vec::new());
    for kind in [AddressType::Bech32m, AddressType::Bech32] {
        for behaviour in BEHAVIOURS {
            let mut asked_in = 0;
            // The coordinator takes whom it likes best: tried again until it was the liar, unless it knows better.
            for _ in 0..TRIES * rounds() {
                let wallet = quorum.wallet(0, "w");
                let coin = coins(&wallet, kind)[0].clone();
                let (psbt, _, _) = payment(&rogue, &coin, 10_000_000);
                let hex = bitcoin::consensus::encode::serialize_hex(&psbt.unsigned_tx);
                // Whoever speaks is no longer suspected of being gone.
                rogue.send(member(&quorum, 0), &rogue.topic(), 0, &Message::Probe);
                let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
                let took = std::thread::scope(|scope| {
                    scope.spawn(|| rogue.misbehave(behaviour, &stop, &asked));
                    let started = Instant::now();
                    let answer = wallet.call("signrawtransactionwithwallet", json!([hex]));
                    let took = started.elapsed();
                    stop.store(true, Ordering::Relaxed);
                    assert_eq!(answer["complete"], json!(true), "{behaviour:?} {kind}: {answer}");
                    took
                });
                signed += 1;
                if asked.load(Ordering::Relaxed) > 0 {
                    delays.push(took);
                    asked_in += 1;
                }
                if asked_in >= rounds() {
                    break;
                }
            }
            println!("{kind}, {behaviour:?}: the liar was asked {asked_in} times");
        }
    }
    delays.sort();
    let blamed = quorum.wallet(0, "w").call("listblame", json!([]));
    let blamed = blamed.as_array().unwrap();
    assert!(blamed.iter().all(|row| row["peerid"] == json!(rogue_id)), "{blamed:?}");
    assert!(!blamed.is_empty(), "a liar is named");
    assert!(blamed.iter().all(|row| row["banned"] == json!(true) || !row["evidence"].as_array().unwrap().is_empty()));
    let honest = quorum.wallet(1, "w").call("listblame", json!([]));
    assert!(honest.as_array().unwrap().iter().all(|row| row["peerid"] == json!(rogue_id)), "{honest}");
    let median = delays.get(delays.len() / 2).copied().unwrap_or_default();
    let most = delays.last().copied().unwrap_or_default();
    println!("{signed} signatures, {} with the liar asked: median {median:?}, most {most:?}", delays.len());
    println!("{} accusations, all of the liar", blamed.len());
    assert!(delays.len() >= 9, "the liar was hardly asked");
    assert!(median <= Duration::from_secs(2) && most <= Duration::from_secs(5), "median {median:?}, most {most:?}");
}

#[test]
fn frames_of_one_session_are_worth_nothing_in_another() {
    let mut quorum = quorum();
    let coin = coins(&quorum.wallet(0, "w"), AddressType::Bech32m)[0].clone();
    quorum.members[2].stop();
    let mut rogue = Rogue::replace(&quorum.members[2], "w");
    let to = member(&quorum, 0);
    let (psbt, inputs, change) = payment(&rogue, &coin, 10_000_000);
    let request = rogue.request(to, &psbt, inputs, change);
    let items = items_of(&request);
    let before = quorum.wallet(0, "w").call("verifyauditlog", json!([]))["entries"].as_u64().unwrap();
    // An opening frame whose outer session differs from the one that was signed is dropped before anything else.
    for number in 0..20_u8 {
        let topic = rogue.topic();
        let mut frame = rogue.sealed(to, &topic, 0, &Message::Sign(request.clone()));
        frame[1..33].copy_from_slice(&SessionId([number; 32]).0);
        rogue.send_bytes(to, frame);
        let misdirected = rogue.sealed(member(&quorum, 1), &topic, 0, &Message::Sign(request.clone()));
        rogue.send_bytes(to, misdirected);
    }
    let topic = rogue.topic();
    let outcome = rogue.ask(to, &topic, &request, &items, &mut |_| {});
    assert!(matches!(outcome, Outcome::Signed(_)), "{outcome:?}");
    // The other side notes the signature a moment after it gave its share.
    let entries = || quorum.wallet(0, "w").call("verifyauditlog", json!([]))["entries"].as_u64().unwrap() - before;
    until_true("the signature is noted", DEADLINE, || entries() >= 2);
    assert_eq!(entries(), 2, "one request and its signature: nothing of the rest was even looked at");
}
