#include "load.h"

#include "flush.h"
#include "index_repair.h"
#include "peers.h"
#include "position_repair.h"
#include "relay.h"
#include "state.h"
#include "storage.h"

#include <bitcoin-build-config.h> // IWYU pragma: keep

#include <addrdb.h>
#include <addrman.h>
#include <blockfilter.h>
#include <chain.h>
#include <chainparams.h>
#include <common/args.h>
#include <common/system.h>
#include <index/blockfilterindex.h>
#include <index/coinstatsindex.h>
#include <index/txindex.h>
#include <index/txospenderindex.h>
#include <init.h>
#include <interfaces/chain.h>
#include <kernel/caches.h>
#include <net.h>
#include <netbase.h>
#include <netgroup.h>
#include <node/blockmanager_args.h>
#include <node/blockstorage.h>
#include <node/caches.h>
#include <node/chainstate.h>
#include <node/chainstatemanager_args.h>
#include <node/interface_ui.h>
#include <node/kernel_notifications.h>
#include <node/mempool_args.h>
#include <node/mempool_persist.h>
#include <node/mempool_persist_args.h>
#include <node/mining_args.h>
#include <node/peerman_args.h>
#include <policy/fees/block_policy_estimator.h>
#include <policy/fees/block_policy_estimator_args.h>
#include <random.h>
#include <scheduler.h>
#include <txmempool.h>
#include <util/asmap.h>
#include <util/batchpriority.h>
#include <util/fs_helpers.h>
#include <util/log.h>
#include <util/signalinterrupt.h>
#include <util/string.h>
#include <util/thread.h>
#include <util/translation.h>
#include <validation.h>
#include <validationinterface.h>

#include <set>
#include <thread>

using node::ChainstateLoadResult;
using node::ChainstateLoadStatus;

