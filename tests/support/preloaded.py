"""Python programs that start at once: they are forked from a process that has imported everything, and used it once.

`Preloaded` starts that process, and has an executable that stands for Python: whoever calls it gets a forked process,
with its arguments, environment, folder, streams, signals and status. torchrun takes it from PYTHON_EXEC. What is used
for the first time takes seconds: therefore jobs of `support.launched` are done before, by one process.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.paths import ROOT

__all__ = ["Preloaded"]

MODULES = ("torch.distributed.run", "accelerate.commands.launch", "torch.distributed.checkpoint", "trl", "peft")
MODULES += ("trl.trainer.sft_trainer", "hybridopt.cli.main", "hybridopt.integrations.trainer", "transformers.trainer")
CLIENT = """#!{python} -ISu
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
told = json.dumps({{"argv": sys.argv[1:], "environ": dict(os.environ), "cwd": os.getcwd()}}).encode()
socket.send_fds(server, [len(told).to_bytes(4, "big") + told], [1, 2])
number = int.from_bytes(server.recv(4), "big")
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda given, _: os.kill(number, given))
sys.exit(int.from_bytes(server.recv(4), "big", signed=True) % 256)
"""


class Preloaded:
    """Starts the process, which needs some seconds; `close` ends it.

    Args:
        folder: where the jobs are done.
        jobs: as those of `support.launched`; what comes of them is in `alone`.
    """

    def __init__(self, folder, jobs):
        folder.mkdir()
        (folder / "jobs.json").write_text(json.dumps(jobs))
        self._started = []
        self._folder = tempfile.TemporaryDirectory()
        self._path = str(Path(self._folder.name) / "socket")
        self.python = Path(self._folder.name) / "python"
        self.python.write_text(CLIENT.format(python=sys.executable, path=self._path))
        self.python.chmod(0o755)
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        told = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        words = [sys.executable, "-m", "support.preloaded", self._path]
        self._server = subprocess.Popen(words, env=told, cwd=folder)
        while not Path(self._path).exists():
            assert self._server.poll() is None, "what is to be imported cannot be"
            time.sleep(0.05)
        self.alone = [json.loads((folder / f"{n}-alone.json").read_text()) for n in range(len(jobs))]

    def start(self, words, folder, **environ):
        """Start `python WORDS` in a folder; return a Popen."""
        told = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON_EXEC": str(self.python), **environ}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._started.append(subprocess.Popen([self.python, *words], cwd=folder, env=told, **pipes))
        return self._started[-1]

    def close(self):
        for each in self._started:
            each.kill()
        self._server.kill()
        self._server.wait()
        self._folder.cleanup()


def _serve(path):
    import gc
    import importlib

    for module in MODULES:
        importlib.import_module(module)
    _warm_up()
    gc.freeze()
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new")
    server.listen(16)
    os.rename(path + ".new", path)
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _fork(client)
            os._exit(0)
        client.close()


def _warm_up():
    from accelerate.state import AcceleratorState, GradientState

    os.environ["RANK"] = "alone"
    from support.launched import done_all

    done_all("jobs.json")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _reap(*_):
    """Wait for those that have ended, so that what they took counts."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork(client):
    """Fork a program, and tell the client its number and its status; it is killed with the client."""
    told, (out, error) = _received(client)
    child = os.fork()
    if child == 0:
        client.close()
        _become(told, out, error)
    os.close(out)
    os.close(error)
    client.send(child.to_bytes(4, "big"))
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, client], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended in ready:
        client.send(status.to_bytes(4, "big", signed=True))


def _received(client):
    data, files, _, _ = socket.recv_fds(client, 1 << 20, 2)
    size = int.from_bytes(data[:4], "big")
    while len(data) < size + 4:
        data += client.recv(1 << 20)
    return json.loads(data[4:]), files


def _become(told, out, error):
    """Go on as another program."""
    os.dup2(out, 1)
    os.dup2(error, 2)
    os.environ.clear()
    os.environ.update(told["environ"])
    os.chdir(told["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        status = _run([word for word in told["argv"] if word != "-u"])
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(words):
    import runpy

    module, words = (words[1], words[1:]) if words[0] == "-m" else (None, words)
    sys.argv = words
    try:
        if module is None:
            runpy.run_path(words[0], run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
        return 1 if not isinstance(error.code, int | None) else error.code or 0
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
