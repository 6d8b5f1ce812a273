//! What one member signs by itself, what it asks its operator about, and what it refuses.
//!
//! Owns the policy of one wallet on one member ([`Policy`]), the facts a decision rests on ([`Facts`]), and the book of
//! what was signed before ([`SpendBook`]). Pure: facts are handed in, a verdict comes out; time is the time of blocks.
//! Guards come first and bind every request; then the first rule whose conditions hold decides. Refuses whatever it
//! has no rule for, and whatever it cannot judge because a fact is missing.
//! Source: `adversary.md`, "what every co-signer checks", 2, 4, 5 and 6.

mod book;
mod rule;

use bitcoin::{Amount, Network, OutPoint, ScriptBuf, Txid};
use serde::{Deserialize, Serialize};

pub use book::{Reservation, SpendBook};
pub use rule::{Action, Conditions, Destination, DestinationError, Hours, Rule};

use crate::ids::MemberId;

/// Rules of one policy, rolling limits of one policy, destinations of one rule.
pub const MAX_RULES: usize = 64;
pub const MAX_LIMITS: usize = 8;
pub const MAX_DESTINATIONS: usize = 1_000;
/// Longest name of a rule, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Longest window of a rolling limit: a year.
pub const MAX_WINDOW_SECONDS: u64 = 366 * 24 * 60 * 60;
/// The fee cap of the policy that a regtest wallet begins with.
pub const REGTEST_MAX_FEE: Amount = Amount::from_sat(50 * 100_000_000);

/// At most so much in so long, by the time of blocks. Fees count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    #[serde(with = "bitcoin::amount::serde::as_sat")]
    pub amount: Amount,
    pub window_seconds: u64,
}

/// The policy of one wallet on one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// No transaction pays a higher fee.
    #[serde(with = "bitcoin::amount::serde::as_sat::opt")]
    pub max_fee: Option<Amount>,
    /// No transaction pays a higher rate, in satoshi for 1,000 vbytes.
    pub max_fee_rate_sat_kvb: Option<u64>,
    /// What may leave in a time, whatever rule decides.
    pub limits: Vec<Limit>,
    /// Sighash types other than DEFAULT and ALL.
    pub any_sighash: bool,
    /// Coins that this member's own chain and mempool do not know: believe what the request says of them.
    pub unknown_prevouts: bool,
    /// The transaction must pass the mempool's rules, its signatures aside.
    pub test_acceptance: bool,
    /// A coin that was signed for may be signed for other recipients.
    pub resign: bool,
    /// Texts (`signmessage`) go through the rules too; without this none is signed.
    pub messages: bool,
    /// Sign only when the chain is current: not in initial download, and with a tip no older than this.
    pub max_tip_age_seconds: Option<u64>,
    /// The first that fits decides.
    pub rules: Vec<Rule>,
}

/// What is known of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spend {
    pub txid: Txid,
    /// All coins it spends.
    pub inputs: Vec<OutPoint>,
    /// All outputs that are not proven change.
    pub recipients: Vec<(ScriptBuf, Amount)>,
    /// None unless every spent coin is known.
    pub fee: Option<Amount>,
    /// Virtual size with its signatures; none where it is not known.
    pub vsize: Option<u64>,
    /// An input whose sighash type is neither DEFAULT nor ALL.
    pub odd_sighash: Option<u32>,
    /// An input whose coin this member's node does not know.
    pub unknown_prevout: Option<u32>,
}

impl Spend {
    /// The sum of what is no change.
    pub fn amount(&self) -> Amount {
        self.recipients.iter().map(|(_, amount)| *amount).fold(Amount::ZERO, saturating)
    }

    /// What leaves the wallet at most, for limits: payments and fee.
    pub fn outflow(&self) -> Option<Amount> {
        Some(saturating(self.amount(), self.fee?))
    }
}

fn saturating(one: Amount, other: Amount) -> Amount {
    one.checked_add(other).unwrap_or(Amount::MAX)
}

/// What is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Transaction(Spend),
    Message,
}

/// Everything a decision rests on. What is `None` is not known, and a guard or condition that needs it denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// H(wallet, transaction, idempotency key).
    pub request: [u8; 32],
    pub coordinator: MemberId,
    pub subject: Subject,
    /// Median time past of the tip.
    pub block_time: Option<u64>,
    /// Seconds since the tip's block; none in initial download.
    pub tip_age_seconds: Option<u64>,
    /// Seconds since midnight, UTC.
    pub time_of_day: Option<u32>,
}

