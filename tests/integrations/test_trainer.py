"""The unchanged transformers Trainer: train, evaluate, clip, accumulate, checkpoint and resume to the last bit."""

import math
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback

import hybridopt
from hybridopt import HybridOptimizer
from hybridopt.integrations.transformers import HybridOptimizerFactory
from hybridopt.model.quantization.sizes import fingerprint
from support.models import tiny_gpt2, tiny_llama
from support.saved import bits, different, equal
from support.trainers import KINDS, LR, POLICY, STEPS, WARMUP, arguments, data, wrapped

pytestmark = pytest.mark.slow

FORMS = ("optimizer", "factory")
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])


def trainer(model, form, folder, callbacks=(), **changes):
    how = {"optimizer_cls_and_kwargs": (HybridOptimizerFactory, {"lr": LR, "weight_decay": 0.1})}
    if form == "optimizer":
        how = {"optimizers": (model.hybrid.optimizer(lr=LR, weight_decay=0.1), None)}
    rows = data()
    return Trainer(
        model,
        arguments(folder, **changes),
        train_dataset=rows,
        eval_dataset=rows[:4],
        callbacks=list(callbacks),
        **how,
    )


def test_a_policy_that_goes_by_the_loss_wants_a_trainer_that_tells_it(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="adafrugal")
    before = bits(model)
    with pytest.raises(hybridopt.HybridOptError, match="no loss was told.*HybridTrainer tells it by itself"):
        trainer(model, "optimizer", tmp_path).train()
    assert equal(bits(model), before)


@pytest.mark.parametrize("policy", ["mezo", "zo_adam"])
def test_a_policy_without_gradients_wants_a_trainer_that_probes(tmp_path, policy):
    model = hybridopt.wrap(tiny_llama(), policy=policy)
    before = bits(model)
    for form in FORMS:
        with pytest.raises(hybridopt.HybridOptError, match=r"^Trainer calls loss.backward\(\).*Take HybridTrainer,"):
            trainer(model, form, tmp_path).train()
    assert equal(bits(model), before)


