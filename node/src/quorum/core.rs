//! One co-signer at work: its identity, its shares, its sessions, and the events of its carrier.
//!
//! A process has one over libp2p; with `-devquorum` a wallet has n of them over the in-memory carrier. Owns the table
//! of shares and of sessions. Every session runs on a blocking thread of its own and waits there; the event loop only
//! hands frames over.

pub(super) mod incoming;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bitcoin::{BlockHash, Network, OutPoint, Transaction};
use keyless_p2p::cosigners::{Carrier, Events, PeerId, peer_id_of};
use rand::RngCore;
use tokio::task::JoinHandle;
use tss_wallet::{Epoch, MemberId, SessionId, SigningIdentity, WalletId};

use self::incoming::{AtWork, run};
use super::holding::Holding;
use super::keygen::Pending;
use super::names::Claim;
use super::rate::Bucket;
use super::redeal::join::Join;
use super::refusal::Refusal;
use super::sessions::{MAX_SESSIONS_PER_PEER, OpenError, SessionInfo, SessionKind, Sessions};
use super::sharing::AddressLabel;
use super::unplaced::Unplaced;
use super::wire::{self, LeaseRange, Message, NO_WALLET, Status, Topic, WalletStatus};
use super::{fence, keygen, lease, redeal};
use crate::alerts::Alerts;
use crate::wallets::chain_view::ChainView;

/// Requests of one peer that are being opened at a time: as many as it may have sessions, and what goes with them.
const MAX_OPENING_PER_PEER: usize = 2 * MAX_SESSIONS_PER_PEER;
/// How long the end of a co-signer waits for its sessions.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// How often the ends of ceremonies are looked after.
const TEND: Duration = Duration::from_secs(3);
/// Every so many times, members also compare epochs and how far addresses were handed out.
const COMPARE_EVERY: u32 = 10;
/// What nobody asked for and failed is tried again this much later, and twice as late each time.
const TRY_AGAIN: Duration = Duration::from_secs(10);
const TRY_AGAIN_DOUBLINGS: u32 = 6;

/// What a member does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Unasked {
    Repair,
    Refresh,
}

/// What the owner of the wallets is told and asked. Called on blocking threads.
pub trait Host: Send + Sync + 'static {
    /// A directory of this name could be made, and no wallet has it.
    fn name_is_free(&self, name: &str) -> bool;
    /// A wallet was made by a ceremony that this node was invited to.
    fn wallet_made(&self, holding: &Arc<Holding>);
    /// A wallet whose quorum this node has left.
    fn wallet_left(&self, wallet: WalletId);
    /// Another coordinator holds these indexes now.
    fn leased_elsewhere(&self, wallet: WalletId, ranges: &[LeaseRange]);
    /// What was paid under a name, if it was not given up.
    fn payment(&self, wallet: WalletId, claim: &Claim) -> Option<Transaction>;
    /// The transaction of a wallet that spends a coin and may still confirm.
    fn spender(&self, wallet: WalletId, coin: &OutPoint) -> Option<Transaction>;
    /// A wallet's transactions in the mempool, parents first.
    fn unconfirmed(&self, wallet: WalletId) -> Vec<Transaction>;
    /// What a wallet's receiving addresses are called.
    fn labels(&self, wallet: WalletId) -> Vec<AddressLabel>;
    /// Another member says so. With `fill`, what has a label here keeps it.
    fn labelled(&self, wallet: WalletId, labels: &[AddressLabel], fill: bool);
}

/// Whom this member makes wallets with, from its own configuration.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The allow-list, without this member.
    pub cosigners: BTreeSet<MemberId>,
    /// `-threshold`, where it is set.
    pub threshold: Option<u8>,
    /// The operator accepts what its configuration does not say (embedded co-signers).
    pub accepts_any: bool,
    /// A share that has become stale is repaired without a command.
    pub repairs_itself: bool,
    /// Shares are dealt again when this much time has passed.
    pub refresh_interval: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            cosigners: BTreeSet::new(),
            threshold: None,
            accepts_any: false,
            repairs_itself: true,
            refresh_interval: None,
        }
    }
}

/// Where the shares lie.
#[derive(Debug, Clone)]
pub enum Layout {
    /// Every wallet in a directory of its name; the seal key is the node's.
    Node { wallets: PathBuf, seal_key: PathBuf },
    /// One wallet, here; everything it needs lies beside it.
    Embedded { dir: PathBuf },
}

impl Layout {
    pub fn wallet_dir(&self, name: &str) -> PathBuf {
        match self {
            Self::Node { wallets, .. } => wallets.join(name),
            Self::Embedded { dir } => dir.clone(),
        }
    }

