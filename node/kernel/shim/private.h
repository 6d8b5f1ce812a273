// Transactions for `-privatebroadcast`, kept by Core's PrivateBroadcast. The connections they go by are Rust's.
#ifndef KEYLESS_PRIVATE_H
#define KEYLESS_PRIVATE_H

#include <node/types.h>
#include <primitives/transaction.h>
#include <private_broadcast.h>
#include <uint256.h>

#include <vector>

namespace keyless {

node::TransactionError BroadcastPrivately(const CTransactionRef& tx);
std::vector<PrivateBroadcast::TxBroadcastInfo> PrivateBroadcasts();
/** Forgets what has this txid or wtxid. */
std::vector<CTransactionRef> AbortPrivateBroadcasts(const uint256& id);

} // namespace keyless

#endif // KEYLESS_PRIVATE_H
