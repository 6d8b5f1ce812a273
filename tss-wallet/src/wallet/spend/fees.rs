//! Fee rates, sizes of signed inputs, dust: Core's arithmetic, in whole satoshi.
//!
//! The quorum's ECDSA signatures have a low S and a low R, so an input of ours is counted with 71 bytes of signature and
//! one of a wallet that only watches with 72, as Core does. A made transaction therefore never pays less than the rate
//! asked for. Source: Core's `policy/feerate.cpp`, `policy/policy.cpp`, `script/descriptor.cpp`.

use std::fmt;

use bitcoin::{Amount, Script, Transaction, TxOut, VarInt};

use crate::wallet::keychain::AddressType;

/// Weight of outpoint, sequence and script length of an input.
const INPUT_BASE_WEIGHT: u64 = (32 + 4 + 4 + 1) * 4;
/// Push of a 71-byte signature and of a key.
const SIGNATURE_AND_KEY: u64 = 1 + 71 + 1 + 33;

/// A fee rate in satoshi for 1,000 virtual bytes, the unit in which Core counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeeRate(pub u64);

impl FeeRate {
    /// The fee of a size, rounded up.
    pub fn fee(self, vbytes: u64) -> Amount {
        let fee = (u128::from(self.0) * u128::from(vbytes)).div_ceil(1000);
        Amount::from_sat(u64::try_from(fee).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for FeeRate {
    /// As Core shows it: `1.000 sat/vB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} sat/vB", self.0 / 1000, self.0 % 1000)
    }
}

/// The most an input of ours weighs once signed, in a transaction that has a witness.
pub const fn input_weight(address_type: AddressType) -> u64 {
    INPUT_BASE_WEIGHT
        + match address_type {
            AddressType::Legacy => SIGNATURE_AND_KEY * 4 + 1,
            AddressType::P2shSegwit => 23 * 4 + 1 + SIGNATURE_AND_KEY,
            AddressType::Bech32 => 1 + SIGNATURE_AND_KEY,
            // Core counts the sighash byte that the default leaves out.
            AddressType::Bech32m => 1 + 1 + 65,
        }
}

/// Weight in virtual bytes, rounded up.
pub const fn vbytes(weight: u64) -> u64 {
    weight.div_ceil(4)
}

/// Serialized size of an output, in bytes.
pub fn output_size(script: &Script) -> u64 {
    let length = u64::try_from(script.len()).unwrap_or(u64::MAX);
    8 + varint(length) + length
}

fn varint(value: u64) -> u64 {
    u64::try_from(VarInt(value).size()).unwrap_or(9)
}

/// The least an output of this script must hold to be worth its spending, at a rate.
pub fn dust_threshold(script: &Script, rate: FeeRate) -> Amount {
    if script.is_op_return() || script.len() > 10_000 {
        return Amount::ZERO;
    }
    let spending = if script.is_witness_program() { 32 + 4 + 1 + 107 / 4 + 4 } else { 32 + 4 + 1 + 107 + 4 };
    rate.fee(output_size(script) + spending)
}

pub fn is_dust(output: &TxOut, rate: FeeRate) -> bool {
    output.value < dust_threshold(&output.script_pubkey, rate)
}

/// Weight of a transaction with unsigned inputs, given what each input will weigh signed and whether any has a witness.
/// A legacy input's weight counts the one unit that its empty witness costs beside others' witnesses.
pub fn signed_weight(tx: &Transaction, inputs: &[(u64, bool)]) -> u64 {
    let segwit = inputs.iter().any(|(_, segwit)| *segwit);
    let outputs: u64 = tx.output.iter().map(|output| output_size(&output.script_pubkey)).sum();
    let count = |length: usize| varint(u64::try_from(length).unwrap_or(u64::MAX));
    let bare = (4 + 4 + count(inputs.len()) + count(tx.output.len()) + outputs) * 4;
    let of_inputs: u64 = inputs.iter().map(|(weight, _)| weight - u64::from(!segwit)).sum();
    bare + of_inputs + if segwit { 2 } else { 0 }
}

/// Core's `FormatMoney`: eight decimals, less trailing zeros beyond the second.
pub fn money(amount: Amount) -> String {
    let mut text = format!("{}.{:08}", amount.to_sat() / 100_000_000, amount.to_sat() % 100_000_000);
    while text.ends_with('0') && !text.get(text.len().saturating_sub(3)..).is_some_and(|end| end.starts_with('.')) {
        text.pop();
    }
    text
}
