#!/usr/bin/env bash
# Makes docs/screen.svg: stackscope attached to a fixture with coroutines, in a terminal that tmux plays.
# usage: docs/screenshot.sh   (needs tmux, python3, gcc and libboost-context-dev)
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build -q
fixture=$(mktemp -d)/server
gcc -O2 -g -o "$fixture" fixtures/c/co_fcontext.c -Wl,--no-as-needed -lboost_context
socket=stackscope-screenshot-$$
pipe=$(mktemp -u)
mkfifo "$pipe"
trap 'tmux -L "$socket" kill-server 2>/dev/null || true; kill "$program" 2>/dev/null || true; rm -rf "$pipe" "$(dirname "$fixture")"' EXIT

# The fixture stands in its state until its stdin ends.
exec 9<>"$pipe"
(cd "$(dirname "$fixture")" && exec ./server 60 guard <"$pipe" >/dev/null) &
program=$!

tmux -L "$socket" -u -f /dev/null new-session -d -x 120 -y 34 \
  "env -u CI -u NO_COLOR TERM=screen-256color LC_ALL=C.UTF-8 target/debug/stackscope attach --theme dark $program"
shown() { tmux -L "$socket" capture-pane -p | grep -q "$1"; }
until shown coroutines; do :; done
tmux -L "$socket" send-keys j
until shown '▸ .*coroutine'; do :; done
tmux -L "$socket" capture-pane -p -e | python3 docs/screenshot.py >docs/screen.svg
echo "docs/screen.svg"
