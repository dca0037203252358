"""Options that are not there: the near name, or what another tool's option is called here, whichever way it comes."""

import pickle

import pytest
import torch
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.cli.main import app
from hybridopt.core.registry import find, names
from hybridopt.integrations.transformers import HybridOptimizerFactory
from hybridopt.policy.other_names import ROWS, instead
from hybridopt.policy.routes import read_policy
from support.models import tiny_llama

ELSEWHERE = [  # policy, option, value, what is said
    ("galore", "rank", 64, "here it is density.*64 of 1024 is 0.0625"),
    ("frugal", "rank", 2048, "density.*2048 of 2048 is 1"),
    ("frugal", "adapter", "LoraConfig(r=8)", r"it belongs to hybridopt.wrap\(model, peft_config=...\)"),
    ("apollo", "proj_rank", 64, "here it is rank=64"),
    ("galore", "update_proj_gap", 200, "here it is update_gap=200"),
    ("badam", "switch_block_every", 50, "here it is update_gap=50"),
    ("badam", "switch_mode", "descending", "here it is order='random', 'ascending', 'descending' or 'mirror'"),
    ("badam", "block_prefix_list", None, "leave it out: numbered layers are found"),
    ("frugal", "betas", (0.9, 0.95), r"full=hybridopt.parts.AdamW\(betas=\(0.9, 0.95\)\)"),
    ("adamw", "beta2", 0.95, r"here it is betas=\(0.9, 0.95\)"),
    ("frugal", "adam_beta1", 0.8, r"full=hybridopt.parts.AdamW\(betas=\(0.8, 0.999\)\)"),
    ("frugal", "eps", 1e-6, r"full=hybridopt.parts.AdamW\(eps=1e-06\)"),
    ("adamw", "adam_epsilon", 1e-6, "here it is eps=1e-06"),
    ("frugal", "momentum", 0.9, r"full=hybridopt.parts.Momentum\(0.9\)"),
    ("frugal", "proj_params_lr_scale", 0.3, "here it is lr_scale=0.3"),
    ("frugal", "inactive_lr_scale", 0.1, "here it is free_lr_scale=0.1"),
    ("galore", "galore_scale", 0.25, "here it is scale=0.25"),
    ("mezo", "zo_eps", 1e-3, "here it is eps=0.001"),
    ("mezo", "num_samples", 4, "here it is samples=4"),
    ("frugal", "optim_bits", 8, "here it is codec='int8'"),
    ("frugal", "foreach", True, "leave it out: hybridopt chooses kernels"),
    ("lomo", "clip_grad_norm", 1.0, r"model.hybrid.optimizer\(clip=1.0\)"),
    ("adamw", "amsgrad", True, "leave it out"),
]
NEAR = [("frugal", "densty", "density"), ("galore", "updte_gap", "update_gap"), ("mezo", "sampels", "samples")]


def entries(policy, option, value):
    """Every way by which an option of a policy is given."""
    given = {option: value}
    yield lambda: hybridopt.wrap(tiny_llama(hidden=16), policy, **given)
    yield lambda: HybridOptimizer(tiny_llama(hidden=16).named_parameters(), policy=policy, **given)
    yield lambda: HybridOptimizerFactory()(tiny_llama(hidden=16), lr=1e-3, policy=policy, **given)


@pytest.mark.parametrize(("policy", "option", "value", "words"), ELSEWHERE)
def test_options_of_other_tools(policy, option, value, words):
    with pytest.raises(HybridOptError, match=f"{policy} has no option {option!r}.*{words}.*Known: "):
        hybridopt.wrap(torch.nn.Linear(4, 4), policy, **{option: value})


@pytest.mark.parametrize(
    ("policy", "option", "value", "words"),
    [ELSEWHERE[0], ("frugal", "densty", 0.5, "did you mean 'density'"), ("badam", "switch_every", 9, "update_gap=9")],
)
def test_every_way_in_says_the_same(policy, option, value, words):
    for attempt in entries(policy, option, value):
        with pytest.raises(HybridOptError, match=f"{policy} has no option {option!r}.*{words}"):
            attempt()


@pytest.mark.parametrize(("policy", "option", "near"), NEAR)
def test_misspelled_options(policy, option, near):
    with pytest.raises(HybridOptError, match=f"{policy} has no option {option!r}.*did you mean {near!r}"):
        hybridopt.wrap(torch.nn.Linear(4, 4), policy, **{option: 1})


def test_values_that_are_long_do_not_hide_the_cure():
    model = hybridopt.wrap(tiny_llama(), "adamw")
    for ask in (lambda **given: read_policy("frugal", given), model.hybrid.optimizer):
        with pytest.raises(HybridOptError, match="has no option 'adaptor'.*Known: ") as refused:
            ask(adaptor="x" * 1000)
        assert "x" * 200 not in str(refused.value)


def test_the_command_says_the_same():
    done = CliRunner().invoke(app, ["plan", "llama-3-8b", "--policy", "galore", "--option", "rank=128"])
    assert isinstance(done.exception, HybridOptError) and "128 of 1024 is 0.125" in str(done.exception)