    pub fn seal_key(&self) -> PathBuf {
        match self {
            Self::Node { seal_key, .. } => seal_key.clone(),
            Self::Embedded { dir } => dir.join("seal.key"),
        }
    }
}

/// What a co-signer is started with.
pub struct CoreConfig {
    pub identity: SigningIdentity,
    pub layout: Layout,
    pub policy: Policy,
    /// `-signingtimeout`.
    pub signing_timeout: Duration,
    /// Where the operator hears of questions.
    pub alerts: Alerts,
}

/// One co-signer. Held by `Arc`; ends with [`Core::stop`].
pub struct Core {
    identity: SigningIdentity,
    me: MemberId,
    pub(super) layout: Layout,
    pub(super) signing_timeout: Duration,
    alerts: Alerts,
    policy: Mutex<Policy>,
    carrier: Arc<dyn Carrier>,
    pub(super) chain: Arc<dyn ChainView>,
    pub(super) sessions: Sessions,
    holdings: Mutex<BTreeMap<WalletId, Arc<Holding>>>,
    pending: Mutex<Vec<Arc<Pending>>>,
    /// Wallets whose share could not be opened at the start, by name.
    unopened: Mutex<BTreeSet<String>>,
    /// Shares of wallets that do not live here yet, by name.
    joins: Mutex<BTreeMap<String, Arc<Join>>>,
    /// When a stale share may be repaired, or shares be refreshed, again, and how many tries were made.
    tries: Mutex<HashMap<(WalletId, Unasked), (Instant, u32)>>,
    tending: AtomicBool,
    tended: AtomicU32,
    /// Blocking work under way.
    at_work: Arc<AtomicUsize>,
    /// Names of wallets that are being made.
    names: Mutex<BTreeSet<String>>,
    host: OnceLock<Weak<dyn Host>>,
    peers: Mutex<HashMap<PeerId, MemberId>>,
    opening: Mutex<HashMap<MemberId, usize>>,
    /// Requests of each member, by time.
    rates: Mutex<HashMap<MemberId, Bucket>>,
    /// Members that let a deadline pass and were not heard since.
    suspects: Mutex<BTreeSet<MemberId>>,
    pub(super) unplaced: Mutex<Unplaced>,
    stopping: AtomicBool,
    task: Mutex<Option<JoinHandle<()>>>,
    runtime: tokio::runtime::Handle,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// A co-signer that hears nothing yet: open its shares, then [`Core::listen`]. Needs a tokio runtime.
    pub fn new(config: CoreConfig, carrier: Arc<dyn Carrier>, chain: Arc<dyn ChainView>) -> Arc<Self> {
        Arc::new(Self {
            me: config.identity.member_id(),
            identity: config.identity,
            layout: config.layout,
            signing_timeout: config.signing_timeout,
            alerts: config.alerts,
            policy: Mutex::new(config.policy),
            carrier,
            chain,
            sessions: Sessions::default(),
            holdings: Mutex::default(),
            pending: Mutex::default(),
            unopened: Mutex::default(),
            joins: Mutex::default(),
            tries: Mutex::default(),
            tending: AtomicBool::new(false),
            tended: AtomicU32::new(1),
            at_work: Arc::default(),
            names: Mutex::default(),
            host: OnceLock::new(),
            peers: Mutex::default(),
            opening: Mutex::default(),
            rates: Mutex::default(),
            suspects: Mutex::default(),
            unplaced: Mutex::default(),
            stopping: AtomicBool::new(false),
            task: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        })
    }

    /// Starts the event loop.
    pub fn listen(self: &Arc<Self>, events: Events) {
        let task = self.runtime.spawn(run(Arc::downgrade(self), events));
        *locked(&self.task) = Some(task);
    }

    /// Names the owner of the wallets; the first one stays.
    pub fn set_host(&self, host: Weak<dyn Host>) {
        let _ = self.host.set(host);
    }

    pub(super) fn host(&self) -> Option<Arc<dyn Host>> {
        self.host.get().and_then(Weak::upgrade)
    }

    pub fn me(&self) -> MemberId {
        self.me
    }

    pub(super) fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    pub fn identity(&self) -> &SigningIdentity {
        &self.identity
    }

    pub fn carrier(&self) -> &Arc<dyn Carrier> {
        &self.carrier
    }

    pub fn chain(&self) -> &Arc<dyn ChainView> {
        &self.chain
    }

    pub fn network(&self) -> Network {
        self.chain.network()
    }

    pub fn genesis(&self) -> BlockHash {
        self.chain.genesis()
    }

    pub fn policy(&self) -> Policy {
        locked(&self.policy).clone()
    }

