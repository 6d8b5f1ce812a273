//! The node's life: prepare, lock, start, load, ready, interrupt, shut down.
//!
//! ```text
//! Args::parse ─► Kernel::prepare ─► (fork for -daemon) ─► Kernel::lock_directories ─► Kernel::start
//!    ─► [RPC answers −28] ─► load ─► [wallets, sockets] ─► ready ─► … ─► interrupt ─► [sockets, wallets] ─► shutdown
//! ```
//!
//! After a failed step from `start` on, [`Kernel::interrupt`] and [`Kernel::shutdown`] still have to be called.

use std::os::raw::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::args::Args;
use crate::codec::Answer;
use crate::error::{InitError, KernelError};
use crate::ffi;
use crate::notify::{self, Notifications, Sink};

/// Handle to the node of this process: cheap to clone, shared between threads.
#[derive(Debug, Clone)]
pub struct Kernel {
    _started: (),
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Kernel {
    /// Logging options, parameter interaction, signals, limits, sanity checks. Starts no thread, so that a daemon may
    /// still fork. Installs Core's handlers of SIGTERM, SIGINT (both as [`Kernel::request_shutdown`]) and SIGHUP
    /// (reopens the log), and ignores SIGPIPE.
    pub fn prepare(_args: &Args) -> Result<(), InitError> {
        Ok(Answer::new(ffi::kl_prepare()).done()?)
    }

    /// Locks data and block directories until the process ends. After the fork.
    pub fn lock_directories() -> Result<(), InitError> {
        Ok(Answer::new(ffi::kl_lock_directories()).done()?)
    }

    /// Writes the pid file, opens the log, starts the scheduler, fills the RPC table. From here on [`Kernel::rpc`]
    /// answers (−28 until [`Kernel::ready`]), and `sink` hears. Once a process.
    pub fn start(_args: &Args, sink: Arc<dyn Notifications>) -> Result<Kernel, InitError> {
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(InitError::Refused("the node of this process was started before".into()));
        }
        // Never freed: Core may call until the process ends.
        let ctx: *mut Sink = Box::leak(Box::new(Sink(sink)));
        // SAFETY: `deliver` and `fetch` expect exactly this pointer, and it stays valid.
        let answer = Answer::new(unsafe { ffi::kl_start(notify::deliver, notify::fetch, ctx.cast::<c_void>()) });
        answer.done()?;
        Ok(Kernel { _started: () })
    }

    /// Loads and verifies the chainstate, starts indexes, imports blocks and the stored mempool in the background.
    /// Blocks until there is a tip.
    pub fn load(&self) -> Result<(), InitError> {
        let result = Answer::new(ffi::kl_load()).done();
        if self.shutdown_requested() && result.is_ok() {
            return Err(InitError::Interrupted);
        }
        Ok(result?)
    }

    /// Ends the warm-up of RPC and runs `-startupnotify`. After wallets and sockets are up.
    pub fn ready(&self) -> Result<(), KernelError> {
        Answer::new(ffi::kl_ready()).done()
    }

    /// Asks the node to stop: loading, imports, long polls and waits end, [`Kernel::wait_for_shutdown`] returns.
    pub fn request_shutdown(&self) {
        ffi::kl_request_shutdown();
    }

    /// Whether the node was asked to stop (signals included).
    pub fn shutdown_requested(&self) -> bool {
        ffi::kl_shutdown_requested() != 0
    }

    /// Blocks until the node is asked to stop. For a thread of its own.
    pub fn wait_for_shutdown(&self) {
        ffi::kl_wait_shutdown();
    }

    /// Exit code so far: 1 after a fatal error of Core, else 0.
    pub fn exit_status(&self) -> i32 {
        ffi::kl_exit_status()
    }

    /// Runs `-shutdownnotify`, ends waiting RPC calls and index threads. Before sockets and wallets are closed.
    pub fn interrupt(&self) -> Result<(), KernelError> {
        Answer::new(ffi::kl_interrupt()).done()
    }

    /// Waits for calls in flight, stores mempool, fee estimates and chainstate, stops indexes, removes the pid file.
    /// Every later call answers [`KernelError::NotRunning`].
    pub fn shutdown(&self) -> Result<(), KernelError> {
        Answer::new(ffi::kl_shutdown()).done()
    }

    /// Sets the start-up message, as Core's own steps do (`Loading wallet…`).
    pub fn init_message(&self, text: &str) {
        // Only a display text.
        let _ = Answer::new(ffi::kl_init_message(text.into())).done();
    }

    /// How many peers are connected: `getblocktemplate` off test networks refuses without any.
    pub fn set_peer_count(&self, peers: u32) {
        ffi::kl_set_peer_count(peers);
    }

    /// Waits until everything that happened so far has been notified. Never from a notification.
    pub fn sync_notifications(&self) -> Result<(), KernelError> {
        Answer::new(ffi::kl_sync_queue()).done()
    }

    /// What Core warns of, as in `getblockchaininfo` and `getnetworkinfo`.
    pub fn warnings(&self) -> Result<Vec<String>, KernelError> {
        Answer::new(ffi::kl_warnings()).fields()?.list(|f| f.string())
    }

    /// The node's clock in seconds since 1970: mock time, when it is set.
    pub fn time(&self) -> i64 {
        ffi::kl_time()
    }

    /// The same clock since 1970, to the microsecond unless mocked.
    pub fn precise_time(&self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(ffi::kl_time_micros()).unwrap_or(0))
    }
}
