//! `getutxos` (BIP64) and `spenttxouts`.

use bitcoin::consensus::encode::{VarInt, deserialize_partial, serialize};
use bitcoin::hex::FromHex;
use bitcoin::{OutPoint, ScriptBuf, TxOut};

use super::format::{Format, fail, reply};
use super::{Answer, ask, bytes_of, checked_hash, unexpected};
use crate::amount;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::server::http1::Response;

/// Most outpoints in one request.
const MAX_OUTPOINTS: usize = 15;
/// What Core says of a coin that is not in a block yet.
const MEMPOOL_HEIGHT: i64 = 0x7fff_ffff;

/// What is asked for.
struct Asked {
    mempool: bool,
    outpoints: Vec<OutPoint>,
}

fn in_path(path: &str) -> Result<Asked, Response> {
    let (mempool, rest) = match path.strip_prefix("checkmempool") {
        Some(rest) => (true, rest.trim_start_matches('/')),
        None => (false, path),
    };
    let mut outpoints = Vec::new();
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        let parsed = part.split_once('-').filter(|(_, vout)| vout.bytes().all(|byte| byte.is_ascii_digit()));
        let parsed = parsed.and_then(|(txid, vout)| Some(OutPoint::new(txid.parse().ok()?, vout.parse().ok()?)));
        outpoints.push(parsed.ok_or_else(|| fail(400, "Parse error"))?);
    }
    Ok(Asked { mempool, outpoints })
}

fn in_body(format: Option<Format>, body: &[u8]) -> Result<Asked, Response> {
    let decoded = match format {
        Some(Format::Hex) => Vec::from_hex(String::from_utf8_lossy(body).trim()).unwrap_or_default(),
        _ => body.to_vec(),
    };
    let parsed = decoded.split_first().and_then(|(mempool, rest)| {
        let (VarInt(count), used) = deserialize_partial(rest).ok()?;
        let mut rest = rest.get(used..)?;
        let mut outpoints = Vec::new();
        for _ in 0..count {
            let (outpoint, used) = deserialize_partial(rest).ok()?;
            outpoints.push(outpoint);
            rest = rest.get(used..)?;
        }
        Some(Asked { mempool: *mempool != 0, outpoints })
    });
    parsed.ok_or_else(|| fail(400, "Parse error"))
}

pub async fn answer(ctx: &Ctx, path: &str, format: Option<Format>, body: &[u8]) -> Answer {
    let empty = || fail(400, "Error: empty request");
    if path.is_empty() && body.is_empty() {
        return Err(empty());
    }
    let by_path = if path.is_empty() { None } else { Some(in_path(path)?) };
    if by_path.as_ref().is_some_and(|asked| asked.outpoints.is_empty()) {
        return Err(empty());
    }
    let asked = match (by_path, format) {
        (Some(_), Some(Format::Bin | Format::Hex)) if !body.is_empty() => {
            return Err(fail(400, "Combination of URI scheme inputs and raw post data is not allowed"));
        }
        (Some(asked), _) => asked,
        (None, Some(Format::Bin | Format::Hex)) => in_body(format, body)?,
        (None, Some(Format::Json)) => return Err(empty()),
        (None, None) => return reply(None, Vec::new()),
    };
    if asked.outpoints.len() > MAX_OUTPOINTS {
        let tried = asked.outpoints.len();
        return Err(fail(400, format!("Error: max outpoints exceeded (max: {MAX_OUTPOINTS}, tried: {tried})")));
    }
    let tip = ask(ctx, "getbestblockhash", "[]".into()).await.map_err(unexpected)?;
    let height = ask(ctx, "getblockcount", "[]".into()).await.map_err(unexpected)?.as_i64().unwrap_or(0);
    let mut coins = Vec::new();
    for at in &asked.outpoints {
        let params = format!("[\"{}\",{},{}]", at.txid, at.vout, asked.mempool);
        let coin = ask(ctx, "gettxout", params).await.map_err(unexpected)?;
        coins.push((!coin.is_null()).then_some(coin));
    }
    let height_of = |coin: &Value| match coin.member("confirmations").as_i64().unwrap_or(0) {
        0 => MEMPOOL_HEIGHT,
        depth => height - depth + 1,
    };
    if format == Some(Format::Json) {
        let bitmap: String = coins.iter().map(|coin| if coin.is_some() { '1' } else { '0' }).collect();
        let found = coins.iter().flatten().map(|coin| {
            let script = coin.member("scriptPubKey").clone();
            Value::obj()
                .with("height", height_of(coin))
                .with("value", coin.member("value").clone())
                .with("scriptPubKey", script)
        });
        let found = Value::arr(found);
        let out = Value::obj().with("chainHeight", height).with("chaintipHash", tip).with("bitmap", bitmap);
        return Ok(Response::json(200, out.with("utxos", found).compact()));
    }
    let mut raw = i32::try_from(height).unwrap_or(i32::MAX).to_le_bytes().to_vec();
    let mut hash = bytes_of(tip.val_str())?;
    hash.reverse();
    raw.extend(hash);
    let mut bitmap = vec![0_u8; coins.len().div_ceil(8)];
    for (n, _) in coins.iter().enumerate().filter(|(_, coin)| coin.is_some()) {
        if let Some(byte) = bitmap.get_mut(n / 8) {
            *byte |= 1 << (n % 8);
        }
    }
    raw.extend(serialize(&bitmap));
    raw.extend(serialize(&VarInt::from(coins.iter().flatten().count())));
    for coin in coins.iter().flatten() {
        raw.extend(0_u32.to_le_bytes());
        raw.extend(u32::try_from(height_of(coin)).unwrap_or(u32::MAX).to_le_bytes());
        raw.extend(serialize(&output(coin)?));
    }
    reply(format, raw)
}

/// `{value, scriptPubKey}` as it stands in a transaction.
fn output(coin: &Value) -> Result<TxOut, Response> {
    let value = amount::from_value(coin.member("value")).map_err(unexpected)?;
    let script = bytes_of(coin.member("scriptPubKey").member("hex").val_str())?;
    Ok(TxOut { value, script_pubkey: ScriptBuf::from_bytes(script) })
}

/// For each transaction of a block, the outputs it spent.
pub async fn spent(ctx: &Ctx, hash: &str, format: Option<Format>) -> Answer {
    if hash.contains('/') {
        return Err(fail(400, "Invalid URI format. Expected /rest/spenttxouts/<hash>.<ext>"));
    }
    checked_hash(hash)?;
    let refused = |_: RpcError| fail(404, format!("{hash} not found"));
    let block = ask(ctx, "getblock", format!("[\"{hash}\",3]")).await.map_err(refused)?;
    let mut all = Vec::new();
    for tx in block.member("tx").as_arr().unwrap_or_default() {
        let inputs = tx.member("vin").as_arr().unwrap_or_default();
        let coins: Vec<&Value> = inputs.iter().filter_map(|input| input.find("prevout")).collect();
        all.push(coins);
    }
    if format == Some(Format::Json) {
        let shown = |coin: &&Value| {
            let script = coin.member("scriptPubKey").clone();
            Value::obj().with("value", coin.member("value").clone()).with("scriptPubKey", script)
        };
        let out = Value::arr(all.iter().map(|coins| Value::arr(coins.iter().map(shown))));
        return Ok(Response::json(200, out.compact()));
    }
    let mut raw = serialize(&VarInt::from(all.len()));
    for coins in &all {
        raw.extend(serialize(&VarInt::from(coins.len())));
        for coin in coins {
            raw.extend(serialize(&output(coin)?));
        }
    }
    reply(format, raw)
}
