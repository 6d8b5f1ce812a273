//! What members say to each other, read off the carrier; and a member without a node, which says what a test wants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::{Amount, OutPoint, Psbt, ScriptBuf, Sequence, Transaction, TxIn, TxOut, transaction};
use keyless_node::quorum::Holding;
use keyless_node::quorum::wire::{self, Frame, Message, Topic};
use keyless_p2p::cosigners::memory::Memory;
use keyless_p2p::cosigners::{Carrier, Event, Events, PeerId, peer_id_of, public_key_of};
use tempfile::TempDir;
use tss_wallet::{Envelope, Expected, MemberId, SessionId, SigningIdentity, WalletDb};

use crate::node::{Cluster, Node};

/// The message of a frame on its way, and the session it is of.
pub fn message(from: &PeerId, to: &PeerId, bytes: &[u8]) -> Option<(SessionId, Message)> {
    let frame = Frame::parse(bytes.to_vec()).ok()?;
    let (me, sender) = (MemberId(public_key_of(to)?), MemberId(public_key_of(from)?));
    let expected = Expected { me, sender, wallet: None, epoch: None, session: None, attempt: None, round: None };
    let envelope = Envelope::open(&frame.envelope, &expected).ok()?.into_envelope();
    Some((envelope.session, postcard::from_bytes(&envelope.body).ok()?))
}

/// Spends one coin of 50 to nobody.
pub fn spend(coin: OutPoint) -> Psbt {
    spend_to(coin, Amount::from_int_btc(50) - Amount::from_sat(10_000))
}

/// The same, of this amount.
pub fn spend_to(coin: OutPoint, value: Amount) -> Psbt {
    let input = TxIn { previous_output: coin, sequence: Sequence::MAX, ..TxIn::default() };
    let output = TxOut { value, script_pubkey: ScriptBuf::new_p2wsh(&ScriptBuf::new().wscript_hash()) };
    Psbt::from_unsigned_tx(Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input],
        output: vec![output],
    })
    .unwrap()
}

/// A member of the cluster without its node: its identity and its share, in the hands of a test.
pub struct Raw {
    pub identity: SigningIdentity,
    pub me: MemberId,
    pub holding: Holding,
    pub carrier: Memory,
    pub events: Events,
    _dir: TempDir,
}

impl Raw {
    /// Ends a node and takes its place.
    pub async fn replace(cluster: &mut Cluster, index: usize) -> Self {
        let node = cluster.nodes.remove(index);
        let peer = node.options.identity.peer_id();
        cluster.hub.detach(&peer);
        node.manager.shutdown().await;
        let identity = SigningIdentity::from_seed(node.options.identity.seed());
        let (me, dir) = (identity.member_id(), node.options.wallets_dir.join("w"));
        let seal_key = node.options.keyless_dir.join("seal.key");
        let Node { manager, dir: kept, .. } = node;
        drop(manager);
        let deadline = Instant::now() + Duration::from_secs(10);
        let db = loop {
            // The last of the node's threads may still hold it.
            match WalletDb::open(&dir.join("db")) {
                Ok(db) => break Arc::new(db),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let holding = Holding::open("w", &dir, db, &seal_key, me).unwrap();
        let (carrier, events) = cluster.hub.member(peer);
        Self { identity, me, holding, carrier, events, _dir: kept }
    }

    /// A fresh session about the wallet.
    pub fn topic(&self) -> Topic {
        Topic { wallet: self.holding.wallet(), epoch: self.holding.epoch(), session: SessionId(rand::random()) }
    }

    pub fn send(&self, to: MemberId, topic: &Topic, message: &Message) {
        let frame = wire::seal(&self.identity, topic, 0, to, message).unwrap();
        let _ = self.carrier.send(&peer_id_of(to.0), frame);
    }

    /// The next message of a session; others are dropped.
    pub async fn hear(&mut self, topic: &Topic) -> Message {
        let wait = async {
            loop {
                let Some(Event::Frame { from, bytes }) = self.events.recv().await else { continue };
                let Ok(frame) = Frame::parse(bytes) else { continue };
                if frame.opens || frame.session != topic.session {
                    continue;
                }
                let from = MemberId(public_key_of(&from).unwrap());
                if let Ok(message) = wire::open(&frame.envelope, self.me, from, topic) {
                    return message;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("an answer")
    }

    /// Asks, and gives the answer.
    pub async fn ask(&mut self, to: MemberId, message: &Message) -> Message {
        let topic = self.topic();
        self.ask_in(&topic, to, message).await
    }

    pub async fn ask_in(&mut self, topic: &Topic, to: MemberId, message: &Message) -> Message {
        self.send(to, topic, message);
        self.hear(topic).await
    }
}
