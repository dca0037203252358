"""What is known, told and refused before a model is loaded."""

import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import GPT2Config, LlamaConfig, RobertaConfig

from hybridopt import HybridOptError
from hybridopt.training.running import loading
from hybridopt.training.running import prepare as preparing
from hybridopt.training.running.prepare import prepare
from hybridopt.training.running.preparing.lengths import positions_of
from hybridopt.training.running.preparing.preview import preview
from hybridopt.training.running.quiet import quietly
from support.tiny_chat import chat, save_tiny_chat

pytestmark = pytest.mark.slow

OPTIONS = "task_options={{reward: 'support.rewards:{}', max_completion_length: 8}}"


def told(prepared):
    return "\n".join(prepared.told)


def shown(prepared, **console):
    console = Console(width=200, **console)
    with console.capture() as capture:
        for line in preview(prepared.rehearsal, console):
            console.print(line)
    return capture.get()


def test_nothing_is_written_or_loaded(workshop, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    before = sorted(workshop.folder.rglob("*"))
    prepare(workshop.run())
    assert [path for path in sorted(workshop.folder.rglob("*")) if path not in before] == [
        workshop.folder / "messages.jsonl"
    ]


@pytest.mark.parametrize(
    ("terminal", "kind", "many"),
    [(False, "xterm", 16), (True, "xterm", 16), (True, "dumb", 16), (False, "xterm", 17), (True, "dumb", 17)],
)
def test_many_examples_are_announced_before_they_are_tokenized(terminal, kind, many, workshop, monkeypatch):
    monkeypatch.setattr(preparing, "MANY", many)
    monkeypatch.setenv("TERM", kind)
    written = io.StringIO()
    prepare(workshop.run(), console=Console(file=written, force_terminal=terminal, width=80))
    assert ("tokenizing 16 examples" in written.getvalue()) == (many == 16)
    lines = written.getvalue().splitlines()
    if not terminal or kind == "dumb":
        assert lines == ["tokenizing 16 examples, and planning"] * (many == 16)


def test_tokens_steps_and_the_loss_are_told(workshop):
    prepared = prepare(workshop.run("train.batch=2", "train.accumulate=3", "train.epochs=2", "data.eval=0.25"))
    text, train = told(prepared), prepared.rehearsal.train
    assert (train.rows, prepared.rehearsal.eval.rows) == (12, 4)
    assert train.trained == sum(len(row["messages"][1]["content"]) + 1 for row in prepared.examples.train)
    assert f"{train.tokens:,} tokens, of which {train.trained:,}" in text
    assert "(loss on what the assistant says)" in text
    assert "4 steps in all (batch 2 x accumulate 3), 2 passes over the examples" in text
    assert "4 steps are too few to learn much in; for more: a smaller train.accumulate or more train.epochs" in text
    assert prepared.run.data.loss_on == "assistant" and prepared.run.task == "sft"


@pytest.mark.parametrize(
    ("sets", "more"),
    [
        (("train.max_steps=3",), "a larger train.max_steps"),
        (("train.batch=8", "train.accumulate=1"), "a smaller train.batch or more train.epochs"),
        (("data.packing=true", "train.batch=1", "train.accumulate=1"), "data.packing: false or more train.epochs"),
    ],
)
def test_a_short_run_is_told_what_would_make_it_longer(sets, more, workshop):
    assert told(prepare(workshop.run(*sets))).count(f"for more: {more}") == 1


def test_the_first_example_is_shown_with_what_is_trained(workshop):
    prepared = prepare(workshop.run())
    assert "<|user|>colour of thing 0?<|end|><|assistant|>[red<|end|>]" in shown(prepared)
    coloured = shown(prepared, force_terminal=True, color_system="standard")
    assert "\x1b[1;32mred<|end|>\x1b[0m" in coloured and "[red" not in coloured
    whole = prepare(workshop.run("data.loss_on=all"))
    assert "[<|user|>colour of thing 0?<|end|><|assistant|>red<|end|>]" in shown(whole)


def test_both_answers_of_a_pair_are_shown(workshop):
    text = shown(prepare(workshop.run(format="preference")))
    assert "chosen: thing 0? [red<|end|>]" in text and "rejected: thing 0? [no idea at all<|end|>]" in text


def test_what_is_cut_is_told(workshop):
    rehearsal = prepare(workshop.run("data.max_length=25")).rehearsal
    lengths = [len("colour of thing 0?") + 4 + len(chat(i)["messages"][1]["content"]) for i in range(16)]
    assert rehearsal.train.too_long == sum(n > 25 for n in lengths)
    assert rehearsal.train.lost == sum(max(0, n - 25) for n in lengths)
    assert rehearsal.longest == 25
    text = told(prepare(workshop.run("data.max_length=25")))
    assert f"{rehearsal.train.too_long} ({100 * rehearsal.train.too_long / 16:.1f} %) of the examples" in text
    text = told(prepare(workshop.run("data.max_length=21", count=17, format="preference")))
    assert "are longer than data.max_length=21 and are cut" in text


def test_rows_that_are_packed_make_fewer_steps_which_is_told(workshop):
    prepared = prepare(workshop.run("data.packing=true", "data.max_length=128"))
    rehearsal = prepared.rehearsal
    assert rehearsal.rows < 16 and rehearsal.longest == 128
    assert f"16 rows packed into {rehearsal.rows} sequences of 128 tokens: " in told(prepared)
    assert "for more: data.packing: false" in told(prepared)


def test_texts_are_packed_and_nothing_of_them_is_lost(workshop):
    rehearsal = prepare(workshop.run("data.max_length=32", format="text")).rehearsal
    assert rehearsal.packed and rehearsal.train.longest > 32 and rehearsal.train.lost == 0
    assert rehearsal.rows * 32 >= rehearsal.train.tokens


def test_the_plan_is_of_the_longest_sequence_there_is(workshop):
    prepared = prepare(workshop.run())
    request = prepared.chosen.estimate.request
    assert (request.seq_len, request.batch) == (prepared.rehearsal.train.longest, 4)
    pairs = prepare(workshop.run(format="preference")).chosen.estimate.request
    assert pairs.batch == 8, "both answers of every example"
    assert prepared.fits and "It fits: " in prepared.plan_line()


def test_what_does_not_fit_is_refused_with_the_least_change(workshop):
    planned = prepare(workshop.run()).chosen.estimate.peak_bytes
    less = (f"gpu={planned // 1024 - 100}KiB", "margin=0")
    with pytest.raises(HybridOptError, match=r"does not fit into .*; the least change: .* or --set "):
        prepare(workshop.run(*less))
    forced = prepare(workshop.run(*less), must_fit=False)
    assert not forced.fits and forced.plan_line().startswith("It does not fit: ")


REFUSED = {
    "task of another format": ("messages", ("task=dpo",), "task='dpo' learns from preference, and the data is"),
    "no task": ("prompt", (), "the data is 'prompt', from which no task follows; say which: --task grpo"),
    "option": ("preference", ("task=dpo", "task_options={betta: 1}"), "dpo has no option 'betta'.* mean 'beta'"),
    "chunk": ("messages", ("train.chunk=64",), "train.chunk is not known: trainers compute"),
    "length": ("messages", ("data.max_length=300",), "the model has 256 positions .*data.max_length: 256 or less"),
    "no turns": ("prompt_completion", ("data.loss_on=assistant",), "the examples are no chats but texts"),
    "too short": ("messages", ("data.max_length=2",), "none of the 16 examples is short enough to learn from"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused(name, workshop):
    format, settings, why = REFUSED[name]
    with pytest.raises(HybridOptError, match=why):
        prepare(workshop.run(*settings, format=format))


def test_code_is_not_imported_unless_it_is_allowed(workshop, monkeypatch):
    mark = workshop.folder / "imported"
    monkeypatch.setenv("HYBRIDOPT_TEST_IMPORTED", str(mark))
    monkeypatch.delitem(__import__("sys").modules, "support.rewards", raising=False)
    settings = ("task=grpo", OPTIONS.format("capitals"), "train.batch=8")
    with pytest.raises(HybridOptError, match=r"'support.rewards:capitals', which is code .* add --allow-code"):
        prepare(workshop.run(*settings, format="prompt"))
    assert not mark.exists()
    prepare(workshop.run(*settings, format="prompt"), allow_code=True)
    assert mark.exists()
    missing = ("task=grpo", OPTIONS.format("small"), "train.batch=8")
    with pytest.raises(HybridOptError, match="support.rewards has no function 'small'"):
        prepare(workshop.run(*missing, format="prompt"), allow_code=True)


def test_positions_are_known_under_every_name_and_without_rows_for_padding():
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    assert positions_of(GPT2Config(n_positions=32, n_embd=16, n_layer=1, n_head=2)) == 32
    assert positions_of(RobertaConfig(**size, max_position_embeddings=34)) == 32
    assert positions_of(LlamaConfig(**size, max_position_embeddings=48)) == 48


def test_a_rank_that_no_layer_can_use_is_told_once(workshop):
    prepared, noted = prepare(workshop.run("method.lora=1000")), []
    assert "method.lora: LoRA of rank 1000 is above" in told(prepared)
    for lines in ((), prepared.told):
        with quietly(noted.append, lines):
            loading.load_model(prepared.run, Path(prepared.run.model), prepared.task, prepared.config)
    assert len(noted) == 1 and "rank 1000 is above" in noted[0]


def test_a_prompt_and_its_answer_fit_into_the_model(workshop):
    options = "task_options={reward: 'support.rewards:capitals', max_completion_length: 250}"
    with pytest.raises(HybridOptError, match="has 19 tokens, and 250 are added to it: more than the model's 256"):
        prepare(workshop.run("task=grpo", options, "train.batch=8", format="prompt"), allow_code=True)


def test_a_reference_is_not_looked_for_before_training(workshop):
    options = "task_options={reward: 'support.rewards:capitals', max_completion_length: 8, beta: 0.1}"
    settings = ("task=grpo", options, "train.batch=8", "method.lora=4")
    assert prepare(workshop.run(*settings, format="prompt"), allow_code=True).rehearsal.steps == 16


def test_places_that_hold_something_are_refused(workshop):
    with pytest.raises(HybridOptError, match="holds a model already"):
        prepare(workshop.run(f"output.folder={workshop.model}"))
    (workshop.folder / "file").touch()
    with pytest.raises(HybridOptError, match="is a file; give a folder"):
        prepare(workshop.run(out="file"))
    with pytest.raises(
        HybridOptError, match="output.folder=.*lies below .*file, which is a file; give another folder"
    ):
        prepare(workshop.run(out="file/deeper/out"))
    (workshop.folder / "mine").mkdir()
    (workshop.folder / "mine" / "notes.txt").touch()
    prepare(workshop.run(out="mine"))


def test_a_place_that_must_not_be_written_to_is_told_before_anything_is_read(workshop, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != workshop.folder)
    with pytest.raises(HybridOptError, match=f"{workshop.folder} must not be written to; give another folder: -o OUT"):
        prepare(workshop.run(out="new/out", model="./nowhere"))


def test_a_file_in_place_of_a_model_is_told_of_with_the_order_of_both(workshop):
    with pytest.raises(HybridOptError, match="messages.jsonl' is a file; give a folder .*hybridopt train MODEL DATA"):
        prepare(workshop.run(model=workshop.data()))


def test_a_model_that_is_not_there_is_told_of(workshop):
    with pytest.raises(HybridOptError, match=r"model='./nowhere': there is no folder /.*nowhere \(paths are relative"):
        prepare(workshop.run(model="./nowhere"))
    with pytest.raises(HybridOptError, match="'org/name' is no folder here, and cannot be had from the hub"):
        prepare(workshop.run(model="org/name"))


def test_padding_by_the_end_of_text_is_told(workshop):
    other = workshop.folder / "other"
    shutil.copytree(workshop.model, other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings["pad_token"] = settings["eos_token"]
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    said = "padding is the end of text (<|end|>)"
    assert said in told(prepare(workshop.run(model=other))) and said not in told(prepare(workshop.run()))


def test_weights_that_cannot_be_read_are_refused_before_anything_is_written(workshop):
    other = workshop.folder / "other"
    shutil.copytree(workshop.model, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(HybridOptError, match="weights in .*other/model.safetensors cannot be read"):
        prepare(workshop.run(model=other))
    weights.rename(other / "pytorch_model.bin")
    with pytest.raises(HybridOptError, match="no model.safetensors.*it has pytorch_model.bin: save it as safetensors"):
        prepare(workshop.run(model=other))
    assert not (workshop.folder / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(workshop):
    other = workshop.folder / "other"
    shutil.copytree(workshop.model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    with pytest.raises(HybridOptError, match="the tokenizer has 261 tokens, and the model 200"):
        prepare(workshop.run(model=other))


def test_a_template_that_marks_nothing_learns_the_last_answer(workshop):
    other = workshop.folder / "unmarked"
    shutil.copytree(workshop.model, other)
    template = Path(other / "chat_template.jinja")
    text = template.read_text().replace("{% generation %}", "").replace("{% endgeneration %}", "")
    template.write_text(text)
    prepared = prepare(workshop.run(model=other))
    assert prepared.run.data.loss_on == "completion" and "(loss on the answer alone)" in told(prepared)
    assert "<|user|>colour of thing 0?<|end|><|assistant|>[red<|end|>]" in shown(prepared)
    with pytest.raises(HybridOptError, match="does not mark what the assistant says"):
        prepare(workshop.run("data.loss_on=assistant", model=other))


def test_trackers_that_are_not_installed_are_told_before_reading(workshop, monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.setattr(preparing, "read", None)
    with pytest.raises(HybridOptError, match=r"wandb cannot be reported.*pip install wandb.*Installed: tensorboard"):
        prepare(workshop.run("train.report_to=[tensorboard, wandb]"))


def test_a_damaged_configuration_of_generation_is_told_before_reading(workshop, monkeypatch, tmp_path):
    model = shutil.copytree(workshop.model, tmp_path / "damaged")
    (model / "generation_config.json").write_text("{")
    monkeypatch.setattr(preparing, "read", None)
    with pytest.raises(HybridOptError, match="generation_config.json is no configuration of how a model generates"):
        prepare(workshop.run(model=model))


def test_names_of_columns_that_no_file_has_are_told(workshop):
    assert "has no column nope; messages is taken as it is" in told(
        prepare(workshop.run("data.columns.messages=nope"))
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"intermediate_size": 96}, "is stored with shape .*; weights and config.json belong to different models"),
        ({"num_hidden_layers": 3}, "finds no 'model.layers.2.* in the folder; copy it again, or correct config.json"),
        ({"num_hidden_layers": 1}, "has no place for 'model.layers.1.*; config.json is another model's"),
    ],
)
@pytest.mark.parametrize(("task", "format"), [("sft", "messages"), ("classify", "labels"), ("reward", "preference")])
def test_weights_of_another_model_are_told_before_anything_is_written(
    task, format, changes, said, workshop, tmp_path, monkeypatch
):
    monkeypatch.setattr(preparing, "chosen_for", lambda run, *_: SimpleNamespace(run=run, told=()))
    model = save_tiny_chat(tmp_path / "other", layers=2)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(HybridOptError, match=said):
        prepare(workshop.run(f"task={task}", model=model, format=format))


@pytest.mark.parametrize(("task", "format"), [("classify", "labels"), ("reward", "preference")])
def test_weights_without_the_output_layer_of_the_task_are_its_own(task, format, workshop, monkeypatch):
    monkeypatch.setattr(preparing, "chosen_for", lambda run, *_: SimpleNamespace(run=run, told=()))
    assert prepare(workshop.run(f"task={task}", format=format)).config.architectures == [
        "LlamaForSequenceClassification"
    ]
