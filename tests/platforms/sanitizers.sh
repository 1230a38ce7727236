#!/usr/bin/env bash
# Runs the programs on `switch` under AddressSanitizer, and LeakSanitizer with it: no report may come.
# The runtimes come with Rust's standard library; the flag that chooses one is for nightly compilers, hence the variable.
# MemorySanitizer and ThreadSanitizer would report what a standard library does that was not built for them.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=x86_64-unknown-linux-gnu
folder="$PWD/target/sanitizers"
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" RUST_BACKTRACE=0
cargo build --target "$target" --target-dir "$folder" -p stackscope-switch-fixtures --features stackscope/asan --bins
programs="$folder/$target/debug"

# An exit code of its own, so that a report cannot pass for an end that is wanted. Copies of frames that are checked for use
# after a return belong to one thread, and these coroutines migrate: that check is off.
export ASAN_OPTIONS="exitcode=99:detect_leaks=1:detect_stack_use_after_return=0"
run() {
  echo "sanitizers: $*"
  local said
  said=$("$programs/$1" "${@:2}" 2>&1 </dev/null) || { echo "$said"; return 1; }
  # Where a panic begins on a coroutine's stack, it says once that it leaves alone what it does not know for the thread's.
  if grep -E 'Sanitizer|WARNING' <<<"$said" | grep -v 'ignoring requested __asan_handle_no_return'; then
    echo "$said"
    return 1
  fi
}
run green_threads
run coroutine_storm 3000
for case in panic-inside drop-suspended signal; do run switch_misuse "$case"; done
