"""Keys of run.yaml are the fields of a run, and its words those of what they stand for."""

from dataclasses import MISSING, fields, is_dataclass
from typing import get_args, get_type_hints

import pytest
import torch
from transformers import SchedulerType, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hybridopt.core.registry import names
from hybridopt.model.quantization.scheme_names import scheme_names
from hybridopt.planning.request import DTYPES
from hybridopt.training.config import choices
from hybridopt.training.config.keys import Branch, every, root
from hybridopt.training.config.reading import read_run
from hybridopt.training.config.run import Run
from support.keys_table import keys_table
from support.pages import blocks
from support.paths import ROOT


def leaves(cls, above=""):
    for f in fields(cls):
        hint = get_type_hints(cls)[f.name]
        inner = next((t for t in (hint, *get_args(hint)) if is_dataclass(t)), None)
        yield f"{above}{f.name}"
        yield from leaves(inner, f"{above}{f.name}.") if inner else ()


def test_every_field_is_a_key_with_a_meaning_and_a_default_that_is_allowed():
    assert [member.name for member in every()] == list(leaves(Run))
    for member in every():
        assert len(member.meaning) > 4 and "None" not in member.meaning, member.name
        if not isinstance(member, Branch) and member.default is not MISSING:
            assert member.default == () or member.allowed
    assert root().cls is Run


def test_auto_is_a_word_where_it_is_the_default_alone():
    found = {m.name for m in every() if not isinstance(m, Branch) and "auto" in m.words}
    numbers = {"data.packing", "data.max_length", "train.lr", "train.checkpointing"}
    assert found == {"gpu", "data.template", *numbers}


def test_the_page_has_the_table_of_all_keys():
    page = (ROOT / "docs" / "run-yaml.md").read_text()
    assert keys_table() in page, "put support.keys_table.keys_table() there"
    assert all(f"| `{name}` |" in page for name in leaves(Run))


@pytest.mark.parametrize("block", blocks(ROOT / "docs" / "run-yaml.md", "yaml"), ids=str)
def test_the_files_on_the_page_are_read(block):
    run = read_run(block.text)
    assert run.model in block.text and all(each in block.text for each in run.data.train)


def test_words_are_those_of_what_they_stand_for():
    assert choices.schemes() == scheme_names() and choices.DTYPES == ("auto", *DTYPES)
    assert set(choices.policies()) == {"auto", *names("policies")} and choices.releases() == names("releases")
    assert set(choices.REPORTS) == set(INTEGRATION_TO_CALLBACK)


def test_schedules_are_those_that_need_nothing_but_the_number_of_the_step():
    found = set()
    for kind in SchedulerType:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        try:
            schedule = get_scheduler(kind.value, optimizer, num_warmup_steps=1, num_training_steps=4)
            optimizer.step()
            schedule.step()
        except (ValueError, TypeError):
            continue
        found.add(kind.value)
    assert set(choices.SCHEDULES) == found - {"greedy"}  # whose steps take whatever metrics there are
