//! A member of a quorum that keeps to nothing: its identity and its share are real, what it says is up to the test.
//!
//! Takes the place of a stopped `keylessd`: same PeerId, same address, same share, over the real co-signer network. As a
//! coordinator it asks for whatever it is told to and runs the protocol to its end, so that a request which should have
//! been refused would give it a signature; as a signer it answers requests with what a [`Behaviour`] says. Test builds
//! only: nothing of it is in `keylessd`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{EcdsaSighashType, Psbt, TapSighashType, Transaction, TxOut};
use keyless_node::quorum::Holding;
use keyless_node::quorum::refusal::Refusal;
use keyless_node::quorum::wire::{
    self, Blob, CoinChoice, Frame, InputKey, Message, OutputKey, SignRequest, Subject, Topic,
};
use keyless_p2p::cosigners::{self, Carrier, Event, Events, Hello, Identity, Member, Network, PeerId, public_key_of};
use tokio::runtime::Runtime;
use tss_wallet::sign::{Commitment, Commitments, NoncePool, answer, nonce_use};
use tss_wallet::wallet::keychain::AddressType;
use tss_wallet::{
    Epoch, MemberId, PartyIndex, Recipient, SessionId, SignItem, SignParams, Signature, SigningIdentity,
    SigningSession, WalletDb,
};

use crate::daemon::Daemon;

const CONNECT: Duration = Duration::from_secs(20);
/// How long the rogue waits for an answer to a request.
const ANSWER: Duration = Duration::from_secs(3);

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The member refused by name.
    Refused(Refusal),
    /// The member went through the whole protocol: here are its signatures.
    Signed(Vec<Signature>),
    /// It sent part of the protocol, and then nothing more.
    Stalled,
    /// Not a word.
    Silent,
}

/// How the rogue takes part in the requests of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Says nothing.
    Silent,
    /// Answers with bytes that are no message of the protocol.
    Garbage,
    /// Messages for another session's items: the binding does not fit.
    OtherSession,
    /// Keeps to the protocol until this round, and flips a bit of its message there.
    Wrong { round: u16 },
    /// Keeps to the protocol until this round, and is silent from there.
    Stalls { round: u16 },
    /// Sends every message twice, the second one changed.
    Equivocates,
    /// Floods the coordinator with requests and frames of no session meanwhile.
    Floods,
}

/// The rogue. Ends when it is dropped.
pub struct Rogue {
    runtime: Runtime,
    network: Network,
    events: Events,
    identity: SigningIdentity,
    pub me: MemberId,
    holding: Holding,
}

impl Rogue {
    /// Takes the place of a member whose process has ended. `wallet` is one that it holds a share of.
    pub fn replace(member: &Daemon, wallet: &str) -> Self {
        let own = member.net_dir().join("indexes").join("keyless");
        let identity = Identity::load_or_create(&own.join("identity")).expect("the member's identity");
        let values = |name: &str| -> Vec<String> {
            let prefix = format!("{name}=");
            member.options.conf.iter().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
        };
        let members: Vec<Member> =
            cosigners::parse_members(&values("cosigner"), &identity.peer_id()).expect("the member's co-signers");
        let genesis = bitcoin::constants::genesis_block(bitcoin::Network::Regtest).block_hash().to_byte_array();
        let config = cosigners::Config {
            identity: identity.clone(),
            listen: values("cosignerbind").iter().map(|text| text.parse().expect("an address")).collect(),
            members: members.clone(),
            discovery: cosigners::Discovery::STATIC,
            hello: Hello { network: "regtest".to_owned(), genesis, version: "rogue".to_owned() },
            height: 0,
        };
        let runtime = Runtime::new().expect("a runtime");
        let (network, events) = runtime.block_on(cosigners::start(config)).expect("the rogue's network");
        let signing = SigningIdentity::from_seed(identity.seed());
        let me = signing.member_id();
        let dir = member.net_dir().join("wallets").join(wallet);
        let db = Arc::new(WalletDb::open(&dir.join("db")).expect("the member's database"));
        let holding = Holding::open(wallet, &dir, db, &own.join("seal.key"), me).expect("the member's share");
        let mut rogue = Self { runtime, network, events, identity: signing, me, holding };
        rogue.connect(members.len());
        rogue
    }

    fn connect(&mut self, expected: usize) {
        let deadline = Instant::now() + CONNECT;
        while self.network.peers().iter().filter(|peer| peer.online).count() < expected {
            assert!(Instant::now() < deadline, "the rogue is not connected: {:?}", self.network.peers());
            self.event(Duration::from_millis(50));
        }
    }

