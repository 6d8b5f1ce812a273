// What the node tells Rust: validation and mempool events, in Core's order, on Core's scheduler thread.
#ifndef KEYLESS_EVENTS_H
#define KEYLESS_EVENTS_H

#include "state.h"

#include <validationinterface.h>

namespace keyless {

class Events final : public CValidationInterface
{
protected:
    void ActiveTipChange(const CBlockIndex& tip, bool initial_download) override;
    void UpdatedBlockTip(const CBlockIndex* tip, const CBlockIndex* fork, bool initial_download) override;
    void TransactionAddedToMempool(const NewMempoolTransactionInfo& tx, uint64_t sequence) override;
    void TransactionRemovedFromMempool(const CTransactionRef& tx, MemPoolRemovalReason reason, uint64_t sequence) override;
    void BlockConnected(const kernel::ChainstateRole& role, const std::shared_ptr<const CBlock>& block, const CBlockIndex* index) override;
    void BlockDisconnected(const std::shared_ptr<const CBlock>& block, const CBlockIndex* index) override;
    void ChainStateFlushed(const kernel::ChainstateRole& role, const CBlockLocator& locator) override;
    void BlockChecked(const std::shared_ptr<const CBlock>& block, const BlockValidationState& state) override;
    void NewPoWValidBlock(const CBlockIndex* index, const std::shared_ptr<const CBlock>& block) override;
};

/** Header tip, start-up messages: they come by Core's user-interface signals. */
void ConnectInterfaceSignals();

} // namespace keyless

#endif // KEYLESS_EVENTS_H
