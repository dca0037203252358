"""What the launcher `accelerate` says of losses and gradients follows accelerate's own state."""

import subprocess
import sys

from accelerate.state import GradientState

from hybridopt.core.registry import make

LAUNCHER = make("launchers", "accelerate")


def test_micro_batches_before_the_last_accumulate():
    state = GradientState()
    assert not LAUNCHER.accumulating()
    state._set_sync_gradients(False)
    try:
        assert LAUNCHER.accumulating()
    finally:
        state._set_sync_gradients(True)
    assert not LAUNCHER.accumulating()


def test_without_accelerate_there_is_nothing_and_nothing_is_imported():
    code = (
        "import sys; from hybridopt.core.registry import every;"
        "print([(x.scaling(), x.accumulating()) for x in every('launchers')], 'accelerate' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(False, False)] False"
