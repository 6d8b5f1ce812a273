//! The running node: what was started, in order, and how it ends, in reverse.

use std::sync::Arc;
use std::time::Duration;

use bitcoin::BlockHash;
use keyless_kernel::log::CoreLog;
use keyless_kernel::{Args, InitError, Kernel, memory};
use keyless_p2p::bitcoin::Nets;
use keyless_p2p::{bitcoin as net, cosigners};
use keyless_rpc::backend::Services;
use keyless_rpc::server::{Server, StartReason};
use keyless_rpc::wallet::backend::Wallets as _;
use tokio::runtime::Runtime;

use crate::alerts::Alerts;
use crate::alerts::webhook::{Target, Webhook};
use crate::bitcoin_chain::KernelChain;
use crate::cosigner_options::CosignerOptions;
use crate::events::Events;
use crate::kernel_view::KernelView;
use crate::p2p_options::OptionError;
use crate::publisher::topics::Topic;
use crate::publisher::{self, Publisher};
use crate::rpc_backend::network::{NetworkBackend, NetworkFacts};
use crate::rpc_backend::{KernelBackend, Process};
use crate::wallets::{WalletManager, WalletOptions};
use crate::{cosigner_options, p2p_options, proxy_options, rpc_options};

/// How long tasks that ignore the end may run on.
pub const LAST_TASKS: Duration = Duration::from_secs(5);
/// `-rpcthreads` may ask for more calls at once than the system has threads; brief calls above this many wait.
const MAX_RPC_THREADS: usize = 256;
/// The network is told the height for co-signers' hellos before it can know it.
const UNKNOWN_HEIGHT: u32 = 0;

/// Everything that runs. Made by [`start`], ended by [`Node::stop`].
pub struct Node {
    kernel: Kernel,
    events: Arc<Events>,
    publisher: Arc<Publisher>,
    alerts: Alerts,
    network: Option<net::Handle>,
    network_backend: Arc<NetworkBackend>,
    wallets: Option<Arc<WalletManager>>,
    /// With the threads that serve its connections, and wait for the kernel where the answer is a brief one.
    server: Option<(Runtime, Server)>,
    up: bool,
    /// Asked to stop while loading: not up, and no failure.
    interrupted: bool,
}

/// Starts everything. `Err` only before the kernel runs; what fails later leaves a node that is not up, to be stopped.
pub fn start(args: &Args, runtime: &Runtime) -> Result<Node, InitError> {
    let refuse = |error: OptionError| {
        args.init_error(&error.0);
        InitError::Refused(error.0)
    };
    let genesis = genesis_hash(args);
    let cosigning = cosigner_options::read(args, &genesis, UNKNOWN_HEIGHT).map_err(refuse)?;
    let rpc = rpc_options::config(args).map_err(refuse)?;
    // What is wrong with these is said with the network's other options, after Core has looked at the ports.
    let reachable = proxy_options::read(args).map_or(Nets::NONE, |(_, reachable)| reachable);

    let events = Arc::new(Events::default());
    let kernel = Kernel::start(args, events.clone())?;
    CoreLog::install();
    log_start(args, &cosigning);
    kernel.set_reachable(reachable.bits());

    let facts = NetworkFacts {
        v2_transport: args.get_bool("-v2transport", true),
        default_ban_secs: args.get_int("-bantime").unwrap_or(DEFAULT_BAN_SECS),
    };
    let network_backend = Arc::new(NetworkBackend::new(kernel.clone(), facts));
    let mut node = Node {
        kernel,
        events,
        publisher: Arc::default(),
        alerts: Alerts::default(),
        network: None,
        network_backend,
        wallets: None,
        server: None,
        up: false,
        interrupted: false,
    };
    node.up = node.bring_up(args, runtime, rpc, cosigning).is_ok();
    Ok(node)
}

const DEFAULT_BAN_SECS: i64 = 60 * 60 * 24;

/// A step failed; its text has been printed.
struct Failed;

impl Node {
    /// Whether the start went through.
    pub fn is_up(&self) -> bool {
        self.up
    }

    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn bring_up(
        &mut self,
        args: &Args,
        runtime: &Runtime,
        rpc: keyless_rpc::server::Config,
        cosigning: CosignerOptions,
    ) -> Result<(), Failed> {
        let print = |text: String| {
            args.init_error(&text);
            Failed
        };
        let params = self.kernel.chain_params().map_err(|error| print(error.to_string()))?;
        let network_config = p2p_options::config(args, &params).map_err(|error| print(error.0))?;
        self.start_publishing(args, runtime).map_err(&print)?;
        if !args.get_bool("-disablewallet", false) {
            self.kernel.init_message("Verifying wallet(s)…");
            let mut options = WalletOptions::read(args, &cosigning).map_err(&print)?;
            options.alerts = self.alerts.clone();
            let view = Arc::new(KernelView::new(self.kernel.clone(), *args));
            let manager = WalletManager::new(options, view, runtime.handle().clone());
            self.wallets = Some(manager.map_err(|error| print(error.to_string()))?);
        }
        if args.get_bool("-server", false) {
            self.server = Some(self.start_server(args, runtime, rpc).map_err(&print)?);
        }
        // The kernel prints its own errors.
        if let Err(error) = self.kernel.load() {
            self.interrupted = error == InitError::Interrupted;
            return Err(Failed);
        }
        self.start_wallets(args, runtime, cosigning).map_err(&print)?;
        self.start_network(args, runtime, network_config).map_err(&print)?;
        self.kernel.ready().map_err(|error| print(error.to_string()))?;
        // A start reads more than it keeps.
        memory::give_back();
        Ok(())
    }

