#include "filter_repair.h"

#include <blockfilter.h>
#include <chain.h>
#include <common/args.h>
#include <dbwrapper.h>
#include <flatfile.h>
#include <index/db_key.h>
#include <kernel/cs_main.h>
#include <node/blockstorage.h>
#include <primitives/block.h>
#include <serialize.h>
#include <sync.h>
#include <uint256.h>
#include <util/fs.h>
#include <util/log.h>
#include <validation.h>

#include <utility>

namespace keyless {
namespace {

//! Of index/base.cpp.
constexpr uint8_t BEST_BLOCK{'B'};
constexpr size_t CACHE_BYTES{1 << 20};
//! Blocks below the index's best one that are looked at: no reorganisation is deeper. What was replaced may lie below what was not.
constexpr int LOOK_BACK{2000};

//! As index/blockfilterindex.cpp stores it.
struct Entry {
    uint256 hash;
    uint256 header;
    FlatFilePos pos;

    SERIALIZE_METHODS(Entry, obj) { READWRITE(obj.hash, obj.header, obj.pos); }
};

} // namespace

void RepairFilterIndex(ChainstateManager& chainman, BlockFilterType type)
{
    const fs::path path{gArgs.GetDataDirNet() / "indexes" / "blockfilter" / fs::u8path(BlockFilterTypeName(type)) / "db"};
    if (!fs::exists(path / "CURRENT")) return;
    CDBWrapper db{DBParams{.path = path, .cache_bytes = CACHE_BYTES}};
    CBlockLocator locator;
    if (!db.Read(BEST_BLOCK, locator) || locator.IsNull()) return;
    const CBlockIndex* block{WITH_LOCK(cs_main, return chainman.m_blockman.LookupBlockIndex(locator.vHave.front()))};
    CDBBatch batch{db};
    int restored{0};
    for (int looked{0}; block && looked < LOOK_BACK; ++looked, block = block->pprev) {
        std::pair<uint256, Entry> entry;
        // What is missing altogether is for Core to judge.
        if (!db.Read(index_util::DBHeightKey(block->nHeight), entry)) return;
        if (entry.first == block->GetBlockHash()) continue;
        if (!db.Read(index_util::DBHashKey(block->GetBlockHash()), entry.second)) return;
        entry.first = block->GetBlockHash();
        batch.Write(index_util::DBHeightKey(block->nHeight), entry);
        ++restored;
    }
    if (restored == 0) return;
    db.WriteBatch(batch, /*fSync=*/true);
    LogInfo("Put back %d entries of the %s block filter index that an unfinished reorganisation had replaced", restored, BlockFilterTypeName(type));
}

} // namespace keyless
