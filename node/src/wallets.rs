//! wip
pub mod chain_view;
pub use chain_view::ChainView;
