"""A process that works on cases as their names say, without importing anything that takes time."""

import os
import time


def serve(ours, device):
    """Answer with a row, hang, crash, or say that the device is lost."""
    ours.send("ready")
    while (case := ours.recv()) is not None:
        if case.policy == "crash":
            os._exit(9)
        if case.policy == "hang":
            time.sleep(60)
        said = "CUDA error: an illegal memory access" if case.policy == "lost" else str(os.getpid())
        ours.send([{"case": str(case), "check": case.check, "state": "ok", "said": said}])