/// What a policy says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Sign { rule: String },
    Ask { rule: String },
    Refuse(Denial),
}

/// Why a policy refuses, as it travels and as operators read it. Amounts in satoshi.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Denial {
    #[error("it has no signing policy for this wallet (setsigningpolicy)")]
    NoPolicy,
    #[error("the fee of {fee} sat is above its cap of {cap} sat")]
    Fee { fee: u64, cap: u64 },
    #[error("the fee rate of {rate} sat/kvB is above its cap of {cap} sat/kvB")]
    FeeRate { rate: u64, cap: u64 },
    #[error("{what} is not known to it, and its policy needs it")]
    Missing { what: String },
    #[error("{total} sat would leave within {seconds} s, above its limit of {limit} sat")]
    Limit { total: u64, limit: u64, seconds: u64 },
    #[error("input {0} has a sighash type other than DEFAULT and ALL")]
    Sighash(u32),
    #[error("its node does not know the output that input {0} spends")]
    UnknownPrevout(u32),
    #[error("it has signed {0} before, for other recipients")]
    Resign(String),
    #[error("its policy signs no messages")]
    Messages,
    #[error("its chain is not current")]
    NotCurrent,
    #[error("no rule of its policy allows this")]
    NoRule,
    #[error("its policy refuses this by the rule \"{0}\"")]
    Rule(String),
    #[error("its operator rejected this{}", if .0.is_empty() { String::new() } else { format!(": {}", .0) })]
    Rejected(String),
}

/// Why a policy cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("more than {0} rules")]
    Rules(usize),
    #[error("more than {0} limits")]
    Limits(usize),
    #[error("the window of a limit is between 1 second and {0} seconds")]
    Window(u64),
    #[error("two rules are named \"{0}\"")]
    NameTwice(String),
    #[error("the name of a rule has 1 to {0} bytes")]
    Name(usize),
    #[error("rule \"{0}\" has more than {1} destinations")]
    Destinations(String, usize),
    #[error("rule \"{0}\": an hour of the day is between 00:00 and 24:00")]
    Hours(String),
}

impl Policy {
    /// The policy of a wallet whose operator has set none: on regtest, sign within the fee cap; elsewhere there is none.
    pub fn default_of(network: Network) -> Option<Self> {
        (network == Network::Regtest).then(|| Self {
            max_fee: Some(REGTEST_MAX_FEE),
            max_fee_rate_sat_kvb: None,
            limits: Vec::new(),
            any_sighash: true,
            unknown_prevouts: true,
            test_acceptance: false,
            resign: true,
            messages: true,
            max_tip_age_seconds: None,
            rules: vec![Rule { name: "default".to_owned(), conditions: Conditions::default(), action: Action::Sign }],
        })
    }

    /// What a policy starts from that names neither guard nor rule: everything strict, nothing allowed.
    pub fn strict() -> Self {
        Self {
            max_fee: Some(Amount::from_sat(10_000_000)),
            max_fee_rate_sat_kvb: Some(1_000_000),
            limits: Vec::new(),
            any_sighash: false,
            unknown_prevouts: false,
            test_acceptance: true,
            resign: false,
            messages: false,
            max_tip_age_seconds: Some(24 * 60 * 60),
            rules: Vec::new(),
        }
    }

