//! The topics, and the body that each makes of an event.
//!
//! Source: Core's `doc/zmq.md`. Hashes are in the order in which RPC shows them.

use std::borrow::Cow;

use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, Transaction, Txid};

/// What can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    HashBlock,
    HashTx,
    RawBlock,
    RawTx,
    Sequence,
    /// Ours.
    PendingApproval,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The tip, and its block in consensus encoding if it is at hand.
    Tip {
        hash: BlockHash,
        block: Option<&'a [u8]>,
    },
    /// In the mempool, in a block that was connected, or in one that was disconnected.
    Transaction {
        transaction: &'a Transaction,
        txid: Txid,
    },
    Connected(BlockHash),
    Disconnected(BlockHash),
    Added {
        txid: Txid,
        mempool_sequence: u64,
    },
    Removed {
        txid: Txid,
        mempool_sequence: u64,
    },
    ApprovalWanted {
        id: &'a str,
        body: &'a [u8],
    },
}

impl Topic {
    /// In the order in which their notifiers are told: Core's, by name, and ours.
    pub const ALL: [Self; 6] =
        [Self::HashBlock, Self::HashTx, Self::RawBlock, Self::RawTx, Self::Sequence, Self::PendingApproval];

    /// The first part of its messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::HashBlock => "hashblock",
            Self::HashTx => "hashtx",
            Self::RawBlock => "rawblock",
            Self::RawTx => "rawtx",
            Self::Sequence => "sequence",
            Self::PendingApproval => "pendingapproval",
        }
    }

    /// As `getzmqnotifications` calls it.
    pub fn kind(self) -> String {
        format!("pub{}", self.name())
    }

    /// The option that asks for it.
    pub fn option(self) -> String {
        format!("-zmq{}", self.kind())
    }

    /// The second part of the message; `None` if this topic is not about such an event.
    pub(super) fn body<'a>(self, event: &Event<'a>) -> Option<Cow<'a, [u8]>> {
        match (self, *event) {
            (Self::HashBlock, Event::Tip { hash, .. }) => Some(shown(hash.to_byte_array()).to_vec().into()),
            (Self::RawBlock, Event::Tip { block, .. }) => block.map(Cow::Borrowed),
            (Self::HashTx, Event::Transaction { txid, .. }) => Some(shown(txid.to_byte_array()).to_vec().into()),
            (Self::RawTx, Event::Transaction { transaction, .. }) => Some(serialize(transaction).into()),
            (Self::Sequence, Event::Connected(hash)) => Some(sequence(hash.to_byte_array(), b'C', None)),
            (Self::Sequence, Event::Disconnected(hash)) => Some(sequence(hash.to_byte_array(), b'D', None)),
            (Self::Sequence, Event::Added { txid, mempool_sequence }) => {
                Some(sequence(txid.to_byte_array(), b'A', Some(mempool_sequence)))
            }
            (Self::Sequence, Event::Removed { txid, mempool_sequence }) => {
                Some(sequence(txid.to_byte_array(), b'R', Some(mempool_sequence)))
            }
            (Self::PendingApproval, Event::ApprovalWanted { body, .. }) => Some(body.into()),
            _ => None,
        }
    }

    /// What is published, in Core's words for the log.
    pub(super) fn described(self, event: &Event<'_>) -> String {
        let name = self.name();
        match event {
            Event::Tip { hash, .. } => format!("{name} {hash}"),
            Event::Transaction { txid, .. } => format!("{name} {txid}"),
            Event::Connected(hash) => format!("sequence block connect {hash}"),
            Event::Disconnected(hash) => format!("sequence block disconnect {hash}"),
            Event::Added { txid, .. } => format!("hashtx mempool acceptance {txid}"),
            Event::Removed { txid, .. } => format!("hashtx mempool removal {txid}"),
            Event::ApprovalWanted { id, .. } => format!("{name} {id}"),
        }
    }
}

/// A hash as it is shown.
fn shown(mut hash: [u8; 32]) -> [u8; 32] {
    hash.reverse();
    hash
}

/// Hash, label, and what the mempool counts.
fn sequence(hash: [u8; 32], label: u8, mempool_sequence: Option<u64>) -> Cow<'static, [u8]> {
    let mut body = shown(hash).to_vec();
    body.push(label);
    body.extend(mempool_sequence.iter().flat_map(|sequence| sequence.to_le_bytes()));
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: &Event<'_>) -> Vec<(&'static str, Vec<u8>)> {
        Topic::ALL.iter().filter_map(|topic| Some((topic.name(), topic.body(event)?.into_owned()))).collect()
    }

    #[test]
    fn hashes_are_as_rpc_shows_them_and_each_event_has_its_topics() {
        let block = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
        let raw = serialize(&block);
        let hash = block.block_hash();
        let hash_bytes: [u8; 32] = bitcoin::hex::FromHex::from_hex(&hash.to_string()).unwrap();
        let tip = told(&Event::Tip { hash, block: Some(&raw) });
        assert_eq!(tip, [("hashblock", hash_bytes.to_vec()), ("rawblock", raw)]);
        assert_eq!(told(&Event::Tip { hash, block: None }).len(), 1, "a block that is not at hand is left out");

        let transaction = &block.txdata[0];
        let txid = transaction.compute_txid();
        let txid_bytes: [u8; 32] = bitcoin::hex::FromHex::from_hex(&txid.to_string()).unwrap();
        let tx = told(&Event::Transaction { transaction, txid });
        assert_eq!(tx, [("hashtx", txid_bytes.to_vec()), ("rawtx", serialize(transaction))]);

        let with = |hash: [u8; 32], rest: &[u8]| vec![("sequence", [hash.as_slice(), rest].concat())];
        assert_eq!(told(&Event::Connected(hash)), with(hash_bytes, b"C"));
        assert_eq!(told(&Event::Disconnected(hash)), with(hash_bytes, b"D"));
        let mempool_sequence = 0x0102;
        let counted = |label: u8| [&[label], [2, 1, 0, 0, 0, 0, 0, 0].as_slice()].concat();
        assert_eq!(told(&Event::Added { txid, mempool_sequence }), with(txid_bytes, &counted(b'A')));
        assert_eq!(told(&Event::Removed { txid, mempool_sequence }), with(txid_bytes, &counted(b'R')));
        let wanted = Event::ApprovalWanted { id: "00", body: b"{}" };
        assert_eq!(told(&wanted), [("pendingapproval", b"{}".to_vec())]);
    }
}
