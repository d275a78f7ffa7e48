"""
How long from the start of a command to the first byte of its output?

    first_byte.py          orders on standard input: a JSON list, the command line; answers "ok NANOSECONDS" or "failed: why"

A process of its own, so that it can be run as another user once and measure many starts: what changes the user is not
in the measured time. posix_spawn(3) starts the command as fast as can be (a vfork, no copy of our page tables). The
command has to print exactly "x" and exit with 0; its end is waited for, outside the measured time.
"""
import json
import os
import sys
import time


def measure(argv):
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_CLOSE, reader), (os.POSIX_SPAWN_CLOSE, writer)]
    begin = time.perf_counter_ns()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
    os.close(writer)
    output = os.read(reader, 1)
    end = time.perf_counter_ns()
    while piece := os.read(reader, 4096):
        output += piece
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status or output != b"x\n":
        return f"failed: exit status {status}, output {output[:40]!r}"
    return f"ok {end - begin}"


for line in sys.stdin:
    print(measure(json.loads(line)), flush=True)