    fn start_server(
        &self,
        args: &Args,
        runtime: &Runtime,
        config: keyless_rpc::server::Config,
    ) -> Result<(Runtime, Server), String> {
        // As many brief calls wait for the kernel at once as calls were asked for; one thread more answers the others.
        let threads = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("rpc")
            .worker_threads(config.threads.min(MAX_RPC_THREADS) + 1)
            .build()
            .map_err(|error| format!("cannot start threads: {error}"))?;
        match threads.block_on(Server::start(config, self.services(args), runtime.handle().clone())) {
            Ok(server) => Ok((threads, server)),
            Err(error) => {
                if let StartReason::Subnet(text) = &error.reason {
                    args.init_error(text);
                }
                Err(error.to_string())
            }
        }
    }

    fn services(&self, args: &Args) -> Arc<Services> {
        Arc::new(Services {
            kernel: Arc::new(KernelBackend::new(self.kernel.clone())),
            network: self.network_backend.clone(),
            control: Arc::new(Process::new(self.kernel.clone(), *args, self.wallets.clone(), self.publisher.clone())),
            wallets: self.wallets.clone().map(|wallets| wallets as _),
        })
    }

    /// Opens what tells others: ZMQ's sockets and the operator's webhook.
    fn start_publishing(&mut self, args: &Args, runtime: &Runtime) -> Result<(), String> {
        let webhook = match args.get("-approvalwebhook").filter(|url| !url.is_empty()) {
            None => None,
            Some(url) => {
                let target = url.parse::<Target>().map_err(|error| format!("Invalid -approvalwebhook: {error}"))?;
                Some(Webhook::start(target, runtime.handle()))
            }
        };
        let wanted = publisher::options::read(args);
        let approvals = wanted.iter().any(|wanted| wanted.topic == Topic::PendingApproval);
        self.publisher = match Publisher::open(wanted) {
            Ok(publisher) => Arc::new(publisher),
            // bitcoind does without; an operator who wants to be asked must not be left in the dark.
            Err(error) if approvals => return Err(format!("Unable to publish by ZMQ at {error}")),
            Err(_) => Arc::default(),
        };
        self.alerts = Alerts::new(args.chain(), self.publisher.clone(), webhook);
        self.events.attach_publisher(self.publisher.clone());
        Ok(())
    }

    /// Opens the co-signer network, then loads the wallets that want it.
    fn start_wallets(&self, args: &Args, runtime: &Runtime, cosigning: CosignerOptions) -> Result<(), String> {
        let Some(wallets) = &self.wallets else { return Ok(()) };
        self.kernel.init_message("Loading wallet…");
        let carrier = match cosigning.network {
            None => None,
            Some(mut config) => {
                config.height = self.kernel.tip().map_or(UNKNOWN_HEIGHT, |tip| tip.height);
                Some(runtime.block_on(cosigners::start(config)).map_err(|error| error.to_string())?)
            }
        };
        let _guard = runtime.enter();
        let feed = wallets.start(carrier).map_err(|error| error.to_string())?;
        let warnings = wallets.warnings().join("\n");
        if !warnings.is_empty() {
            wallets.list().iter().for_each(|_| args.init_warning(&warnings));
        }
        self.events.attach_wallets(feed);
        Ok(())
    }

    fn start_network(&mut self, args: &Args, runtime: &Runtime, config: net::Config) -> Result<(), String> {
        let chain = Arc::new(KernelChain::new(self.kernel.clone()));
        let _guard = runtime.enter();
        let on_any = config.binds.iter().any(|bind| bind.address.ip().is_unspecified());
        self.kernel.find_own_addresses(on_any).map_err(|error| error.to_string())?;
        self.kernel.init_message("Starting network threads…");
        let handle = net::start(config, chain).map_err(|error| match error {
            net::StartError::Bind { .. } => {
                args.init_error(&error.to_string());
                "Failed to listen on any port. Use -listen=0 if you want this.".to_owned()
            }
            other => other.to_string(),
        })?;
        self.events.attach_network(handle.clone());
        self.network_backend.attach(handle.clone());
        self.network = Some(handle);
        Ok(())
    }

    /// Ends everything, in reverse order; the result is the exit code.
    pub fn stop(mut self, runtime: &Runtime) -> i32 {
        if let Some((_, server)) = &self.server {
            server.interrupt();
        }
        let interrupted = self.kernel.interrupt();
        if let Some(network) = self.network.take() {
            network.shutdown();
        }
        if let Some(wallets) = self.wallets.take() {
            runtime.block_on(wallets.shutdown());
        }
        runtime.block_on(self.alerts.close());
        if let Some((threads, server)) = self.server.take() {
            threads.block_on(server.stop());
            threads.shutdown_timeout(LAST_TASKS);
        }
        let closed = self.kernel.shutdown();
        self.publisher.close();
        let clean = (self.up || self.interrupted) && interrupted.is_ok() && closed.is_ok();
        if clean { self.kernel.exit_status() } else { self.kernel.exit_status().max(1) }
    }
}

fn genesis_hash(args: &Args) -> BlockHash {
    bitcoin::constants::genesis_block(args.chain()).block_hash()
}

fn log_start(args: &Args, cosigning: &CosignerOptions) {
    let fingerprint = cosigners::fingerprint(cosigning.identity.public_key());
    tracing::info!("Keyless {} on {}", env!("CARGO_PKG_VERSION"), args.chain_name());
    tracing::info!("co-signer {} ({fingerprint})", cosigning.identity.peer_id());
    if let (Some(quorum), false) = (&cosigning.dev_quorum, args.get_bool("-disablewallet", false)) {
        tracing::info!(
            "development quorum: new wallets get {} of {} co-signers embedded in this process, which protects nothing; \
             configure -cosigner for a real one",
            quorum.threshold,
            quorum.members
        );
    }
}
