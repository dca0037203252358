"""Work done in a forked child process: to limit it, to kill it, to run it beside others."""

import os
import sys
import traceback


def fork(work):
    """Run `work()` in a child and return its process id; the exit status is 0 if nothing was raised."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    return child


def status(child):
    """Wait for a child; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
