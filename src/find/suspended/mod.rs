//! The contexts that no thread runs: found in memory, whatever library switches them.

mod approach;
mod begun;
pub mod chains;
pub mod choose;
pub mod classify;
mod climb;
pub mod contexts;
pub mod ends;
pub mod lineage;
mod meeting;
pub mod midway;
mod rivals;
pub(crate) mod search;
mod unheld;