namespace keyless {
namespace {

void Require(bool ok, const char* what)
{
    if (!ok) ThrowErrors(what);
}

bool StopRequested(node::NodeContext& node) { return ShutdownRequested(node); }

std::set<BlockFilterType> FilterTypes()
{
    const std::string value{gArgs.GetArg("-blockfilterindex", DEFAULT_BLOCKFILTERINDEX)};
    if (value == "" || value == "1") return AllBlockFilterTypes();
    std::set<BlockFilterType> types;
    if (value == "0") return types;
    for (const std::string& name : gArgs.GetArgs("-blockfilterindex")) {
        BlockFilterType type;
        if (BlockFilterTypeByName(name, type)) types.insert(type); // unknown names were refused before
    }
    return types;
}

std::unique_ptr<NetGroupManager> NetGroups()
{
    if (!gArgs.IsArgSet("-asmap") || gArgs.IsArgNegated("-asmap")) {
        LogInfo("Using /16 prefix for IP bucketing");
        return std::make_unique<NetGroupManager>(NetGroupManager::NoAsmap());
    }
    if (gArgs.GetBoolArg("-asmap", false)) Require(InitError(strprintf(_("Embedded asmap data not available"))), "");
    fs::path path{gArgs.GetPathArg("-asmap")};
    if (!path.is_absolute()) path = gArgs.GetDataDirNet() / path;
    if (!fs::exists(path)) Require(InitError(strprintf(_("Could not find asmap file %s"), fs::quoted(fs::PathToString(path)))), "");
    std::vector<std::byte> asmap{DecodeAsmap(path)};
    if (asmap.empty()) Require(InitError(strprintf(_("Could not parse asmap file %s"), fs::quoted(fs::PathToString(path)))), "");
    LogInfo("Using asmap version %s for IP bucketing", AsmapVersion(asmap).ToString());
    return std::make_unique<NetGroupManager>(NetGroupManager::WithLoadedAsmap(std::move(asmap)));
}

/** Logs how the known addresses spread over the map. */
void CheckAsmap(node::NodeContext& node)
{
    std::vector<CNetAddr> clearnet;
    for (const Network network : {NET_IPV4, NET_IPV6}) {
        for (const CAddress& address : node.addrman->GetAddr(/*max_addresses=*/0, /*max_pct=*/0, network, /*filtered=*/false)) clearnet.push_back(address);
    }
    node.netgroupman->ASMapHealthCheck(clearnet);
}

/** The address table, and a connection manager that is never started: handlers that look at it find no peer. Bans are Rust's. */
void MakeNetworkTables(node::NodeContext& node)
{
    node.netgroupman = NetGroups();
    uiInterface.InitMessage(_("Loading P2P addresses…"));
    auto addrman{LoadAddrman(*node.netgroupman, gArgs)};
    if (!addrman) Require(InitError(util::ErrorString(addrman)), "peers.dat");
    node.addrman = std::move(*addrman);
    uiInterface.InitMessage(_("Loading banlist…"));
    if (node.netgroupman->UsingASMap()) {
        CheckAsmap(node);
        node.scheduler->scheduleEvery([&node] { CheckAsmap(node); }, std::chrono::hours{24});
    }
    FastRandomContext rng;
    node.connman = std::make_unique<CConnman>(rng.rand64(), rng.rand64(), *node.addrman, *node.netgroupman, Params(), gArgs.GetBoolArg("-networkactive", true));
}

void MakeFeeEstimator(node::NodeContext& node, bool blocks_only)
{
    if (blocks_only) return;
    const bool read_stale{gArgs.GetBoolArg("-acceptstalefeeestimates", DEFAULT_ACCEPT_STALE_FEE_ESTIMATES)};
    if (read_stale && Params().GetChainType() != ChainType::REGTEST) {
        Require(InitError(strprintf(_("acceptstalefeeestimates is not supported on %s chain."), Params().GetChainTypeString())), "");
    }
    node.fee_estimator = std::make_unique<CBlockPolicyEstimator>(FeeestPath(gArgs), read_stale);
    CBlockPolicyEstimator* const estimator{node.fee_estimator.get()};
    node.scheduler->scheduleEvery([estimator] { estimator->FlushFeeEstimates(); }, FEE_FLUSH_INTERVAL);
    node.validation_signals->RegisterValidationInterface(estimator);
}

ChainstateLoadResult MakeMempool(node::NodeContext& node)
{
    CTxMemPool::Options options{
        .check_ratio = Params().DefaultConsistencyChecks() ? 1 : 0,
        .signals = node.validation_signals.get(),
    };
    if (auto applied{::ApplyArgsManOptions(gArgs, Params(), options)}; !applied) return {ChainstateLoadStatus::FAILURE_FATAL, util::ErrorString(applied)};
    bilingual_str error;
    node.mempool = std::make_unique<CTxMemPool>(options, error);
    if (!error.empty()) return {ChainstateLoadStatus::FAILURE_FATAL, error};
    auto mining{node::ReadMiningArgs(gArgs)};
    if (!mining) return {ChainstateLoadStatus::FAILURE_FATAL, util::ErrorString(mining)};
    node.mining_args = std::move(*mining);
    return {ChainstateLoadStatus::SUCCESS, {}};
}

ChainstateLoadResult MakeChainman(node::NodeContext& node, const kernel::CacheSizes& caches, bool reindex)
{
    ChainstateManager::Options chain_options{
        .chainparams = Params(),
        .datadir = gArgs.GetDataDirNet(),
        .notifications = *node.notifications,
        .signals = node.validation_signals.get(),
    };
    if (auto applied{node::ApplyArgsManOptions(gArgs, chain_options)}; !applied) return {ChainstateLoadStatus::FAILURE_FATAL, util::ErrorString(applied)};
    node::BlockManager::Options block_options{
        .chainparams = chain_options.chainparams,
        .blocks_dir = gArgs.GetBlocksDirPath(),
        .notifications = chain_options.notifications,
        .block_tree_db_params = DBParams{
            .path = gArgs.GetDataDirNet() / "blocks" / "index",
            .cache_bytes = caches.block_tree_db,
            .wipe_data = reindex,
        },
    };
    if (auto applied{node::ApplyArgsManOptions(gArgs, block_options)}; !applied) return {ChainstateLoadStatus::FAILURE_FATAL, util::ErrorString(applied)};
    try {
        node.chainman = std::make_unique<ChainstateManager>(*node.shutdown_signal, chain_options, block_options);
    } catch (const dbwrapper_error& e) {
        LogError("%s", e.what());
        return {ChainstateLoadStatus::FAILURE, _("Error opening block database")};
    } catch (const std::exception& e) {
        return {ChainstateLoadStatus::FAILURE_FATAL, Untranslated(strprintf("Failed to initialize ChainstateManager: %s", e.what()))};
    }
    return {ChainstateLoadStatus::SUCCESS, {}};
}

void RestartIndexes(node::NodeContext& node)
{
    LogInfo("[snapshot] restarting indexes");
    node.validation_signals->SyncWithValidationInterfaceQueue();
    for (BaseIndex* const index : node.indexes) {
        index->Interrupt();
        index->Stop();
        if (!(index->Init() && index->StartBackgroundSync())) LogWarning("[snapshot] Failed to restart index %s on snapshot chain", index->GetName());
    }
}

template <typename Step>
ChainstateLoadResult Guarded(Step&& step)
{
    try {
        return step();
    } catch (const std::exception& e) {
        LogError("%s\n", e.what());
        return {ChainstateLoadStatus::FAILURE, _("Error loading databases")};
    }
}

ChainstateLoadResult LoadOnce(node::NodeContext& node, const kernel::CacheSizes& caches, bool reindex, bool reindex_chainstate)
{
    node.notifications->setChainstateLoaded(false);
    node.mempool.reset();
    node.chainman.reset();
    if (auto made{MakeMempool(node)}; std::get<0>(made) != ChainstateLoadStatus::SUCCESS) return made;
    if (auto made{MakeChainman(node, caches, reindex)}; std::get<0>(made) != ChainstateLoadStatus::SUCCESS) return made;
    ChainstateManager& chainman{*node.chainman};
    if (chainman.m_interrupt) return {ChainstateLoadStatus::INTERRUPTED, {}};
    chainman.snapshot_download_completed = [&node] {
        if (!node.chainman->m_blockman.IsPruneMode()) LogInfo("[snapshot] re-enabling NODE_NETWORK services");
        RestartIndexes(node);
    };

    node::ChainstateLoadOptions options;
    options.mempool = node.mempool.get();
    options.wipe_chainstate_db = reindex || reindex_chainstate;
    options.prune = chainman.m_blockman.IsPruneMode();
    options.check_blocks = gArgs.GetIntArg("-checkblocks", DEFAULT_CHECKBLOCKS);
    options.check_level = gArgs.GetIntArg("-checklevel", DEFAULT_CHECKLEVEL);
    options.require_full_verification = gArgs.IsArgSet("-checkblocks") || gArgs.IsArgSet("-checklevel");
    options.coins_error_cb = [] { InitError(_("Error reading from database, shutting down.")); };

    uiInterface.InitMessage(_("Loading block index…"));
    auto result{Guarded([&] { return node::LoadChainstate(chainman, caches, options); })};
    if (std::get<0>(result) != ChainstateLoadStatus::SUCCESS) return result;
    uiInterface.InitMessage(_("Verifying blocks…"));
    if (chainman.m_blockman.m_have_pruned && options.check_blocks > MIN_BLOCKS_TO_KEEP) {
        LogWarning("pruned datadir may not have more than %d blocks; only checking available blocks\n", MIN_BLOCKS_TO_KEEP);
    }
    result = Guarded([&] { return node::VerifyLoadedChainstate(chainman, options); });
    if (std::get<0>(result) == ChainstateLoadStatus::SUCCESS) {
        LogInfo("Block index and chainstate loaded");
        node.notifications->setChainstateLoaded(true);
    }
    return result;
}

/** Returns whether the block files are being indexed anew. */
bool LoadChain(node::NodeContext& node, const kernel::CacheSizes& caches)
{
    bool reindex{gArgs.GetBoolArg("-reindex", false)};
    const bool reindex_chainstate{gArgs.GetBoolArg("-reindex-chainstate", false)};
    auto [status, error]{LoadOnce(node, caches, reindex, reindex_chainstate)};
    if (status == ChainstateLoadStatus::FAILURE && !reindex && !StopRequested(node)) {
        const bool retry{HasTestOption(gArgs, "reindex_after_failure_noninteractive_yes") ||
            uiInterface.ThreadSafeQuestion(
                error + Untranslated(".\n\n") + _("Do you want to rebuild the databases now?"),
                error.original + ".\nPlease restart with -reindex or -reindex-chainstate to recover.",
                CClientUIInterface::MSG_ERROR | CClientUIInterface::BTN_ABORT)};
        Require(retry, "the databases could not be loaded");
        reindex = true;
        std::tie(status, error) = LoadOnce(node, caches, reindex, reindex_chainstate);
    }
    if (status != ChainstateLoadStatus::SUCCESS && status != ChainstateLoadStatus::INTERRUPTED) Require(InitError(error), "");
    return reindex;
}

void MakeIndexes(node::NodeContext& node, const node::IndexCacheSizes& caches, bool reindex)
{
    if (!reindex) RepairPositions(*node.chainman);
    if (gArgs.GetBoolArg("-txindex", DEFAULT_TXINDEX)) {
        g_txindex = std::make_unique<TxIndex>(interfaces::MakeChain(node), caches.tx_index, false, reindex);
        node.indexes.emplace_back(g_txindex.get());
    }
    if (gArgs.GetBoolArg("-txospenderindex", DEFAULT_TXOSPENDERINDEX)) {
        g_txospenderindex = std::make_unique<TxoSpenderIndex>(interfaces::MakeChain(node), caches.txospender_index, false, reindex);
        node.indexes.emplace_back(g_txospenderindex.get());
    }
    const fs::path indexes{gArgs.GetDataDirNet() / "indexes"};
    for (const BlockFilterType type : FilterTypes()) {
        const std::string& filter{BlockFilterTypeName(type)};
        if (!reindex) RepairHeights(*node.chainman, indexes / "blockfilter" / fs::u8path(filter), filter + " block filter index");
        InitBlockFilterIndex([&] { return interfaces::MakeChain(node); }, type, caches.filter_index, false, reindex);
        node.indexes.emplace_back(GetBlockFilterIndex(type));
    }
    if (gArgs.GetBoolArg("-coinstatsindex", DEFAULT_COINSTATSINDEX)) {
        if (!reindex) RepairHeights(*node.chainman, indexes / "coinstatsindex", "coinstatsindex");
        g_coin_stats_index = std::make_unique<CoinStatsIndex>(interfaces::MakeChain(node), /*n_cache_size=*/0, false, reindex);
        node.indexes.emplace_back(g_coin_stats_index.get());
    }
    for (BaseIndex* const index : node.indexes) Require(index->Init(), "an index could not be opened");
}

void MaintainBlockStore(node::NodeContext& node)
{
    ChainstateManager& chainman{*node.chainman};
    if (chainman.m_blockman.IsPruneMode() && chainman.m_blockman.m_blockfiles_indexed) {
        LOCK(cs_main);
        for (const auto& chainstate : chainman.m_chainstates) {
            uiInterface.InitMessage(_("Pruning blockstore…"));
            chainstate->PruneAndFlush();
        }
    }
    for (const fs::path& dir : {gArgs.GetDataDirNet(), gArgs.GetBlocksDirPath()}) {
        if (!CheckDiskSpace(dir)) Require(InitError(strprintf(_("Error: Disk space is low for %s"), fs::quoted(fs::PathToString(dir)))), "");
    }
    const int height{WITH_LOCK(cs_main, return chainman.ActiveChain().Height())};
    if (height > 1 || gArgs.GetBoolArg("-reindex", false)) return;
    const uint64_t assumed{Params().AssumedBlockchainSize() * (uint64_t{1} << 30)};
    const uint64_t needed{chainman.m_blockman.IsPruneMode() ? std::min(chainman.m_blockman.GetPruneTarget(), assumed) : assumed};
    if (CheckDiskSpace(gArgs.GetBlocksDirPath(), needed)) return;
    InitWarning(strprintf(_("Disk space for %s may not accommodate the block files. Approximately %u GB of data will be stored in this directory."),
                          fs::quoted(fs::PathToString(gArgs.GetBlocksDirPath())), Params().AssumedBlockchainSize()));
}

void ConnectBlockNotify()
{
    const std::string command{gArgs.GetArg("-blocknotify", "")};
    if (command.empty()) return;
    uiInterface.NotifyBlockTip.connect([command](SynchronizationState sync, const CBlockIndex& block, double) {
        if (sync != SynchronizationState::POST_INIT) return;
        std::string filled{command};
        util::ReplaceAll(filled, "%s", block.GetBlockHash().GetHex());
        std::thread{[filled] { runCommand(filled); }}.detach();
    });
}

/** Imports block files, starts the indexes, reads the stored mempool: on a thread of its own. */
void RunInBackground(node::NodeContext& node, const std::vector<fs::path>& import_files)
{
    ChainstateManager& chainman{*node.chainman};
    ScheduleBatchPriority();
    node::ImportBlocks(chainman, import_files);
    WITH_LOCK(node.notifications->m_tip_block_mutex, node.notifications->m_tip_block_cv.notify_all());
    WITH_LOCK(::cs_main, chainman.UpdateIBDStatus());
    if (gArgs.GetBoolArg("-stopafterblockimport", false)) {
        LogInfo("Stopping after block import");
        node.shutdown_request();
        return;
    }
    if (!StartIndexBackgroundSync(node)) {
        chainman.GetNotifications().fatalError(_("Failed to start indexes, shutting down…"));
        return;
    }
    if (CTxMemPool* const pool{chainman.ActiveChainstate().GetMempool()}) {
        node::LoadMempool(*pool, node::ShouldPersistMempool(gArgs) ? node::MempoolPath(gArgs) : fs::path{}, chainman.ActiveChainstate(), {});
        pool->SetLoadTried(!chainman.m_interrupt);
    }
}

void WaitForTip(node::NodeContext& node)
{
    node::KernelNotifications& notifications{*node.notifications};
    WAIT_LOCK(notifications.m_tip_block_mutex, lock);
    // A signal handler sets only a flag, so look again from time to time.
    while (!notifications.TipBlock() && !StopRequested(node)) {
        notifications.m_tip_block_cv.wait_for(lock, std::chrono::milliseconds{200});
    }
}

} // namespace

void LoadNode(node::NodeContext& node)
{
    PeerManager::Options peer_options{};
    node::ApplyArgsManOptions(gArgs, peer_options);
    MakeNetworkTables(node);
    MakeFeeEstimator(node, peer_options.ignore_incoming_txs);
    node::LogOversizedDbCache(gArgs);
    const auto [index_caches, kernel_caches]{node::CalculateCacheSizes(gArgs, FilterTypes().size())};
    const bool reindex{LoadChain(node, kernel_caches)};
    if (StopRequested(node)) return;
    node.peerman = MakePeers(peer_options.ignore_incoming_txs, peer_options.private_broadcast);
    MakeRelay(*node.mempool, peer_options.max_extra_txs);
    MakeIndexes(node, index_caches, reindex);
    MaintainBlockStore(node);
    ConnectBlockNotify();
    std::vector<fs::path> import_files;
    for (const std::string& file : gArgs.GetArgs("-loadblock")) import_files.push_back(fs::PathFromString(file));
    node.background_init_thread = std::thread(&util::TraceThread, "initload", [&node, import_files] {
        OrStop(node, [&] { RunInBackground(node, import_files); });
    });
    WaitForTip(node);
    if (StopRequested(node)) return;
    {
        LOCK(cs_main);
        LogInfo("block tree size = %u", node.chainman->BlockIndex().size());
        LogInfo("nBestHeight = %d", node.chainman->ActiveChain().Height());
    }
    ScheduleSettledFlush(*node.scheduler);
    TheState().loaded = true;
}

void UnloadNode(node::NodeContext& node)
{
    EndRelay();
    if (node.addrman) DumpPeerAddresses(gArgs, *node.addrman);
}

} // namespace keyless
