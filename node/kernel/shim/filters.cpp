// What light clients ask: block filters (BIP157) and bloom filters (BIP37).
#include "state.h"

#include <blockfilter.h>
#include <chain.h>
#include <common/bloom.h>
#include <index/blockfilterindex.h>
#include <merkleblock.h>
#include <node/blockstorage.h>
#include <txmempool.h>
#include <validation.h>

#include <map>
#include <memory>

using namespace keyless;

namespace {

/** Core's CFCHECKPT_INTERVAL. */
constexpr int CHECKPOINT_INTERVAL{1000};

struct Filters {
    Mutex mutex;
    std::map<int64_t, std::unique_ptr<CBloomFilter>> of_peer GUARDED_BY(mutex);
};

Filters& TheFilters()
{
    static Filters* const filters{new Filters};
    return *filters;
}

const CBlockIndex* Index(const Call& call, kl_in hash)
{
    LOCK(cs_main);
    return call.chainman().m_blockman.LookupBlockIndex(Hash(hash));
}

} // namespace

//! The `cfilter` payloads from a height to a block; nothing when the index lacks one.
kl_buf kl_filter_range(uint32_t start, kl_in stop)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CBlockIndex* const last{Index(call, stop)};
        BlockFilterIndex* const index{GetBlockFilterIndex(BlockFilterType::BASIC)};
        std::vector<BlockFilter> filters;
        const bool found{last && index && index->LookupFilterRange(static_cast<int>(start), last, filters)};
        out.boolean(found);
        if (!found) return;
        out.u32(static_cast<uint32_t>(filters.size()));
        for (const BlockFilter& filter : filters) out.consensus(filter);
    });
}

//! The `cfheaders` payload from a height to a block.
kl_buf kl_filter_headers(uint32_t start, kl_in stop)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CBlockIndex* const last{Index(call, stop)};
        BlockFilterIndex* const index{GetBlockFilterIndex(BlockFilterType::BASIC)};
        uint256 before;
        std::vector<uint256> hashes;
        bool found{last && index};
        if (found && start > 0) found = index->LookupFilterHeader(last->GetAncestor(static_cast<int>(start) - 1), before);
        found = found && index->LookupFilterHashRange(static_cast<int>(start), last, hashes);
        out.boolean(found);
        if (!found) return;
        DataStream payload;
        payload << static_cast<uint8_t>(BlockFilterType::BASIC) << last->GetBlockHash() << before << hashes;
        out.bytes(std::span<const std::byte>{payload});
    });
}

//! The `cfcheckpt` payload up to a block.
kl_buf kl_filter_checkpoints(kl_in stop)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CBlockIndex* const last{Index(call, stop)};
        BlockFilterIndex* const index{GetBlockFilterIndex(BlockFilterType::BASIC)};
        bool found{last && index};
        std::vector<uint256> headers(found ? static_cast<size_t>(last->nHeight / CHECKPOINT_INTERVAL) : 0);
        for (size_t i{0}; found && i < headers.size(); ++i) {
            found = index->LookupFilterHeader(last->GetAncestor(static_cast<int>(i + 1) * CHECKPOINT_INTERVAL), headers[i]);
        }
        out.boolean(found);
        if (!found) return;
        DataStream payload;
        payload << static_cast<uint8_t>(BlockFilterType::BASIC) << last->GetBlockHash() << headers;
        out.bytes(std::span<const std::byte>{payload});
    });
}

//! False if the filter is larger than the protocol allows.
kl_buf kl_bloom_load(int64_t peer, kl_in payload)
{
    return Answer([&](Writer& out) {
        auto filter{std::make_unique<CBloomFilter>()};
        SpanReader{View(payload)} >> *filter;
        const bool fits{filter->IsWithinSizeConstraints()};
        out.boolean(fits);
        if (!fits) return;
        Filters& filters{TheFilters()};
        LOCK(filters.mutex);
        filters.of_peer[peer] = std::move(filter);
    });
}

//! False if the element is too large, or the peer has no filter.
kl_buf kl_bloom_add(int64_t peer, kl_in payload)
{
    return Answer([&](Writer& out) {
        std::vector<unsigned char> element;
        SpanReader{View(payload)} >> element;
        Filters& filters{TheFilters()};
        LOCK(filters.mutex);
        const auto found{filters.of_peer.find(peer)};
        const bool fits{element.size() <= MAX_SCRIPT_ELEMENT_SIZE && found != filters.of_peer.end()};
        if (fits) found->second->insert(element);
        out.boolean(fits);
    });
}

void kl_bloom_clear(int64_t peer)
{
    Filters& filters{TheFilters()};
    LOCK(filters.mutex);
    filters.of_peer.erase(peer);
}

//! Whether a transaction of the mempool concerns the peer; true without a filter.
kl_buf kl_bloom_matches(int64_t peer, kl_in txid)
{
    return Answer([&](Writer& out) {
        const Call call;
        const CTransactionRef tx{call.mempool().get(Txid::FromUint256(Hash(txid)))};
        Filters& filters{TheFilters()};
        LOCK(filters.mutex);
        const auto found{filters.of_peer.find(peer)};
        out.boolean(found == filters.of_peer.end() || (tx && found->second->IsRelevantAndUpdate(*tx)));
    });
}

//! The `merkleblock` payload of a stored block and the matching transactions without witness; nothing without a filter.
kl_buf kl_bloom_block(int64_t peer, kl_in hash)
{
    return Answer([&](Writer& out) {
        const Call call;
        node::BlockManager& blockman{call.chainman().m_blockman};
        const CBlockIndex* const index{Index(call, hash)};
        CBlock block;
        const bool read{index && blockman.ReadBlock(block, *index)};
        Filters& filters{TheFilters()};
        LOCK(filters.mutex);
        const auto found{filters.of_peer.find(peer)};
        const bool matches{read && found != filters.of_peer.end()};
        out.boolean(matches);
        if (!matches) return;
        const CMerkleBlock merkle{block, *found->second};
        out.consensus(merkle);
        out.u32(static_cast<uint32_t>(merkle.vMatchedTxn.size()));
        for (const auto& [position, txid] : merkle.vMatchedTxn) out.consensus(TX_NO_WITNESS(*block.vtx[position]));
    });
}
