"""Turns what `tmux capture-pane -p -e` writes into an SVG picture: text from stdin, SVG to stdout."""

import html
import re
import sys

CELL, LINE, FONT = 8.4, 18, 14
PLAIN, GROUND = "#c8ccd4", "#16181d"
NAMED = ["#1e2127", "#e06c75", "#98c379", "#d19a66", "#61afef", "#c678dd", "#56b6c2", "#abb2bf"]


def restyle(style, codes):
    """The style after one SGR sequence."""
    codes = [int(code or 0) for code in codes.split(";")]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = {}
        elif code in (1, 2, 7):
            style = {**style, {1: "bold", 2: "dim", 7: "reverse"}[code]: True}
        elif code == 38 and codes[:1] == [2]:
            style = {**style, "color": "#%02x%02x%02x" % tuple(codes[1:4])}
            codes = codes[4:]
        elif code == 38 and codes[:1] == [5]:
            style = {**style, "color": NAMED[codes[1] % 8]}
            codes = codes[2:]
        elif 30 <= code <= 37:
            style = {**style, "color": NAMED[code - 30]}
        elif code == 39:
            style = {key: value for key, value in style.items() if key != "color"}
        elif code in (22, 27):
            gone = {22: ("bold", "dim"), 27: ("reverse",)}[code]
            style = {key: value for key, value in style.items() if key not in gone}
    return style


def run(text, style, column, row):
    """A stretch of equal style."""
    x, y, width = column * CELL, row * LINE, len(text) * CELL
    color, ground = style.get("color", PLAIN), None
    if style.get("reverse"):
        color, ground = GROUND, color
    box = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LINE}" fill="{ground}"/>' if ground else ""
    extra = (' font-weight="bold"' if style.get("bold") else "") + (' opacity="0.6"' if style.get("dim") else "")
    if not text.strip():
        return box
    body = html.escape(text)
    return f'{box}<text x="{x:.1f}" y="{y + 13}" textLength="{width:.1f}" fill="{color}"{extra}>{body}</text>'


lines = sys.stdin.read().rstrip("\n").split("\n")
parts, style, widest = [], {}, 0
for row, line in enumerate(lines):
    column = 0
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b["):
            style = restyle(style, piece[2:-1])
        elif piece:
            parts.append(run(piece, style, column, row))
            column += len(piece)
    widest = max(widest, column)
print(
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{widest * CELL + 16:.0f}" height="{len(lines) * LINE + 16}" '
    f'font-family="DejaVu Sans Mono, monospace" font-size="{FONT}" xml:space="preserve">'
    f'<rect width="100%" height="100%" fill="{GROUND}"/><g transform="translate(8 8)">'
)
print("\n".join(part for part in parts if part))
print("</g></svg>")
