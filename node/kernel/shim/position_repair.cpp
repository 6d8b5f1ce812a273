#include "position_repair.h"

#include <chain.h>
#include <chainparams.h>
#include <common/args.h>
#include <crypto/siphash.h>
#include <dbwrapper.h>
#include <flatfile.h>
#include <index/disktxpos.h>
#include <index/txindex.h>
#include <index/txospenderindex.h>
#include <kernel/cs_main.h>
#include <node/blockstorage.h>
#include <primitives/block.h>
#include <primitives/transaction.h>
#include <protocol.h>
#include <serialize.h>
#include <streams.h>
#include <sync.h>
#include <uint256.h>
#include <util/fs.h>
#include <util/log.h>
#include <util/signalinterrupt.h>
#include <validation.h>

#include <map>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace keyless {
namespace {

//! Of index/base.cpp, index/txindex.cpp and index/txospenderindex.cpp.
constexpr uint8_t BEST_BLOCK{'B'};
constexpr uint8_t TRANSACTION{'t'};
constexpr uint8_t SPENDER{'s'};
constexpr size_t CACHE_BYTES{1 << 20};
//! Blocks below an index's best one that an unfinished reorganisation may have left: as many as a pruned node can leave.
constexpr int LOOK_BACK{MIN_BLOCKS_TO_KEEP};

//! A block, and where it lies.
struct Placed {
    CBlock block;
    FlatFilePos pos;
};

//! Where each transaction of a block lies.
std::vector<CDiskTxPos> Positions(const Placed& placed)
{
    std::vector<CDiskTxPos> positions;
    CDiskTxPos pos{placed.pos, GetSizeOfCompactSize(placed.block.vtx.size())};
    for (const auto& tx : placed.block.vtx) {
        positions.push_back(pos);
        pos.nTxOffset += ::GetSerializeSize(TX_WITH_WITNESS(*tx));
    }
    return positions;
}

std::optional<Placed> Read(const ChainstateManager& chainman, const CBlockIndex& index)
{
    Placed placed;
    placed.pos = WITH_LOCK(cs_main, return index.GetBlockPos());
    if (placed.pos.IsNull() || !chainman.m_blockman.ReadBlock(placed.block, index)) return std::nullopt;
    return placed;
}

//! An index in a folder of its own, and the best block it has followed.
class Index
{
    const ChainstateManager& m_chainman;
    CDBWrapper m_db;
    const CBlockIndex* m_best{nullptr};

public:
    Index(ChainstateManager& chainman, const fs::path& path) : m_chainman{chainman}, m_db{DBParams{.path = path, .cache_bytes = CACHE_BYTES}}
    {
        CBlockLocator locator;
        if (!m_db.Read(BEST_BLOCK, locator) || locator.IsNull()) return;
        m_best = WITH_LOCK(cs_main, return chainman.m_blockman.LookupBlockIndex(locator.vHave.front()));
    }

    CDBWrapper& DB() { return m_db; }
    const CBlockIndex* Best() const { return m_best; }

    //! Goes down the chain that was followed, until `put_back` is content.
    template <typename PutBack>
    void Descend(PutBack&& put_back) const
    {
        const CBlockIndex* index{m_best};
        for (int looked{0}; index && index->nHeight > 0 && looked < LOOK_BACK && !m_chainman.m_interrupt; ++looked, index = index->pprev) {
            const auto placed{Read(m_chainman, *index)};
            if (!placed || !put_back(*index, *placed)) return;
        }
    }
};

//! Where a transaction is.
class Transactions
{
    Index m_index;
    //! The lowest block of the chain that was followed on which a forgotten block stood.
    const CBlockIndex* m_fork;

    static auto Key(const CTransaction& tx) { return std::make_pair(TRANSACTION, tx.GetHash().ToUint256()); }

public:
    Transactions(ChainstateManager& chainman, const fs::path& path) : m_index{chainman, path}, m_fork{m_index.Best()} {}

