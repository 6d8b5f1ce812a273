//! Work that goes on over a switch of epochs: members switch within moments of each other, and refuse each other's
//! epoch in between.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::error::QuorumError;
use super::holding::Holding;

/// How long members may be in different epochs before that is an error.
const PATIENCE: Duration = Duration::from_millis(1_500);
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Set by whoever was refused for being in another epoch than the one who refused.
#[derive(Default)]
pub struct OtherEpoch(Cell<bool>);

impl OtherEpoch {
    pub fn note(&self) {
        self.0.set(true);
    }
}

/// Does the work with the share of now; once more with the next one if it failed because others are in another epoch.
pub fn across<T>(
    core: &Core,
    holding: &Arc<Holding>,
    mut work: impl FnMut(&Holding, &OtherEpoch) -> Result<T, QuorumError>,
) -> Result<T, QuorumError> {
    let mut ends = None;
    loop {
        let present = core.holding(&holding.wallet()).unwrap_or_else(|| Arc::clone(holding));
        let other = OtherEpoch::default();
        match work(&present, &other) {
            Err(_) if other.0.get() && Instant::now() < *ends.get_or_insert_with(|| Instant::now() + PATIENCE) => {
                std::thread::sleep(LOOK_AGAIN);
            }
            result => return result,
        }
    }
}
