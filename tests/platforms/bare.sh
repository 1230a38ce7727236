#!/usr/bin/env bash
# Builds what `switch` has without the standard library, for machines without an operating system.
# Needs: rustc-web cargo-web rust-web-src
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="/usr/bin:$PATH" RUSTC_BOOTSTRAP=1
unset RUSTC RUSTUP_TOOLCHAIN CARGO
for target in x86_64-unknown-none aarch64-unknown-none; do
  cargo build -Z build-std=core --target "$target" --target-dir target/bare -p stackscope --lib --no-default-features
done
