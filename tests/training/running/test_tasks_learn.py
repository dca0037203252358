"""Every task learns from a file of examples, from reading to a folder that others load."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hybridopt.training.running.ending import ending
from hybridopt.training.running.prepare import prepare
from hybridopt.training.running.train import train

pytestmark = pytest.mark.slow

LORA = ("method.lora={r: 8}",)
HEAD = ("method.lora={r: 8, modules_to_save: [lm_head]}",)  # random hidden states say little to a head that stays
INT8 = ("method.policy=frugal", "method.quantization=int8-trainable")
NF4 = (*LORA, "method.quantization=nf4")
REWARD = "task_options={reward: 'support.rewards:capitals', num_generations: 8, max_completion_length: 8}"
RUNS = {  # format, settings, share of the first loss that is left at most
    "sft": ("messages", ("method.policy=frugal", "train.max_steps=10"), 0.6),
    "sft of last answers": ("messages", ("data.loss_on=completion", "train.max_steps=10"), 0.6),
    "sft on nf4": ("prompt_completion", (*HEAD, "method.quantization=nf4", "train.max_steps=10"), 0.6),
    "text": ("text", ("data.max_length=64", "train.max_steps=10"), 0.7),
    "dpo": ("preference", ("train.max_steps=6",), 0.5),
    "dpo on lora": ("preference", (*LORA, "train.lr=0.05", "train.max_steps=8"), 0.5),
    "dpo on int8-trainable": ("preference", (*INT8, "train.max_steps=6"), 0.5),
    "reward on nf4": ("preference", ("task=reward", *NF4, "train.max_steps=8"), 0.5),
    "classify": ("labels", ("train.max_steps=8",), 0.5),
    "classify on lora": ("labels", (*LORA, "train.max_steps=8"), 0.5),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_loss_falls(name, workshop):
    format, settings, left = RUNS[name]
    prepared = prepare(workshop.run(*settings, "data.eval=0.25", format=format))
    result = train(prepared)
    losses = [record["loss"] for record in workshop.log() if "loss" in record]
    assert len(losses) == prepared.rehearsal.steps == result.steps
    assert losses[-1] < left * losses[0]
    assert result.metrics["eval_loss"] == result.best < losses[0]
    if format == "labels":
        assert result.metrics["eval_accuracy"] == 1.0


def test_the_only_step_of_a_run_learns(workshop):
    settings = ("train.max_steps=1", "train.schedule=cosine", "train.warmup=0.03")
    train(prepare(workshop.run(*settings)))
    before, after = (load_file(folder / "model.safetensors") for folder in (workshop.model, workshop.folder / "out"))
    assert before.keys() == after.keys() and all(not torch.equal(x, before[name]) for name, x in after.items())


def test_grpo_is_rewarded_more(workshop):
    settings = ("task=grpo", REWARD, "train.batch=8", "train.lr=0.02", "train.max_steps=10")
    train(prepare(workshop.run(*settings, format="prompt"), allow_code=True))
    rewards = [record["reward"] for record in workshop.log() if "reward" in record]
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3])


def test_the_passes_of_a_step_of_a_classifier_are_averaged(workshop):
    found = []
    for batch in (4, 1):
        sets = (f"train.batch={batch}", f"train.accumulate={4 // batch}", "train.max_steps=2", "train.clip=null")
        train(prepare(workshop.run(*sets, format="labels", out=f"of-{batch}")))
        found.append(
            [(record["loss"], record["grad_norm"]) for record in workshop.log(f"of-{batch}") if "loss" in record]
        )
    assert found[1] == [pytest.approx(pair, rel=1e-3) for pair in found[0]]


def test_a_run_ends_early_and_keeps_the_best_weights(workshop):
    settings = ("train.lr=0.3", "train.epochs=10", "train.eval_every=2", "train.early_stopping=2", "data.eval=0.25")
    prepared = prepare(workshop.run(*settings))
    result = train(prepared)
    evaluations = [record["eval_loss"] for record in workshop.log() if "eval_loss" in record]
    assert "(ended early, by train.early_stopping); best" in ending(prepared, result)[0]
    assert len(evaluations) < 15 and evaluations[-1] > min(evaluations)
    assert result.metrics["eval_loss"] == result.best == min(evaluations)
    again = prepare(
        workshop.run("train.lr=1e-30", "train.max_steps=1", "data.eval=0.25", model=result.folder, out="b")
    )
    assert train(again).best == pytest.approx(result.best, rel=1e-4)


def test_a_whole_model_is_left_and_loads_as_it_is(workshop):
    train(prepare(workshop.run("train.max_steps=2")))
    loaded = AutoModelForCausalLM.from_pretrained(workshop.folder / "out")
    before = AutoModelForCausalLM.from_pretrained(workshop.model)
    assert not torch.equal(loaded.lm_head.weight, before.lm_head.weight)
    assert (workshop.folder / "out" / "chat_template.jinja").exists()


def test_a_classifier_is_left_with_the_names_of_its_classes(workshop):
    train(prepare(workshop.run("train.max_steps=8", format="labels")))
    loaded = AutoModelForSequenceClassification.from_pretrained(workshop.folder / "out")
    assert sorted(loaded.config.id2label.values()) == ["blue", "red"]
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(workshop.folder / "out")
    for colour in ("red", "blue"):
        found = loaded(**words(f"it is {colour}", return_tensors="pt")).logits.argmax().item()
        assert loaded.config.id2label[found] == colour


def test_adapters_of_a_classifier_hold_its_output_layer(workshop):
    from peft import AutoPeftModelForSequenceClassification

    prepared = prepare(workshop.run(*LORA, "train.max_steps=8", format="labels"))
    train(prepared)
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(workshop.folder / "out", num_labels=2).eval()
    tokens = prepared.rehearsal.job.tokenizer("it is red", return_tensors="pt")
    assert prepared.examples.labels[loaded(**tokens).logits.argmax().item()] == "red"
