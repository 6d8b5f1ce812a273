// The node's life from options to the RPC table, and its end. In between stands load.cpp.
#include "events.h"
#include "load.h"
#include "peers.h"
#include "state.h"

#include <bitcoin-build-config.h> // IWYU pragma: keep

#include <chainparams.h>
#include <common/args.h>
#include <common/system.h>
#include <init.h>
#include <init/common.h>
#include <interfaces/chain.h>
#include <interfaces/echo.h>
#include <interfaces/init.h>
#include <interfaces/mining.h>
#include <interfaces/wallet.h>
#include <kernel/context.h>
#include <key.h>
#include <logging.h>
#include <node/interface_ui.h>
#include <node/kernel_notifications.h>
#include <node/warnings.h>
#include <random.h>
#include <rpc/register.h>
#include <rpc/server.h>
#include <scheduler.h>
#include <util/fs.h>
#include <util/fs_helpers.h>
#include <util/log.h>
#include <util/signalinterrupt.h>
#include <util/syserror.h>
#include <util/task_runner.h>
#include <util/thread.h>
#include <util/time.h>
#include <util/translation.h>
#include <validationinterface.h>
#include <walletinitinterface.h>

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <fstream>
#include <thread>

// In init.cpp, but in no header of Core's.
bool CheckHostPortOptions(const ArgsManager& args);

using namespace keyless;

namespace {

class KeylessInit final : public interfaces::Init
{
    node::NodeContext& m_node;

public:
    explicit KeylessInit(node::NodeContext& node) : m_node{node} {}
    std::unique_ptr<interfaces::Chain> makeChain() override { return interfaces::MakeChain(m_node); }
    std::unique_ptr<interfaces::Mining> makeMining() override { return interfaces::MakeMining(m_node); }
    std::unique_ptr<interfaces::Echo> makeEcho() override { return interfaces::MakeEcho(); }
    const char* exeName() override { return "keylessd"; }
};

fs::path PidPath() { return AbsPathForConfigVal(gArgs, gArgs.GetPathArg("-pid", "bitcoind.pid")); }

bool WritePidFile()
{
    if (gArgs.IsArgNegated("-pid")) return true;
    std::ofstream file{PidPath().std_path()};
    if (!file) {
        return InitError(strprintf(_("Unable to create the PID file '%s': %s"), fs::PathToString(PidPath()), SysErrorString(errno)));
    }
    file << getpid() << '\n';
    TheState().pid_written = true;
    return true;
}

void RemovePidFile()
{
    if (!TheState().pid_written) return;
    std::error_code error;
    if (!fs::remove(PidPath(), error)) LogWarning("Unable to remove PID file (%s): %s", fs::PathToString(PidPath()), error.message());
}

void WarnOfRelativeDatadir()
{
    if (!gArgs.IsArgSet("-datadir") || gArgs.GetPathArg("-datadir").is_absolute()) return;
    LogWarning("Relative datadir option '%s' specified, which will be interpreted relative to the current working directory '%s'. "
               "This is fragile, because a start from another directory will not find the data.",
               gArgs.GetArg("-datadir", ""), fs::PathToString(fs::current_path()));
}

void StartScheduler(node::NodeContext& node)
{
    node.scheduler = std::make_unique<CScheduler>();
    CScheduler& scheduler{*node.scheduler};
    scheduler.m_service_thread = std::thread(util::TraceThread, "scheduler", [&] { scheduler.serviceQueue(); });
    scheduler.scheduleEvery([] { RandAddPeriodic(); }, std::chrono::minutes{1});
    scheduler.scheduleEvery([&node] {
        if (CheckDiskSpace(gArgs.GetBlocksDirPath(), 50 * 1024 * 1024)) return;
        LogError("Shutting down due to lack of disk space!\n");
        node.shutdown_request();
    }, std::chrono::minutes{5});
    if (gArgs.GetBoolArg("-logratelimit", BCLog::DEFAULT_LOGRATELIMIT)) {
        LogInstance().SetRateLimiting(BCLog::LogRateLimiter::Create(
            [&scheduler](auto func, auto window) { scheduler.scheduleEvery(std::move(func), window); },
            BCLog::RATELIMIT_MAX_BYTES, BCLog::RATELIMIT_WINDOW));
    } else {
        LogInfo("Log rate limiting disabled");
    }
}

/** A stop that Core asks for (a signal apart) is told to Rust. */
void TellOfShutdown(node::NodeContext& node)
{
    auto ask{std::move(node.shutdown_request)};
    node.shutdown_request = [ask] {
        const bool asked{ask()};
        Notify(Event::SHUTDOWN_REQUESTED, Writer{});
        return asked;
    };
}

void Start(kl_notify notify, kl_fetch fetch, void* ctx)
{
    State& state{TheState()};
    node::NodeContext& node{state.node};
    state.notify_ctx = ctx;
    state.fetch = fetch;
    state.notify = notify;
    TellOfShutdown(node);
    if (!WritePidFile() || !init::StartLogging(gArgs)) ThrowErrors("logging could not be started");
    WarnOfRelativeDatadir();
    StartScheduler(node);
    node.validation_signals = std::make_unique<ValidationSignals>(std::make_unique<SerialTaskRunner>(*node.scheduler));
    state.events = std::make_unique<Events>();
    node.validation_signals->RegisterValidationInterface(state.events.get());
    node.notifications = std::make_unique<node::KernelNotifications>(node.shutdown_request, node.exit_status, *node.warnings);
    node::ReadNotificationArgs(gArgs, *node.notifications);
    g_wallet_init_interface.Construct(node);
    ConnectInterfaceSignals();
    uiInterface.InitMessage.connect(SetRPCWarmupStatus);
    RegisterAllCoreRPCCommands(tableRPC);
    if (!CheckHostPortOptions(gArgs)) ThrowErrors("a port option was refused");
    StartRPC();
    node.rpc_interruption_point = RpcInterruptionPoint;
    state.started = true;
}

/** Core runs these at the end of AppInitMain. */
void RunStartupNotify()
{
    for (const std::string& command : gArgs.GetArgs("-startupnotify")) {
        std::thread{[command] { runCommand(command); }}.detach();
    }
}

void WaitForCalls()
{
    using namespace std::chrono_literals;
    while (TheState().calls > 0) std::this_thread::sleep_for(2ms);
}

} // namespace

