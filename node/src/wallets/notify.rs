//! `-walletnotify`: a command of the operator for each transaction of a wallet that is new or changed.
//!
//! The words of the command are Core's: `%s` the txid, `%w` the wallet's name quoted for the shell, `%b` the hash of the
//! block or `unconfirmed`, `%h` its height or `-1`. Commands of one event run one after the other, beside the wallet.

use std::process::Command;

use tss_wallet::wallet::Wallet;
use tss_wallet::wallet::feed::Touched;

use super::loaded::Loaded;

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

impl Loaded {
    /// Tells the operator of what changed, if the operator wants to be told.
    pub(super) fn notify(&self, wallet: &Wallet, touched: &Touched) {
        let Some(template) = self.options.notify.as_ref().filter(|_| !touched.is_empty()) else { return };
        let commands: Vec<String> = touched
            .iter()
            .filter_map(|txid| wallet.ledger().get(txid))
            .map(|record| {
                let (block, height) = match record.confirmed() {
                    Some(position) => (position.hash.to_string(), position.height.to_string()),
                    None => ("unconfirmed".to_owned(), "-1".to_owned()),
                };
                let command = template.replace("%s", &record.txid.to_string());
                let command = command.replace("%b", &block).replace("%h", &height);
                // Last, for the name may hold anything.
                command.replace("%w", &quoted(&self.name))
            })
            .collect();
        let name = self.name.clone();
        let run = move || {
            for command in commands {
                match Command::new("/bin/sh").arg("-c").arg(&command).status() {
                    Ok(status) if status.success() => {}
                    Ok(status) => tracing::warn!(wallet = name, %status, "runCommand error: -walletnotify"),
                    Err(error) => tracing::warn!(wallet = name, %error, "runCommand error: -walletnotify"),
                }
            }
        };
        // Ends with its commands, which are the operator's.
        if let Err(error) = std::thread::Builder::new().name("walletnotify".to_owned()).spawn(run) {
            tracing::warn!(wallet = self.name, %error, "-walletnotify could not be run");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_for_the_shell() {
        assert_eq!(quoted("a'b $c"), "'a'\"'\"'b $c'");
    }
}