    //! `base` is the last block below it that is known. Whether anything named it.
    bool Forget(const Placed& placed, const CBlockIndex* base)
    {
        bool named{false};
        CDBBatch batch{m_index.DB()};
        for (const auto& tx : placed.block.vtx) {
            CDiskTxPos pos;
            if (!m_index.DB().Read(Key(*tx), pos) || pos.nFile != placed.pos.nFile || pos.nPos != placed.pos.nPos) continue;
            batch.Erase(Key(*tx));
            named = true;
        }
        m_index.DB().WriteBatch(batch);
        if (named && base && m_fork) m_fork = LastCommonAncestor(m_fork, base);
        return named;
    }

    int PutBack()
    {
        int blocks{0};
        m_index.Descend([&](const CBlockIndex& index, const Placed& placed) {
            if (index.nHeight <= m_fork->nHeight) return false;
            CDBBatch batch{m_index.DB()};
            const auto positions{Positions(placed)};
            for (size_t at{0}; at < positions.size(); ++at) batch.Write(Key(*placed.block.vtx[at]), positions[at]);
            m_index.DB().WriteBatch(batch);
            ++blocks;
            return true;
        });
        return blocks;
    }
};

//! What spends an output.
class Spenders
{
    Index m_index;
    std::optional<PresaltedSipHasher> m_hasher;

    //! As index/txospenderindex.cpp stores it.
    struct Key {
        uint64_t hash;
        CDiskTxPos pos;

        SERIALIZE_METHODS(Key, obj)
        {
            uint8_t prefix{SPENDER};
            READWRITE(prefix, obj.hash, obj.pos);
        }
    };

    std::vector<Key> Keys(const Placed& placed) const
    {
        std::vector<Key> keys;
        const auto positions{Positions(placed)};
        for (size_t at{1}; at < positions.size(); ++at) {
            for (const CTxIn& in : placed.block.vtx[at]->vin) {
                keys.push_back({(*m_hasher)(in.prevout.hash.ToUint256(), in.prevout.n), positions[at]});
            }
        }
        return keys;
    }

public:
    Spenders(ChainstateManager& chainman, const fs::path& path) : m_index{chainman, path}
    {
        std::pair<uint64_t, uint64_t> salt;
        if (m_index.DB().Read("siphash_key", salt)) m_hasher.emplace(salt.first, salt.second);
    }

    const CBlockIndex* Best() const { return m_index.Best(); }

    //! Whether anything named it.
    bool Forget(const Placed& placed)
    {
        if (!m_hasher) return false;
        bool named{false};
        CDBBatch batch{m_index.DB()};
        for (const Key& key : Keys(placed)) {
            named = named || m_index.DB().Exists(key);
            batch.Erase(key);
        }
        m_index.DB().WriteBatch(batch);
        return named;
    }