def test_other_loops_may_say_that_training_goes_on():
    model = hybridopt.wrap(tiny_llama(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    optimizer.train()
    optimizer.step(lambda: model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.square().mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_ends_in_the_bits_of_an_uninterrupted_one(tmp_path, kind, form):
    whole = trainer(wrapped(kind), form, tmp_path / "whole")
    base = fingerprint(whole.model)
    before = bits(whole.model)
    whole.train()
    resumed = trainer(wrapped(kind), form, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))

    assert resumed.state.global_step == STEPS
    assert equal(bits(resumed.model), bits(whole.model))
    assert equal(resumed.optimizer.state_dict(), whole.optimizer.state_dict())
    assert resumed.optimizer.param_groups[0]["step"] == STEPS
    assert fingerprint(whole.model) == base
    assert not equal(before, bits(whole.model))


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_shows_schedule_loss_and_evaluation(tmp_path, kind):
    run = trainer(wrapped(kind), "factory", tmp_path)
    run.train()
    log = run.state.log_history
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    expected = [LR * min(step / WARMUP, (STEPS - step) / (STEPS - WARMUP)) for step in range(STEPS)]
    assert rates == pytest.approx(expected)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [2, 4, 6]
    assert all(math.isfinite(entry["grad_norm"]) and entry["grad_norm"] > 0 for entry in log if "grad_norm" in entry)


def test_both_forms_are_the_same_training(tmp_path):
    runs = [trainer(wrapped("full"), form, tmp_path / form) for form in FORMS]
    for run in runs:
        run.train()
    assert equal(bits(runs[0].model), bits(runs[1].model))


class Gradients(TrainerCallback):
    """The norm of all gradients as the optimizer gets them, and how often it is asked to step."""

    def __init__(self):
        self.norms = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(grads).item())


def test_gradients_are_accumulated_and_clipped_before_the_step(tmp_path):
    seen = Gradients()
    trainer(wrapped("full"), "factory", tmp_path, [seen]).train()
    assert len(seen.norms) == STEPS
    assert max(seen.norms) == pytest.approx(0.5, rel=1e-3)


def test_accumulation_equals_the_large_batch(tmp_path):
    parts = trainer(wrapped("full"), "factory", tmp_path / "a", max_steps=1)
    large = trainer(
        wrapped("full"),
        "factory",
        tmp_path / "b",
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
    )
    for run in (parts, large):
        run.args.warmup_steps = 0
        run.train()
    moved = sum(
        not torch.equal(p, q) for p, q in zip(parts.model.parameters(), tiny_llama().parameters(), strict=True)
    )
    assert moved == len(list(parts.model.parameters()))
    for p, q in zip(parts.model.parameters(), large.model.parameters(), strict=True):
        near = (p - q).abs() < 1e-4  # elsewhere the sign of a vanishing gradient flips
        assert near.float().mean() > 0.97


def test_the_factory_wraps_a_bare_model(tmp_path):
    how = {"lr": LR, "policy": "frugal", "seed": 5, "weight_decay": 0.1, **POLICY}
    model = tiny_llama()
    run = Trainer(
        model,
        arguments(tmp_path),
        train_dataset=data(),
        optimizer_cls_and_kwargs=(HybridOptimizerFactory, how),
        eval_dataset=data(4),
    )
    run.train()
    assert run.model is model and model.hybrid.seed == 5
    same = trainer(wrapped("full"), "optimizer", tmp_path / "same")
    same.train()
    assert equal(bits(model), bits(same.model))


def test_the_factory_takes_in_lora_added_after_wrap(tmp_path):
    peft_model = get_peft_model(wrapped("full"), LoraConfig(r=4, target_modules=["q_proj"]))
    run = trainer(peft_model, "factory", tmp_path / "run")
    run.train()
    assert isinstance(run.model, PeftModel) and run.model.hybrid.model is peft_model
    run.model.hybrid.save_pretrained(tmp_path / "saved")
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path / "saved")
    assert equal(bits(again), bits(peft_model))


def test_what_the_trainers_checkpoints_lose_is_said():
    model = wrapped("lora-nf4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", hybridopt.HybridOptWarning)
        HybridOptimizerFactory()(model, lr=LR)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.warns(hybridopt.HybridOptWarning, match="'model.norm.weight' .1 base parameters.*modules_to_save"):
        HybridOptimizerFactory()(model, lr=LR)


@pytest.mark.parametrize("contain", [torch.compile, nn.DataParallel, lambda m: nn.DataParallel(torch.compile(m))])
def test_the_factory_looks_into_containers(contain):
    model = wrapped("full")
    optimizer = HybridOptimizerFactory()(contain(model), lr=LR)
    assert {p for g in optimizer.param_groups for p in g["params"]} == set(model.parameters())
    bare = tiny_gpt2()
    HybridOptimizerFactory()(contain(bare), lr=LR)
    assert bare.hybrid.model is bare


def test_options_of_the_optimizer_and_of_the_policy_go_where_they_belong():
    model = tiny_llama()
    optimizer = HybridOptimizerFactory()(
        model, lr=LR, nonfinite="skip", weight_decay=0.25, policy="galore", density=0.5
    )
    assert optimizer.nonfinite == "skip" and model.hybrid.policy.density == 0.5
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.25, 0.0}


def test_asking_again_for_what_the_model_has_is_no_contradiction():
    how = {"lr": LR, "policy": "frugal", "seed": 5, **POLICY}
    model = wrapped("full")
    strategy = model.hybrid
    HybridOptimizerFactory()(model, **how)
    HybridOptimizerFactory()(model, **how)
    assert model.hybrid is strategy


