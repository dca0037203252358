"""The programs in examples/ run and learn."""

import re
import runpy
from contextlib import chdir

import pytest
import torch

from support.paths import ROOT

pytestmark = pytest.mark.slow

# timm needs torchvision, of which a CPU build is on no package index, so it is no requirement of the tests.
OPTIONAL = {"with_timm": "timm"}
LAUNCHED = ("sharded", "replicated")  # need several processes: tests/sharded/test_launched.py
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem not in LAUNCHED)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example, tmp_path, capsys):
    if example.stem in OPTIONAL:
        pytest.importorskip(OPTIONAL[example.stem], exc_type=ImportError)
    assert len(example.read_text().splitlines()) < 80
    with chdir(tmp_path), torch.random.fork_rng():
        runpy.run_path(str(example), run_name="__main__")
    losses = re.findall(r"loss'?:? '?(\d+\.\d+)", capsys.readouterr().out)
    assert float(losses[-1]) < float(losses[0])
