// Blocks and headers into and out of Core's validation, and Core's filter against low-work header chains.
#include "index_info.h"
#include "state.h"

#include <chain.h>
#include <chainparams.h>
#include <consensus/validation.h>
#include <headerssync.h>
#include <node/blockstorage.h>
#include <undo.h>
#include <validation.h>
#include <validationinterface.h>

#include <map>
#include <optional>

using namespace keyless;

namespace {

/** Hears Core's judgement of one block while it is processed. */
class Verdict final : public CValidationInterface
{
    const uint256 m_hash;

public:
    std::optional<BlockValidationState> state;
    explicit Verdict(const uint256& hash) : m_hash{hash} {}

protected:
    void BlockChecked(const std::shared_ptr<const CBlock>& block, const BlockValidationState& verdict) override
    {
        if (block->GetHash() == m_hash) state = verdict;
    }
};

std::vector<CBlockHeader> Headers(kl_in bytes)
{
    constexpr size_t HEADER_SIZE{80};
    if (bytes.len % HEADER_SIZE != 0) throw Refused{"headers have 80 bytes each"};
    std::vector<CBlockHeader> headers(bytes.len / HEADER_SIZE);
    SpanReader reader{View(bytes)};
    for (CBlockHeader& header : headers) reader >> header;
    return headers;
}

void WriteCoin(Writer& out, const Coin& coin)
{
    out.i64(coin.out.nValue);
    out.bytes(std::span{coin.out.scriptPubKey.data(), coin.out.scriptPubKey.size()});
    out.boolean(true);
    out.u32(coin.nHeight);
    out.boolean(coin.IsCoinBase());
}

struct HeaderSyncs {
    Mutex mutex;
    uint64_t next GUARDED_BY(mutex){1};
    std::map<uint64_t, std::unique_ptr<HeadersSyncState>> all GUARDED_BY(mutex);
};

HeaderSyncs& Syncs()
{
    static HeaderSyncs* const syncs{new HeaderSyncs};
    return *syncs;
}

} // namespace

kl_buf kl_process_headers(kl_in headers, int min_pow_checked)
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto list{Headers(headers)};
        BlockValidationState state;
        const CBlockIndex* last{nullptr};
        const bool accepted{call.chainman().ProcessNewBlockHeaders(list, min_pow_checked != 0, state, &last)};
        {
            LOCK(cs_main);
            out.boolean(last != nullptr);
            if (last) WriteInfo(out, *last, call.chainman().ActiveChain());
        }
        out.boolean(!accepted);
        if (!accepted) WriteVerdict(out, state);
    });
}

kl_buf kl_process_block(kl_in block, int force, int min_pow_checked)
{
    return Answer([&](Writer& out) {
        const Call call;
        auto decoded{std::make_shared<CBlock>()};
        // What follows a block in a message is ignored, as Core does.
        SpanReader{View(block)} >> TX_WITH_WITNESS(*decoded);
        auto verdict{std::make_shared<Verdict>(decoded->GetHash())};
        ValidationSignals& signals{*call.node().validation_signals};
        signals.RegisterSharedValidationInterface(verdict);
        bool is_new{false};
        const bool accepted{call.chainman().ProcessNewBlock(decoded, force != 0, min_pow_checked != 0, &is_new)};
        signals.UnregisterSharedValidationInterface(verdict);
        out.boolean(accepted);
        out.boolean(is_new);
        out.boolean(verdict->state.has_value());
        if (verdict->state) WriteVerdict(out, *verdict->state);
    });
}

