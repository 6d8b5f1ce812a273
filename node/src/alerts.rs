//! Telling this member's operator that a request waits: by ZMQ (`pendingapproval`), and by a webhook.
//!
//! Owns what is said: the row of `listpendingapprovals` with the wallet's name, once for each question, when it is opened.
//! Nothing here waits, and nothing that fails stops a signing: the question is on the disk, and the list shows it.

pub mod webhook;

use std::sync::Arc;

use bitcoin::Network;
use keyless_rpc::wallet::announced;
use keyless_rpc::wallet::backend::PendingApproval;

use self::webhook::Webhook;
use crate::publisher::Publisher;

/// Where questions are announced; by default nowhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Alerts(Option<Arc<Outlets>>);

struct Outlets {
    network: Network,
    publisher: Arc<Publisher>,
    webhook: Option<Webhook>,
}

impl std::fmt::Debug for Alerts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Alerts").field(&self.0.is_some()).finish()
    }
}

impl Alerts {
    pub fn new(network: Network, publisher: Arc<Publisher>, webhook: Option<Webhook>) -> Self {
        Self(Some(Arc::new(Outlets { network, publisher, webhook })))
    }

    /// Announces a question. `row` is only made if anybody listens.
    pub fn tell(&self, wallet: &str, row: impl FnOnce() -> Option<PendingApproval>) {
        let Some(outlets) = &self.0 else { return };
        if outlets.webhook.is_none() && outlets.publisher.is_silent() {
            return;
        }
        let Some(row) = row() else { return };
        let id = row.id.clone();
        let body = announced(wallet, row, outlets.network).into_bytes();
        outlets.publisher.approval_wanted(&id, &body);
        if let Some(webhook) = &outlets.webhook {
            webhook.post(id, body);
        }
    }

    /// Ends the webhook; what it has not sent within a moment is named in the log.
    pub async fn close(&self) {
        if let Some(webhook) = self.0.as_ref().and_then(|outlets| outlets.webhook.as_ref()) {
            webhook.close().await;
        }
    }
}
