//! What Prometheus reads of this node: counters that run along, and gauges that are taken when it asks.
//!
//! Owns the one registry of the process, like the log. Names begin with `keyless_`; times are in seconds. Refuses labels
//! that a peer could choose: cardinality is bounded by the kinds in the code and the wallets and members of this node.

use std::sync::atomic::AtomicU64;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of the buckets of signing times, in seconds.
const SIGNING_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];

/// One name with its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label(pub &'static str, pub String);

impl EncodeLabelSet for Label {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        (self.0, self.1.as_str()).encode(encoder.encode_label())
    }
}

type Counters = Family<Label, Counter>;
type Gauges = Family<Label, Gauge>;
/// Whole seconds, bytes and counts fit `i64`; rates come from the reader.
type Whole = Gauge<i64, std::sync::atomic::AtomicI64>;

/// All of them.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Signatures that this node coordinated, by `result`.
    signings: Counters,
    signing_seconds: Histogram,
    /// Requests of other members, by `decision`.
    decisions: Counters,
    /// Accusations, by `kind`.
    blames: Counters,
    /// Requests dropped because a member sent too many.
    dropped: Counter<u64, AtomicU64>,
    members_online: Gauges,
    members: Gauges,
    sessions: Whole,
    approvals_pending: Gauges,
    addresses_ready: Gauges,
    audit_entries: Gauges,
    epoch: Gauges,
    chain_height: Whole,
    chain_lag_seconds: Whole,
}

/// What is read when Prometheus asks.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub height: u32,
    /// Seconds since the tip's block.
    pub lag_seconds: u64,
    pub sessions: usize,
    pub wallets: Vec<WalletSnapshot>,
}

/// One wallet of it.
#[derive(Debug, Clone, Default)]
pub struct WalletSnapshot {
    pub name: String,
    pub members: usize,
    pub online: usize,
    pub epoch: u32,
    pub approvals_pending: usize,
    pub addresses_ready: u64,
    pub audit_entries: u64,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

fn whole(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

impl Metrics {
    fn new() -> Self {
        let all = Self {
            registry: Mutex::new(Registry::with_prefix("keyless")),
            signings: Counters::default(),
            signing_seconds: Histogram::new(SIGNING_SECONDS),
            decisions: Counters::default(),
            blames: Counters::default(),
            dropped: Counter::default(),
            members_online: Gauges::default(),
            members: Gauges::default(),
            sessions: Whole::default(),
            approvals_pending: Gauges::default(),
            addresses_ready: Gauges::default(),
            audit_entries: Gauges::default(),
            epoch: Gauges::default(),
            chain_height: Whole::default(),
            chain_lag_seconds: Whole::default(),
        };
        all.register();
        all
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("signings", "Signatures coordinated by this node", self.signings.clone());
        registry.register("signing_seconds", "How long they took", self.signing_seconds.clone());
        registry.register("decisions", "Answers of this member to requests", self.decisions.clone());
        registry.register("blames", "Accusations of other members", self.blames.clone());
        registry.register("requests_dropped", "Requests above a member's rate", self.dropped.clone());
        registry.register("members", "Members of the wallet's quorum", self.members.clone());
        registry.register("members_online", "Of these, connected; this one counts", self.members_online.clone());
        registry.register("sessions", "Open sessions", self.sessions.clone());
        registry.register("approvals_pending", "Requests that wait for this operator", self.approvals_pending.clone());
        registry.register("addresses_ready", "Confirmed addresses in the pools", self.addresses_ready.clone());
        registry.register("audit_entries", "Length of the audit log", self.audit_entries.clone());
        registry.register("epoch", "Epoch of the wallet's shares", self.epoch.clone());
        registry.register("chain_height", "Height of the tip", self.chain_height.clone());
        registry.register("chain_lag_seconds", "Age of the tip's block", self.chain_lag_seconds.clone());
    }

    pub fn signing(&self, result: &'static str, took: Duration) {
        self.signings.get_or_create(&Label("result", result.to_owned())).inc();
        if result == "signed" {
            self.signing_seconds.observe(took.as_secs_f64());
        }
    }

    pub fn decision(&self, decision: &'static str) {
        self.decisions.get_or_create(&Label("decision", decision.to_owned())).inc();
    }

    pub fn blame(&self, kind: &str) {
        self.blames.get_or_create(&Label("kind", kind.to_owned())).inc();
    }

    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, now: &Snapshot) -> String {
        let per_wallet = [
            &self.members,
            &self.members_online,
            &self.approvals_pending,
            &self.addresses_ready,
            &self.audit_entries,
            &self.epoch,
        ];
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        per_wallet.iter().for_each(|family| family.clear());
        for wallet in &now.wallets {
            let set = |family: &Gauges, value: i64| {
                family.get_or_create(&Label("wallet", wallet.name.clone())).set(value);
            };
            set(&self.members, whole(wallet.members));
            set(&self.members_online, whole(wallet.online));
            set(&self.approvals_pending, whole(wallet.approvals_pending));
            set(&self.addresses_ready, whole(wallet.addresses_ready));
            set(&self.audit_entries, whole(wallet.audit_entries));
            set(&self.epoch, i64::from(wallet.epoch));
        }
        self.sessions.set(whole(now.sessions));
        self.chain_height.set(i64::from(now.height));
        self.chain_lag_seconds.set(whole(now.lag_seconds));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut out, &registry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_are_rendered_with_their_labels() {
        let metrics = Metrics::new();
        metrics.signing("signed", Duration::from_millis(30));
        metrics.signing("refused", Duration::from_millis(1));
        metrics.decision("refuse");
        metrics.blame("malformed");
        let wallet = WalletSnapshot { name: "w".to_owned(), members: 3, online: 2, ..WalletSnapshot::default() };
        let text = metrics.render(&Snapshot { height: 101, wallets: vec![wallet], ..Snapshot::default() });
        for line in [
            "keyless_signings_total{result=\"signed\"} 1",
            "keyless_signing_seconds_count 1",
            "keyless_signing_seconds_bucket{le=\"0.05\"} 1",
            "keyless_decisions_total{decision=\"refuse\"} 1",
            "keyless_blames_total{kind=\"malformed\"} 1",
            "keyless_members_online{wallet=\"w\"} 2",
            "keyless_chain_height 101",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing:\n{text}");
        }
        let later = metrics.render(&Snapshot::default());
        assert!(!later.contains("wallet=\"w\""), "an unloaded wallet is gone");
    }
}
