"""Runs a command that must not outlive whoever started it: `python guard.py COMMAND ...`.

The command takes the place of this process, and a child of it waits for the end of standard input. That is a pipe whose
other end the starter holds, so the system closes it however the starter ends, kill -9 included; then the command is
killed, even while it is stopped.
"""

import os
import signal
import sys

command = os.getpid()
if os.fork() == 0:
    while os.read(0, 4096):
        pass
    if os.getppid() == command:  # else it has ended before
        os.kill(command, signal.SIGKILL)
    os._exit(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.execvp(sys.argv[1], sys.argv[1:])
