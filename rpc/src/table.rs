//! The shape of the one method table: what a method is called, what it takes, who answers it.
//!
//! The table drives dispatch, named arguments, type checks, `help`, `help dump_all_command_conversions` and
//! keyless-cli. The rows are constants: [`crate::methods`] lists those of the node, [`crate::wallet`] the wallet's.

use futures::future::BoxFuture;

use crate::args::Args;
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;

/// What a method gives back.
pub type RpcResult = Result<Value, RpcError>;

/// A method answered here. Made with [`crate::local!`].
pub type LocalFn = fn(Ctx, Args) -> BoxFuture<'static, RpcResult>;

/// Turns `async fn(Ctx, Args) -> RpcResult` into a [`Handler`].
#[macro_export]
macro_rules! local {
    ($function:path) => {
        $crate::table::Handler::Local(|ctx, args| ::std::boxed::Box::pin($function(ctx, args)))
    };
}

/// Who answers.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Core's own handler, in the kernel; arguments go through untouched.
    Kernel,
    /// The same, for one that looks something up and is done: it waits for no event, queue or index.
    KernelBrief,
    /// A function of this crate, over the traits of [`crate::backend`].
    Local(LocalFn),
}

/// The group that `help` lists a method under; `Hidden` ones are not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    Blockchain,
    Control,
    Hidden,
    Mining,
    Network,
    RawTransactions,
    Signer,
    Util,
    Wallet,
    Zmq,
}

impl Category {
    /// As `help` prints it.
    pub fn title(self) -> &'static str {
        match self {
            Category::Blockchain => "Blockchain",
            Category::Control => "Control",
            Category::Hidden => "Hidden",
            Category::Mining => "Mining",
            Category::Network => "Network",
            Category::RawTransactions => "Rawtransactions",
            Category::Signer => "Signer",
            Category::Util => "Util",
            Category::Wallet => "Wallet",
            Category::Zmq => "Zmq",
        }
    }
}

/// The JSON type of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Str,
    /// A string of hex digits: checked as a string.
    Hex,
    Num,
    Bool,
    /// A number or a string, checked by [`crate::amount`].
    Amount,
    /// A number or a pair of numbers: not checked beforehand.
    Range,
    Arr,
    Obj,
    /// An object whose members may also be given as named arguments of the method.
    NamedObj,
    /// Whatever the handler takes.
    Any,
}

impl Kind {
    fn expected(self) -> Option<&'static str> {
        match self {
            Kind::Str | Kind::Hex => Some("string"),
            Kind::Num => Some("number"),
            Kind::Bool => Some("bool"),
            Kind::Arr => Some("array"),
            Kind::Obj | Kind::NamedObj => Some("object"),
            Kind::Amount | Kind::Range | Kind::Any => None,
        }
    }

    /// Whether `dump_all_command_conversions` calls it a string.
    pub fn is_text(self) -> bool {
        matches!(self, Kind::Str | Kind::Hex)
    }
}

/// How a command line word becomes a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cli {
    /// By its kind: text as it stands, the rest as JSON.
    ByKind,
    /// Text that may hold `=` even where words are `name=value`.
    Text,
    /// JSON if it parses, else text.
    Either,
    /// Text, although the method takes something else.
    Plain,
}

/// What the command line's table says of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Must parse as JSON.
    Json,
    /// Text that may hold `=`.
    Text,
    /// JSON if it parses, else text.
    Either,
}

/// One argument, or one member of an options object.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// The name, with older names after `|`.
    pub names: &'static str,
    pub kind: Kind,
    pub optional: bool,
    pub cli: Cli,
    /// Left out of the usage line, with all that follow.
    pub hidden: bool,
    /// Not one of Core's: left out of `dump_all_command_conversions`; bitcoin-cli sends it as a string.
    pub new: bool,
    /// Any JSON type is let through.
    pub unchecked: bool,
    /// How it looks in the usage line, where its name alone does not say it.
    pub oneline: &'static str,
    /// Members of a [`Kind::NamedObj`].
    pub inner: &'static [Arg],
}

impl Arg {
    /// A required argument.
    pub const fn req(names: &'static str, kind: Kind) -> Arg {
        Arg {
            names,
            kind,
            optional: false,
            cli: Cli::ByKind,
            hidden: false,
            new: false,
            unchecked: false,
            oneline: "",
            inner: &[],
        }
    }

    /// An optional argument.
    pub const fn opt(names: &'static str, kind: Kind) -> Arg {
        let mut arg = Arg::req(names, kind);
        arg.optional = true;
        arg
    }

    /// Listed in bitcoin-cli's table as a string that may hold `=`.
    pub const fn text(mut self) -> Arg {
        self.cli = Cli::Text;
        self
    }

    /// JSON if it parses, else a string.
    pub const fn either(mut self) -> Arg {
        self.cli = Cli::Either;
        self
    }

    /// Sent as a string whatever its kind.
    pub const fn plain(mut self) -> Arg {
        self.cli = Cli::Plain;
        self
    }

    pub const fn hidden(mut self) -> Arg {
        self.hidden = true;
        self
    }

    /// Ours, not Core's.
    pub const fn ours(mut self) -> Arg {
        self.new = true;
        self
    }

