//! The life of the process: options, daemonizing, start, stop.
//!
//! ```text
//! options ─► kernel prepared ─► fork ─► locks ─► kernel started ─► RPC (answers −28) ─► chain loaded
//!   ─► co-signers, wallets ─► Bitcoin network ─► ready … asked to stop
//!   ─► RPC refuses ─► Bitcoin network ─► wallets, co-signers ─► RPC ends ─► kernel flushed and closed
//! ```
//!
//! Exit codes and what goes to standard error are bitcoind's: 0 and nothing after a clean stop, 1 and one line
//! `Error: …` when the start fails.

mod ready;
mod running;

use keyless_kernel::daemon::{ChildStatus, Forked, ParentPipe, daemonize};
use keyless_kernel::{Args, InitError, Kernel};

use crate::cosigner_options;
use crate::quorum::sessions::MAX_SESSIONS;

const SUCCESS: i32 = 0;
const FAILURE: i32 = 1;
const PROGRAM: &str = "keylessd";
/// A session waits on a thread of its own: room for all of them, and as much for the rest.
const MAX_BLOCKING_THREADS: usize = 2 * MAX_SESSIONS;

/// Runs the daemon; the result is the exit code.
pub fn run(argv: &[String]) -> i32 {
    // Core has printed what was wrong.
    let Ok(args) = Args::parse(argv) else { return FAILURE };
    if args.help_requested() || args.version_requested() {
        print!("{}", args.help(PROGRAM));
        return SUCCESS;
    }
    if args.get_bool("-printcosignerid", false) {
        return print_cosigner_id(&args);
    }
    args.soft_set("-server", "1");
    if Kernel::prepare(&args).is_err() {
        return FAILURE;
    }
    let parent = match detach(&args) {
        Detached::Stay(parent) => parent,
        Detached::Exit(code) => return code,
    };
    serve(&args, parent)
}

/// Makes the co-signer's identity if there is none, and prints its PeerId alone.
fn print_cosigner_id(args: &Args) -> i32 {
    match cosigner_options::identity(args) {
        Ok(identity) => {
            println!("{}", identity.peer_id());
            SUCCESS
        }
        Err(error) => {
            eprintln!("Error: {error}");
            FAILURE
        }
    }
}

enum Detached {
    /// Go on, as daemon (with a waiting parent) or not.
    Stay(Option<ParentPipe>),
    /// This is the parent, done.
    Exit(i32),
}

fn detach(args: &Args) -> Detached {
    let wait = args.get_bool("-daemonwait", false);
    if !wait && !args.get_bool("-daemon", false) {
        return Detached::Stay(None);
    }
    println!("Keyless starting");
    match daemonize() {
        Ok(Forked::Child(mut parent)) => {
            if !wait {
                parent.report(true);
            }
            Detached::Stay(Some(parent))
        }
        Ok(Forked::Parent(ChildStatus::Started)) => Detached::Exit(SUCCESS),
        Ok(Forked::Parent(ChildStatus::Failed)) => {
            let log = args.debug_log();
            let log = log.file_name().map_or_else(|| "debug.log".into(), |name| name.to_string_lossy());
            eprintln!("Error during initialization - check {log} for details");
            Detached::Exit(FAILURE)
        }
        Err(error) => {
            args.init_error(&format!("fork_daemon() failed: {error}"));
            Detached::Exit(FAILURE)
        }
    }
}

/// From the locks on: everything that has threads.
fn serve(args: &Args, mut parent: Option<ParentPipe>) -> i32 {
    if Kernel::lock_directories().is_err() {
        return FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("keyless")
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            args.init_error(&format!("cannot start threads: {error}"));
            return FAILURE;
        }
    };
    let started = running::start(args, &runtime);
    let up = matches!(started, Ok(ref node) if node.is_up());
    if let Some(parent) = &mut parent {
        parent.report(up);
    }
    let code = match started {
        Ok(node) => {
            if up {
                ready::tell_service_manager();
                node.kernel().wait_for_shutdown();
            }
            node.stop(&runtime)
        }
        Err(InitError::Interrupted) => SUCCESS,
        Err(InitError::Refused(_)) => FAILURE,
    };
    runtime.shutdown_timeout(running::LAST_TASKS);
    code
}
