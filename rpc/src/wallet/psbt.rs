//! PSBTs as text, of version 0 and of version 2.
//!
//! The `bitcoin` crate knows version 0 alone, so version 2 is turned into it and back, map by map: what a version 2
//! PSBT says of the transaction in separate fields is its unsigned transaction in version 0. Every other field passes
//! through untouched. Refuses other versions, and maps that do not fit. Source: BIP174, BIP370.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bitcoin::consensus::encode::{self, Decodable, Encodable, VarInt};
use bitcoin::psbt::Psbt;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, absolute, transaction};

use super::backend::{PsbtVersion, WalletHandle};
use crate::error::RpcError;

const MAGIC: &[u8] = b"psbt\xff";

const GLOBAL_UNSIGNED_TX: u8 = 0x00;
const GLOBAL_TX_VERSION: u8 = 0x02;
const GLOBAL_FALLBACK_LOCKTIME: u8 = 0x03;
const GLOBAL_INPUT_COUNT: u8 = 0x04;
const GLOBAL_OUTPUT_COUNT: u8 = 0x05;
const GLOBAL_TX_MODIFIABLE: u8 = 0x06;
const GLOBAL_VERSION: u8 = 0xfb;
const IN_PREVIOUS_TXID: u8 = 0x0e;
const IN_OUTPUT_INDEX: u8 = 0x0f;
const IN_SEQUENCE: u8 = 0x10;
const IN_REQUIRED_TIME: u8 = 0x11;
const IN_REQUIRED_HEIGHT: u8 = 0x12;
const OUT_AMOUNT: u8 = 0x03;
const OUT_SCRIPT: u8 = 0x04;

/// Inputs and outputs may still change.
const MODIFIABLE: u8 = 0b11;
/// More maps than any PSBT that fits in a request.
const MAX_MAPS: u64 = 100_000;

/// Why a text is no PSBT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("invalid base64")]
    Base64,
    #[error("the bytes do not start as a PSBT")]
    Magic,
    #[error("the PSBT ends too early")]
    Truncated,
    #[error("PSBT version {0} is not known")]
    Version(u32),
    #[error("a field of the PSBT is missing or malformed: {0}")]
    Field(&'static str),
    #[error("inputs require lock times of both kinds")]
    LockTimes,
    #[error("{0}")]
    Content(String),
}

/// The lock times an input of version 2 requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Required {
    time: Option<u32>,
    height: Option<u32>,
}

/// The version of a PSBT, with what version 0 cannot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Zero,
    Two { fallback_lock_time: Option<u32>, modifiable: Option<u8>, required: Vec<Required> },
}

impl Version {
    /// Version 2, as Core makes it from a transaction.
    pub(super) fn latest(psbt: &Psbt) -> Version {
        Version::Two {
            fallback_lock_time: Some(psbt.unsigned_tx.lock_time.to_consensus_u32()),
            modifiable: None,
            required: Vec::new(),
        }
    }

    /// What a caller named, else what the wallet is told.
    pub(super) fn chosen(named: Option<i64>, wallet: &dyn WalletHandle) -> Result<PsbtVersion, RpcError> {
        let Some(number) = named else { return Ok(wallet.settings().psbt_version) };
        PsbtVersion::numbered(number).ok_or_else(|| RpcError::invalid_parameter("The PSBT version can only be 2 or 0"))
    }

    pub(super) fn of_new(version: PsbtVersion, psbt: &Psbt) -> Version {
        match version {
            PsbtVersion::Zero => Version::Zero,
            PsbtVersion::Two => Version::latest(psbt),
        }
    }

    /// After signatures over all of it, inputs and outputs must stay.
    pub(super) fn fix_inputs_and_outputs(&mut self) {
        if let Version::Two { modifiable: Some(flags), .. } = self {
            *flags &= !MODIFIABLE;
        }
    }
}

/// Whether an input has been signed.
pub(super) fn has_signatures(psbt: &Psbt) -> bool {
    psbt.inputs.iter().any(|input| {
        input.final_script_sig.is_some()
            || input.final_script_witness.is_some()
            || !input.partial_sigs.is_empty()
            || input.tap_key_sig.is_some()
    })
}

/// Reads a PSBT in base64.
pub(super) fn decode(text: &str) -> Result<(Psbt, Version), DecodeError> {
    let bytes = STANDARD.decode(text).map_err(|_| DecodeError::Base64)?;
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
    let global = read_map(&mut rest)?;
    let version = match global.get(GLOBAL_VERSION) {
        Some(value) => number(value, "version")?,
        None => 0,
    };
    match version {
        0 => Ok((read_version_zero(&bytes)?, Version::Zero)),
        2 => read_version_two(global, rest),
        other => Err(DecodeError::Version(other)),
    }
}