@pytest.mark.parametrize(
    ("make", "kwargs", "text"),
    [
        (tiny_llama, {}, "lr is missing.*learning_rate"),
        (tiny_llama, {"lr": LR, "desnity": 0.5}, "no option 'desnity'.*density.*takes lr, policy, seed, weight_decay"),
        (tiny_llama, {"lr": LR, "policy": "frugle"}, "policy='frugle' is not known.*frugal"),
        (tiny_llama, {"lr": LR, "quantization": "nf4"}, "quantization='nf4' changes the model.*hybridopt.wrap"),
        (tiny_llama, {"lr": LR, "peft_config": LoraConfig()}, "peft_config=.*changes the model"),
        (lambda: wrapped("full"), {"lr": LR, "policy": "galore"}, "wrapped with Frugal.*policy='galore'.*unwrap"),
        (lambda: wrapped("full"), {"lr": LR, "density": 0.5}, "wrapped with Frugal.*'density': 0.5"),
        (lambda: wrapped("full"), {"lr": LR, "seed": 6}, "seed=6, but the model is wrapped with seed=5"),
        (lambda: wrapped("full"), {"lr": LR, "desnity": 0.5}, "no option 'desnity'"),
        (lambda: wrapped("full"), {"lr": -1.0}, "lr=-1.0 is not allowed"),
        (tiny_llama, {"lr": -1.0}, "lr=-1.0 is not allowed"),
    ],
)
def test_contradictions_and_unknown_options_are_named(make, kwargs, text):
    model = make()
    before, had = bits(model), vars(model).get("hybrid")
    with pytest.raises(hybridopt.HybridOptError, match=text):
        HybridOptimizerFactory()(model, **kwargs)
    assert vars(model).get("hybrid") is had and equal(bits(model), before)


def test_groups_of_the_user_are_scheduled_and_resumed(tmp_path):
    def run(folder):
        model = tiny_llama()
        named = list(model.named_parameters())
        halves = [{"params": named[:9], "lr": LR, "name": "low"}, {"params": named[9:], "lr": LR / 4, "name": "top"}]
        optimizer = HybridOptimizer(halves, update_gap=2)
        rows = data()
        settings = arguments(folder, eval_strategy="no")
        return Trainer(model, settings, train_dataset=rows, optimizers=(optimizer, None))

    whole, resumed = run(tmp_path / "whole"), run(tmp_path / "resumed")
    rates = []
    whole.add_callback(Rates(rates))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert equal(bits(resumed.model), bits(whole.model))
    assert [g["name"] for g in resumed.optimizer.param_groups] == ["low", "top"]
    assert len(rates) == STEPS and all(low == 4 * top for low, top in rates)


class Rates(TrainerCallback):
    def __init__(self, found):
        self.found = found

    def on_step_end(self, args, state, control, optimizer=None, **_):
        self.found.append(tuple(group["lr"] for group in optimizer.param_groups))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_trainer_that_compiles_writes_the_names_of_the_plain_model(compiled, tmp_path):
    torch._dynamo.reset()
    model = (
        hybridopt.wrap(torch.compile(tiny_llama(layers=1), backend="eager"), peft_config=LORA) if compiled else None
    )
    model = hybridopt.wrap(tiny_llama(layers=1), peft_config=LORA) if model is None else model
    options = {} if compiled else {"torch_compile": True, "torch_compile_backend": "eager"}
    args = arguments(tmp_path, max_steps=1, warmup_steps=0, save_steps=1, eval_strategy="no", **options)
    Trainer(model, args, train_dataset=data(4), optimizers=(model.hybrid.optimizer(lr=LR), None)).train()
    again = PeftModel.from_pretrained(tiny_llama(layers=1), str(tmp_path / "checkpoint-1"))
    assert not different(again.state_dict(), model.state_dict())
    state = torch.load(tmp_path / "checkpoint-1" / "optimizer.pt", weights_only=True)
    assert "_orig_mod" not in str([group["param_names"] for group in state["param_groups"]])


def test_names_that_the_trainer_writes_of_a_compiled_model_are_warned_of():
    with pytest.warns(hybridopt.HybridOptWarning, match=r"_orig_mod.*TrainingArguments\(torch_compile=True\)"):
        HybridOptimizerFactory()(torch.compile(tiny_llama(layers=1)), lr=LR)
