// Compact blocks (BIP152): made, rebuilt from the mempool, and completed.
#include "relay.h"

#include <blockencodings.h>
#include <chain.h>
#include <deploymentstatus.h>
#include <node/blockstorage.h>
#include <random.h>
#include <txmempool.h>
#include <validation.h>

#include <map>
#include <memory>
#include <utility>

using namespace keyless;

namespace {

constexpr uint8_t FILL_OK{0};
constexpr uint8_t FILL_INVALID{1};
constexpr uint8_t FILL_FAILED{2};
constexpr uint8_t FILL_AGAIN{3};

/** Blocks half there, by the peer they come from. The network bounds them: each is one of its block requests. */
struct Partials {
    Mutex mutex;
    std::map<std::pair<int64_t, uint256>, std::unique_ptr<PartiallyDownloadedBlock>> all GUARDED_BY(mutex);
};

Partials& ThePartials()
{
    static Partials* const partials{new Partials};
    return *partials;
}

uint8_t Code(ReadStatus status)
{
    switch (status) {
    case READ_STATUS_OK: return FILL_OK;
    case READ_STATUS_INVALID: return FILL_INVALID;
    case READ_STATUS_FAILED: return FILL_FAILED;
    }
    throw Refused{"unknown status of a compact block"};
}

CBlockHeaderAndShortTxIDs Decoded(kl_in bytes)
{
    CBlockHeaderAndShortTxIDs compact;
    SpanReader{View(bytes)} >> compact;
    return compact;
}

bool SegwitAfter(const Call& call, const CBlockHeader& header)
{
    LOCK(cs_main);
    const CBlockIndex* const parent{call.chainman().m_blockman.LookupBlockIndex(header.hashPrevBlock)};
    return parent && DeploymentActiveAfter(parent, call.chainman(), Consensus::DEPLOYMENT_SEGWIT);
}

/** A stored block; nullptr if it is not there (any more). */
std::shared_ptr<const CBlock> Stored(const Call& call, const uint256& hash)
{
    const NewestBlock newest{RelayNewestBlock()};
    if (newest.block && newest.block->GetHash() == hash) return newest.block;
    node::BlockManager& blockman{call.chainman().m_blockman};
    FlatFilePos position;
    {
        LOCK(cs_main);
        const CBlockIndex* const index{blockman.LookupBlockIndex(hash)};
        if (!index || !(index->nStatus & BLOCK_HAVE_DATA)) return nullptr;
        position = index->GetBlockPos();
    }
    auto block{std::make_shared<CBlock>()};
    return blockman.ReadBlock(*block, position, hash) ? block : nullptr;
}

} // namespace

//! The `cmpctblock` payload of a stored block.
kl_buf kl_compact_make(kl_in hash)
{
    return Answer([&](Writer& out) {
        const Call call;
        const uint256 id{Hash(hash)};
        const NewestBlock newest{RelayNewestBlock()};
        if (newest.block && newest.block->GetHash() == id) {
            out.boolean(true);
            return out.consensus(*newest.compact);
        }
        const auto block{Stored(call, id)};
        out.boolean(block != nullptr);
        if (block) out.consensus(CBlockHeaderAndShortTxIDs{*block, FastRandomContext().rand64()});
    });
}

kl_buf kl_compact_decode(kl_in bytes)
{
    return Answer([&](Writer& out) { out.consensus(Decoded(bytes).header); });
}

//! Starts to rebuild a block for a peer: status, then the indexes that are missing.
kl_buf kl_compact_begin(int64_t peer, kl_in bytes)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CBlockHeaderAndShortTxIDs compact{Decoded(bytes)};
        auto partial{std::make_unique<PartiallyDownloadedBlock>(&call.mempool())};
        const ReadStatus status{partial->InitData(compact, RelayExtraTransactions())};
        out.u8(Code(status));
        if (status != READ_STATUS_OK) return;
        std::vector<uint32_t> missing;
        for (size_t i{0}; i < compact.BlockTxCount(); ++i) {
            if (!partial->IsTxAvailable(i)) missing.push_back(static_cast<uint32_t>(i));
        }
        out.u32(static_cast<uint32_t>(missing.size()));
        for (const uint32_t index : missing) out.u32(index);
        Partials& partials{ThePartials()};
        LOCK(partials.mutex);
        partials.all[{peer, compact.header.GetHash()}] = std::move(partial);
    });
}

//! Completes it with the transactions of a `blocktxn` payload: status, then the block. A second try after a failure is told apart.
kl_buf kl_compact_fill(int64_t peer, kl_in payload)
{
    return Answer([&](Writer& out) {
        const Call call;
        BlockTransactions txs;
        SpanReader{View(payload)} >> txs;
        Partials& partials{ThePartials()};
        LOCK(partials.mutex);
        const auto found{partials.all.find({peer, txs.blockhash})};
        if (found == partials.all.end()) throw Refused{"no such compact block"};
        PartiallyDownloadedBlock& partial{*found->second};
        if (partial.header.IsNull()) return out.u8(FILL_AGAIN);
        CBlock block;
        const ReadStatus status{partial.FillBlock(block, txs.txn, SegwitAfter(call, partial.header))};
        out.u8(Code(status));
        if (status == READ_STATUS_OK) out.consensus(TX_WITH_WITNESS(block));
    });
}

//! The whole block, if the mempool has all of it.
kl_buf kl_compact_try(kl_in bytes)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CBlockHeaderAndShortTxIDs compact{Decoded(bytes)};
        PartiallyDownloadedBlock partial{&call.mempool()};
        CBlock block;
        const bool whole{partial.InitData(compact, RelayExtraTransactions()) == READ_STATUS_OK &&
                         partial.FillBlock(block, {}, SegwitAfter(call, compact.header)) == READ_STATUS_OK};
        out.boolean(whole);
        if (whole) out.consensus(TX_WITH_WITNESS(block));
    });
}

void kl_compact_forget(int64_t peer, kl_in hash)
{
    if (hash.len != uint256::size()) return;
    Partials& partials{ThePartials()};
    LOCK(partials.mutex);
    partials.all.erase({peer, uint256{View(hash)}});
}

//! What a `getblocktxn` payload names: the block and the indexes.
kl_buf kl_compact_request(kl_in payload)
{
    return Answer([&](Writer& out) {
        BlockTransactionsRequest request;
        SpanReader{View(payload)} >> request;
        out.hash(request.blockhash);
        out.u32(static_cast<uint32_t>(request.indexes.size()));
    });
}

kl_buf kl_compact_ask(kl_in hash, kl_in indexes)
{
    return Answer([&](Writer& out) {
        BlockTransactionsRequest request;
        request.blockhash = Hash(hash);
        SpanReader reader{View(indexes)};
        while (!reader.empty()) {
            uint32_t index;
            reader >> index;
            request.indexes.push_back(static_cast<uint16_t>(index));
        }
        out.consensus(request);
    });
}

//! The `blocktxn` payload that answers a `getblocktxn`: 0 for no such block, 1 for an index too high, 2 and the payload.
kl_buf kl_compact_answer(kl_in payload)
{
    return Answer([&](Writer& out) {
        const Call call;
        BlockTransactionsRequest request;
        SpanReader{View(payload)} >> request;
        const auto block{Stored(call, request.blockhash)};
        if (!block) return out.u8(0);
        BlockTransactions answer{request};
        for (size_t i{0}; i < request.indexes.size(); ++i) {
            if (request.indexes[i] >= block->vtx.size()) return out.u8(1);
            answer.txn[i] = block->vtx[request.indexes[i]];
        }
        out.u8(2);
        out.consensus(answer);
    });
}
