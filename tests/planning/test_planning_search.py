"""The search: what fits comes first and in rank, every choice can be pasted, and what does not fit is told why."""

import io
import json
import subprocess
import sys
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import typer
from peft import LoraConfig
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlavaConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError
from hybridopt.cli.plan.command import plan as command
from hybridopt.core.budget import budget
from hybridopt.core.sizes import human
from hybridopt.model.quantization.coded import coded_names
from hybridopt.model.roles import params
from hybridopt.planning import Estimator, Request, parse_size, plan, table
from hybridopt.planning.bytes.temporaries import Temporaries
from hybridopt.planning.subject.model import Subject
from hybridopt.planning.ways.calls import calls, script
from hybridopt.planning.ways.search import search
from hybridopt.planning.ways.ways import WAYS
from hybridopt.policy.plan import Entry
from support.models import tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("known")]

SETTINGS = {
    "model_type": "llama", "hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024,
}  # fmt: skip
SIZE = {"seq_len": 64, "device": "cpu"}
ROOM = "12MiB"  # for some ways, and not for others
SEARCH = sys.modules["hybridopt.planning.ways.search"]  # the package has a function of that name


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture(scope="module")
def choices(config, known):
    return search(config, ROOM, margin=0, **SIZE)


def test_what_fits_comes_first_and_in_rank(choices):
    fits = [c.fits for c in choices]
    assert fits == sorted(fits, reverse=True) and any(fits) and not all(fits)
    for part in (True, False):
        ranks = [WAYS.index(c.way) for c in choices if c.fits is part]
        assert ranks == sorted(ranks)
    assert {c.way.title for c in choices} == {way.title for way in WAYS}


def test_a_choice_fits_if_its_own_plan_does(choices, config):
    estimator = Estimator(Subject("it", SETTINGS))
    for choice in (choices[0], choices[-1]):
        assert estimator.estimate(choice.request).peak_bytes == choice.estimate.peak_bytes
        assert choice.fits == (choice.estimate.peak_bytes <= parse_size(ROOM))


def test_the_least_is_less_than_every_estimate_and_close_where_the_batch_is_small(choices, config):
    estimator = SEARCH.Estimator(Subject(str(config), SETTINGS))
    shares = [estimator.least(c.request) / c.estimate.peak_bytes for c in choices]
    assert max(shares) <= 1 and min(shares) > 0.2, shares


def test_where_there_is_much_room_one_variant_of_each_way_is_estimated(config, monkeypatch):
    asked: list[Request] = []
    monkeypatch.setattr(Estimator, "estimate", _noting(asked))
    found = search(config, "10GiB", **SIZE)
    assert len(asked) == len(found) == len(WAYS)


def test_what_does_not_fit_has_a_change_that_does(choices):
    assert any(c.change for c in choices if not c.fits)
    assert not any(c.change for c in choices if c.fits)


def test_what_cannot_fit_is_not_estimated_and_changes_nothing(config, monkeypatch):
    """Weights or state alone can be too large: then the search answers as if it had tried."""
    asked: list[Request] = []
    monkeypatch.setattr(Estimator, "estimate", _noting(asked))
    room = budget("2400KiB", 0)
    quick = [c.as_dict(room) for c in search(config, room, **SIZE)]
    count = len(asked)
    monkeypatch.setattr(SEARCH.Hunt, "_least", lambda self, known, changed: 0)
    assert [c.as_dict(room) for c in search(config, room, **SIZE)] == quick
    assert count < len(asked) - count


def test_the_least_that_a_changed_request_takes(config):
    """Weights in any case, and the state as long as only sizes are changed."""
    hunt = SEARCH.Hunt(SEARCH.Estimator(Subject(str(config), SETTINGS)), 1, {}, Request(**SIZE))
    request = Request(policy="adamw", **SIZE)
    found = hunt._estimate(request)
    assert hunt._least(found, request.but(options={"codec": "int8"})) == found.weights_bytes
    assert hunt._least(found, request.but(batch=2, seq_len=8)) == found.weights_bytes + found.state_bytes
    assert hunt._least(found, request.but(lora=16)) == 0