    /// Whether it may be set.
    ///
    /// # Errors
    /// Names the first thing that is out of bounds.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.rules.len() > MAX_RULES {
            return Err(PolicyError::Rules(MAX_RULES));
        }
        if self.limits.len() > MAX_LIMITS {
            return Err(PolicyError::Limits(MAX_LIMITS));
        }
        if self.all_limits().any(|limit| limit.window_seconds == 0 || limit.window_seconds > MAX_WINDOW_SECONDS) {
            return Err(PolicyError::Window(MAX_WINDOW_SECONDS));
        }
        for (position, rule) in self.rules.iter().enumerate() {
            if rule.name.is_empty() || rule.name.len() > MAX_NAME_BYTES {
                return Err(PolicyError::Name(MAX_NAME_BYTES));
            }
            if self.rules.iter().take(position).any(|other| other.name == rule.name) {
                return Err(PolicyError::NameTwice(rule.name.clone()));
            }
            if rule.conditions.recipients.as_ref().is_some_and(|list| list.len() > MAX_DESTINATIONS) {
                return Err(PolicyError::Destinations(rule.name.clone(), MAX_DESTINATIONS));
            }
            if rule.conditions.hours.is_some_and(|hours| !hours.is_valid()) {
                return Err(PolicyError::Hours(rule.name.clone()));
            }
        }
        Ok(())
    }

    fn all_limits(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().chain(self.rules.iter().filter_map(|rule| rule.conditions.limit.as_ref()))
    }

    /// How long the book must remember, in seconds; none if it need not.
    pub fn memory_seconds(&self) -> Option<u64> {
        let longest = self.all_limits().map(|limit| limit.window_seconds).max();
        if self.resign { longest } else { Some(MAX_WINDOW_SECONDS) }
    }

    /// The verdict on a request, given what was signed before.
    pub fn judge(&self, facts: &Facts, book: &SpendBook) -> Verdict {
        if let Err(denial) = self.guard(facts, book) {
            return Verdict::Refuse(denial);
        }
        for rule in &self.rules {
            match rule.fits(facts, book) {
                Ok(false) => {}
                Err(what) => return Verdict::Refuse(Denial::Missing { what: what.to_owned() }),
                Ok(true) => {
                    return match rule.action {
                        Action::Sign => Verdict::Sign { rule: rule.name.clone() },
                        Action::Ask => Verdict::Ask { rule: rule.name.clone() },
                        Action::Refuse => Verdict::Refuse(Denial::Rule(rule.name.clone())),
                    };
                }
            }
        }
        Verdict::Refuse(Denial::NoRule)
    }

    fn guard(&self, facts: &Facts, book: &SpendBook) -> Result<(), Denial> {
        if let Some(oldest) = self.max_tip_age_seconds
            && facts.tip_age_seconds.is_none_or(|age| age > oldest)
        {
            return Err(Denial::NotCurrent);
        }
        let spend = match &facts.subject {
            Subject::Message if self.messages => return Ok(()),
            Subject::Message => return Err(Denial::Messages),
            Subject::Transaction(spend) => spend,
        };
        if let Some(input) = spend.unknown_prevout.filter(|_| !self.unknown_prevouts) {
            return Err(Denial::UnknownPrevout(input));
        }
        if let Some(input) = spend.odd_sighash.filter(|_| !self.any_sighash) {
            return Err(Denial::Sighash(input));
        }
        self.guard_fees(spend)?;
        if !self.resign
            && let Some(coin) = book.signed_for_others(&facts.request, spend)
        {
            return Err(Denial::Resign(coin.to_string()));
        }
        for limit in &self.limits {
            let total =
                book.total_with(facts, spend, limit).map_err(|what| Denial::Missing { what: what.to_owned() })?;
            if total > limit.amount {
                let (total, limit_sat) = (total.to_sat(), limit.amount.to_sat());
                return Err(Denial::Limit { total, limit: limit_sat, seconds: limit.window_seconds });
            }
        }
        Ok(())
    }

    fn guard_fees(&self, spend: &Spend) -> Result<(), Denial> {
        if self.max_fee.is_none() && self.max_fee_rate_sat_kvb.is_none() {
            return Ok(());
        }
        let fee = match spend.fee {
            Some(fee) => fee,
            // What the operator lets pass unknown cannot be measured either.
            None if self.unknown_prevouts => return Ok(()),
            None => return Err(Denial::Missing { what: "the fee".to_owned() }),
        };
        if let Some(cap) = self.max_fee.filter(|cap| fee > *cap) {
            return Err(Denial::Fee { fee: fee.to_sat(), cap: cap.to_sat() });
        }
        if let Some(cap) = self.max_fee_rate_sat_kvb {
            let vsize = spend.vsize.filter(|vsize| *vsize > 0);
            let vsize = vsize.ok_or_else(|| Denial::Missing { what: "the size of the transaction".to_owned() })?;
            let rate = fee.to_sat().saturating_mul(1_000) / vsize;
            if rate > cap {
                return Err(Denial::FeeRate { rate, cap });
            }
        }
        Ok(())
    }
}

/// What a limit of one member is worth when f of n members follow no limit at all, threshold t: this many times itself.
/// None where f alone reach the threshold.
pub fn limit_factor(members: u8, threshold: u8, compromised: u8) -> Option<u32> {
    let honest = members.checked_sub(compromised)?;
    let needed = threshold.checked_sub(compromised).filter(|needed| *needed > 0)?;
    Some(u32::from(honest / needed))
}

#[cfg(test)]
mod tests;
