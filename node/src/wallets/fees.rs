//! Which fee rate a payment pays, and why. Source: Core's `wallet/fees.cpp`.

use bitcoin::Amount;
use keyless_rpc::error::RpcError;
use keyless_rpc::wallet::backend::{EstimateMode, FeeChoice, FeeReason};
use tss_wallet::wallet::spend::fees::FeeRate;

use super::chain_view::ChainView;
use super::options::WalletOptions;

/// The farthest target of the fee estimator, in blocks.
const HIGHEST_TARGET: u32 = 1008;

/// A rate, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    pub rate: FeeRate,
    pub reason: FeeReason,
}

fn per_kvb(rate: bitcoin::FeeRate) -> FeeRate {
    FeeRate(rate.to_sat_per_kwu().saturating_mul(4))
}

/// Core's `GetRequiredFeeRate`.
pub(super) fn required(options: &WalletOptions, chain: &dyn ChainView) -> FeeRate {
    options.min_fee.max(per_kvb(chain.relay_min_fee()))
}

/// Core's `GetMinimumFeeRate`, with the checks that `CreateTransaction` makes on its result.
pub(super) fn choose(options: &WalletOptions, chain: &dyn ChainView, choice: FeeChoice) -> Result<Chosen, RpcError> {
    let relay = per_kvb(chain.relay_min_fee());
    let required = options.min_fee.max(relay);
    match choice {
        FeeChoice::Rate { rate, override_min } => {
            let rate = FeeRate(rate.sat_per_kvb);
            if !override_min && rate < required {
                return Err(RpcError::wallet(format!(
                    "Fee rate ({rate}) is lower than the minimum fee rate setting ({required}).\n\
                     Consider modifying -mintxfee ({}) or -minrelaytxfee ({relay}).",
                    options.min_fee
                )));
            }
            Ok(Chosen { rate, reason: FeeReason::None })
        }
        FeeChoice::Estimate { target, mode } => {
            let target = target.map_or(options.confirm_target, u32::from);
            let mut chosen = estimate(options, chain, target, mode)?;
            if required > chosen.rate {
                chosen = Chosen { rate: required, reason: FeeReason::Required };
            }
            Ok(chosen)
        }
    }
}

fn estimate(
    options: &WalletOptions,
    chain: &dyn ChainView,
    target: u32,
    mode: EstimateMode,
) -> Result<Chosen, RpcError> {
    let conservative = mode == EstimateMode::Conservative;
    let mut chosen = match chain.estimate_fee(target, conservative) {
        Some(estimate) => Chosen {
            rate: per_kvb(estimate.fee_rate),
            reason: if conservative { FeeReason::Conservative } else { FeeReason::FullEstimate },
        },
        None => {
            let rate = options.fallback_fee.ok_or_else(|| {
                RpcError::wallet(
                    "Fee estimation failed. Fallbackfee is disabled. Wait a few blocks or enable -fallbackfee.",
                )
            })?;
            Chosen { rate, reason: FeeReason::Fallback }
        }
    };
    let floor = per_kvb(chain.mempool_min_fee());
    if chosen.rate < floor {
        chosen = Chosen { rate: floor, reason: FeeReason::MempoolMin };
    }
    Ok(chosen)
}

/// Core's `GetDiscardRate`.
pub(super) fn discard_rate(options: &WalletOptions, chain: &dyn ChainView) -> FeeRate {
    let estimated = chain.estimate_fee(HIGHEST_TARGET, false).map(|estimate| per_kvb(estimate.fee_rate));
    estimated.map_or(options.discard_fee, |rate| rate.min(options.discard_fee)).max(options.dust_relay_fee)
}

/// `-maxtxfee` as the most a transaction may pay.
pub(super) fn max_fee(options: &WalletOptions) -> Amount {
    options.max_tx_fee
}
