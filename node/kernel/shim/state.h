// The one node of this process, and the guard every call takes.
#ifndef KEYLESS_STATE_H
#define KEYLESS_STATE_H

#include "codec.h"

#include <node/context.h>
#include <sync.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

class CBlockIndex;
class CTxMemPool;
class ChainstateManager;
class ChainEvents;
namespace interfaces {
class Init;
} // namespace interfaces

namespace keyless {

enum class Event : uint32_t {
    TIP_CHANGED = 1,
    BLOCK_CONNECTED = 2,
    BLOCK_DISCONNECTED = 3,
    NEW_POW_VALID_BLOCK = 4,
    BLOCK_CHECKED = 5,
    TX_ADDED = 6,
    TX_REMOVED = 7,
    CHAINSTATE_FLUSHED = 8,
    HEADER_TIP = 9,
    RELAY_TRANSACTION = 10,
    INIT_MESSAGE = 11,
    SHUTDOWN_REQUESTED = 12,
};

class Events;

struct State {
    node::NodeContext node;
    std::unique_ptr<interfaces::Init> init;
    std::unique_ptr<Events> events;
    //! Set once, before any event can happen.
    kl_notify notify{nullptr};
    kl_fetch fetch{nullptr};
    void* notify_ctx{nullptr};
    //! Calls may enter: the RPC table is filled.
    std::atomic<bool> started{false};
    //! Chainstate, mempool and all that hangs on them may be asked.
    std::atomic<bool> loaded{false};
    //! No more calls may enter.
    std::atomic<bool> closing{false};
    std::atomic<uint64_t> calls{0};
    std::atomic<uint32_t> peers{0};
    std::atomic<bool> pid_written{false};
    //! What Core told the user since the last failure was reported.
    std::mutex messages_mutex;
    std::vector<std::string> errors;
};

/** Lives as long as the process: Core's threads may look at it until the very end. */
State& TheState();

/** Tells Rust; no-op before kl_start. */
void Notify(Event event, const Writer& fields);

/** Throws the errors Core reported since the last call as one refusal (or `fallback`). */
[[noreturn]] void ThrowErrors(const std::string& fallback);

/** Held by every call while it looks at the node; kl_shutdown waits until none is left. */
class Call
{
public:
    enum class Needs { STARTED, LOADED };
    explicit Call(Needs needs = Needs::LOADED)
    {
        State& state{TheState()};
        ++state.calls;
        const bool ready{needs == Needs::LOADED ? state.loaded.load() : state.started.load()};
        if (!ready || state.closing) {
            --state.calls;
            throw NotRunning{};
        }
    }
    ~Call() { --TheState().calls; }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    node::NodeContext& node() const { return TheState().node; }
    ChainstateManager& chainman() const { return *TheState().node.chainman; }
    CTxMemPool& mempool() const { return *TheState().node.mempool; }
};

} // namespace keyless

#endif // KEYLESS_STATE_H
