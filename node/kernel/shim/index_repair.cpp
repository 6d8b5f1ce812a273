#include "index_repair.h"

#include <chain.h>
#include <dbwrapper.h>
#include <index/db_key.h>
#include <kernel/cs_main.h>
#include <node/blockstorage.h>
#include <primitives/block.h>
#include <serialize.h>
#include <span.h>
#include <sync.h>
#include <uint256.h>
#include <util/log.h>
#include <validation.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace keyless {
namespace {

//! Of index/base.cpp.
constexpr uint8_t BEST_BLOCK{'B'};
constexpr size_t CACHE_BYTES{1 << 20};
//! Blocks below the index's best one that are looked at: no reorganisation is deeper. What was replaced may lie below what was not.
constexpr int LOOK_BACK{2000};

//! An index's value for a block, whatever it holds: the same under a height (behind the block's hash) and under a hash.
struct Entry {
    std::vector<std::byte> bytes;

    template <typename Stream>
    void Serialize(Stream& s) const
    {
        s.write(bytes);
    }

    template <typename Stream>
    void Unserialize(Stream& s)
    {
        bytes.resize(s.size());
        s.read(bytes);
    }
};

} // namespace

void RepairHeights(ChainstateManager& chainman, const fs::path& folder, const std::string& name)
{
    const fs::path path{folder / "db"};
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
    LogInfo("Put back %d entries of the %s that an unfinished reorganisation had replaced", restored, name);
}

} // namespace keyless
