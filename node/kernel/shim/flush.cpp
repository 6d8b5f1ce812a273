#include "flush.h"

#include "state.h"

#include <chain.h>
#include <kernel/cs_main.h>
#include <scheduler.h>
#include <util/time.h>
#include <validation.h>

#include <atomic>
#include <chrono>

namespace keyless {
namespace {

using namespace std::chrono_literals;

constexpr auto LOOK{500ms};
constexpr auto QUIET{2s};

//! Steady time of the last move in milliseconds, 0 when everything is flushed.
std::atomic<int64_t> g_moved{0};

int64_t SteadyNow() { return Ticks<std::chrono::milliseconds>(SteadyClock::now().time_since_epoch()); }

void FlushIfSettled()
{
    int64_t moved{g_moved.load()};
    if (moved == 0 || SteadyNow() - moved < Ticks<std::chrono::milliseconds>(QUIET)) return;
    try {
        const Call call;
        // A move while flushing sets it again, and is flushed next time.
        if (!g_moved.compare_exchange_strong(moved, 0)) return;
        FlushChainstates(call.chainman());
    } catch (const NotRunning&) {
        // Not loaded yet, or stopping, which flushes.
    }
}

} // namespace

void FlushChainstates(ChainstateManager& chainman)
{
    LOCK(cs_main);
    for (const auto& chainstate : chainman.m_chainstates) {
        if (chainstate->CanFlushToDisk()) chainstate->ForceFlushStateToDisk(/*wipe_cache=*/false);
    }
}

void TipMoved() { g_moved = SteadyNow(); }

void ScheduleSettledFlush(CScheduler& scheduler) { scheduler.scheduleEvery(FlushIfSettled, LOOK); }

} // namespace keyless
