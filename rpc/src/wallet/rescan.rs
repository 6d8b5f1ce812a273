//! Looking through the blocks again.

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::table::RpcResult;

use super::select;

pub(super) async fn rescanblockchain(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    select::ensure_not_scanning(wallet.as_ref())?;
    select::ensure_unlocked(wallet.as_ref())?;
    let tip = i64::from(select::query(wallet.as_ref(), |ledger| ledger.tip().height)?);
    let bad = RpcError::invalid_parameter;
    let start = args.opt_int::<i32>(0)?.map_or(0, i64::from);
    if !(0..=tip).contains(&start) {
        return Err(bad("Invalid start_height"));
    }
    let stop = args.opt_int::<i32>(1)?.map(i64::from);
    if let Some(stop) = stop {
        if !(0..=tip).contains(&stop) {
            return Err(bad("Invalid stop_height"));
        }
        if stop < start {
            return Err(bad("stop_height must be greater than start_height"));
        }
    }
    let start = u32::try_from(start).map_err(|_| bad("Invalid start_height"))?;
    let stop = stop.and_then(|stop| u32::try_from(stop).ok());
    let scanned = wallet.rescan(start, stop).await?;
    let stop = scanned.stop.map_or(Value::Null, Value::from);
    Ok(Value::obj().with("start_height", scanned.start).with("stop_height", stop))
}

pub(super) async fn abortrescan(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    Ok(Value::Bool(wallet.abort_rescan()))
}
