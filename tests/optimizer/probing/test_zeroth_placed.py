"""Training by losses alone with layers that rest elsewhere: the same bits, and every layer fetched once a step."""

import copy
import pickle

import pytest
import torch

import hybridopt
from hybridopt.core.errors import HybridOptError
from hybridopt.model.placement.placed import placed
from support.losses_alone import dropping, resident, same, started, stepped, trained, weights
from support.models import batch
from support.placed import LAYERS, WAYS, folder, model_at

SLOT = 1 / LAYERS


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["mezo", "fzoo", "lezo", "subzero"])
def test_full_weights(way, policy):
    options = (("samples", 3),) if policy == "fzoo" else ()
    run, expected = trained(way, policy, options=options, write_every=2), resident(policy, options=options)
    assert run.losses == expected.losses and same(run.weights, expected.weights)
    fetched = [now - before for before, now in zip(run.near[1:], run.near[2:], strict=False)]
    assert min(fetched) <= 1 + SLOT  # all of them, but where losses were the same and are looked at once more
    if policy != "fzoo":
        assert max(fetched) <= 1 + SLOT
    assert run.kept[-1] <= 4 / 2 and (policy == "lezo" or run.kept[-1] >= 1)


@pytest.mark.parametrize("way", ["staged"])
def test_one_after_the_other_where_that_is_asked_for(way):
    run = trained(way, "mezo", paired=False, write_every=1)
    assert run.losses == resident("mezo").losses and same(run.weights, resident("mezo").weights)
    assert run.near[-1] - run.near[-2] >= 2 - SLOT
    assert run.kept[-1] >= 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["mezo", "addax"])
def test_adapters(way, policy):
    run, expected = trained(way, policy, adapters=True, lr=1e-2), resident(policy, adapters=True, lr=1e-2)
    assert run.losses == expected.losses and same(run.weights, expected.weights)
    passes = 3 if policy == "addax" else 1  # forward and backward for gradients
    assert run.near[-1] - run.near[-2] <= passes + SLOT and run.kept[-1] == 0


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_scales(scheme):
    run, expected = trained("mapped", "qzo", 3, scheme=scheme), resident("qzo", steps=3, scheme=scheme)
    assert run.losses == expected.losses and same(run.weights, expected.weights)


@pytest.mark.parametrize("way", ["staged"])
def test_micro_batches(way):
    def closures(model, step):
        return [lambda b=batch(model, size=1, seed=10 * step + k): model(**b).loss for k in range(3)]

    run, expected = (trained(each, "mezo", 3, closures) for each in (way, "resident"))
    assert run.losses == expected.losses and same(run.weights, expected.weights)
    assert run.near[-1] - run.near[-2] <= 3 + SLOT


@pytest.mark.parametrize("way", WAYS)
def test_whoever_reads_the_weights_finds_them_up_to_date(way):
    (model, optimizer), (expected, other) = started(way, "mezo", write_every=None), started("resident", "mezo")
    stepped(expected, other, 0, 2)
    stepped(model, optimizer, 0, 2)
    traffic = placed(model).traffic
    assert traffic.written == traffic.returned == 0  # nobody has asked for it
    part, name = model.model.layers[2].mlp.state_dict(), "model.layers.2.mlp."
    assert all(torch.equal(x, expected.get_parameter(name + n)) for n, x in part.items())
    stepped(expected, other, 2, 3)
    stepped(model, optimizer, 2, 3)
    with pytest.warns(match="not placed"):
        copied = copy.deepcopy(model)
    assert same(dict(copied.named_parameters()), dict(expected.named_parameters()))
    assert same(weights(model), weights(expected))
    stepped(model, optimizer, 3, 4)
    stepped(expected, other, 3, 4)
    loaded = pickle.loads(pickle.dumps(model.model))
    assert same(dict(loaded.named_parameters()), dict(expected.model.named_parameters()))