    fn event(&mut self, patience: Duration) -> Option<Event> {
        let events = &mut self.events;
        self.runtime.block_on(async { tokio::time::timeout(patience, events.recv()).await }).ok().flatten()
    }

    pub fn holding(&self) -> &Holding {
        &self.holding
    }

    /// A fresh session about the wallet.
    pub fn topic(&self) -> Topic {
        Topic { wallet: self.holding.wallet(), epoch: self.holding.epoch(), session: fresh_session() }
    }

    /// Sends a message under this topic, signed as it must be.
    pub fn send(&self, to: MemberId, topic: &Topic, round: u16, message: &Message) {
        self.send_bytes(to, self.sealed(to, topic, round, message));
    }

    /// The frame of a message.
    pub fn sealed(&self, to: MemberId, topic: &Topic, round: u16, message: &Message) -> Vec<u8> {
        wire::seal(&self.identity, topic, round, to, message).expect("a message")
    }

    pub fn send_bytes(&self, to: MemberId, frame: Vec<u8>) {
        let _ = self.network.send(&peer_of(to), frame);
    }

    /// A request for one of the wallet's coins, signed by the rogue and `to`.
    pub fn request(&self, to: MemberId, psbt: &Psbt, inputs: Vec<InputKey>, change: Vec<OutputKey>) -> SignRequest {
        let mut signers = vec![self.holding.me().get(), self.index(to).get()];
        signers.sort_unstable();
        let count = inputs.len() as u32;
        SignRequest {
            idempotency_key: None,
            coins: CoinChoice::Caller,
            signers,
            nonces: Vec::new(),
            subject: Subject::Transaction { psbt: Blob(psbt.serialize()), inputs, change, first: 0, count },
            patience_ms: 5_000,
            approval_seconds: 60,
            agreed: Vec::new(),
        }
    }

    fn index(&self, member: MemberId) -> PartyIndex {
        self.holding.index_of(&member).expect("a member")
    }

