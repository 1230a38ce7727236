//! What people and programs read: a snapshot or a watched run as text or as JSON.
//!
//! Nothing here looks at a target or decides anything about stacks; it puts a [`Snapshot`](crate::snapshot::Snapshot) into words.

pub(crate) mod backtrace;
mod fold;
pub(crate) mod group;
mod headings;
pub mod json;
mod line;
pub(crate) mod route;
pub mod sizes;
pub mod sizes_json;
pub mod style;
pub(crate) mod suggest;
mod switches;
pub mod text;
pub mod units;
pub mod usage;
pub mod usage_json;
pub(crate) mod verdict;
pub(crate) mod warnings;
pub(crate) mod words;

pub use group::GroupBy;
pub(crate) use line::thread_line;
pub(crate) use warnings::not_seen;
