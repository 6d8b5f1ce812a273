//! Refreshes that nobody asks for: `-refreshinterval`.
//!
//! The time counts from when this member noticed its present epoch. Members wait a little longer the higher their
//! index, so that one of them is first and the others find the work done.

use std::sync::Arc;
use std::time::Duration;

use super::super::core::{Core, Unasked};
use super::super::holding::Holding;
use super::super::wire::RedealKind;
use super::{Request, run};

/// Longest head start of a member before the next one.
const HEAD_START: Duration = Duration::from_secs(60);

/// Refreshes the shares of a wallet if it is time. Blocks.
pub(super) fn refresh_when_due(core: &Arc<Core>, holding: &Arc<Holding>) {
    let Some(interval) = core.policy().refresh_interval else { return };
    let since = match holding.dealt_at(core.chain().now()) {
        Ok(since) => since,
        Err(error) => {
            return tracing::error!(wallet = holding.name(), %error, "the time of the last refresh is unknown");
        }
    };
    let head_start = HEAD_START.min(interval / 4) * u32::try_from(holding.me().position()).unwrap_or(0);
    let due = since.saturating_add((interval + head_start).as_secs());
    if core.chain().now() < due || holding.share().is_none() || holding.later_epoch().is_some() {
        return;
    }
    if !core.may_try(holding.wallet(), Unasked::Refresh) {
        return;
    }
    let request = Request { kind: RedealKind::Refresh, roster: holding.public().roster.clone() };
    match run(core, holding, &request) {
        Ok(done) => tracing::info!(wallet = holding.name(), epoch = %done.keys.epoch, "shares refreshed as scheduled"),
        Err(error) => {
            tracing::warn!(wallet = holding.name(), %error, "the scheduled refresh failed; trying again later")
        }
    }
}