    /// Asks, and goes through the whole protocol with the rogue's own share if it is let. `before_share` runs before
    /// each message of the rogue, with its round; the first is sent when the other has begun.
    pub fn ask(
        &mut self,
        to: MemberId,
        topic: &Topic,
        request: &SignRequest,
        items: &[SignItem],
        before_share: &mut dyn FnMut(u16),
    ) -> Outcome {
        self.send(to, topic, 0, &Message::Sign(request.clone()));
        let share = self.holding.share().expect("an open share");
        let params = SignParams {
            session: topic.session,
            signers: request.signers.iter().map(|index| PartyIndex::new(*index).expect("an index")).collect(),
            items: items.to_vec(),
            banned: Default::default(),
        };
        let mut machine = SigningSession::start(share, &params, &fresh_session().0).ok();
        let mut began = false;
        let deadline = Instant::now() + ANSWER;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Some((from, message)) = self.hear(topic, left) else { break };
            if from != to {
                continue;
            }
            match message {
                Message::Refuse(refusal) => return Outcome::Refused(refusal),
                Message::Protocol(bodies) => {
                    let Some((session, first)) = &mut machine else { continue };
                    if !began {
                        before_share(1);
                        let bodies = first.drain(..).map(|message| Blob(message.body)).collect();
                        self.send(to, topic, 1, &Message::Protocol(bodies));
                    }
                    began = true;
                    let mut out = Vec::new();
                    for body in bodies {
                        out.extend(
                            session
                                .receive(self.holding.index_of(&from).expect("a member"), &body.0)
                                .unwrap_or_default(),
                        );
                    }
                    let finished = session.finished();
                    if !out.is_empty() {
                        let round = out[0].round();
                        before_share(round);
                        let bodies = out.into_iter().map(|message| Blob(message.body)).collect();
                        self.send(to, topic, round, &Message::Protocol(bodies));
                    }
                    if let Some(signatures) = finished {
                        return Outcome::Signed(signatures);
                    }
                }
                _ => {}
            }
        }
        if began { Outcome::Stalled } else { Outcome::Silent }
    }

    /// The next message of a session; what belongs to others is dropped.
    fn hear(&mut self, topic: &Topic, patience: Duration) -> Option<(MemberId, Message)> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let Event::Frame { from, bytes } = self.event(left)? else { continue };
            let from = member_of(&from)?;
            let Ok(frame) = Frame::parse(bytes) else { continue };
            if frame.opens || frame.session != topic.session {
                continue;
            }
            if let Ok(message) = wire::open(&frame.envelope, self.me, from, topic) {
                return Some((from, message));
            }
        }
    }

    /// Takes part in what others ask for, badly, until `stop`. Counts the requests that it was in.
    pub fn misbehave(&mut self, behaviour: Behaviour, stop: &AtomicBool, asked: &AtomicUsize) {
        let mut sessions: BTreeMap<SessionId, (Topic, Option<SigningSession>)> = BTreeMap::new();
        let mut pool = NoncePool::default();
        while !stop.load(Ordering::Relaxed) {
            let Some(Event::Frame { from, bytes }) = self.event(Duration::from_millis(50)) else { continue };
            let Some(from) = member_of(&from) else { continue };
            let Ok(frame) = Frame::parse(bytes) else { continue };
            if frame.opens {
                let Ok((topic, message)) = wire::open_first(&frame, self.me, from) else { continue };
                match message {
                    Message::AskNonces { .. } if behaviour == Behaviour::Silent => {
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    Message::AskNonces { count, .. } => {
                        let Some(share) = self.holding.share() else { continue };
                        let told = pool.issue(&share, usize::from(count), &fresh_session().0);
                        self.send(from, &topic, 0, &Message::Nonces(Blob(Commitment::concat(&told))));
                    }
                    Message::Sign(request) if !request.nonces.is_empty() => {
                        asked.fetch_add(1, Ordering::Relaxed);
                        self.one_round(behaviour, from, &topic, &request, &mut pool);
                    }
                    Message::Sign(request) => {
                        asked.fetch_add(1, Ordering::Relaxed);
                        let session = self.begin(behaviour, from, &topic, &request);
                        sessions.insert(topic.session, (topic, session));
                    }
                    // Address leases and probes are answered, or the wallet would hang before it signs.
                    _ => self.send(from, &topic, 0, &Message::Refuse(Refusal::Busy)),
                }
            } else if let Some((topic, Some(session))) = sessions.get_mut(&frame.session) {
                let Ok(Message::Protocol(bodies)) = wire::open(&frame.envelope, self.me, from, topic) else { continue };
                let Some(index) = self.holding.index_of(&from) else { continue };
                let mut out = Vec::new();
                for body in bodies {
                    out.extend(session.receive(index, &body.0).unwrap_or_default());
                }
                let topic = *topic;
                self.answer(behaviour, &topic, out);
            }
        }
    }

    /// Answers a request of one round.
    fn one_round(
        &self,
        behaviour: Behaviour,
        from: MemberId,
        topic: &Topic,
        request: &SignRequest,
        pool: &mut NoncePool,
    ) {
        let share = |answer: Vec<u8>| Message::Share { answer: Blob(answer), next: Blob(Vec::new()) };
        match behaviour {
            Behaviour::Silent | Behaviour::Stalls { .. } => return,
            Behaviour::Garbage => return self.send(from, topic, 2, &share(vec![1; 400])),
            Behaviour::Floods => self.flood(from, topic),
            _ => {}
        }
        let Some(mut body) = self.honest_share(behaviour, topic, request, pool) else { return };
        let honest = body.clone();
        // The last byte is one of a share.
        if let Some(last) = body.last_mut() {
            *last ^= 1;
        }
        match behaviour {
            Behaviour::Wrong { .. } => self.send(from, topic, 2, &share(body)),
            Behaviour::Equivocates => {
                self.send(from, topic, 2, &share(body));
                self.send(from, topic, 2, &share(honest));
            }
            _ => self.send(from, topic, 2, &share(honest)),
        }
    }

    fn honest_share(
        &self,
        behaviour: Behaviour,
        topic: &Topic,
        request: &SignRequest,
        pool: &mut NoncePool,
    ) -> Option<Vec<u8>> {
        let session = if behaviour == Behaviour::OtherSession { fresh_session() } else { topic.session };
        let signers: Vec<PartyIndex> =
            request.signers.iter().filter_map(|index| PartyIndex::new(*index).ok()).collect();
        let lists = request.nonces.iter().map(|nonces| Commitment::parse_all(&nonces.commitments.0));
        let commitments: Commitments = signers.iter().copied().zip(lists.collect::<Option<Vec<_>>>()?).collect();
        let params = SignParams { session, signers, items: items_of(request), banned: Default::default() };
        let nonces = pool.take(commitments.get(&self.holding.me())?, &nonce_use(&params)).ok()?;
        answer(self.holding.share()?.as_ref(), &params, &commitments, nonces).ok()
    }

    fn begin(
        &self,
        behaviour: Behaviour,
        from: MemberId,
        topic: &Topic,
        request: &SignRequest,
    ) -> Option<SigningSession> {
        match behaviour {
            Behaviour::Silent => return None,
            Behaviour::Garbage => {
                self.send(from, topic, 1, &Message::Protocol(vec![Blob(vec![1; 400])]));
                return None;
            }
            Behaviour::Floods => self.flood(from, topic),
            _ => {}
        }
        let items = items_of(request);
        let session = if behaviour == Behaviour::OtherSession { fresh_session() } else { topic.session };
        let signers = request.signers.iter().filter_map(|index| PartyIndex::new(*index).ok()).collect();
        let params = SignParams { session, signers, items, banned: Default::default() };
        let (session, outgoing) = SigningSession::start(self.holding.share()?, &params, &fresh_session().0).ok()?;
        self.answer(behaviour, topic, outgoing);
        Some(session)
    }

    fn answer(&self, behaviour: Behaviour, topic: &Topic, outgoing: Vec<tss_wallet::Outgoing>) {
        for message in outgoing {
            let Recipient::One(party) = message.to else { continue };
            let Some(to) = self.holding.public().roster.member(party).copied() else { continue };
            let round = message.round();
            let mut body = message.body;
            let flipped = |body: &[u8]| {
                let mut body = body.to_vec();
                // In the middle of what is sent, past round number and binding.
                let at = 40 + (body.len().saturating_sub(40)) / 2;
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1;
                }
                body
            };
            match behaviour {
                Behaviour::Wrong { round: from } if round >= from => body = flipped(&body),
                Behaviour::Stalls { round: from } if round >= from => continue,
                Behaviour::Equivocates => {
                    let second = flipped(&body);
                    self.send(to, topic, round, &Message::Protocol(vec![Blob(body)]));
                    self.send(to, topic, round, &Message::Protocol(vec![Blob(second)]));
                    continue;
                }
                _ => {}
            }
            self.send(to, topic, round, &Message::Protocol(vec![Blob(body)]));
        }
    }

    fn flood(&self, to: MemberId, topic: &Topic) {
        for number in 0..3_000_u32 {
            let other = Topic { session: fresh_session(), ..*topic };
            match number % 3 {
                0 => self.send(to, &other, 0, &Message::Probe),
                1 => self.send(to, &other, 1, &Message::Protocol(vec![Blob(vec![7; 2_000])])),
                _ => self.send(to, topic, 1, &Message::Protocol(vec![Blob(vec![7; 50])])),
            }
        }
    }
}

