//! A cluster of protocol machines and the net between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bitcoin::Network;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tss_wallet::wallet::keychain::{AddressType, Branch, ChainId, KeyId};
use tss_wallet::{
    Dkg, DkgError, DkgParams, KeyShare, MemberId, Outgoing, PartyIndex, Recipient, Roster, SessionId, SignError,
    SignItem, SignParams, Signature, SigningIdentity, SigningSession, Split,
};

/// What both protocol machines can do.
pub trait Machine {
    type Error: std::fmt::Debug;
    fn feed(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, Self::Error>;
}

impl Machine for Dkg {
    type Error = DkgError;
    fn feed(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, DkgError> {
        self.receive(from, body)
    }
}

impl Machine for SigningSession {
    type Error = SignError;
    fn feed(&mut self, from: PartyIndex, body: &[u8]) -> Result<Vec<Outgoing>, SignError> {
        self.receive(from, body)
    }
}

/// One message under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub from: PartyIndex,
    pub to: PartyIndex,
    pub broadcast: bool,
    pub body: Vec<u8>,
}

/// Machines, the messages between them, and what they refused.
pub struct Net<M: Machine> {
    pub nodes: BTreeMap<PartyIndex, M>,
    pub queue: VecDeque<Packet>,
    /// Who refused something, from whom, and why.
    pub errors: Vec<(PartyIndex, PartyIndex, M::Error)>,
    /// Every packet that was delivered.
    pub log: Vec<Packet>,
    order: StdRng,
}

impl<M: Machine> Net<M> {
    pub fn new(started: Vec<(PartyIndex, M, Vec<Outgoing>)>, order: u64) -> Self {
        let mut net = Self {
            nodes: BTreeMap::new(),
            queue: VecDeque::new(),
            errors: Vec::new(),
            log: Vec::new(),
            order: StdRng::seed_from_u64(order),
        };
        let mut first = Vec::new();
        for (index, machine, out) in started {
            net.nodes.insert(index, machine);
            first.push((index, out));
        }
        first.into_iter().for_each(|(from, out)| net.post(from, out));
        net
    }

    fn post(&mut self, from: PartyIndex, out: Vec<Outgoing>) {
        for message in out {
            match message.to {
                Recipient::One(to) => {
                    self.queue.push_back(Packet { from, to, broadcast: false, body: message.body });
                }
                Recipient::All => {
                    let others: Vec<PartyIndex> = self.nodes.keys().copied().filter(|to| *to != from).collect();
                    for to in others {
                        self.queue.push_back(Packet { from, to, broadcast: true, body: message.body.clone() });
                    }
                }
            }
        }
    }

    /// Delivers everything in a random order; the hook says what really arrives in place of each packet.
    pub fn run(&mut self, mut hook: impl FnMut(Packet) -> Vec<Packet>) {
        while !self.queue.is_empty() {
            let next = self.order.gen_range(0..self.queue.len());
            let packet = self.queue.swap_remove_back(next).unwrap();
            for packet in hook(packet) {
                self.log.push(packet.clone());
                let node = self.nodes.get_mut(&packet.to).unwrap();
                match node.feed(packet.from, &packet.body) {
                    Ok(out) => self.post(packet.to, out),
                    Err(error) => self.errors.push((packet.to, packet.from, error)),
                }
            }
        }
    }

