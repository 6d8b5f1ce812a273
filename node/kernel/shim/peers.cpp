#include "peers.h"

#include "private.h"
#include "relay.h"
#include "state.h"

#include <chain.h>
#include <util/expected.h>
#include <clientversion.h>
#include <node/mining_types.h>
#include <node/types.h>
#include <rpc/protocol.h>
#include <rpc/request.h>

#include <algorithm>
#include <string>

namespace keyless {
namespace {

class Peers final : public PeerManager
{
    const bool m_blocks_only;
    const bool m_private;

public:
    Peers(bool blocks_only, bool private_broadcast) : m_blocks_only{blocks_only}, m_private{private_broadcast} {}

    util::Expected<void, std::string> FetchBlock(NodeId peer, const CBlockIndex& block) override
    {
        const State& state{TheState()};
        const uint256 hash{block.GetBlockHash()};
        std::string text(256, '\0');
        const size_t length{state.fetch(state.notify_ctx, peer, hash.begin(), reinterpret_cast<uint8_t*>(text.data()), text.size())};
        if (length == 0) return {};
        text.resize(std::min(length, text.size()));
        return util::Unexpected{text};
    }
    void InitiateTxBroadcastToAll(const Txid& txid, const Wtxid& wtxid) override
    {
        Writer out;
        out.hash(txid);
        out.hash(wtxid);
        Notify(Event::RELAY_TRANSACTION, out);
    }
    PeerManagerInfo GetInfo() const override { return {.ignores_incoming_txs = m_blocks_only, .private_broadcast = m_private}; }

    std::vector<node::TxOrphanage::OrphanInfo> GetOrphanTransactions() override { return RelayOrphans(); }

    std::vector<PrivateBroadcast::TxBroadcastInfo> GetPrivateBroadcastInfo() const override { return PrivateBroadcasts(); }
    std::vector<CTransactionRef> AbortPrivateBroadcast(const uint256& id) override { return AbortPrivateBroadcasts(id); }
    node::TransactionError InitiateTxBroadcastPrivate(const CTransactionRef& tx) override { return BroadcastPrivately(tx); }

    // What follows needs peers, which this side has none of.
    void StartScheduledTasks(CScheduler&) override {}
    bool GetNodeStateStats(NodeId, CNodeStateStats&) const override { return false; }
    void SendPings() override {}
    void SetBestBlock(int, std::chrono::seconds) override {}
    void UnitTestMisbehaving(NodeId) override {}
    void CheckForStaleTipAndEvictPeers() override {}
    void UpdateLastBlockAnnounceTime(NodeId, int64_t) override {}
    ServiceFlags GetDesirableServiceFlags(ServiceFlags) const override { return ServiceFlags(NODE_NETWORK | NODE_WITNESS); }

    void InitializeNode(const CNode&, ServiceFlags) override {}
    void FinalizeNode(const CNode&) override {}
    bool HasAllDesirableServiceFlags(ServiceFlags services) const override { return !(GetDesirableServiceFlags(services) & ~services); }
    bool ProcessMessages(CNode&, std::atomic<bool>&) override { return false; }
    bool SendMessages(CNode&) override { return false; }
};

class PeerAwareMining final : public interfaces::Mining
{
    const std::unique_ptr<interfaces::Mining> m_core;

public:
    explicit PeerAwareMining(std::unique_ptr<interfaces::Mining> core) : m_core{std::move(core)} {}

    //! getblocktemplate asks this, then looks for peers in Core's connection manager, which has none. With peers on the
    //! Rust side the answer is "no need to look", after the check of initial download that would have followed.
    bool isTestChain() override
    {
        if (m_core->isTestChain()) return true;
        if (TheState().peers == 0) return false;
        if (m_core->isInitialBlockDownload()) {
            throw JSONRPCError(RPC_CLIENT_IN_INITIAL_DOWNLOAD, CLIENT_NAME " is in initial sync and waiting for blocks...");
        }
        return true;
    }

    bool isInitialBlockDownload() override { return m_core->isInitialBlockDownload(); }
    std::optional<interfaces::BlockRef> getTip() override { return m_core->getTip(); }
    std::optional<interfaces::BlockRef> waitTipChanged(uint256 tip, MillisecondsDouble timeout) override { return m_core->waitTipChanged(tip, timeout); }
    std::unique_ptr<interfaces::BlockTemplate> createNewBlock(const node::BlockCreateOptions& options, bool cooldown) override { return m_core->createNewBlock(options, cooldown); }
    void interrupt() override { m_core->interrupt(); }
    bool checkBlock(const CBlock& block, const node::BlockCheckOptions& options, std::string& reason, std::string& debug) override { return m_core->checkBlock(block, options, reason, debug); }
    bool submitBlock(const CBlock& block, std::string& reason, std::string& debug) override { return m_core->submitBlock(block, reason, debug); }
    std::vector<CTransactionRef> getTransactionsByTxID(const std::vector<Txid>& ids) override { return m_core->getTransactionsByTxID(ids); }
    std::vector<CTransactionRef> getTransactionsByWitnessID(const std::vector<Wtxid>& ids) override { return m_core->getTransactionsByWitnessID(ids); }
    const node::NodeContext* context() override { return m_core->context(); }
};

} // namespace

std::unique_ptr<PeerManager> MakePeers(bool blocks_only, bool private_broadcast)
{
    return std::make_unique<Peers>(blocks_only, private_broadcast);
}

std::unique_ptr<interfaces::Mining> MakePeerAwareMining(std::unique_ptr<interfaces::Mining> core)
{
    return std::make_unique<PeerAwareMining>(std::move(core));
}

} // namespace keyless
