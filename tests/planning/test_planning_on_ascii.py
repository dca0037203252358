"""What `hybridopt plan` draws, on terminals with and without signs to draw with."""

import io

import pytest
from rich.console import Console
from transformers import LlamaConfig

from hybridopt.planning import Request, plan, table


@pytest.mark.parametrize(
    ("encoding", "sign", "other"), [("ascii", "#", "█"), ("latin-1", "#", "█"), ("utf-8", "█", "#")]
)
def test_bars_are_drawn_with_what_the_terminal_has(encoding, sign, other):
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    estimate = plan(config, Request(policy="adamw", seq_len=8))
    Console(file=file, width=100).print(table.estimate_table(estimate))
    file.flush()
    shown = written.getvalue().decode(encoding)
    assert f"{'#' if sign == '#' else '■'} weights" in shown and sign * 10 in shown
    assert other not in shown and "\\u" not in shown
