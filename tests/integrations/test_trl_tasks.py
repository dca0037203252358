"""Every trainer of TRL with the mixin: gradients, fused release, LoRA on a 4-bit base, probes, and both at once."""

import pytest
import torch
from peft import LoraConfig

import hybridopt
from hybridopt import HybridOptError
from hybridopt.integrations.addax.lengths import Halves
from support.saved import bits, equal
from support.trl_tasks import TASKS, model_of, rewards, tuner

pytestmark = pytest.mark.slow

GENERATING = ("grpo", "rloo")
RATES = {"dpo": 1e-2, "reward": 3e-3, "kto": 1e-3, "grpo": 1e-3, "rloo": 1e-3}
PROBES = {"policy": "mezo", "max_steps": 12}
WAYS = {
    "frugal": {"policy": "frugal", "policy_options": {"density": 0.5, "update_gap": 2}, "learning_rate": 3e-3},
    "adalomo fused": {"policy": "adalomo", "learning_rate": 1e-2, "optimizer_options": {"release": "fused"}},
    "lora on nf4": {"learning_rate": 1e-2},
    "mezo": PROBES | {"learning_rate": 1e-3},
    "addax": {"policy": "addax", "policy_options": {"alpha": 1e-2}, "learning_rate": 1e-2},
}


def lora(name):
    """The task's model, with adapters on a 4-bit base and FRUGAL."""
    torch.manual_seed(0)
    kind = "SEQ_CLS" if name == "reward" else "CAUSAL_LM"
    config = LoraConfig(r=4, target_modules="all-linear", task_type=kind)
    return hybridopt.wrap(model_of(name).bfloat16(), policy="frugal", peft_config=config, quantization="nf4")


def losses(run, key="loss"):
    return [entry[key] for entry in run.state.log_history if "loss" in entry and key in entry]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("task", TASKS)
def test_it_learns_by_the_right_weights_and_the_log_is_true(task, way, tmp_path):
    model = lora(task) if way == "lora on nf4" else model_of(task)
    run = tuner(task, tmp_path, model, **WAYS[way])
    before = bits(run.model)
    run.train()

    found, steps = losses(run), run.args.max_steps
    assert len(found) == run.state.global_step == run.optimizer.param_groups[0]["step"] == steps
    if task == "grpo":  # every second step is on the completions of the one before it
        assert sum(after < first for first, after in zip(found[::2], found[1::2], strict=True)) > steps / 3
    elif task != "rloo":  # whose loss is 0 wherever it is taken
        assert found[-1] < found[0] - (5e-5 if way == "mezo" else 1e-3)
    if task in GENERATING and way != "mezo":
        assert losses(run, "reward")[-1] > losses(run, "reward")[0] + 0.05

    changed = {name for name, value in bits(run.model).items() if not torch.equal(value, before[name])}
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    trained = {name for name, p in run.model.named_parameters() if id(p) in held}
    assert changed == trained and (way != "lora on nf4" or all("lora_" in n or "score" in n for n in trained))

    norms, slopes = losses(run, "grad_norm"), losses(run, "projected_gradient")
    assert len(norms) == (0 if way == "mezo" else steps)
    assert all(norm > 0 for norm in (norms[::2] if task == "grpo" else norms))  # GRPO clips what has moved far
    assert len(slopes) == len(losses(run, "probe_loss")) == (steps if way in ("mezo", "addax") else 0)
    assert all(slope != 0 for slope in slopes)


@pytest.mark.parametrize("task", TASKS)
def test_the_norm_that_is_logged_for_fused_updates_is_that_of_the_gradients(task, tmp_path):
    def norms(release):
        options = {"optimizer_options": {"release": release}}
        run = tuner(task, tmp_path, policy="sgd", learning_rate=1e-3, max_steps=2, **options)
        run.train()
        return losses(run, "grad_norm")

    assert norms("fused") == pytest.approx(norms("accumulate"), rel=1e-4) and len(norms("fused")) == 2


class Counted:
    """Rewards, and how often completions were scored: once for every batch that is generated."""

    __name__ = "counted"

    def __init__(self):
        self.texts = []

    def __call__(self, completions, **_):
        self.texts.append(list(completions))
        return rewards(completions)


@pytest.mark.parametrize("policy", ["sgd", "mezo", "addax"])
@pytest.mark.parametrize("changes", [{"num_iterations": 2}, {"num_iterations": 1, "steps_per_generation": 3}])
def test_completions_are_generated_as_often_as_without_probes(policy, changes, tmp_path, monkeypatch):
    counted, seen = Counted(), []
    monkeypatch.setitem(TASKS["grpo"].given, "reward_funcs", counted)
    run = tuner("grpo", tmp_path, policy=policy, learning_rate=1e-4, max_steps=6, **changes)
    step, loss = run.training_step, run._compute_loss
    run.training_step = lambda *given: seen.append([]) or step(*given)
    run._compute_loss = lambda model, inputs: seen[-1].append(inputs["completion_ids"]) or loss(model, inputs)
    run.train()
    assert len(counted.texts) == (3 if "steps_per_generation" not in changes else 2)
    assert len(seen) == 6
    for used in seen:  # by all losses of a step
        assert len(used) >= {"sgd": 1, "mezo": 2, "addax": 3}[policy]
        assert all(torch.equal(used[0], other) for other in used)


def test_micro_batches_of_completions_are_all_probed(tmp_path):
    changes = {"gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 4}
    run = tuner("grpo", tmp_path, policy="mezo", learning_rate=1e-4, **changes)
    slices, prepare = [], run._prepare_inputs
    run._prepare_inputs = lambda inputs: slices.append(run._step) or prepare(inputs)
    run.train()
    assert sorted(set(slices)) == list(range(8)) and run.optimizer.param_groups[0]["step"] == 4


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("grpo", {"num_iterations": 1}, r"same at all weights.*num_iterations=2.*steps_per_generation=2"),
        ("grpo", {"num_iterations": 1, "gradient_accumulation_steps": 4}, r"steps_per_generation=8"),
        ("grpo", {"loss_type": "cispo"}, "loss_type='cispo' is not its gradient"),
        ("sft", {"loss_type": "dft"}, "loss_type='dft' is not its gradient"),
        ("dpo", {"use_weighting": True}, "use_weighting=True.*leave it out"),
    ],
)
def test_losses_that_say_nothing_of_their_gradient_are_refused_for_probes(task, changes, words, tmp_path):
    model = model_of(task)
    before = bits(model)
    for policy in ("mezo", "addax"):
        with pytest.raises(HybridOptError, match=words):
            tuner(task, tmp_path, model, policy=policy, **changes).train()
    assert equal(bits(model), before) and "hybrid" not in vars(model)
    tuner(task, tmp_path, model, policy="sgd", **changes).create_optimizer()


def test_an_assignment_for_a_trainer_that_generates_is_refused(tmp_path):
    with pytest.raises(HybridOptError, match="completions it generates.*leave assignment out"):
        tuner("grpo", tmp_path, policy="addax", assignment=Halves(None, 2, 2))
