// The block index, coins and filters.
#include "flush.h"
#include "index_info.h"
#include "state.h"

#include <blockfilter.h>
#include <chain.h>
#include <chainparams.h>
#include <coins.h>
#include <common/args.h>
#include <index/blockfilterindex.h>
#include <net_processing.h>
#include <node/blockstorage.h>
#include <rpc/blockchain.h>
#include <txmempool.h>
#include <validation.h>

#include <algorithm>

using namespace keyless;

namespace {

const CBlockIndex* Lookup(ChainstateManager& chainman, kl_in hash) EXCLUSIVE_LOCKS_REQUIRED(::cs_main)
{
    return chainman.m_blockman.LookupBlockIndex(Hash(hash));
}

void WriteOptionalInfo(Writer& out, const CBlockIndex* index, const CChain& active) EXCLUSIVE_LOCKS_REQUIRED(::cs_main)
{
    out.boolean(index != nullptr);
    if (index) WriteInfo(out, *index, active);
}

/** What a header chain has to show before it is stored: near the tip's work, or the configured minimum. */
arith_uint256 AntiDosWork(const ChainstateManager& chainman) EXCLUSIVE_LOCKS_REQUIRED(::cs_main)
{
    arith_uint256 near_tip{0};
    if (const CBlockIndex* const tip{chainman.ActiveChain().Tip()}) {
        // A reorg of a day may come without the costly low-work sync.
        near_tip = tip->nChainWork - std::min<arith_uint256>(144 * GetBlockProof(*tip), tip->nChainWork);
    }
    return std::max(near_tip, chainman.MinimumChainWork());
}

uint64_t ChainServices(const ChainstateManager& chainman) EXCLUSIVE_LOCKS_REQUIRED(::cs_main)
{
    uint64_t services{NODE_NETWORK_LIMITED | NODE_WITNESS};
    if (!chainman.m_blockman.IsPruneMode() && !chainman.HistoricalChainstate()) services |= NODE_NETWORK;
    if (gArgs.GetBoolArg("-peerblockfilters", DEFAULT_PEERBLOCKFILTERS)) services |= NODE_COMPACT_FILTERS;
    if (gArgs.GetBoolArg("-peerbloomfilters", DEFAULT_PEERBLOOMFILTERS)) services |= NODE_BLOOM;
    return services;
}

std::vector<uint256> HashList(kl_in list)
{
    const auto view{View(list)};
    if (view.size() % uint256::size() != 0) throw Refused{"a list of hashes has a multiple of 32 bytes"};
    std::vector<uint256> hashes;
    for (size_t at{0}; at < view.size(); at += uint256::size()) hashes.emplace_back(view.subspan(at, uint256::size()));
    return hashes;
}

} // namespace

kl_buf kl_tip()
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const CBlockIndex* const tip{call.chainman().ActiveChain().Tip()};
        if (!tip) throw NotRunning{};
        WriteTip(out, *tip);
    });
}

kl_buf kl_best_header()
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const CBlockIndex* const best{call.chainman().m_best_header};
        if (!best) throw NotRunning{};
        WriteInfo(out, *best, call.chainman().ActiveChain());
    });
}

kl_buf kl_block_info(kl_in hash)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        WriteOptionalInfo(out, Lookup(call.chainman(), hash), call.chainman().ActiveChain());
    });
}

kl_buf kl_block_hash(uint32_t height)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const CChain& chain{call.chainman().ActiveChain()};
        const bool found{static_cast<int64_t>(height) <= chain.Height()};
        out.boolean(found);
        if (found) out.hash(chain[static_cast<int>(height)]->GetBlockHash());
    });
}

kl_buf kl_ancestor(kl_in hash, uint32_t height)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const CBlockIndex* const index{Lookup(call.chainman(), hash)};
        const bool below{index && static_cast<int64_t>(height) <= index->nHeight};
        WriteOptionalInfo(out, below ? index->GetAncestor(static_cast<int>(height)) : nullptr, call.chainman().ActiveChain());
    });
}

kl_buf kl_fork_point(kl_in hash)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const CChain& active{call.chainman().ActiveChain()};
        const CBlockIndex* const index{Lookup(call.chainman(), hash)};
        WriteOptionalInfo(out, index ? active.FindFork(*index) : nullptr, active);
    });
}

kl_buf kl_locator(kl_in of)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const CBlockIndex* const index{Lookup(call.chainman(), of)};
        if (!index) throw Refused{"block not known"};
        const auto entries{LocatorEntries(index)};
        out.u32(static_cast<uint32_t>(entries.size()));
        for (const uint256& entry : entries) out.hash(entry);
    });
}