/// What a request wants signed, computed as honest signers compute it; `bech32` and `bech32m` inputs only.
pub fn items_of(request: &SignRequest) -> Vec<SignItem> {
    let Subject::Transaction { psbt, inputs, .. } = &request.subject else { return Vec::new() };
    let Ok(psbt) = Psbt::deserialize(&psbt.0) else { return Vec::new() };
    let coins: Option<Vec<TxOut>> = psbt.inputs.iter().map(|input| input.witness_utxo.clone()).collect();
    let Some(coins) = coins else { return Vec::new() };
    let mut cache = SighashCache::new(&psbt.unsigned_tx);
    let message = |cache: &mut SighashCache<&Transaction>, item: &InputKey| -> Option<[u8; 32]> {
        let index = item.input as usize;
        let coin = coins.get(index)?;
        if item.key.chain.address_type == AddressType::Bech32m {
            let kind = TapSighashType::from_consensus_u8(item.sighash).ok()?;
            return Some(
                cache.taproot_key_spend_signature_hash(index, &Prevouts::All(&coins), kind).ok()?.to_byte_array(),
            );
        }
        let kind = EcdsaSighashType::from_standard(u32::from(item.sighash)).ok()?;
        Some(cache.p2wpkh_signature_hash(index, &coin.script_pubkey, coin.value, kind).ok()?.to_byte_array())
    };
    inputs.iter().filter_map(|item| Some(SignItem { key: item.key, message: message(&mut cache, item)? })).collect()
}

fn fresh_session() -> SessionId {
    use std::collections::hash_map::RandomState;
    use std::hash::{BuildHasher, Hasher};
    let mut id = [0; 32];
    for chunk in id.chunks_mut(8) {
        chunk.copy_from_slice(&RandomState::new().build_hasher().finish().to_be_bytes());
    }
    SessionId(id)
}

fn peer_of(member: MemberId) -> PeerId {
    cosigners::peer_id_of(member.0)
}

/// The member of a PeerId.
pub fn member_of(peer: &PeerId) -> Option<MemberId> {
    public_key_of(peer).map(MemberId)
}

/// The first epoch, for topics that lie.
pub fn other_epoch(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 + 1)
}