/// Writes a PSBT in base64.
pub(super) fn encode(psbt: &Psbt, version: &Version) -> String {
    let bytes = psbt.serialize();
    let bytes = match version {
        Version::Zero => bytes,
        Version::Two { .. } => write_version_two(psbt, version, &bytes).unwrap_or(bytes),
    };
    STANDARD.encode(bytes)
}

fn read_version_zero(bytes: &[u8]) -> Result<Psbt, DecodeError> {
    Psbt::deserialize(bytes).map_err(|error| DecodeError::Content(error.to_string()))
}

fn read_version_two(mut global: Map, mut rest: &[u8]) -> Result<(Psbt, Version), DecodeError> {
    let tx_version: u32 = number(&global.need(GLOBAL_TX_VERSION, "transaction version")?, "transaction version")?;
    let fallback = global.take(GLOBAL_FALLBACK_LOCKTIME).map(|value| number(&value, "fallback lock time"));
    let fallback_lock_time = fallback.transpose()?;
    let modifiable = global.take(GLOBAL_TX_MODIFIABLE).and_then(|value| value.first().copied());
    let input_count = count(&global.need(GLOBAL_INPUT_COUNT, "input count")?)?;
    let output_count = count(&global.need(GLOBAL_OUTPUT_COUNT, "output count")?)?;
    global.take(GLOBAL_VERSION);
    let mut inputs = Vec::new();
    let mut outputs = Vec::new();
    let mut maps = Vec::new();
    let mut required = Vec::new();
    for _ in 0..input_count {
        let mut map = read_map(&mut rest)?;
        inputs.push(take_input(&mut map)?);
        required.push(take_required(&mut map)?);
        maps.push(map);
    }
    for _ in 0..output_count {
        let mut map = read_map(&mut rest)?;
        outputs.push(take_output(&mut map)?);
        maps.push(map);
    }
    if !rest.is_empty() {
        return Err(DecodeError::Field("extra data after the PSBT"));
    }
    let tx = Transaction {
        version: transaction::Version(i32::from_le_bytes(tx_version.to_le_bytes())),
        lock_time: absolute::LockTime::from_consensus(lock_time(&required, fallback_lock_time)?),
        input: inputs,
        output: outputs,
    };
    let psbt = rebuild(&tx, &global, &maps)?;
    Ok((psbt, Version::Two { fallback_lock_time, modifiable, required }))
}

/// The same PSBT in version 0, read by the library.
fn rebuild(tx: &Transaction, global: &Map, maps: &[Map]) -> Result<Psbt, DecodeError> {
    // A transaction without inputs would be written in the form with a witness; version 0 wants it plain.
    let mut plain = Vec::new();
    let writing = DecodeError::Field("unsigned transaction");
    let written = tx
        .version
        .consensus_encode(&mut plain)
        .and_then(|_| tx.input.consensus_encode(&mut plain))
        .and_then(|_| tx.output.consensus_encode(&mut plain))
        .and_then(|_| tx.lock_time.consensus_encode(&mut plain));
    written.map_err(|_| writing)?;
    let mut out = MAGIC.to_vec();
    write_pair(&[GLOBAL_UNSIGNED_TX], &plain, &mut out);
    global.write(&mut out);
    maps.iter().for_each(|map| map.write(&mut out));
    read_version_zero(&out)
}

fn take_input(map: &mut Map) -> Result<TxIn, DecodeError> {
    let txid = map.need(IN_PREVIOUS_TXID, "previous txid")?;
    let txid: Txid = encode::deserialize(&txid).map_err(|_| DecodeError::Field("previous txid"))?;
    let vout = number(&map.need(IN_OUTPUT_INDEX, "output index")?, "output index")?;
    let sequence = map.take(IN_SEQUENCE).map(|value| number(&value, "sequence")).transpose()?;
    Ok(TxIn {
        previous_output: OutPoint { txid, vout },
        script_sig: ScriptBuf::new(),
        sequence: sequence.map_or(Sequence::MAX, Sequence),
        witness: Witness::new(),
    })
}

fn take_required(map: &mut Map) -> Result<Required, DecodeError> {
    let time = map.take(IN_REQUIRED_TIME).map(|value| number(&value, "required time"));
    let height = map.take(IN_REQUIRED_HEIGHT).map(|value| number(&value, "required height"));
    Ok(Required { time: time.transpose()?, height: height.transpose()? })
}

