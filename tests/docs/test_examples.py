"""The programs in examples/ run and learn."""

import re
import runpy
from contextlib import chdir

import pytest
import torch

from support.paths import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example, tmp_path, capsys):
    with chdir(tmp_path), torch.random.fork_rng():
        runpy.run_path(str(example), run_name="__main__")
    losses = re.findall(r"loss'?:? '?(\d+\.\d+)", capsys.readouterr().out)
    assert float(losses[-1]) < float(losses[0])
