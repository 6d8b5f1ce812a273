//! Users' own names for payments (`idempotency_key`), leased from t members before coins are chosen.
//!
//! Any two sets of t members share one, so whoever holds the lease of a name has heard of every payment that t members
//! signed under it, and no other coordinator pays under it meanwhile. What keeps a name from paying twice is what each
//! signer remembers ([`Holding::remember_payment`]); the lease lets every member give the same answer. A member can
//! delay others by holding a name, for no longer than a signature may take, unless an operator is being asked.
//!
//! Owns the table of names that are held, in memory: at the end of a process its payments under way have ended too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::{OutPoint, ScriptBuf, Transaction, Txid};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tss_wallet::{MemberId, SessionId};

use super::approvals::OPEN_SECONDS_UNATTENDED;
use super::core::Core;
use super::error::{QuorumError, peer_name};
use super::holding::Holding;
use super::link::{Heard, Link};
use super::refusal::Refusal;
use super::sessions::SessionKind;
use super::sharing;
use super::wire::{Blob, Message, Topic};

/// Names that one member may hold at a time; more are leased without a note.
const MAX_HELD_PER_MEMBER: usize = 1_024;
const ANSWER: Duration = Duration::from_millis(1_500);
/// Between two looks at a name that another one holds; longer the more there were.
const LOOK_AGAIN_MS: std::ops::Range<u64> = 20..120;
const MAX_LOOK_AGAIN_TIMES: u32 = 8;

/// What a name is called among members.
pub fn digest(name: &str) -> [u8; 32] {
    sha256::Hash::hash(name.as_bytes()).to_byte_array()
}

/// A coordinator asks for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRequest {
    pub name: [u8; 32],
    /// Tells this request from others of the same coordinator.
    pub token: SessionId,
    /// How long it is needed at most.
    pub seconds: u32,
}

/// A transaction's id before it is signed, by which members know a payment: signatures of older coin types change the id.
pub fn unsigned_txid(tx: &Transaction) -> Txid {
    let mut tx = tx.clone();
    tx.input.iter_mut().for_each(|input| input.script_sig = ScriptBuf::new());
    tx.compute_txid()
}

/// The last transaction that a member signed under a name, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Before it is signed, see [`unsigned_txid`].
    pub txid: Txid,
    /// Inputs that every transaction of the name has in common.
    pub inputs: Vec<OutPoint>,
}

/// A member's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameAnswer {
    /// Another request holds the name there.
    pub held: bool,
    /// Its operator is being asked about a payment of this name.
    pub asks: bool,
    pub known: Option<Claim>,
    /// The payment itself, where the member has it.
    pub transaction: Option<Blob>,
}

struct Hold {
    by: MemberId,
    token: SessionId,
    until: Instant,
}

/// The names of one wallet that are held.
#[derive(Default)]
pub struct Holds {
    held: HashMap<[u8; 32], Hold>,
}

impl Holds {
    /// Takes a name; false if another request holds it.
    fn take(&mut self, request: &NameRequest, by: MemberId, now: Instant) -> bool {
        self.held.retain(|_, hold| hold.until > now);
        let seconds = u64::from(request.seconds).min(OPEN_SECONDS_UNATTENDED);
        let hold = Hold { by, token: request.token, until: now + Duration::from_secs(seconds) };
        if let Some(known) = self.held.get(&request.name) {
            return known.by == by && known.token == request.token;
        }
        if self.held.values().filter(|hold| hold.by == by).count() < MAX_HELD_PER_MEMBER {
            self.held.insert(request.name, hold);
        }
        true
    }

    fn free(&mut self, request: &NameRequest, by: &MemberId) {
        let of_it = |hold: &Hold| hold.by == *by && hold.token == request.token;
        if self.held.get(&request.name).is_some_and(of_it) {
            self.held.remove(&request.name);
        }
    }

    /// A member is gone, and its payments under way with it.
    pub fn free_all_of(&mut self, by: &MemberId) {
        self.held.retain(|_, hold| hold.by != *by);
    }
}

fn holds(holding: &Holding) -> MutexGuard<'_, Holds> {
    holding.names().lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection to a member ended.
