"""What is written as run.yaml is read back, by others, too, and every key is explained."""

import string

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridopt import HybridOptError
from hybridopt.training.config import choices
from hybridopt.training.config.keys import every
from hybridopt.training.config.reading import read_run, resolved
from hybridopt.training.config.run import Data, LoraSettings, Method, Output, Run, Train
from hybridopt.training.config.writing import to_yaml

READ = Run("org/name", data=Data(train=("rows.jsonl",)))

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: text.strip())
TRAPS = ["no", "1e4", "1:30", "~", "null", "auto", "a: b", "#x", "- x", "&a", "!!b", "2024-01-01", "'", "a\u2028\x85b"]
WORD = TEXT | st.sampled_from(TRAPS) | st.text(string.ascii_letters, min_size=1, max_size=9)
NUMBER = st.floats(1e-300, 1e300) | st.integers(1, 10**9).map(float)
SHARE = st.floats(0, 1, exclude_max=True)
LEAF = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | WORD
TREE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3))
EVERY = st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True) | st.integers(1, 10**6).map(float)
TEXTS = st.lists(WORD, min_size=1, max_size=2).map(tuple)
LORA = st.builds(LoraSettings, st.integers(1, 64), st.none() | NUMBER, WORD | TEXTS, SHARE, TEXTS | st.just(()))
OWN = {  # what is not left as it is
    Run: {
        "model": WORD,
        "task_options": st.dictionaries(WORD, TREE, max_size=2),
        "gpu": st.sampled_from(["auto", "4090"]),
        "margin": SHARE,
    },
    Data: {
        "train": TEXTS,
        "eval": st.none() | WORD | st.floats(0.01, 0.99),
        "columns": st.dictionaries(WORD, WORD, max_size=2),
        "packing": st.sampled_from(["auto", True, False]),
        "max_length": st.just("auto") | st.integers(1, 2**20),
    },
    Method: {
        "policy": st.sampled_from(["auto", "frugal", "adam_mini"]),
        "quantization": st.none() | st.sampled_from(choices.schemes()),
        "lora": st.none() | LORA,
    },
    Train: {
        "epochs": NUMBER,
        "max_steps": st.none() | st.integers(1, 2**60),
        "lr": st.just("auto") | NUMBER,
        "clip": st.none() | NUMBER,
        "eval_every": EVERY,
        "report_to": st.lists(st.sampled_from(choices.REPORTS), max_size=2).map(tuple),
    },
    Output: {"folder": WORD, "push": st.none() | st.just("org/name")},
}
FEW = settings(max_examples=12, deadline=None, derandomize=True)


def runs():
    sections = {"data": Data, "method": Method, "train": Train, "output": Output}
    return st.builds(Run, **OWN[Run], **{name: st.builds(cls, **OWN[cls]) for name, cls in sections.items()})


@FEW
@given(runs(), st.booleans())
def test_what_is_written_is_read_back(run, comments):
    text = to_yaml(run, comments)
    assert read_run(text) == run
    assert yaml.safe_load(text)["model"] == run.model  # by others, too
    assert yaml.safe_load(text)["train"]["epochs"] == run.train.epochs


@FEW
@given(st.dictionaries(WORD, TREE, max_size=4))
def test_what_it_was_made_with_is_written_and_read_and_changes_nothing(notes):
    text = to_yaml(READ, notes=notes)
    assert resolved(text) == (READ, notes)


def test_options_of_a_policy_come_back():
    full = {"part": "rules.adamw", "betas": [0.9, 0.95]}
    run = Run("m", data=READ.data, method=Method("frugal", {"density": 1e-05, "full": full, "split": "no"}))
    with pytest.raises(HybridOptError, match="line .*split='no'"):
        read_run(to_yaml(run))
    run.method.options["split"] = "rows"
    assert read_run(to_yaml(run)) == run
    run = Run("m", data=READ.data, method=Method("adamw", {"betas": (0.9, 0.95)}))
    assert read_run(to_yaml(run)).method.options == {"betas": [0.9, 0.95]}  # tuples come back as lists


def test_what_no_file_can_say_is_refused():
    for option in (object(), torch.ones(1), {1, 2}):
        with pytest.raises(HybridOptError, match="method.options.full has .* no file can say"):
            to_yaml(Run("m", method=Method("frugal", {"full": option})))


def test_every_key_is_explained_where_it_is_written():
    lines = to_yaml(READ, remarks={"train.lr": ["first", "second"]}).splitlines()
    assert "  # first" in lines and lines.index("  # second") + 1 == next(
        i for i, line in enumerate(lines) if line.startswith("  lr:")
    )
    text = " ".join(" ".join(lines).replace("#", " ").split())
    said = [member for member in every() if not member.name.startswith(("method.", "method.lora."))]
    assert all(member.meaning in text for member in said) and len(said) > 35
    assert "#" not in to_yaml(READ, comments=False)
    assert max(map(len, lines)) < 120
