// Core's logger for the Rust side.
#include "state.h"

#include <logging.h>
#include <util/log.h>
#include <util/string.h>

namespace {

BCLog::LogFlags CategoryOf(kl_in name)
{
    if (name.len == 0) return BCLog::ALL;
    const auto flag{BCLog::Logger::GetLogCategory(keyless::Text(name))};
    // Names Core does not know are logged like uncategorised lines.
    return flag && *flag != BCLog::NONE ? *flag : BCLog::ALL;
}

util::log::Level LevelOf(int level)
{
    return level >= 0 && level <= 4 ? static_cast<util::log::Level>(level) : util::log::Level::Info;
}

} // namespace

kl_buf kl_log(kl_in category, int level, kl_in text)
{
    return keyless::Answer([&](keyless::Writer&) {
        const util::log::Level wanted{LevelOf(level)};
        util::log::Log(util::log::Entry{
            // Core names the category of what may be turned off alone.
            .category = wanted >= util::log::Level::Info ? BCLog::ALL : CategoryOf(category),
            .level = wanted,
            .source_loc = SourceLocation{"keyless"},
            .message = keyless::Text(text)});
    });
}

int kl_log_enabled(kl_in category, int level)
{
    try {
        const BCLog::LogFlags flag{CategoryOf(category)};
        const util::log::Level wanted{LevelOf(level)};
        if (wanted >= util::log::Level::Info) return 1;
        // Without a category: with -debug=1, which sets every bit, also those no category has.
        if (flag == BCLog::ALL) return wanted == util::log::Level::Debug && (LogInstance().GetCategoryMask() >> 63) != 0;
        return LogInstance().WillLogCategoryLevel(flag, wanted) ? 1 : 0;
    } catch (...) {
        return 0;
    }
}

int kl_log_is_category(kl_in name)
{
    try {
        return CategoryOf(name) != BCLog::ALL;
    } catch (...) {
        return 0;
    }
}

void kl_log_reopen() { LogInstance().m_reopen_file = true; }