    pub const fn unchecked(mut self) -> Arg {
        self.unchecked = true;
        self
    }

    pub const fn oneline(mut self, text: &'static str) -> Arg {
        self.oneline = text;
        self
    }

    pub const fn inner(mut self, members: &'static [Arg]) -> Arg {
        self.inner = members;
        self
    }

    /// The current name.
    pub fn name(&self) -> &'static str {
        self.names.split('|').next().unwrap_or(self.names)
    }

    /// Its row in the command line's table of conversions; `None` for plain text, which has no row.
    pub fn format(&self) -> Option<Format> {
        match self.cli {
            Cli::Text => Some(Format::Text),
            Cli::Either => Some(Format::Either),
            Cli::Plain => None,
            Cli::ByKind => (!self.kind.is_text()).then_some(Format::Json),
        }
    }

    /// Why this value does not fit, in Core's words.
    pub fn mismatch(&self, value: &Value) -> Option<String> {
        if self.unchecked || (self.optional && value.is_null()) {
            return None;
        }
        let expected = self.kind.expected()?;
        let given = value.type_name();
        if given == expected || (self.new && value.as_str().is_some()) {
            return None;
        }
        Some(format!("JSON value of type {given} is not of expected type {expected}"))
    }

    fn usage(&self) -> String {
        if !self.oneline.is_empty() {
            return self.oneline.to_owned();
        }
        match self.kind {
            Kind::Str | Kind::Hex => format!("\"{}\"", self.name()),
            Kind::Arr => format!("[{},...]", self.name()),
            Kind::Obj | Kind::NamedObj => {
                let members: Vec<String> = self.inner.iter().filter(|arg| !arg.hidden).map(Arg::usage_member).collect();
                format!("{{{},...}}", members.join(","))
            }
            _ => self.name().to_owned(),
        }
    }

    fn usage_member(&self) -> String {
        let shown = match self.kind {
            Kind::Str => "\"str\"",
            Kind::Hex => "\"hex\"",
            Kind::Num => "n",
            Kind::Amount => "amount",
            Kind::Bool => "bool",
            Kind::Range => "n or [n,n]",
            Kind::Arr => "[...]",
            Kind::Obj | Kind::NamedObj => "{...}",
            Kind::Any => "...",
        };
        format!("\"{}\":{}", self.name(), if self.oneline.is_empty() { shown } else { self.oneline })
    }
}

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Method {
    pub name: &'static str,
    pub category: Category,
    pub args: &'static [Arg],
    /// What it does and returns, in our words; shown by `help <name>` below the usage line.
    pub summary: &'static str,
    /// Not one of Core's.
    pub new: bool,
    pub handler: Handler,
}

impl Method {
    /// A method that Core's handler answers.
    pub const fn kernel(name: &'static str, category: Category, args: &'static [Arg]) -> Method {
        Method { name, category, args, summary: "", new: false, handler: Handler::Kernel }
    }

    /// A wallet method of Core's.
    pub const fn wallet(name: &'static str, args: &'static [Arg], summary: &'static str, handler: Handler) -> Method {
        Method { name, category: Category::Wallet, args, summary, new: false, handler }
    }

    /// A method of ours, listed under the wallet.
    pub const fn ours(name: &'static str, args: &'static [Arg], summary: &'static str, handler: Handler) -> Method {
        Method { name, category: Category::Wallet, args, summary, new: true, handler }
    }

    /// Answered by the thread that read the request.
    pub const fn brief(mut self) -> Method {
        self.handler = Handler::KernelBrief;
        self
    }

    /// The first line of its help.
    pub fn usage(&self) -> String {
        let mut line = self.name.to_owned();
        let mut in_optional = false;
        for arg in self.args.iter().take_while(|arg| !arg.hidden) {
            line.push(' ');
            match (in_optional, arg.optional) {
                (false, true) => line.push_str("( "),
                (true, false) => line.push_str(") "),
                _ => {}
            }
            in_optional = arg.optional;
            line.push_str(&arg.usage());
        }
        if in_optional {
            line.push_str(" )");
        }
        line
    }

    /// The whole help text, ending in a newline.
    pub fn help(&self) -> String {
        let mut text = format!("{}\n", self.usage());
        if !self.summary.is_empty() {
            text.push_str(&format!("\n{}\n", self.summary));
        }
        text
    }

    /// Whether this many positional arguments are allowed.
    pub fn allows_count(&self, count: usize) -> bool {
        let required = self.args.iter().rposition(|arg| !arg.optional).map_or(0, |last| last + 1);
        (required..=self.args.len()).contains(&count)
    }

    /// The rows `[method, position, name, is_string]` of `help dump_all_command_conversions`.
    pub fn conversions(&self) -> Vec<Value> {
        let row = |position: usize, name: &str, kind: Kind| {
            Value::Arr(vec![self.name.into(), position.into(), name.into(), kind.is_text().into()])
        };
        let mut rows = Vec::new();
        for (position, arg) in self.args.iter().enumerate().filter(|(_, arg)| !arg.new) {
            for name in arg.names.split('|') {
                rows.push(row(position, name, arg.kind));
                for member in arg.inner.iter().filter(|member| !member.new) {
                    rows.extend(member.names.split('|').map(|name| row(position, name, member.kind)));
                }
            }
        }
        rows
    }
}
