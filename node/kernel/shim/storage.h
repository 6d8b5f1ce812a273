// What becomes of a database that cannot be written.
#ifndef KEYLESS_STORAGE_H
#define KEYLESS_STORAGE_H

#include <dbwrapper.h>
#include <node/context.h>
#include <node/kernel_notifications.h>
#include <util/log.h>
#include <util/translation.h>

#include <atomic>
#include <system_error>

namespace keyless {

inline void StopForStorage(node::NodeContext& node, const std::exception& e)
{
    static std::atomic<bool> told{false};
    LogError("%s", e.what());
    // One full disk fails in many places; the user is told of the first.
    if (!told.exchange(true) && node.notifications) node.notifications->fatalError(Untranslated(e.what()));
}

/**
 * Runs `work` on a thread of Core's, which would take the process down if an index or another database cannot be written:
 * the node is told to stop instead, as Core does where it sees a full disk coming. Returns whether `work` was completed.
 */
template <typename Work>
bool OrStop(node::NodeContext& node, Work&& work)
{
    try {
        work();
        return true;
    } catch (const dbwrapper_error& e) {
        StopForStorage(node, e);
    } catch (const std::system_error& e) {
        StopForStorage(node, e);
    }
    return false;
}

} // namespace keyless

#endif // KEYLESS_STORAGE_H