@pytest.mark.parametrize("way", ["mapped"])
def test_evaluation_uses_what_is_outstanding(way):
    (model, optimizer), (expected, other) = started(way, "mezo", write_every=None), started("resident", "mezo")
    stepped(model, optimizer, 0, 2)
    stepped(expected, other, 0, 2)
    given = batch(model, size=2, seed=50)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.eval()(**given).logits, expected.eval()(**given).logits)
    assert stepped(model.train(), optimizer, 2, 3) == stepped(expected.train(), other, 2, 3)
    assert same(weights(model), weights(expected))


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on(way, tmp_path):
    expected, other = started("resident", "mezo")
    losses = stepped(expected, other, 0, 4)
    model, optimizer = started(way, "mezo")
    begun = stepped(model, optimizer, 0, 2)
    state = optimizer.state_dict()
    model.hybrid.save_pretrained(tmp_path / "replay")
    assert not (tmp_path / "replay" / "hybridopt_delta.safetensors").exists()
    model.hybrid.save_pretrained(tmp_path / "whole", full=True)
    first, _ = started(way, "mezo", path=tmp_path / "whole")
    placement = {"cache": str(tmp_path)} if way == "mapped" else {}
    base = dropping(model_at(way, **placement))
    for again in (first, hybridopt.from_pretrained(base, tmp_path / "replay").train()):
        following = again.hybrid.optimizer(lr=1e-3)
        following.load_state_dict(state)
        assert begun + stepped(again, following, 2, 4) == losses and following.log.broken is None
        assert same(weights(again), weights(expected))


def test_a_saved_run_needs_a_place_for_changed_weights(tmp_path):
    model, optimizer = started("staged", "mezo")
    stepped(model, optimizer, 0, 1)
    model.hybrid.save_pretrained(tmp_path)
    base = model_at("mapped")
    with pytest.raises(HybridOptError, match="rests on disk, in a file that is never written.*other values.*cache="):
        hybridopt.from_pretrained(base, tmp_path)
    assert not hasattr(base, "hybrid")


@pytest.mark.parametrize("way", ["mapped"])
def test_a_step_that_is_skipped_changes_nothing(way):
    ends = []
    for each in (way, "resident"):
        model, optimizer = started(each, "mezo")
        optimizer.nonfinite = "skip"
        stepped(model, optimizer, 0, 2)
        given = batch(model, size=2, seed=2)
        with pytest.warns(match="not finite"):
            optimizer.step(lambda m=model, b=given: m(**b).loss * float("nan"))
        stepped(model, optimizer, 2, 3)
        ends.append(weights(model))
    assert same(*ends)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["frugal", "addax", "zo_adam", "zo_momentum"])
def test_what_cannot_be_trained_there_is_refused(way, policy):
    what = "backward passes" if policy in ("frugal", "addax") else "keeps state"
    with pytest.raises(HybridOptError, match=rf"_proj.weight' rests on .*{what}"):
        started(way, policy)


def test_an_optimizer_without_wrap_refuses_as_well():
    model = model_at("staged")
    with pytest.raises(HybridOptError, match=r"_proj.weight' rests on the host.*backward passes"):
        hybridopt.HybridOptimizer(model.named_parameters(), policy="adamw", module=model)


def test_a_place_to_write_to_is_asked_for():
    with pytest.raises(HybridOptError, match="never written, and is to be trained: name a folder"):
        started("mapped", "mezo", cache=None)


def test_a_trainer_with_evaluation_in_between(tmp_path):
    from transformers import TrainingArguments

    from hybridopt.integrations.trainer import HybridTrainer

    ends = []
    for way in ("mapped", "resident"):
        model, _ = started(way, "mezo")
        data = [{k: v[0] for k, v in batch(model, size=1, seed=n).items()} for n in range(4)]
        steps = {"max_steps": 2, "eval_steps": 1, "eval_strategy": "steps", "logging_steps": 1, "save_strategy": "no"}
        quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "max_grad_norm": 0, "bf16": True}
        arguments = TrainingArguments(str(tmp_path), **steps, **quiet, per_device_train_batch_size=2)
        trainer = HybridTrainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
        trainer.train()
        logged = [(row.get("loss"), row.get("eval_loss")) for row in trainer.state.log_history]
        ends.append((logged, weights(model)))
    assert ends[0][0] == ends[1][0] and same(ends[0][1], ends[1][1])


def test_nothing_of_the_folder_is_written():
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder().iterdir()}
    trained("mapped", "mezo", 3, write_every=1)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder().iterdir()} == before