pub fn gone(core: &Core, member: &MemberId) {
    core.holdings().iter().for_each(|holding| holds(holding).free_all_of(member));
}

/// Another coordinator asks for a name.
pub fn asked(core: &Core, from: MemberId, topic: Topic, request: &NameRequest) {
    let holding = match core.holding(&topic.wallet) {
        Some(holding) if holding.index_of(&from).is_some() => holding,
        _ => return core.refuse(&topic, from, Refusal::UnknownWallet),
    };
    if let Some(refusal) = holding.own_refusal(&core.me()) {
        return core.refuse(&topic, from, refusal);
    }
    if holding.suspended().contains(&from) {
        return core.refuse(&topic, from, Refusal::Suspended(peer_name(&from)));
    }
    core.send(&topic, 0, from, &Message::Named(answer(core, &holding, from, request)));
}

fn answer(core: &Core, holding: &Holding, by: MemberId, request: &NameRequest) -> NameAnswer {
    // The name first: whoever takes it hears of all that was signed before.
    let held = !holds(holding).take(request, by, Instant::now());
    let known = holding.payment_named(&request.name);
    let txid = known.as_ref().map(|claim| claim.txid);
    let now = core.chain().now();
    let asks = txid.is_some() && holding.guard().open_questions(now).iter().any(|(_, question)| question.txid == txid);
    let transaction = known.as_ref().and_then(|claim| core.host()?.payment(holding.wallet(), claim));
    NameAnswer { held, asks, known, transaction: transaction.map(|transaction| Blob(serialize(&transaction))) }
}

/// A coordinator is through with a name.
pub fn done(core: &Core, from: MemberId, topic: Topic, request: &NameRequest) {
    let holding = core.holding(&topic.wallet).filter(|holding| holding.index_of(&from).is_some());
    holding.iter().for_each(|holding| holds(holding).free(request, &from));
}

/// What one round of questions came to.
struct Round {
    granted: usize,
    answered: usize,
    asks: bool,
}

/// A name in the hands of this coordinator, until this is dropped.
pub struct NameLease<'a> {
    core: &'a Core,
    holding: Arc<Holding>,
    request: NameRequest,
    asked: BTreeSet<MemberId>,
    claims: BTreeMap<MemberId, Claim>,
}

/// Leases a name from t members. Blocks while another payment of this name is being made: as long as a signature may
/// take, or `approval` where an operator is being asked. After that, and where fewer than t members can be asked, goes
/// on without it.
pub fn lease<'a>(
    core: &'a Core,
    holding: &Arc<Holding>,
    name: &str,
    approval: Duration,
) -> Result<NameLease<'a>, QuorumError> {
    let seconds = u32::try_from((approval + core.signing_timeout).as_secs()).unwrap_or(u32::MAX);
    let request = NameRequest { name: digest(name), token: core.fresh_session(), seconds };
    let (asked, claims) = (BTreeSet::new(), BTreeMap::new());
    let mut lease = NameLease { core, holding: Arc::clone(holding), request, asked, claims };
    let needed = usize::from(holding.threshold());
    let started = Instant::now();
    for looks in 0.. {
        if core.is_stopping() {
            return Err(QuorumError::Stopped);
        }
        let round = lease.ask_once()?;
        let patience = if round.asks { approval } else { core.signing_timeout };
        if round.granted >= needed || round.answered < needed || started.elapsed() >= patience {
            return Ok(lease);
        }
        // Two that hold a part of it each step back, for a random time.
        lease.release();
        let pause = Duration::from_millis(rand::thread_rng().gen_range(LOOK_AGAIN_MS));
        std::thread::sleep(pause * (1 + looks / 4).min(MAX_LOOK_AGAIN_TIMES));
    }
    Err(QuorumError::Busy)
}