def _noting(asked):
    whole = Estimator.estimate

    def estimate(self, request):
        asked.append(request)
        return whole(self, request)

    return estimate


def test_equal_updates_are_looked_at_once(monkeypatch):
    """However many parameters are treated alike, and with the same result."""
    seen: list[Entry] = []
    asked = Temporaries._asked

    def noting(self, backend, entries, flagged):
        seen.extend(() if backend.largest_stacked else entries)
        return asked(self, backend, entries, flagged)

    monkeypatch.setattr(Temporaries, "_asked", noting)
    request = Request(policy="adamw", options={"codec": "int8"}, lora=32, **SIZE)
    quick = Estimator(Subject("it", SETTINGS)).estimate(request)
    assert seen and len({entry.param.shape for entry in seen}) == len(seen)
    monkeypatch.setattr(
        Temporaries, "_by", lambda self, backend, all_, flagged: max(noting(self, backend, [e], flagged) for e in all_)
    )
    assert Estimator(Subject("it", SETTINGS)).estimate(request) == quick
    assert len(seen) > 2 * len({entry.param.shape for entry in seen}) + 14


def test_the_mildest_variant_that_fits_is_taken(config):
    best = search(config, "10GiB", **SIZE)[0]
    assert best.way is WAYS[0] and (best.request.release, best.request.checkpointing) == ("accumulate", False)


def test_only_what_was_asked_for_is_searched(config):
    found = search(config, "1GiB", asked={"lora": 16, "quantization": "nf4"}, **SIZE)
    assert found and all(c.request.lora == 16 and c.request.quantization == "nf4" for c in found)
    found = search(config, "1GiB", asked={"lora": 3, "quantization": "nf4"}, **SIZE)
    assert found and all(c.request.lora == 3 and "LoraConfig(r=3" in c.code for c in found)
    found = search(config, "1GiB", asked={"quantization": "fp4"}, **SIZE)
    assert found and all('quantization="fp4"' in c.code and "fp4 base" in c.way.title for c in found)


def test_nothing_that_fits_says_what_is_missing(config):
    with pytest.raises(HybridOptError, match=r"nothing fits into 1\.00 MiB.*: the least, .*MiB are missing"):
        search(config, "1MiB", **SIZE)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"quantization": "nf5"}, "quantization='nf5' is not known; did you mean 'nf4'"),
        ({"lora": 0}, "lora=0 is not allowed"),
        ({"release": "late"}, "release='late' is not known"),
        ({"lora": 4, "quantization": "int8-trainable"}, "LoRA freezes them"),
    ],
)
def test_what_no_way_can_be_asked_for_is_said(config, asked, text):
    with pytest.raises(HybridOptError, match=text):
        search(config, "1GiB", asked=asked, **SIZE)


def test_a_model_that_no_way_takes_says_why(tmp_path):
    path = tmp_path / "config.json"
    for settings, text in {
        '{"model_type": "t5"}': "architectures=None names no class of transformers",
        '{"model_type": "resnet"}': "has no num_hidden_layers",
    }.items():
        path.write_text(settings)
        with pytest.raises(HybridOptError, match=text):
            search(path, "1GiB", **SIZE)


def test_of_a_model_with_images_the_text_part_is_planned(tmp_path, config):
    whole = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": SETTINGS}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(whole))
    request = Request(policy="adamw", **SIZE)
    found, text = plan(path, request), plan(config, request)
    assert found.model == f"{path} (text part)" and found.parts == text.parts
    with pytest.raises(HybridOptError, match="only the text part.*get_text_config"):
        search(LlavaConfig(text_config=SETTINGS), "1GiB", **SIZE)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_the_lines_to_paste_run(way):
    """On a tiny model; they give the policy, adapters, quantization and release that were planned."""
    request = Request(**way.settings, **SIZE).but(checkpointing=True)
    names = {"model": tiny_llama().bfloat16(), "hybridopt": hybridopt}
    exec(calls(request, 1e-4), names)  # the package's own text
    model, optimizer = names["model"], names["optimizer"]
    assert model.hybrid.policy == request.ready and model.hybrid.quantization == request.quantization
    assert optimizer.release == request.release and bool(request.lora) == hasattr(model, "peft_config")
    assert model.is_gradient_checkpointing
    assert ("hybridopt.load(folder" in calls(request, 1e-4)) == bool(way.quantization)


