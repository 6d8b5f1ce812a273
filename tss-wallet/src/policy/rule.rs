//! Rules: conditions, and what follows when all of them hold.

use std::collections::BTreeSet;

use bitcoin::{Address, Amount, Network, Script, ScriptBuf};
use miniscript::{Descriptor, DescriptorPublicKey, ForEachKey};
use serde::{Deserialize, Serialize};

use super::{Facts, Limit, SpendBook, Subject};
use crate::ids::MemberId;

/// Scripts of a ranged descriptor that an allow-list covers, from index 0.
pub const DESCRIPTOR_WINDOW: u32 = 1_000;

/// What follows when a rule fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Sign,
    /// The operator decides.
    Ask,
    Refuse,
}

/// A part of the day, UTC. A range that ends before it begins goes over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    pub from_minute: u16,
    pub to_minute: u16,
}

const MINUTES_OF_DAY: u16 = 24 * 60;

impl Hours {
    pub(super) fn is_valid(self) -> bool {
        self.from_minute < MINUTES_OF_DAY && self.to_minute <= MINUTES_OF_DAY && self.from_minute != self.to_minute
    }

    fn hold(self, time_of_day: u32) -> bool {
        let minute = time_of_day / 60;
        let (from, to) = (u32::from(self.from_minute), u32::from(self.to_minute));
        if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }
}

/// Why a destination cannot stand in an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    #[error("\"{0}\" is neither an address of this network nor a descriptor")]
    Neither(String),
    #[error("the descriptor \"{0}\" has hardened steps after its key, which nobody but its owner can derive")]
    Hardened(String),
    #[error("the descriptor \"{0}\" cannot be derived")]
    Underivable(String),
}

/// Whom a rule lets be paid: an address, or all scripts of a descriptor in its window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// As the operator wrote it.
    pub text: String,
    scripts: BTreeSet<ScriptBuf>,
}

impl Destination {
    /// Reads an address of this network, or a descriptor.
    ///
    /// # Errors
    /// Fails for what is neither, and for descriptors whose scripts cannot be derived here.
    pub fn parse(text: &str, network: Network) -> Result<Self, DestinationError> {
        if let Ok(address) = text.parse::<Address<_>>()
            && let Ok(address) = address.require_network(network)
        {
            return Ok(Self { text: text.to_owned(), scripts: BTreeSet::from([address.script_pubkey()]) });
        }
        let parsed = text.parse::<Descriptor<DescriptorPublicKey>>();
        let descriptor = parsed.map_err(|_| DestinationError::Neither(text.to_owned()))?;
        if descriptor.for_any_key(DescriptorPublicKey::has_hardened_step) {
            return Err(DestinationError::Hardened(text.to_owned()));
        }
        let underivable = || DestinationError::Underivable(text.to_owned());
        let count = if descriptor.has_wildcard() { DESCRIPTOR_WINDOW } else { 1 };
        let singles = descriptor.into_single_descriptors().map_err(|_| underivable())?;
        let mut scripts = BTreeSet::new();
        for single in &singles {
            for index in 0..count {
                let definite = single.at_derivation_index(index).map_err(|_| underivable())?;
                scripts.insert(definite.script_pubkey());
            }
        }
        Ok(Self { text: text.to_owned(), scripts })
    }

    fn covers(&self, script: &Script) -> bool {
        self.scripts.contains(script)
    }
}

/// All that is set must hold. A condition on payments never holds for a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// The payments sum up to no more.
    #[serde(with = "bitcoin::amount::serde::as_sat::opt")]
    pub max_amount: Option<Amount>,
    /// Every payment goes to one of these.
    pub recipients: Option<Vec<Destination>>,
    /// One of these asks.
    pub coordinators: Option<BTreeSet<MemberId>>,
    pub hours: Option<Hours>,
    /// With this request, no more has left in the window.
    pub limit: Option<Limit>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub name: String,
    pub conditions: Conditions,
    pub action: Action,
}

impl Rule {
    /// Whether all conditions hold; the error names what is not known.
    pub(super) fn fits(&self, facts: &Facts, book: &SpendBook) -> Result<bool, &'static str> {
        let Conditions { max_amount, recipients, coordinators, hours, limit } = &self.conditions;
        if coordinators.as_ref().is_some_and(|list| !list.contains(&facts.coordinator)) {
            return Ok(false);
        }
        if let Some(hours) = hours
            && !hours.hold(facts.time_of_day.ok_or("the time of day")?)
        {
            return Ok(false);
        }
        let spend = match &facts.subject {
            Subject::Transaction(spend) => spend,
            Subject::Message => return Ok(max_amount.is_none() && recipients.is_none() && limit.is_none()),
        };
        if max_amount.is_some_and(|most| spend.amount() > most) {
            return Ok(false);
        }
        if let Some(list) = recipients
            && !spend.recipients.iter().all(|(script, _)| list.iter().any(|allowed| allowed.covers(script)))
        {
            return Ok(false);
        }
        match limit {
            Some(limit) => Ok(book.total_with(facts, spend, limit)? <= limit.amount),
            None => Ok(true),
        }
    }
}
