"""Examples that are made into tokens many at once are those that TRL makes one by one."""

from types import SimpleNamespace

import pytest

from hybridopt.integrations.trl import batched, labelled
from hybridopt.training.running import prepare as preparing
from hybridopt.training.running.prepare import prepare

pytestmark = pytest.mark.slow

CELLS = {  # format, settings, does it take the new way?
    "assistant": ("messages", ["data.loss_on=assistant"], True),
    "all": ("messages", ["data.loss_on=all", "data.eval=0.25"], True),
    "last answer": ("messages", ["data.loss_on=completion"], False),
    "cut": ("messages", ["data.max_length=24"], True),
    "packed": ("messages", ["data.packing=true", "data.max_length=64"], True),
    "texts": ("text", ["task=text", "data.max_length=16"], True),
    "texts, sft": ("text", ["task=sft"], True),
    "answers": ("prompt_completion", [], False),
}


def found(prepared):
    rehearsal = prepared.rehearsal
    rows = [[each["input_ids"][:], each["labels"][:]] for each in (rehearsal.job.train, rehearsal.job.eval) if each]
    told = (rehearsal.train, rehearsal.eval, rehearsal.rows, rehearsal.steps, rehearsal.longest, rehearsal.first)
    return rows, told, prepared.told


@pytest.mark.parametrize("bytes_together", [1, 2**22])
@pytest.mark.parametrize("name", CELLS)
def test_tokens_labels_and_all_that_is_told_are_those_of_trl(name, bytes_together, workshop, monkeypatch):
    format, sets, at_once = CELLS[name]
    made = []

    def with_tokens(rows, *given):
        made.append(batched.with_tokens(rows, *given))
        return made[-1]

    monkeypatch.setattr(preparing, "chosen_for", lambda run, *_: SimpleNamespace(run=run, told=()))
    monkeypatch.setattr(batched, "BYTES", bytes_together)
    monkeypatch.setattr(labelled, "with_tokens", lambda rows, *_: rows)
    expected = found(prepare(workshop.run(*sets, format=format)))
    monkeypatch.setattr(labelled, "with_tokens", with_tokens)
    assert found(prepare(workshop.run(*sets, format=format))) == expected
    assert any(batched.prepared(rows) for rows in made) == at_once