    //! Blocks are left from the top, each with all it spends: below one that is there, all are.
    int PutBack()
    {
        int blocks{0};
        if (!m_hasher) return blocks;
        m_index.Descend([&](const CBlockIndex&, const Placed& placed) {
            const auto keys{Keys(placed)};
            if (keys.empty()) return true;
            if (m_index.DB().Exists(keys.front())) return false;
            CDBBatch batch{m_index.DB()};
            for (const Key& key : keys) batch.Write(key, std::span<const std::byte>{});
            m_index.DB().WriteBatch(batch);
            ++blocks;
            return true;
        });
        return blocks;
    }
};

//! Where the block index says that a file ends.
uint32_t KnownEnd(ChainstateManager& chainman, size_t file)
{
    LOCK(cs_main);
    try {
        return chainman.m_blockman.GetBlockFileInfo(file)->nSize;
    } catch (const std::out_of_range&) {
        return 0;
    }
}

//! Whether there is the beginning of a block; how many bytes it has.
std::optional<uint32_t> BlockAt(const ChainstateManager& chainman, const FlatFilePos& pos)
{
    AutoFile file{chainman.m_blockman.OpenBlockFile(pos, /*fReadOnly=*/true)};
    if (file.IsNull()) return std::nullopt;
    try {
        MessageStartChars magic;
        uint32_t size;
        file >> magic >> size;
        if (magic == chainman.GetParams().MessageStart() && size > 0 && size <= MAX_BLOCK_SERIALIZED_SIZE) return size;
    } catch (const std::exception&) {
        // The end of the file.
    }
    return std::nullopt;
}

//! Blocks behind the known ends of the block files.
template <typename Use>
void ForEachForgotten(ChainstateManager& chainman, Use&& use)
{
    for (int number{0};; ++number) {
        FlatFilePos at{number, KnownEnd(chainman, number)};
        const fs::path path{chainman.m_blockman.GetBlockPosFilename(at)};
        if (!fs::exists(path)) {
            if (at.nPos == 0) return;
            continue; // pruned
        }
        if (fs::file_size(path) <= at.nPos) continue;
        while (const auto size{BlockAt(chainman, at)}) {
            Placed placed;
            placed.pos = {number, at.nPos + node::STORAGE_HEADER_BYTES};
            if (chainman.m_interrupt || !chainman.m_blockman.ReadBlock(placed.block, placed.pos, std::nullopt)) break;
            use(placed);
            at.nPos = placed.pos.nPos + *size;
        }
    }
}

//! Blocks near `best` that are known, on another branch than it, and neither of the chain nor about to be.
std::vector<const CBlockIndex*> LeftAside(ChainstateManager& chainman, const CBlockIndex& best)
{
    LOCK(cs_main);
    std::vector<const CBlockIndex*> blocks;
    const CChain& chain{chainman.ActiveChain()};
    const auto on_chain{[&](const CBlockIndex& index) {
        return chain.Contains(index) || (chain.Tip() && index.GetAncestor(chain.Height()) == chain.Tip());
    }};
    for (const CBlockIndex* index : chainman.m_blockman.GetAllBlockIndices()) {
        const bool near{index->nHeight > best.nHeight - LOOK_BACK};
        if (near && (index->nStatus & BLOCK_HAVE_DATA) && best.GetAncestor(index->nHeight) != index && !on_chain(*index)) blocks.push_back(index);
    }
    return blocks;
}

//! One that is not used now may be used later, but that it cannot be opened is for then.
template <typename Repaired>
void Open(std::optional<Repaired>& index, ChainstateManager& chainman, const fs::path& path, bool used)
{
    if (!fs::exists(path / "CURRENT")) return;
    try {
        index.emplace(chainman, path);
    } catch (const dbwrapper_error& e) {
        if (used) throw;
        LogWarning("%s", e.what());
    }
}

} // namespace

void RepairPositions(ChainstateManager& chainman)
{
    const fs::path indexes{gArgs.GetDataDirNet() / "indexes"};
    std::optional<Transactions> transactions;
    std::optional<Spenders> spenders;
    Open(transactions, chainman, indexes / "txindex", gArgs.GetBoolArg("-txindex", DEFAULT_TXINDEX));
    Open(spenders, chainman, indexes / "txospenderindex" / "db", gArgs.GetBoolArg("-txospenderindex", DEFAULT_TXOSPENDERINDEX));
    if (!transactions && !spenders) return;
    // The last known block below a forgotten one.
    std::map<uint256, const CBlockIndex*> bases;
    int forgotten{0};
    ForEachForgotten(chainman, [&](const Placed& placed) {
        const uint256& parent{placed.block.hashPrevBlock};
        const CBlockIndex* base{WITH_LOCK(cs_main, return chainman.m_blockman.LookupBlockIndex(parent))};
        if (const auto below{bases.find(parent)}; !base && below != bases.end()) base = below->second;
        bases.emplace(placed.block.GetHash(), base);
        const bool located{transactions && transactions->Forget(placed, base)};
        const bool spending{spenders && spenders->Forget(placed)};
        if (located || spending) ++forgotten;
    });
    if (spenders && spenders->Best()) {
        for (const CBlockIndex* index : LeftAside(chainman, *spenders->Best())) {
            if (const auto placed{Read(chainman, *index)}; placed && spenders->Forget(*placed)) ++forgotten;
        }
    }
    const int moved{transactions ? transactions->PutBack() : 0};
    const int spent{spenders ? spenders->PutBack() : 0};
    if (forgotten == 0 && moved == 0 && spent == 0) return;
    LogInfo("Took %d blocks that came after the last flush out of the transaction indexes, put %d back into txindex and %d into txospenderindex", forgotten, moved, spent);
}

} // namespace keyless
