"""Ranks of torch.distributed (gloo, on the CPU) that are started once for a file of tests and run many functions."""

import gc
import multiprocessing
import pickle
import tempfile
import traceback
from datetime import timedelta
from functools import partial

import torch
from torch import distributed

__all__ = ["Ranks"]

PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.state_dict",
    "hybridopt.optimizer.optimizer",
    "transformers.models.llama.modeling_llama",
    "peft",
]
PATIENCE = 30  # seconds, for a collective


class Ranks:
    """So many processes that wait for work; they are forked from one that has imported everything.

    Args:
        size: how many.
        patience: seconds that a collective waits for other ranks.
    """

    def __init__(self, size, patience=PATIENCE):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.folder = tempfile.TemporaryDirectory()
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            given = theirs, rank, size, self.folder.name, patience
            self.processes.append(context.Process(target=_serve, args=given, daemon=True))
            self.pipes.append(ours)
            self.processes[-1].start()
            theirs.close()

    def run(self, function, *args, **options):
        """Call a function on all ranks; return what each has returned, or raise what one has raised."""
        found = self.outcomes(partial(function, **options), *args)
        for rank, (good, value) in enumerate(found):
            assert good, f"rank {rank} of {len(found)}:\n{value}"
        return [value for _, value in found]

    def outcomes(self, function, *args):
        """Return (True, what was returned) or (False, the traceback) of every rank."""
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        return [pickle.loads(pipe.recv_bytes()) for pipe in self.pipes]

    def close(self):
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10)
            process.kill()
        self.folder.cleanup()


def _serve(pipe, rank, size, folder, patience):
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is no object that anybody looks for
    options = {"init_method": f"file://{folder}/rendezvous", "timeout": timedelta(seconds=patience)}
    distributed.init_process_group("gloo", rank=rank, world_size=size, **options)
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        try:
            answer = True, function(*args)
        except BaseException:
            answer = False, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))
    distributed.destroy_process_group()
