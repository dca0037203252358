"""Training with layers that rest elsewhere is training, to the last bit."""

import pytest

from support.placed import WAYS, Training, differences, run


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
def test_lora(way, checkpointing):
    training = Training(checkpointing=checkpointing)
    assert not differences(run("resident", training), run(way, training))
