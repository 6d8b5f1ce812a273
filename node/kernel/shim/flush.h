// Writing to disk once the tip has settled: kill -9 loses what was not written, and Core by itself waits up to an hour.
#ifndef KEYLESS_FLUSH_H
#define KEYLESS_FLUSH_H

class CScheduler;
class ChainstateManager;

namespace keyless {

/** Chainstate and block index to disk; the coins cache stays warm. */
void FlushChainstates(ChainstateManager& chainman);

/** The tip changed: it waits to be flushed. */
void TipMoved();

/** Looks from time to time whether the tip has been quiet, and flushes. */
void ScheduleSettledFlush(CScheduler& scheduler);

} // namespace keyless

#endif // KEYLESS_FLUSH_H
