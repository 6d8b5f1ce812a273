#include "events.h"

#include "flush.h"
#include "index_info.h"
#include "relay.h"

#include <chain.h>
#include <consensus/validation.h>
#include <deploymentstatus.h>
#include <kernel/mempool_entry.h>
#include <kernel/mempool_removal_reason.h>
#include <kernel/types.h>
#include <node/interface_ui.h>
#include <primitives/block.h>
#include <validation.h>

namespace keyless {

void Notify(Event event, const Writer& fields)
{
    State& state{TheState()};
    if (!state.notify) return;
    const auto view{fields.view()};
    state.notify(state.notify_ctx, static_cast<uint32_t>(event), view.data(), view.size());
}

namespace {

Writer BlockFields(const CBlock& block, const CBlockIndex& index)
{
    Writer out;
    out.hash(index.GetBlockHash());
    out.u32(static_cast<uint32_t>(index.nHeight));
    out.consensus(TX_WITH_WITNESS(block));
    return out;
}

} // namespace

void Events::ActiveTipChange(const CBlockIndex&, bool initial_download)
{
    if (!initial_download) RelayTipMoved();
}

void Events::UpdatedBlockTip(const CBlockIndex* tip, const CBlockIndex* fork, bool initial_download)
{
    TipMoved();
    Writer out;
    WriteTip(out, *tip);
    out.boolean(fork != nullptr);
    if (fork) out.hash(fork->GetBlockHash());
    out.boolean(initial_download);
    Notify(Event::TIP_CHANGED, out);
}

void Events::TransactionAddedToMempool(const NewMempoolTransactionInfo& tx, uint64_t sequence)
{
    Writer out;
    out.consensus(TX_WITH_WITNESS(*tx.info.m_tx));
    out.hash(tx.info.m_tx->GetHash());
    out.hash(tx.info.m_tx->GetWitnessHash());
    out.i64(tx.info.m_fee);
    out.u64(static_cast<uint64_t>(tx.info.m_virtual_transaction_size));
    out.u64(sequence);
    Notify(Event::TX_ADDED, out);
}

void Events::TransactionRemovedFromMempool(const CTransactionRef& tx, MemPoolRemovalReason reason, uint64_t sequence)
{
    Writer out;
    out.hash(tx->GetHash());
    out.hash(tx->GetWitnessHash());
    out.text(RemovalReasonToString(reason));
    out.u64(sequence);
    Notify(Event::TX_REMOVED, out);
}

void Events::BlockConnected(const kernel::ChainstateRole& role, const std::shared_ptr<const CBlock>& block, const CBlockIndex* index)
{
    const ChainstateManager* const chainman{TheState().node.chainman.get()};
    if (!role.historical && chainman && !chainman->IsInitialBlockDownload()) RelayBlockConnected(block);
    Writer out{BlockFields(*block, *index)};
    out.boolean(role.historical);
    Notify(Event::BLOCK_CONNECTED, out);
}

void Events::BlockDisconnected(const std::shared_ptr<const CBlock>& block, const CBlockIndex* index)
{
    RelayBlockDisconnected();
    Notify(Event::BLOCK_DISCONNECTED, BlockFields(*block, *index));
}

void Events::ChainStateFlushed(const kernel::ChainstateRole& role, const CBlockLocator& locator)
{
    if (locator.IsNull()) return;
    Writer out;
    out.hash(locator.vHave.front());
    out.boolean(role.historical);
    Notify(Event::CHAINSTATE_FLUSHED, out);
}

void Events::BlockChecked(const std::shared_ptr<const CBlock>& block, const BlockValidationState& state)
{
    Writer out;
    out.hash(block->GetHash());
    WriteVerdict(out, state);
    Notify(Event::BLOCK_CHECKED, out);
}

void Events::NewPoWValidBlock(const CBlockIndex* index, const std::shared_ptr<const CBlock>& block)
{
    const ChainstateManager* const chainman{TheState().node.chainman.get()};
    if (!chainman || !DeploymentActiveAt(*index, *chainman, Consensus::DEPLOYMENT_SEGWIT)) return;
    RelayNewBlock(block);
    Writer out;
    out.hash(index->GetBlockHash());
    out.u32(static_cast<uint32_t>(index->nHeight));
    Notify(Event::NEW_POW_VALID_BLOCK, out);
}

void ConnectInterfaceSignals()
{
    uiInterface.NotifyHeaderTip.connect([](SynchronizationState, int64_t height, int64_t time, bool presync) {
        Writer out;
        out.i64(height);
        out.i64(time);
        out.boolean(presync);
        Notify(Event::HEADER_TIP, out);
    });
    uiInterface.InitMessage.connect([](const std::string& message) {
        Writer out;
        out.text(message);
        Notify(Event::INIT_MESSAGE, out);
    });
}

} // namespace keyless