    pub fn run_honestly(&mut self) {
        self.run(|packet| vec![packet]);
    }
}

pub fn party(index: u8) -> PartyIndex {
    PartyIndex::new(index).unwrap()
}

pub fn identities(count: u8) -> Vec<SigningIdentity> {
    let mut all: Vec<SigningIdentity> = (1..=count).map(|byte| SigningIdentity::from_seed(&[byte; 32])).collect();
    all.sort_by_key(SigningIdentity::member_id);
    all
}

pub fn roster(threshold: u8, count: u8) -> Roster {
    let members: Vec<MemberId> = identities(count).iter().map(SigningIdentity::member_id).collect();
    Roster::new(threshold, members, Split::Refused).unwrap()
}

pub fn dkg_params(threshold: u8, count: u8) -> DkgParams {
    let roster = roster(threshold, count);
    let session = SessionId([threshold * 16 + count; 32]);
    let wallet = DkgParams::wallet_id("w", Network::Regtest, &roster, &session);
    DkgParams { wallet, network: Network::Regtest, roster, session, context: [0; 32] }
}

pub fn dkg_net(threshold: u8, count: u8, order: u64) -> Net<Dkg> {
    let params = dkg_params(threshold, count);
    let started = identities(count)
        .into_iter()
        .map(|identity| {
            let seed = rand::random();
            let (dkg, out) = Dkg::start(params.clone(), identity, seed).unwrap();
            (dkg.me(), dkg, out)
        })
        .collect();
    Net::new(started, order)
}

/// A quorum made by an undisturbed key generation.
pub fn quorum(threshold: u8, count: u8) -> Vec<Arc<KeyShare>> {
    let mut net = dkg_net(threshold, count, 7);
    net.run_honestly();
    assert!(net.errors.is_empty(), "{:?}", net.errors);
    net.nodes.values().map(|dkg| dkg.finished().unwrap().clone()).collect()
}

pub fn key(address_type: AddressType, branch: Branch, index: u32) -> KeyId {
    KeyId { chain: ChainId::new(address_type, branch), index }
}

pub fn sign_params(signers: &[u8], items: Vec<SignItem>, session: u8) -> SignParams {
    SignParams {
        session: SessionId([session; 32]),
        signers: signers.iter().map(|index| party(*index)).collect(),
        items,
        banned: std::collections::BTreeSet::new(),
    }
}

pub fn sign_net(shares: &[Arc<KeyShare>], params: &SignParams, order: u64) -> Net<SigningSession> {
    let started = params
        .signers
        .iter()
        .map(|signer| {
            let share = shares[signer.position()].clone();
            let (session, out) = SigningSession::start(share, params, &rand::random()).unwrap();
            (*signer, session, out)
        })
        .collect();
    Net::new(started, order)
}

/// Signs honestly; all signers must come to the same signatures.
pub fn sign(shares: &[Arc<KeyShare>], params: &SignParams) -> Vec<Signature> {
    let mut net = sign_net(shares, params, 11);
    net.run_honestly();
    assert!(net.errors.is_empty(), "{:?}", net.errors);
    let mut all = net.nodes.values().map(|session| session.finished().unwrap());
    let first = all.next().unwrap();
    assert!(all.all(|other| other == first));
    first
}

/// Checks a signature as a node would: against a key derived from the account's xpub alone.
pub fn check(share: &KeyShare, item: &SignItem, signature: &Signature) {
    let account = share.public().account(item.key.chain.address_type).unwrap();
    let path = [item.key.chain.branch.number(), item.key.index]
        .map(|index| bitcoin::bip32::ChildNumber::from_normal_idx(index).unwrap());
    let child = account.xpub.derive_pub(secp256k1::SECP256K1, &path).unwrap().public_key;
    let message = secp256k1::Message::from_digest(item.message);
    match signature {
        Signature::Ecdsa { signature, recovery_id } => {
            assert_ne!(item.key.chain.address_type, AddressType::Bech32m);
            secp256k1::SECP256K1.verify_ecdsa(&message, signature, &child).unwrap();
            let mut low = *signature;
            low.normalize_s();
            assert_eq!(low, *signature);
            assert!(signature.serialize_der().len() <= 70, "R is low, too");
            let id = secp256k1::ecdsa::RecoveryId::from_i32(i32::from(*recovery_id)).unwrap();
            let recoverable =
                secp256k1::ecdsa::RecoverableSignature::from_compact(&signature.serialize_compact(), id).unwrap();
            assert_eq!(secp256k1::SECP256K1.recover_ecdsa(&message, &recoverable).unwrap(), child);
        }
        Signature::Schnorr(signature) => {
            use bitcoin::key::TapTweak;
            assert_eq!(item.key.chain.address_type, AddressType::Bech32m);
            let (output, _) = child.x_only_public_key().0.tap_tweak(secp256k1::SECP256K1, None);
            secp256k1::SECP256K1.verify_schnorr(signature, &message, &output.to_x_only_public_key()).unwrap();
        }
    }
}
