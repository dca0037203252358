"""What the processes of a launcher do for a file of tests: programs and commands, one after the other.

Called with a JSON file of jobs, each a list of words: the path of a program, or "train" and its arguments, in which
{rank} is the number of the process. What each process prints, and the status it would end with, go into a file of its
own: JOB-RANK.json. AT=5 in the environment is the step after which something happens to the first process: with
WHAT=killed it is, and with WHAT=waits it makes a file "reached" and waits until it is interrupted.
"""

import contextlib
import io
import json
import os
import runpy
import signal
import sys
import time
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

RANK = os.environ["RANK"]


def done(words):
    """Carry out a job, and return what it prints and its status; a text instead of a number is an error's."""
    from hybridopt.cli.main import main
    from hybridopt.training.running import ranks

    ranks.PATIENCE = timedelta(seconds=2)
    printed, status = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if words[0] == "train":
                sys.argv[1:] = [word.replace("{rank}", RANK) for word in words]
                main()
            else:
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as error:
            status = error.code
        except Exception:
            status = traceback.format_exc()
    return {"printed": printed.getvalue(), "status": status}


def something_happens(at, what):
    """Let it happen when the first process has written what it logs of a step."""
    from hybridopt.training.watching.log import LogFile

    append = LogFile.append

    def appended(self, record):
        append(self, record)
        if record["step"] == at and what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif record["step"] == at:
            own, heard = signal.getsignal(signal.SIGINT), []
            signal.signal(signal.SIGINT, lambda *given: (own(*given), heard.append(given)))
            Path("reached").touch()
            while not heard:
                time.sleep(0.01)

    LogFile.append = appended


def done_all(path):
    """Carry out the jobs of a file."""
    for number, words in enumerate(json.loads(Path(path).read_text())):
        Path(f"{number}-{RANK}.json").write_text(json.dumps(done(words)))


if __name__ == "__main__":
    if "AT" in os.environ:
        something_happens(int(os.environ["AT"]), os.environ["WHAT"])
    done_all(sys.argv[1])
