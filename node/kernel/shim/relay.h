// Transactions that peers announce and send, by Core's TxDownloadManager, and what compact blocks are rebuilt from.
#ifndef KEYLESS_RELAY_H
#define KEYLESS_RELAY_H

#include "state.h"

#include <blockencodings.h>
#include <node/txorphanage.h>
#include <primitives/block.h>
#include <primitives/transaction.h>

#include <memory>
#include <utility>
#include <vector>

namespace keyless {

/** Made once the mempool is there, ended before it goes. */
void MakeRelay(CTxMemPool& pool, uint32_t max_extra_txs);
void EndRelay();

// What validation tells; no-ops while there is no relay.
void RelayTipMoved();
void RelayBlockConnected(const std::shared_ptr<const CBlock>& block);
void RelayBlockDisconnected();
void RelayNewBlock(const std::shared_ptr<const CBlock>& block);

std::vector<node::TxOrphanage::OrphanInfo> RelayOrphans();

/** Transactions that left or never entered the mempool, and may stand in the next block all the same. */
std::vector<std::pair<Wtxid, CTransactionRef>> RelayExtraTransactions();

/** The newest block that was worth announcing before its validation. */
struct NewestBlock {
    std::shared_ptr<const CBlock> block;
    std::shared_ptr<const CBlockHeaderAndShortTxIDs> compact;
};
NewestBlock RelayNewestBlock();

} // namespace keyless

#endif // KEYLESS_RELAY_H
