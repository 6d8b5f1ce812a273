//! Core's logger: one `debug.log` in Core's format for both sides. [`CoreLogLayer`] feeds `tracing` events into it.
//!
//! A `tracing` target that is one of Core's category names (`net`, `rpc`, `walletdb`, …) follows `-debug=<category>`.
//! Module paths of our own crates are logged from `info` on, with `-debug=1` from `debug` on; those of other crates from
//! `warn` on.

use std::fmt::Write as _;
use std::os::raw::c_int;

use crate::codec::Answer;
use crate::ffi;

/// Severity, as Core has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Most detailed.
    Trace = 0,
    /// Only with `-debug=<category>`.
    Debug = 1,
    /// Default.
    Info = 2,
    /// Something is odd.
    Warning = 3,
    /// Something failed.
    Error = 4,
}

/// Writes a line. `category` is one of Core's names, or empty.
pub fn write(category: &str, level: Level, text: &str) {
    // A line that cannot be logged has nowhere to be reported.
    let _ = Answer::new(ffi::kl_log(category.into(), level as c_int, text.into())).done();
}

/// Writes an error line.
pub fn error(text: &str) {
    write("", Level::Error, text);
}

/// Whether a line of this category (one of Core's, or anything else) and level would be written.
pub fn enabled(category: &str, level: Level) -> bool {
    ffi::kl_log_enabled(category.into(), level as c_int) != 0
}

/// Reopens `debug.log` at the next line (SIGHUP, log rotation).
pub fn reopen() {
    ffi::kl_log_reopen();
}

/// A `tracing` subscriber that writes every event to Core's log as one line: message, then `key=value` fields. It keeps
/// no spans: their ids are all equal and mean nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct CoreLog;

impl CoreLog {
    /// Makes this the process's subscriber; `false` when there is one already.
    pub fn install() -> bool {
        tracing::subscriber::set_global_default(CoreLog).is_ok()
    }
}

impl tracing::Subscriber for CoreLog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), level_of(metadata.level()));
        metadata.is_event() && (level >= Level::Warning || speaks(target)) && enabled(target, level)
    }

    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> tracing::subscriber::Interest {
        // The `logging` method changes categories while the node runs, so each event asks anew.
        tracing::subscriber::Interest::sometimes()
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        write(metadata.target(), level_of(metadata.level()), &line.finish());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Whether a target is ours or one of Core's categories.
fn speaks(target: &str) -> bool {
    OUR_CRATES.iter().any(|name| target.starts_with(name)) || ffi::kl_log_is_category(target.into()) != 0
}

const OUR_CRATES: [&str; 2] = ["keyless", "tss_wallet"];

fn level_of(level: &tracing::Level) -> Level {
    match *level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(self) -> String {
        self.message + &self.fields
    }
}

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value}")
        } else {
            write!(self.fields, " {}={value}", field.name())
        };
    }
}