kl_buf kl_headers_after(kl_in locator, kl_in stop, uint32_t max)
{
    return Answer([&](Writer& out) {
        const Call call;
        const uint256 last{Hash(stop)};
        const std::vector<uint256> entries{HashList(locator)};
        LOCK(cs_main);
        const Chainstate& chainstate{call.chainman().ActiveChainstate()};
        const CBlockIndex* index{entries.empty() ? Lookup(call.chainman(), stop) : nullptr};
        if (!entries.empty()) index = chainstate.m_chain.Next(*chainstate.FindForkInGlobalIndex(CBlockLocator{std::vector<uint256>{entries}}));
        Writer headers;
        uint32_t count{0};
        for (; index && count < max; ++count) {
            headers.consensus(index->GetBlockHeader());
            const bool end{entries.empty() || index->GetBlockHash() == last};
            index = end ? nullptr : chainstate.m_chain.Next(*index);
        }
        out.u32(count);
        out.raw(headers.view());
    });
}

kl_buf kl_missing_blocks(kl_in target, uint32_t from, uint32_t max)
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const CBlockIndex* const index{Lookup(call.chainman(), target)};
        Writer blocks;
        uint32_t count{0};
        if (index && !(index->nStatus & BLOCK_FAILED_VALID)) {
            for (int64_t height{from}; height <= index->nHeight && count < max; ++height) {
                const CBlockIndex* const block{index->GetAncestor(static_cast<int>(height))};
                if (block->nStatus & BLOCK_HAVE_DATA) continue;
                blocks.u32(static_cast<uint32_t>(height));
                blocks.hash(block->GetBlockHash());
                ++count;
            }
        }
        out.u32(count);
        out.raw(blocks.view());
    });
}

kl_buf kl_historical_range()
{
    return Answer([&](Writer& out) {
        const Call call;
        LOCK(cs_main);
        const auto range{call.chainman().GetHistoricalBlockRange()};
        out.boolean(range.has_value());
        if (!range) return;
        // The chain from below may stand on a branch: what is needed begins where the way to the base leaves it.
        for (const CBlockIndex* const block : {LastCommonAncestor(range->first, range->second), range->second}) {
            out.u32(static_cast<uint32_t>(block->nHeight));
            out.hash(block->GetBlockHash());
        }
    });
}

kl_buf kl_chain_state()
{
    return Answer([&](Writer& out) {
        const Call call;
        ChainstateManager& chainman{call.chainman()};
        LOCK(cs_main);
        out.boolean(chainman.IsInitialBlockDownload());
        WriteWork(out, AntiDosWork(chainman));
        WriteWork(out, chainman.MinimumChainWork());
        const bool pruned{chainman.m_blockman.IsPruneMode()};
        out.boolean(pruned);
        const auto height{pruned ? GetPruneHeight(chainman.m_blockman, chainman.ActiveChain()) : std::nullopt};
        out.boolean(height.has_value());
        if (height) out.u32(static_cast<uint32_t>(*height + 1));
        out.u64(ChainServices(chainman));
        out.boolean(chainman.m_blockman.LoadingBlocks());
    });
}

kl_buf kl_chain_params()
{
    return Answer([&](Writer& out) {
        const CChainParams& params{Params()};
        const MessageStartChars& magic{params.MessageStart()};
        out.bytes(std::span<const uint8_t>{magic.data(), magic.size()});
        out.hash(params.GenesisBlock().GetHash());
        const std::vector<std::string>& seeds{params.DNSSeeds()};
        out.u32(static_cast<uint32_t>(seeds.size()));
        for (const std::string& seed : seeds) out.text(seed);
    });
}

kl_buf kl_coin(kl_in outpoint, int with_mempool)
{
    return Answer([&](Writer& out) {
        const Call call;
        COutPoint point;
        Decode(outpoint, point, "outpoint");
        LOCK2(cs_main, call.mempool().cs);
        CCoinsViewCache& tip{call.chainman().ActiveChainstate().CoinsTip()};
        std::optional<Coin> coin;
        if (with_mempool) {
            CCoinsViewMemPool view{&tip, call.mempool()};
            if (!call.mempool().isSpent(point)) coin = view.GetCoin(point);
        } else {
            coin = tip.GetCoin(point);
        }
        out.boolean(coin.has_value());
        if (!coin) return;
        out.i64(coin->out.nValue);
        out.bytes(std::span{coin->out.scriptPubKey.data(), coin->out.scriptPubKey.size()});
        const bool confirmed{coin->nHeight != MEMPOOL_HEIGHT};
        out.boolean(confirmed);
        if (confirmed) out.u32(coin->nHeight);
        out.boolean(coin->IsCoinBase());
    });
}

kl_buf kl_block_filter(kl_in hash)
{
    return Answer([&](Writer& out) {
        const Call call;
        BlockFilterIndex* const filters{GetBlockFilterIndex(BlockFilterType::BASIC)};
        const CBlockIndex* const index{WITH_LOCK(cs_main, return Lookup(call.chainman(), hash))};
        BlockFilter filter;
        uint256 header;
        const bool found{filters && index && filters->LookupFilter(index, filter) && filters->LookupFilterHeader(index, header)};
        out.boolean(found);
        if (!found) return;
        out.bytes(std::span<const uint8_t>{filter.GetEncodedFilter()});
        out.hash(header);
    });
}

kl_buf kl_flush()
{
    return Answer([&](Writer&) {
        const Call call;
        FlushChainstates(call.chainman());
    });
}