fn take_output(map: &mut Map) -> Result<TxOut, DecodeError> {
    let value = map.need(OUT_AMOUNT, "amount")?;
    let value: u64 = encode::deserialize(&value).map_err(|_| DecodeError::Field("amount"))?;
    let script = map.need(OUT_SCRIPT, "script")?;
    Ok(TxOut { value: Amount::from_sat(value), script_pubkey: ScriptBuf::from_bytes(script) })
}

/// BIP370: the greatest lock time of a kind that all inputs with one can take, heights first.
fn lock_time(required: &[Required], fallback: Option<u32>) -> Result<u32, DecodeError> {
    let bound: Vec<&Required> = required.iter().filter(|one| one.time.is_some() || one.height.is_some()).collect();
    if bound.is_empty() {
        return Ok(fallback.unwrap_or(0));
    }
    let greatest = |kind: fn(&Required) -> Option<u32>| -> Option<u32> {
        let all: Option<Vec<u32>> = bound.iter().map(|one| kind(one)).collect();
        all.and_then(|all| all.into_iter().max())
    };
    greatest(|one| one.height).or_else(|| greatest(|one| one.time)).ok_or(DecodeError::LockTimes)
}

/// `None` only if the bytes are not what the library writes.
fn write_version_two(psbt: &Psbt, version: &Version, bytes: &[u8]) -> Option<Vec<u8>> {
    let Version::Two { fallback_lock_time, modifiable, required } = version else { return None };
    let tx = &psbt.unsigned_tx;
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut global = read_map(&mut rest).ok()?;
    global.take(GLOBAL_UNSIGNED_TX);
    global.take(GLOBAL_VERSION);
    global.put(GLOBAL_TX_VERSION, tx.version.0.to_le_bytes().to_vec());
    if let Some(fallback) = fallback_lock_time {
        global.put(GLOBAL_FALLBACK_LOCKTIME, fallback.to_le_bytes().to_vec());
    }
    global.put(GLOBAL_INPUT_COUNT, compact_size(tx.input.len()));
    global.put(GLOBAL_OUTPUT_COUNT, compact_size(tx.output.len()));
    if let Some(modifiable) = modifiable {
        global.put(GLOBAL_TX_MODIFIABLE, vec![*modifiable]);
    }
    global.put(GLOBAL_VERSION, 2_u32.to_le_bytes().to_vec());
    let mut out = MAGIC.to_vec();
    global.write(&mut out);
    for (index, input) in tx.input.iter().enumerate() {
        let mut map = read_map(&mut rest).ok()?;
        map.put(IN_PREVIOUS_TXID, encode::serialize(&input.previous_output.txid));
        map.put(IN_OUTPUT_INDEX, input.previous_output.vout.to_le_bytes().to_vec());
        map.put(IN_SEQUENCE, input.sequence.0.to_le_bytes().to_vec());
        let required = required.get(index).copied().unwrap_or_default();
        if let Some(time) = required.time {
            map.put(IN_REQUIRED_TIME, time.to_le_bytes().to_vec());
        }
        if let Some(height) = required.height {
            map.put(IN_REQUIRED_HEIGHT, height.to_le_bytes().to_vec());
        }
        map.write(&mut out);
    }
    for output in &tx.output {
        let mut map = read_map(&mut rest).ok()?;
        map.put(OUT_AMOUNT, output.value.to_sat().to_le_bytes().to_vec());
        map.put(OUT_SCRIPT, output.script_pubkey.to_bytes());
        map.write(&mut out);
    }
    Some(out)
}

// ---------------------------------------------------------------------------------------------------------------------
// Maps of keys and values

/// One map of a PSBT, in the order it was written.
#[derive(Clone, Debug, Default)]
struct Map {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Map {
    /// The value whose key is this type alone.
    fn get(&self, kind: u8) -> Option<&[u8]> {
        self.pairs.iter().find(|(key, _)| key.as_slice() == [kind]).map(|(_, value)| value.as_slice())
    }

    fn take(&mut self, kind: u8) -> Option<Vec<u8>> {
        let at = self.pairs.iter().position(|(key, _)| key.as_slice() == [kind])?;
        Some(self.pairs.remove(at).1)
    }

    fn need(&mut self, kind: u8, name: &'static str) -> Result<Vec<u8>, DecodeError> {
        self.take(kind).ok_or(DecodeError::Field(name))
    }