impl NameLease<'_> {
    /// What members say was signed under the name.
    pub fn claims(&self) -> &BTreeMap<MemberId, Claim> {
        &self.claims
    }

    /// Asks once more what was signed under it.
    pub fn ask(&mut self) -> Result<(), QuorumError> {
        self.ask_once().map(|_| ())
    }

    fn ask_once(&mut self) -> Result<Round, QuorumError> {
        let Self { core, ref holding, request, .. } = *self;
        let own = answer(core, holding, core.me(), &request);
        let mut round = Round { granted: usize::from(!own.held), answered: 1, asks: own.asks };
        self.claims.extend(own.known.map(|claim| (core.me(), claim)));
        let topic = core.fresh_topic(holding.wallet(), holding.epoch());
        let info = core.session_info(&topic, SessionKind::Lease, core.me());
        let inbox = core.sessions.open(info).map_err(|_| QuorumError::Busy)?;
        let suspended = holding.suspended();
        let link = Link::new(core, topic, inbox, holding.others().filter(|member| !suspended.contains(member)));
        let mut waiting = link.others().clone();
        for unreachable in link.send_all(0, &Message::Name(request)) {
            waiting.remove(&unreachable);
        }
        self.asked.extend(waiting.iter().copied());
        let needed = usize::from(holding.threshold());
        let deadline = Instant::now() + ANSWER;
        while round.granted < needed && !waiting.is_empty() {
            link.note("waiting for the name of a payment", waiting.iter().copied());
            match link.next(deadline) {
                Heard::Message(from, Message::Named(answer)) if waiting.remove(&from) => {
                    round.answered += 1;
                    round.granted += usize::from(!answer.held);
                    round.asks |= answer.asks;
                    if let Some(transaction) = answer.transaction {
                        sharing::sent_by(core, from, link.topic(), &[transaction]);
                    }
                    self.claims.extend(answer.known.map(|claim| (from, claim)));
                }
                Heard::Message(from, Message::Refuse(_)) | Heard::Down(from) => {
                    waiting.remove(&from);
                }
                Heard::Message(..) => {}
                Heard::Stop => return Err(QuorumError::Stopped),
                Heard::Deadline => std::mem::take(&mut waiting).into_iter().for_each(|member| core.suspect(member)),
            }
        }
        Ok(round)
    }

    fn release(&mut self) {
        let Self { core, ref holding, request, .. } = *self;
        holds(holding).free(&request, &core.me());
        let topic = core.fresh_topic(holding.wallet(), holding.epoch());
        for member in std::mem::take(&mut self.asked) {
            core.tell(&topic, member, &Message::NameDone(request));
        }
    }
}

impl Drop for NameLease<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MemberId = MemberId([1; 32]);
    const TWO: MemberId = MemberId([2; 32]);

    fn request(name: &str, token: u8) -> NameRequest {
        NameRequest { name: digest(name), token: SessionId([token; 32]), seconds: 10 }
    }

    #[test]
    fn a_name_is_held_by_one_request_at_a_time() {
        let now = Instant::now();
        let mut holds = Holds::default();
        assert!(holds.take(&request("a", 1), ONE, now));
        assert!(holds.take(&request("a", 1), ONE, now), "asked again");
        assert!(!holds.take(&request("a", 2), ONE, now), "another call at the same member");
        assert!(!holds.take(&request("a", 1), TWO, now));
        assert!(holds.take(&request("b", 1), TWO, now));
        holds.free(&request("a", 1), &TWO);
        assert!(!holds.take(&request("a", 2), TWO, now), "only its holder frees it");
        holds.free(&request("a", 1), &ONE);
        assert!(holds.take(&request("a", 2), TWO, now));
    }

    #[test]
    fn a_name_is_free_again_after_its_time_or_when_its_holder_is_gone() {
        let now = Instant::now();
        let mut holds = Holds::default();
        assert!(holds.take(&request("a", 1), ONE, now));
        assert!(holds.take(&request("a", 2), TWO, now + Duration::from_secs(10)));
        holds.free_all_of(&TWO);
        assert!(holds.take(&request("a", 3), ONE, now));
    }

    #[test]
    fn a_member_that_holds_very_many_names_fills_no_memory() {
        let now = Instant::now();
        let mut holds = Holds::default();
        for number in 0..MAX_HELD_PER_MEMBER + 10 {
            assert!(holds.take(&request(&number.to_string(), 1), ONE, now));
        }
        assert_eq!(holds.held.len(), MAX_HELD_PER_MEMBER);
    }
}