def test_options_of_the_optimizer():
    model = hybridopt.wrap(tiny_llama(hidden=16))
    for option, words in {
        "learning_rate": r"model.hybrid.optimizer has no option 'learning_rate'.*here it is lr=0.5",
        "max_grad_norm": "here it is clip=0.5",
        "weight_decy": "did you mean 'weight_decay'",
        "density": r"density=0.5 belongs to the policy: hybridopt.wrap\(model",
    }.items():
        with pytest.raises(HybridOptError, match=words):
            model.hybrid.optimizer(**{option: 0.5})
    for option in ("learning_rate", "weight_decy", "lr", "wd"):
        with pytest.raises(HybridOptError, match=r"to the optimizer: model.hybrid.optimizer\((lr|weight_decay)=0.5\)"):
            hybridopt.wrap(torch.nn.Linear(4, 4), **{option: 0.5})


def test_options_of_auto():
    for option, words in {"batch_size": "here it is batch=2", "seqlen": "did you mean 'seq_len'"}.items():
        with pytest.raises(HybridOptError, match=f"policy='auto'.*has no option {option!r}.*{words}"):
            hybridopt.wrap(tiny_llama(hidden=16), "auto", **{option: 2})


def test_numbers_of_groups():
    pairs = [("a.weight", torch.nn.Parameter(torch.ones(4, 4)))]
    for key, meant in {"learning_rate": "lr", "weight_decy": "weight_decay", "wd": "weight_decay"}.items():
        with pytest.raises(HybridOptError, match=f"{key}=0.5 in a param group.*did you mean {meant}=0.5"):
            HybridOptimizer([{"params": pairs, key: 0.5}])
    with pytest.raises(HybridOptError, match="lr_scale=0.5 in a param group.*multiply the group's lr by it"):
        HybridOptimizer([{"params": pairs, "lr_scale": 0.5}])
    kept = {"name": "body", "initial_lr": 0.1, "layer": 3, "max_lr": 1.0, "no_weight_decay": True}
    group = HybridOptimizer([{"params": pairs, **kept}]).param_groups[0]
    assert {key: group[key] for key in kept} == kept


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("adamwpolicy", "adamw"),
        ("AdamW", "adamw"),
        ("GaLore", "galore"),
        ("galore_adamw_8bit", "galore"),
        ("q-galore", "qgalore"),
    ],
)
def test_policies_that_are_misspelled(written, meant):
    with pytest.raises(HybridOptError, match=f"^policy={written!r} is not known; did you mean {meant!r}"):
        hybridopt.wrap(torch.nn.Linear(4, 4), written)


@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        (
            "frugal",
            {"density": 25},
            r"frugal: density=25 .* number in \[0, 1\], as it is a share; did you mean 0.25",
        ),
        ("galore", {"density": 2}, "galore: density=2 .*did you mean 0.02"),
        ("lezo", {"density": 50}, "lezo: density=50 .*did you mean 0.5"),
        ("apollo", {"density": 25}, "apollo: density=25 .*did you mean 0.25"),
        ("frugal", {"density": "0.25"}, "frugal: density='0.25'.*did you mean 0.25, without quotes"),
        ("frugal", {"density": 1.5}, r"frugal: density=1.5 is not allowed; give a number in \[0, 1\]$"),
        ("frugal", {"density": 250}, r"frugal: density=250 .*\[0, 1\]"),
        ("frugal", {"update_gap": 0}, "frugal: update_gap=0"),
        ("frugal", {"embeddings": "ful"}, "frugal: embeddings='ful' is not known; did you mean 'full'"),
        ("galore", {"scale": -1}, "galore: scale=-1"),
        ("mezo", {"eps": 0}, "mezo: eps=0"),
        ("muon", {"momentum": 2}, "muon: momentum=2"),
        ("frugal", {"full": {"part": "rules.adamw", "eps": -1}}, "adamw: eps=-1"),
    ],
)
def test_wrong_values_are_said_of_the_policy_that_was_asked_for(policy, options, words):
    with pytest.raises(HybridOptError, match=f"^{words}"):
        hybridopt.wrap(torch.nn.Linear(4, 4), policy, **options)


def test_what_is_suggested_is_there():
    """Every row of the table names an option of some policy, of the optimizer, of wrap or of auto."""
    policies = {option for name in names("policies") for option in find("policies", name)().options()}
    others = {
        "lr",
        "weight_decay",
        "release",
        "clip",
        "clip_mode",
        "nonfinite",
        "compile",
        "peft_config",
        "quantization",
    }
    others |= {"batch", "seq_len", "micro_batches", "memory", ""}
    assert {here for _, here, _ in ROWS} <= policies | others
    assert instead("nothing of the kind", 1, ("lr",)) is None


def test_an_error_travels_with_its_owner():
    error = HybridOptError("eps=0 is not allowed", "AdamW")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "AdamW: eps=0 is not allowed"
    assert str(error.of("adamw")) == "adamw: eps=0 is not allowed" and error.of("adamw").args
