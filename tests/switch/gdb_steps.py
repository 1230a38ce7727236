"""Run inside gdb: stops at each of the instructions that INSTRUCTIONS lists, and prints the functions of the backtrace.

The program stops itself twice: what lies between is looked at. One line is printed for each instruction that is come to:
its address in the file, and the functions from the innermost outwards. A backtrace that gdb finds corrupt fails the run.
"""

import os

import gdb

gdb.execute("set pagination off")
gdb.execute("set backtrace past-main on")
gdb.execute("handle SIGSTOP stop nopass", to_string=True)
gdb.execute("run", to_string=True)

program = gdb.current_progspace().filename
bias = min(
    int(line.split()[0], 16)
    for line in gdb.execute("info proc mappings", to_string=True).splitlines()
    if line.endswith(program)
)
for svma in os.environ["INSTRUCTIONS"].split():
    gdb.execute(f"break *{bias + int(svma)}", to_string=True)

stops = []
gdb.events.stop.connect(stops.append)
while True:
    gdb.execute("continue", to_string=True)
    if isinstance(stops[-1], gdb.SignalEvent):
        break
    frame = gdb.newest_frame()
    functions = []
    pc = frame.pc()
    while frame is not None:
        functions.append(frame.name() or "?")
        reason = frame.unwind_stop_reason()
        if reason not in (gdb.FRAME_UNWIND_NO_REASON, gdb.FRAME_UNWIND_OUTERMOST):
            raise gdb.GdbError(f"{pc - bias:#x}: {gdb.frame_stop_reason_string(reason)} behind {functions}")
        frame = frame.older()
    print("visit " + "\t".join([str(pc - bias), *functions]))
gdb.execute("kill")
print("the end")
