// What an unclean end leaves of an index that keeps an entry for each height.
#ifndef KEYLESS_INDEX_REPAIR_H
#define KEYLESS_INDEX_REPAIR_H

#include <util/fs.h>

#include <string>

class ChainstateManager;

namespace keyless {

/**
 * Before the index in `folder` is opened: the block filters or the coin statistics. A reorganisation writes the new branch's
 * entries over the old one's heights at once, but tells how far the index is only when the chainstate is flushed. After a kill
 * between the two Core finds other blocks at the heights of the index's own: it does not open the filters, and cannot take
 * blocks back from the statistics (it reads what lies under a hash as if it lay under a height). What was written over lies
 * under its hash, and is put back.
 */
void RepairHeights(ChainstateManager& chainman, const fs::path& folder, const std::string& name);

} // namespace keyless

#endif // KEYLESS_INDEX_REPAIR_H
