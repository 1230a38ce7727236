"""Uses the tool from a shell with a terminal of its own: interrupts, suspends and continues it. Says what went wrong, if anything."""
import os
import pty
import re
import select
import sys

SCRIPT = (
    "n=0; trap 'n=$((n+1)); echo interrupted $n' INT; echo up; "
    "while :; do read word && break; done; echo got $word after $n; exit 5"
)


def main(tool):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="dumb", PS1="prompt> ")
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    talk = [
        (None, r"prompt> "),
        (f'{tool} run -o /dev/null sh -c "$SCRIPT"\n', r"\nup"),
        ("\x03", r"interrupted 1"),
        ("\x1a", r"Stopped.*prompt> "),
        ("fg\n", r"run -o /dev/null"),
        ("hello\n", r"got hello after 1.*prompt> "),
        ("echo code=$?\n", r"code=5"),
    ]
    for said, wanted in talk:
        if said is not None:
            os.write(terminal, said.encode())
        heard = listen(terminal, wanted)
        if not re.search(wanted, heard, re.S):
            os.kill(pid, 9)
            sys.exit(f"after {said!r}: wanted {wanted!r}, heard {heard!r}")
    os.kill(pid, 9)
    print("as without the tool")


def listen(terminal, wanted):
    """What the terminal shows until it matches, or nothing more comes for half a minute."""
    heard = ""
    while not re.search(wanted, heard, re.S):
        if not select.select([terminal], [], [], 30)[0]:
            break
        heard += os.read(terminal, 65536).decode(errors="replace")
    return heard


os.environ["SCRIPT"] = SCRIPT
main(sys.argv[1])
