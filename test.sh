#!/usr/bin/env bash
# Checks everything: format, lints, documentation, tests.
# Needs a Debian-like system with the Rust toolchain; installs the other packages that the tests use where they are missing.
set -euo pipefail
cd "$(dirname "$0")"
exec </dev/null

packages=(
  binutils elfutils gdb libc6-dbg lldb strace valgrind       # tools to compare with
  gcc g++ libc6-dev golang-go musl-tools python3             # compilers and interpreters of the fixtures
  libboost-context-dev libboost-coroutine-dev libboost-fiber-dev libpth-dev libst-dev libcoro-perl  # switching libraries of the fixtures
  gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static  # the other CPU
  rustc-web cargo-web rust-web-src libstd-rust-web-dev:arm64 # Rust for other platforms
  gcc-mingw-w64-x86-64-win32 wine64 wine                     # Windows (the loader is in wine64, the command in wine)
  ruby php-cli                                               # distribution programs with fibers
  perl procps                                                # and without
  tmux less vim                                              # terminal tests, and programs in the terminal
  xz-utils zstd                                              # compressed core files
  jq linux-perf openssh-client                               # what documents use
)

# Each part's name, when it began, and how much processor time all that had ended by then took (as `times` writes it).
parts=$(mktemp)
step() {
  printf '\n== %s\n' "$*"
  times >"$parts.now"
  echo "$*|$SECONDS|$(tail -n 1 "$parts.now" | tr ms '||')" >>"$parts"
}
finish() {
  local code=$?
  step "times: of the clock, and of the processors"
  awk -F '|' '
    { used = 60 * ($3 + $5) + $4 + $6 }
    NR == 1 { first = $2 }
    NR > 1 { printf "%6d s %6d s  %s\n", $2 - began, used - before, part }
    { part = $1; began = $2; before = used }
    END { printf "%6d s %6d s  all\n", began - first, used }' "$parts"
  rm -f "$parts" "$parts.now"
  if [ $code -eq 0 ]; then
    printf '\ntest.sh: format, lints, documentation and tests are all in order\n'
  else
    printf '\ntest.sh: FAILED (exit code %s)\n' "$code"
  fi
}
trap finish EXIT

step "packages"
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "missing: ${missing[*]}"
  as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
  "${as_root[@]}" dpkg --add-architecture arm64
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
echo "all ${#packages[@]} packages are installed"

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets -- -D warnings
# The tests and benches look at programs, for which they need the default features.
cargo clippy -p stackscope --lib --no-default-features -- -D warnings
cargo clippy -p stackscope --lib --no-default-features --features switch -- -D warnings
cargo clippy -p stackscope --lib --bins --no-default-features --features cli -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

step "tests"
# All of them, so that one failure does not hide another. The programs of these packages have none: tests build those they run.
cargo test --workspace --exclude stackscope-fixtures --exclude stackscope-switch-fixtures --no-fail-fast

step "switch under sanitizers"
tests/platforms/sanitizers.sh

step "switch without the standard library"
tests/platforms/bare.sh

step "switch on aarch64 Linux"
tests/platforms/aarch64.sh

step "switch on x86_64 Windows"
tests/platforms/windows.sh