@pytest.mark.parametrize("scheme", ["nf4", "int8", "int8-trainable"])
def test_the_lines_say_how_to_read_a_model_quantized(scheme, tmp_path):
    """The line that is commented out runs, with the rest without quantization."""
    way = next(way for way in WAYS if way.quantization == scheme)
    tiny_llama().bfloat16().save_pretrained(tmp_path)
    code = calls(Request(**way.settings, **SIZE), 1e-4)
    code = code.replace("# model =", "model =").replace(f', quantization="{scheme}")\nopt', ")\nopt")
    names = {"folder": tmp_path, "hybridopt": hybridopt}
    exec(code, names)  # the package's own text
    assert code.count("quantization=") == 1
    roles = {p.role for p in params(names["model"])}
    assert "quantized" in roles or coded_names(names["model"])


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "adamw"},
        {"policy": "mezo", "micro_batches": 2},
        {"policy": "adalomo", "release": "fused", "micro_batches": 2, "chunk": 8},
        {"policy": "frugal", "lora": 2, "quantization": "nf4", "checkpointing": True, "micro_batches": 2},
    ],
    ids=lambda changes: changes["policy"],
)
def test_the_program_runs_as_it_is_printed(changes, tmp_path, monkeypatch):
    """On a tiny model in a folder with a tokenizer, and a text file; it changes weights and saves them."""
    request = Request(seq_len=4, batch=2, device="cpu", dtype="fp32").but(**changes)
    monkeypatch.chdir(tmp_path)
    tiny_llama().save_pretrained("model")
    words = Tokenizer(WordLevel({"a": 1, "b": 2, "?": 0}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained("model")
    Path("train.txt").write_text("a b " * 17)
    names = {}
    exec(script(request, 1e-2, "model"), names)  # the package's own text
    assert len(names["passes"]) == 4 and Path("trained/hybridopt_config.json").exists()
    assert names["optimizer"].release == request.release and names["model"].hybrid.policy == request.ready


def test_adapters_that_were_given_are_not_invented(config):
    own = LoraConfig(r=2, target_modules=["q_proj"])
    code = calls(Request(lora=2, peft_config=own, **SIZE), 1e-4)
    assert "peft_config=peft_config" in code and "LoraConfig" not in code


def test_a_narrow_terminal_cuts_no_bar_and_no_line(choices):
    room = budget(ROOM, 0)
    for width in (40, 80, 120):
        console = Console(width=width, file=io.StringIO(), legacy_windows=False)
        console.print(table.choices_table(choices, room), crop=False)
        text = console.file.getvalue()
        bars = [line for line in text.splitlines() if "█" in line]
        assert len(bars) == len(choices) and all(line.count("|") == 1 for line in bars) and "…" not in text
        assert all(len(line) <= width for line in bars)
        assert all(c.code in text for c in choices[1:] if c.fits)
        assert text.rstrip().endswith(choices[0].script)  # the best is last, and whole


def invoke(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_prints_one_object(config):
    shared = ("--policy", "frugal", "--density", 0.5, "--codec", "int8", "--seq-len", 64, "--release", "fused")
    done = invoke(config, *shared, "--option", "update_gap=7", "--gpu", "1GiB", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    parts = ("weights", "quantization", "gradients", "state", "activations", "temporaries", "overhead")
    assert found["peak_bytes"] == sum(found[f"{part}_bytes"] for part in parts)
    assert found["fits"] is True and "missing_bytes" not in found
    assert found["request"]["options"] == {"density": 0.5, "codec": "int8", "update_gap": 7}
    done = invoke(config, *shared, "--gpu", "100MiB", "--margin", 0, "--json")
    small = json.loads(done.stdout)
    assert small["fits"] is False and small["missing_bytes"] == small["peak_bytes"] - 100 * 2**20
    assert done.exit_code == 1


def test_the_margin_is_kept_free(config, choices):
    """What takes a byte of it comes after what does not, is no recommendation, and is said to fit only there."""
    first = choices[0].estimate.peak_bytes
    room = budget(first + 1000)
    found = search(config, room, **SIZE)
    assert [c.fits for c in found].index(False) > 0 and all(
        c.estimate.peak_bytes <= room.usable for c in found if c.fits
    )
    assert any(c.tight for c in found) and all(
        room.usable < c.estimate.peak_bytes <= room.total for c in found if c.tight
    )
    order = [(not c.fits, not c.tight) for c in found]
    assert order == sorted(order)
    console = Console(width=100, file=io.StringIO())
    console.print(table.choices_table(found, room), crop=False)
    assert "kept free" in console.file.getvalue() and "only into the" in console.file.getvalue()
    spare = human(room.usable - found[0].estimate.peak_bytes)
    assert f"the best that fits; {spare} to spare:" in " ".join(console.file.getvalue().split())


def test_the_command_fails_where_only_the_margin_would_do(config):
    shared = (config, "--policy", "adamw", "--seq-len", 64, "--device", "cpu")
    peak = json.loads(invoke(*shared, "--json").stdout)["peak_bytes"]
    for margin, code in ((0, 0), (0.5, 1)):
        done = invoke(*shared, "--gpu", f"{peak}B", "--margin", margin)
        assert done.exit_code == code, done.output
        told = " ".join(done.output.split())
        assert ("0 B to spare" in told) is not bool(code)
    assert "fits only into the margin" in told and f"it takes {human(peak // 2)} of it" in told


def test_the_command_shows_a_table_or_the_ways_that_fit(config):
    one = invoke(config, "--policy", "adamw", "--seq-len", 64, "--gpu", "2GiB")
    assert one.exit_code == 0 and "fits into 2.00 GiB, of which" in " ".join(one.output.split()) and "█" in one.output
    many = invoke(config, "--seq-len", 64, "--gpu", "2GiB", "--device", "cpu")
    assert many.exit_code == 0 and 'hybridopt.wrap(model, policy="adamw")' in many.output
    assert "looking for what fits, 16 of 16" in many.stderr


def test_the_command_refuses_bad_input(config):
    for arguments, text in {
        ("llama-3-9b",): "closest are llama-3-8b",
        (config, "--gpu", "80"): "has no unit",
        (config, "--option", "density"): "write key=value",
        (config, "--policy", "adamv"): "did you mean 'adamw'",
    }.items():
        assert text in str(invoke(*arguments).exception)


def test_the_command_asks_for_every_field_of_a_request():
    own = {f.name for f in fields(Request)} - {"seed", "options", "peft_config"}
    assert own <= set(signature(command).parameters)


@pytest.mark.parametrize(
    ("arguments", "say"),
    [
        (["plan", "--help"], "Examples"),
        (["plan", "gpt2", "--policy", "frugl"], "did you mean 'frugal'"),
        (["plan", "llama-3-9b"], "closest are llama-3-8b"),
        (["plan", "gpt2", "--gpu", "rtx4091"], "did you mean RTX 4090"),
        (["plan", "gpt2", "--dtype", "bf15"], "did you mean 'bf16'"),
        (["plan", "gpt2", "--margin", "5"], "margin=5.0 is not allowed"),
        (["plan", "gpt2", "--quantization", "nf5"], "did you mean 'nf4'"),
        (["plan", "gpt2", "--lora", "0"], "lora=0 is not allowed"),
        (["plan", "gpt2", "--batch", "2000000"], "batch=2000000 is not allowed"),
        (["plan", "gpt2", "--seq-len", "-1"], "seq_len=-1 is not allowed"),
        (["plan", "gpt2", "--chunk", "0"], "chunk=0 is not allowed"),
        (["plan", "gpt2", "--adapter-dtype", "float31"], "did you mean 'float32'"),
        (["plan", "gpt2", "--option", "densty=0.1"], "did you mean 'density'"),
        (["plan", "gpt2", "--policy", "adamw", "--density", "0.1"], "adamw has no option 'density'"),
    ],
)
def test_help_and_typos_wait_for_no_torch(arguments, say):
    code = (
        "import sys\nfrom hybridopt.cli.main import main\nsys.argv[1:] = " + repr(arguments) + "\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert say in done.stdout and done.stdout.split()[-1] == "False", done.stdout + done.stderr
