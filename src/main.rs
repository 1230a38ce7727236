//! The `stackscope` command.

fn main() {}
