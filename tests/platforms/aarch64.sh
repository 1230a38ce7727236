#!/usr/bin/env bash
# Runs the tests of `switch` for aarch64 Linux, under qemu, with Debian's Rust, which comes with a library for that CPU.
# Needs: rustc-web cargo-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu qemu-user-static
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="/usr/bin:$PATH"
target=aarch64-unknown-linux-gnu
folder="$PWD/target/aarch64"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# The loader and the C library must be of one build: Debian's own where they are installed, else those of the compiler.
if [ -e /lib/ld-linux-aarch64.so.1 ]; then root=/; else root=/usr/aarch64-linux-gnu; fi
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L $root"
unset RUSTC RUSTUP_TOOLCHAIN CARGO
common=(--target "$target" --target-dir "$folder")

# The programs that the tests run, by the same emulator.
export SWITCH_FIXTURES="$folder/$target" SWITCH_RUNNER="$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"
cargo build "${common[@]}" -p stackscope-switch-fixtures --bins
cargo build "${common[@]}" -p stackscope-switch-fixtures --bin switch_misuse --profile abort

suite=("${common[@]}" -p stackscope --no-default-features --features switch)
cargo test "${suite[@]}" --lib -- switch::
cargo test "${suite[@]}" --test switch
cargo test "${suite[@]}" --doc -- switch