/** What Core leaves to its main function: an exception that nothing has told the user of yet. */
template <typename Step>
kl_buf AnswerInit(Step&& step) noexcept
{
    return Answer([&](Writer&) {
        try {
            step();
        } catch (const Refused&) {
            throw;
        } catch (const NotRunning&) {
            throw;
        } catch (const std::exception& e) {
            InitError(Untranslated(e.what()));
            throw;
        }
    });
}

kl_buf kl_prepare()
{
    return AnswerInit([&] {
        State& state{TheState()};
        node::NodeContext& node{state.node};
        state.init = std::make_unique<KeylessInit>(node);
        node.init = state.init.get();
        gArgs.SoftSetBoolArg("-server", true);
        InitLogging(gArgs);
        InitParameterInteraction(gArgs);
        if (!AppInitBasicSetup(gArgs, node.exit_status) || !AppInitParameterInteraction(gArgs)) ThrowErrors("the node could not be set up");
        node.warnings = std::make_unique<node::Warnings>();
        node.kernel = std::make_unique<kernel::Context>();
        node.ecc_context = std::make_unique<ECC_Context>();
        if (!AppInitSanityChecks(*node.kernel)) ThrowErrors("sanity checks failed");
    });
}

kl_buf kl_lock_directories()
{
    return AnswerInit([&] {
        if (!AppInitLockDirectories()) ThrowErrors("the data directory could not be locked");
        node::NodeContext& node{TheState().node};
        AppInitInterfaces(node);
        node.mining = MakePeerAwareMining(std::move(node.mining));
    });
}

kl_buf kl_start(kl_notify notify, kl_fetch fetch, void* ctx)
{
    return Answer([&](Writer&) {
        try {
            Start(notify, fetch, ctx);
        } catch (...) {
            // There will be no handle to end the node with.
            TheState().closing = true;
            Interrupt(TheState().node);
            Shutdown(TheState().node);
            RemovePidFile();
            throw;
        }
    });
}

kl_buf kl_load()
{
    return AnswerInit([&] {
        const Call call{Call::Needs::STARTED};
        LoadNode(call.node());
    });
}

kl_buf kl_ready()
{
    return Answer([&](Writer&) {
        const Call call;
        SetRPCWarmupFinished();
        uiInterface.InitMessage(_("Done loading"));
        RunStartupNotify();
    });
}

void kl_request_shutdown()
{
    // The result says only whether a waiter could be woken; wait_shutdown also looks at the flag.
    if (util::SignalInterrupt* const signal{TheState().node.shutdown_signal}) static_cast<void>((*signal)());
}

int kl_shutdown_requested()
{
    const util::SignalInterrupt* const signal{TheState().node.shutdown_signal};
    return signal && *signal ? 1 : 0;
}

void kl_wait_shutdown()
{
    // SignalInterrupt::wait wakes one waiter only; any number may be here.
    using namespace std::chrono_literals;
    while (!kl_shutdown_requested()) std::this_thread::sleep_for(20ms);
}

int kl_exit_status() { return TheState().node.exit_status.load(); }

kl_buf kl_interrupt()
{
    return Answer([&](Writer&) {
        kl_request_shutdown();
        Interrupt(TheState().node);
    });
}

kl_buf kl_shutdown()
{
    return Answer([&](Writer&) {
        State& state{TheState()};
        if (state.closing.exchange(true)) return;
        WaitForCalls();
        UnloadNode(state.node);
        Shutdown(state.node);
        RemovePidFile();
    });
}

kl_buf kl_init_message(kl_in text)
{
    return Answer([&](Writer&) { uiInterface.InitMessage(Text(text)); });
}

void kl_set_peer_count(uint32_t peers) { TheState().peers = peers; }

kl_buf kl_sync_queue()
{
    return Answer([&](Writer&) {
        const Call call;
        call.node().validation_signals->SyncWithValidationInterfaceQueue();
    });
}

int64_t kl_time_micros() { return TicksSinceEpoch<std::chrono::microseconds>(NodeClock::now()); }

kl_buf kl_warnings()
{
    return Answer([&](Writer& out) {
        const Call call{Call::Needs::STARTED};
        const auto messages{call.node().warnings->GetMessages()};
        out.u32(static_cast<uint32_t>(messages.size()));
        for (const bilingual_str& message : messages) out.text(message.original);
    });
}

int64_t kl_time() { return TicksSinceEpoch<std::chrono::seconds>(NodeClock::now()); }