    fn put(&mut self, kind: u8, value: Vec<u8>) {
        self.pairs.push((vec![kind], value));
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.pairs.iter().for_each(|(key, value)| write_pair(key, value, out));
        out.push(0);
    }
}

fn write_pair(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for bytes in [key, value] {
        out.extend(compact_size(bytes.len()));
        out.extend_from_slice(bytes);
    }
}

fn compact_size(length: usize) -> Vec<u8> {
    encode::serialize(&VarInt::from(length))
}

fn read_map(rest: &mut &[u8]) -> Result<Map, DecodeError> {
    let mut map = Map::default();
    loop {
        let key = read_bytes(rest)?;
        if key.is_empty() {
            return Ok(map);
        }
        if map.pairs.iter().any(|(known, _)| *known == key) {
            return Err(DecodeError::Field("a key comes twice"));
        }
        let value = read_bytes(rest)?;
        map.pairs.push((key, value));
    }
}

fn read_bytes(rest: &mut &[u8]) -> Result<Vec<u8>, DecodeError> {
    let length = VarInt::consensus_decode(rest).map_err(|_| DecodeError::Truncated)?;
    let length = usize::try_from(length.0).map_err(|_| DecodeError::Truncated)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
    *rest = after;
    Ok(bytes.to_vec())
}

fn number(value: &[u8], name: &'static str) -> Result<u32, DecodeError> {
    <[u8; 4]>::try_from(value).map(u32::from_le_bytes).map_err(|_| DecodeError::Field(name))
}

fn count(value: &[u8]) -> Result<u64, DecodeError> {
    let count: VarInt = encode::deserialize(value).map_err(|_| DecodeError::Field("count"))?;
    if count.0 > MAX_MAPS { Err(DecodeError::Field("count")) } else { Ok(count.0) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bitcoin::hashes::Hash;

    fn unsigned(inputs: u32) -> Transaction {
        let input = |vout| TxIn {
            previous_output: OutPoint { txid: Txid::all_zeros(), vout },
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            ..TxIn::default()
        };
        Transaction {
            version: transaction::Version::TWO,
            lock_time: absolute::LockTime::from_consensus(7),
            input: (0..inputs).map(input).collect(),
            output: vec![TxOut { value: Amount::from_sat(5), script_pubkey: ScriptBuf::from_bytes(vec![0x51]) }],
        }
    }

    #[test]
    fn both_versions_survive_a_round_trip() {
        for inputs in [1, 3] {
            let psbt = Psbt::from_unsigned_tx(unsigned(inputs)).unwrap();
            for version in [Version::Zero, Version::latest(&psbt)] {
                let (read, read_version) = decode(&encode(&psbt, &version)).unwrap();
                assert_eq!(read, psbt);
                assert_eq!(encode(&read, &read_version), encode(&psbt, &version));
            }
        }
    }

    #[test]
    fn lock_times_follow_bip370() {
        let time = |time| Required { time: Some(time), height: None };
        let height = |height| Required { time: None, height: Some(height) };
        let both = Required { time: Some(1_700_000_000), height: Some(9) };
        for (required, fallback, expected) in [
            (vec![], None, Ok(0)),
            (vec![], Some(5), Ok(5)),
            (vec![Required::default()], Some(5), Ok(5)),
            (vec![height(3), height(8)], Some(5), Ok(8)),
            (vec![both, height(3)], None, Ok(9)),
            (vec![both, time(1_600_000_000)], None, Ok(1_700_000_000)),
            (vec![height(3), time(1_600_000_000)], None, Err(DecodeError::LockTimes)),
        ] {
            assert_eq!(lock_time(&required, fallback), expected, "{required:?}");
        }
    }

    #[test]
    fn signing_fixes_what_was_modifiable() {
        let mut version = Version::Two { fallback_lock_time: None, modifiable: Some(0b111), required: Vec::new() };
        version.fix_inputs_and_outputs();
        assert_eq!(version, Version::Two { fallback_lock_time: None, modifiable: Some(0b100), required: Vec::new() });
    }

    #[test]
    fn malformed_texts_are_refused() {
        let good = STANDARD.decode(encode(&Psbt::from_unsigned_tx(unsigned(1)).unwrap(), &Version::Zero)).unwrap();
        assert_eq!(decode("!"), Err(DecodeError::Base64));
        assert_eq!(decode("AAAA"), Err(DecodeError::Magic));
        for length in MAGIC.len()..good.len() {
            assert!(decode(&STANDARD.encode(good.get(..length).unwrap())).is_err(), "{length} bytes");
        }
    }
}