    pub fn set_policy(&self, policy: Policy) {
        *locked(&self.policy) = policy;
    }

    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.list().into_iter().filter(|row| row.kind != SessionKind::Probe).collect()
    }

    /// Ends one session by its id.
    pub fn abort_session(&self, id: &SessionId) -> bool {
        self.sessions.stop(id)
    }

    pub fn holding(&self, wallet: &WalletId) -> Option<Arc<Holding>> {
        locked(&self.holdings).get(wallet).cloned()
    }

    pub fn holding_named(&self, name: &str) -> Option<Arc<Holding>> {
        locked(&self.holdings).values().find(|holding| holding.name() == name).cloned()
    }

    pub fn holdings(&self) -> Vec<Arc<Holding>> {
        locked(&self.holdings).values().cloned().collect()
    }

    pub(super) fn hold(&self, holding: Arc<Holding>) {
        // Whoever has got a share of another epoch begins anew.
        locked(&self.tries).retain(|(wallet, _), _| *wallet != holding.wallet());
        let old = locked(&self.holdings).insert(holding.wallet(), holding);
        // Nonces end with their epoch.
        old.iter().for_each(|old| old.nonces().clear());
    }

    /// Takes a name for a wallet that is being made; none if it is taken.
    pub(super) fn reserve(self: &Arc<Self>, name: &str) -> Option<ReservedName> {
        let fresh = locked(&self.names).insert(name.to_owned());
        fresh.then(|| ReservedName { core: Arc::clone(self), name: name.to_owned() })
    }

    pub(super) fn pending(&self) -> Vec<Arc<Pending>> {
        locked(&self.pending).clone()
    }

    /// A wallet whose making has not ended yet.
    pub fn has_pending(&self) -> bool {
        !locked(&self.pending).is_empty()
    }

    pub(super) fn add_pending(&self, pending: Arc<Pending>) {
        locked(&self.pending).push(pending);
    }

    pub(super) fn end_pending(&self, pending: &Arc<Pending>) {
        locked(&self.pending).retain(|other| !Arc::ptr_eq(other, pending));
    }

    pub(super) fn note_unopened(&self, name: &str) {
        locked(&self.unopened).insert(name.to_owned());
    }

    pub(super) fn note_opened(&self, name: &str) {
        locked(&self.unopened).remove(name);
    }

    /// Whether this member knows of every share it has.
    pub(super) fn knows_its_shares(&self) -> bool {
        !self.is_stopping() && locked(&self.unopened).is_empty()
    }

    pub(super) fn joins(&self) -> Vec<Arc<Join>> {
        locked(&self.joins).values().cloned().collect()
    }

    pub(super) fn join(&self, name: &str) -> Option<Arc<Join>> {
        locked(&self.joins).get(name).cloned()
    }

    pub(super) fn add_join(&self, join: Arc<Join>) {
        locked(&self.joins).insert(join.name.clone(), join);
    }

    pub(super) fn end_join(&self, join: &Arc<Join>) {
        locked(&self.joins).remove(&join.name);
    }

    /// Whether something that nobody asked for may be tried now; the next time is later.
    pub(super) fn may_try(&self, wallet: WalletId, what: Unasked) -> bool {
        let now = Instant::now();
        let mut tries = locked(&self.tries);
        let (next, count) = tries.get(&(wallet, what)).copied().unwrap_or((now, 0));
        if now < next {
            return false;
        }
        let later = TRY_AGAIN * 2_u32.pow(count.min(TRY_AGAIN_DOUBLINGS));
        tries.insert((wallet, what), (now + later, count + 1));
        true
    }

    /// Looks after what ceremonies have left open, unless that is being done. Blocks.
    fn tend(self: &Arc<Self>) {
        if self.is_stopping() || self.tending.swap(true, Ordering::AcqRel) {
            return;
        }
        let _tending = Tending(&self.tending);
        if self.tended.fetch_add(1, Ordering::Relaxed).is_multiple_of(COMPARE_EVERY) {
            let members: BTreeSet<MemberId> =
                self.holdings().iter().flat_map(|holding| holding.others().collect::<Vec<_>>()).collect();
            members
                .into_iter()
                .filter(|member| self.is_online(member))
                .for_each(|member| lease::compare_marks(self, member));
        }
        keygen::resolve_pending(self);
        redeal::tend(self);
    }

    /// A member can be reached now.
    pub fn is_member_online(&self, member: &MemberId) -> bool {
        self.is_online(member)
    }

    pub(super) fn is_online(&self, member: &MemberId) -> bool {
        self.carrier.is_online(&peer_id_of(member.0))
    }

    /// A member that let a deadline pass and was not heard since.
    pub(super) fn is_suspect(&self, member: &MemberId) -> bool {
        locked(&self.suspects).contains(member)
    }

    pub(super) fn suspect(&self, member: MemberId) {
        locked(&self.suspects).insert(member);
    }

    pub(super) fn fresh_session(&self) -> SessionId {
        let mut id = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut id);
        SessionId(id)
    }

    pub(super) fn fresh_seed(&self) -> [u8; 32] {
        self.fresh_session().0
    }

    /// Signs, frames and queues one message. False if the member cannot be reached now.
    pub(super) fn send(&self, topic: &Topic, round: u16, to: MemberId, message: &Message) -> bool {
        let frame = match wire::seal(&self.identity, topic, round, to, message) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!(session = %topic.session, %to, %error, "message not sent");
                return false;
            }
        };
        match self.carrier.send(&peer_id_of(to.0), frame) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(session = %topic.session, %to, %error, "message not sent");
                false
            }
        }
    }

    /// A message of a session that goes on elsewhere; lost if the member cannot be reached.
    pub fn tell(&self, topic: &Topic, to: MemberId, message: &Message) -> bool {
        self.send(topic, 0, to, message)
    }

    pub(super) fn refuse(&self, topic: &Topic, to: MemberId, refusal: Refusal) {
        tracing::info!(session = %topic.session, coordinator = %to, reason = %refusal, "request refused");
        self.send(topic, 0, to, &Message::Refuse(refusal));
    }

    /// What this member says of itself to a peer.
    pub(super) fn status(&self, asker: &MemberId) -> Status {
        let tip = self.chain.tip();
        let wallets = self
            .holdings()
            .iter()
            .filter(|holding| holding.index_of(asker).is_some())
            .map(|holding| WalletStatus {
                wallet: holding.wallet(),
                name: holding.name().to_owned(),
                epoch: holding.epoch(),
                locked: holding.share().is_none(),
                unconfirmed: holding.is_unconfirmed(),
                fenced: holding.is_fenced(),
                promised: redeal::promised(holding),
                marks: holding.marks(),
                yours: fence::of(holding, asker),
            })
            .collect();
        Status { version: wire::PROTOCOL_VERSION, tip_height: tip.height, tip: tip.hash, wallets }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Runs blocking work of this co-signer.
    pub(super) fn spawn(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let core = Arc::clone(self);
        let at_work = AtWork::new(&self.at_work);
        self.runtime.spawn_blocking(move || {
            let _at_work = at_work;
            work(&core);
        });
    }

    /// Ends all sessions and the event loop. Blocks for a few seconds at most.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.sessions.stop_all(None, STOP_PATIENCE);
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
        // Whoever opens the shares after this finds nobody else at them.
        let deadline = Instant::now() + STOP_PATIENCE;
        while self.at_work.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        locked(&self.holdings).clear();
        locked(&self.pending).clear();
        locked(&self.joins).clear();
    }

    /// Closes the share of a wallet that this member has left; its sessions end by themselves.
    pub(super) fn forget(&self, wallet: &WalletId) {
        let old = locked(&self.holdings).remove(wallet);
        old.iter().for_each(|old| old.nonces().clear());
    }

    /// Ends the sessions of one wallet and closes its share.
    pub fn release(&self, wallet: WalletId) {
        let holding = locked(&self.holdings).remove(&wallet);
        if let Some(holding) = holding {
            self.sessions.stop_all(Some(wallet), STOP_PATIENCE);
            holding.nonces().clear();
        }
    }

    /// The row of a session that this member starts.
    pub(super) fn session_info(&self, topic: &Topic, kind: SessionKind, coordinator: MemberId) -> SessionInfo {
        let now = self.chain.now();
        SessionInfo {
            id: topic.session,
            wallet: (topic.wallet != NO_WALLET).then_some(topic.wallet),
            kind,
            state: "starting",
            coordinator,
            signers: Vec::new(),
            txid: None,
            started: now,
            expires: now.saturating_add(self.signing_timeout.as_secs()),
            waiting_for: Vec::new(),
        }
    }

    /// A topic of a session about no wallet, or about one in its first epoch.
    pub(super) fn fresh_topic(&self, wallet: WalletId, epoch: Epoch) -> Topic {
        Topic { wallet, epoch, session: self.fresh_session() }
    }
}

/// Open ends are being looked after while this is there.
struct Tending<'a>(&'a AtomicBool);

impl Drop for Tending<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A name that no other ceremony may use meanwhile.
pub(super) struct ReservedName {
    core: Arc<Core>,
    name: String,
}

impl Drop for ReservedName {
    fn drop(&mut self) {
        locked(&self.core.names).remove(&self.name);
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::TooMany | OpenError::Stopping => Self::Busy,
            OpenError::Twice => Self::Malformed("the session exists already".to_owned()),
        }
    }
}
