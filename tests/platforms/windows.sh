#!/usr/bin/env bash
# Runs the tests of `switch` for x86_64 Windows, under wine, with Debian's Rust and a standard library built for it here.
# Needs: rustc-web cargo-web rust-web-src gcc-mingw-w64-x86-64-win32 wine64 wine
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="/usr/bin:$PATH"
unset RUSTC RUSTUP_TOOLCHAIN CARGO
target=x86_64-pc-windows-gnu
folder="$PWD/target/windows"
mkdir -p "$folder/deps"

# Debian's wine has no bcryptprimitives.dll, of which Rust's standard library takes one function: random bytes.
if [ ! -e "$folder/deps/bcryptprimitives.dll" ]; then
  cat >"$folder/random.c" <<'C'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) { return RtlGenRandom(data, (ULONG)length); }
C
  x86_64-w64-mingw32-gcc -shared -O1 "$folder/random.c" -o "$folder/deps/bcryptprimitives.dll" -ladvapi32
fi

export RUSTC_BOOTSTRAP=1 WINEDEBUG=-all WINEPREFIX="$folder/wine" WINEPATH="$folder/deps"
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
mkdir -p "$WINEPREFIX"
common=(--target "$target" --target-dir "$folder")

# The programs that the tests run.
export SWITCH_FIXTURES="$folder/$target"
cargo build -Z build-std=std,panic_unwind "${common[@]}" -p stackscope-switch-fixtures --bins
cargo build -Z build-std=std,panic_abort "${common[@]}" -p stackscope-switch-fixtures --bin switch_misuse --profile abort

suite=(-Z build-std=std,panic_unwind,test "${common[@]}" -p stackscope --no-default-features --features switch)
cargo test "${suite[@]}" --lib -- switch::
cargo test "${suite[@]}" --test switch