kl_buf kl_read_block(kl_in hash)
{
    return Answer([&](Writer& out) {
        const Call call;
        node::BlockManager& blockman{call.chainman().m_blockman};
        FlatFilePos position;
        {
            LOCK(cs_main);
            const CBlockIndex* const index{blockman.LookupBlockIndex(Hash(hash))};
            if (index && (index->nStatus & BLOCK_HAVE_DATA)) position = index->GetBlockPos();
        }
        if (position.IsNull()) return out.boolean(false);
        const auto raw{blockman.ReadRawBlock(position)};
        if (!raw) {
            // Pruning may have been faster; anything else is an error.
            LOCK(cs_main);
            const CBlockIndex* const index{blockman.LookupBlockIndex(Hash(hash))};
            if (index && (index->nStatus & BLOCK_HAVE_DATA)) throw Refused{"Block not found on disk"};
            return out.boolean(false);
        }
        out.boolean(true);
        out.bytes(std::span<const std::byte>{*raw});
    });
}

kl_buf kl_read_undo(kl_in hash)
{
    return Answer([&](Writer& out) {
        const Call call;
        node::BlockManager& blockman{call.chainman().m_blockman};
        const CBlockIndex* const index{WITH_LOCK(cs_main, return blockman.LookupBlockIndex(Hash(hash)))};
        const bool stored{index && index->nHeight > 0 && WITH_LOCK(cs_main, return (index->nStatus & BLOCK_HAVE_UNDO) != 0)};
        CBlockUndo undo;
        const bool found{(index && index->nHeight == 0) || (stored && blockman.ReadBlockUndo(undo, *index))};
        out.boolean(found);
        if (!found) return;
        out.u32(static_cast<uint32_t>(undo.vtxundo.size()));
        for (const CTxUndo& tx : undo.vtxundo) {
            out.u32(static_cast<uint32_t>(tx.vprevout.size()));
            for (const Coin& coin : tx.vprevout) WriteCoin(out, coin);
        }
    });
}

kl_buf kl_hsync_new(kl_in start, kl_in min_work, int64_t peer)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CChainParams& params{Params()};
        const CBlockIndex* const index{WITH_LOCK(cs_main, return call.chainman().m_blockman.LookupBlockIndex(Hash(start)))};
        if (!index) throw Refused{"block not known"};
        auto sync{std::make_unique<HeadersSyncState>(peer, params.GetConsensus(), params.HeadersSync(), *index, UintToArith256(Hash(min_work)))};
        HeaderSyncs& syncs{Syncs()};
        LOCK(syncs.mutex);
        const uint64_t id{syncs.next++};
        syncs.all.emplace(id, std::move(sync));
        out.u64(id);
    });
}

kl_buf kl_hsync_process(uint64_t id, kl_in headers, int full)
{
    return Answer([&](Writer& out) {
        const Call call;
        const auto list{Headers(headers)};
        HeaderSyncs& syncs{Syncs()};
        LOCK(syncs.mutex);
        const auto found{syncs.all.find(id)};
        if (found == syncs.all.end()) throw Refused{"no such header sync"};
        // A finished sync may not be used again.
        if (found->second->GetState() == HeadersSyncState::State::FINAL) throw Refused{"this header sync is over"};
        const auto result{found->second->ProcessNextHeaders(list, full != 0)};
        out.boolean(result.success);
        out.boolean(result.request_more);
        out.u32(static_cast<uint32_t>(result.pow_validated_headers.size()));
        for (const CBlockHeader& header : result.pow_validated_headers) out.consensus(header);
    });
}

kl_buf kl_hsync_locator(uint64_t id)
{
    return Answer([&](Writer& out) {
        const Call call;
        HeaderSyncs& syncs{Syncs()};
        LOCK(syncs.mutex);
        const auto found{syncs.all.find(id)};
        if (found == syncs.all.end()) throw Refused{"no such header sync"};
        if (found->second->GetState() == HeadersSyncState::State::FINAL) throw Refused{"this header sync is over"};
        const CBlockLocator locator{found->second->NextHeadersRequestLocator()};
        out.u32(static_cast<uint32_t>(locator.vHave.size()));
        for (const uint256& entry : locator.vHave) out.hash(entry);
    });
}

void kl_hsync_free(uint64_t id)
{
    HeaderSyncs& syncs{Syncs()};
    LOCK(syncs.mutex);
    syncs.all.erase(id);
}
