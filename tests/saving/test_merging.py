"""What was merged into a base is saved: the folder goes onto the base on disk."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving.manifest import MANIFEST, seal
from support.adapted import based
from support.models import batch, tiny_llama
from support.saved import DELTA, logits, refused, train

LORA = {"r": 4, "target_modules": ["q_proj", "down_proj"]}


def wrapped(model, **options):
    return hybridopt.wrap(model, peft_config=LoraConfig(**LORA), **options)


def trained(model):
    train(model, 1)
    return model


def comes_back(model, folder, base=tiny_llama):
    """Saved, loaded onto the base, saved and loaded again, it answers the same."""
    expected = logits(model)
    for place in ("first", "second"):
        model.hybrid.save_pretrained(folder / place)
        model = hybridopt.from_pretrained(base(), folder / place)
        assert torch.equal(logits(model), expected), place
    return model


@pytest.mark.parametrize("unwraps", [False, True])
@pytest.mark.parametrize("tie", [False, True])
def test_rounds_of_training_and_merging(unwraps, tie, tmp_path):
    model = trained(wrapped(tiny_llama(tie=tie)))
    for _ in range(3):
        model = model.hybrid.unwrap() if unwraps else model
        model = trained(wrapped(model.merge_and_unload()))
    comes_back(model, tmp_path, lambda: tiny_llama(tie=tie))


def test_full_training_of_what_was_merged(tmp_path):
    merged = trained(wrapped(tiny_llama())).merge_and_unload()
    comes_back(trained(hybridopt.wrap(merged.requires_grad_(True))), tmp_path)


def test_a_loaded_folder_is_merged_and_trained_on(tmp_path):
    trained(wrapped(tiny_llama())).hybrid.save_pretrained(tmp_path / "tuned")
    for round in range(2):
        model = hybridopt.from_pretrained(tiny_llama(), tmp_path / "tuned")
        model = trained(wrapped(model.merge_and_unload()))
        assert torch.equal(logits(comes_back(model, tmp_path / str(round))), logits(model))
        model.hybrid.save_pretrained(tmp_path / "tuned")


def test_it_fits_the_merged_model_too(tmp_path):
    merged = trained(wrapped(tiny_llama())).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    model = trained(wrapped(merged))
    comes_back(model, tmp_path, lambda: type(merged).from_pretrained(tmp_path / "merged"))
    again = hybridopt.from_pretrained(type(merged).from_pretrained(tmp_path / "merged"), tmp_path / "first")
    again.hybrid.save_pretrained(tmp_path / "third")
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path / "third")), logits(model))


def test_a_copy_remembers_its_base(tmp_path):
    model = copy.deepcopy(trained(wrapped(tiny_llama())))
    comes_back(trained(model), tmp_path / "copy")
    comes_back(trained(wrapped(copy.deepcopy(model.merge_and_unload()))), tmp_path)


def test_whole_modules_and_dora_are_merged_too(tmp_path):
    config = LoraConfig(**LORA, use_dora=True, modules_to_save=["lm_head"])
    model = trained(hybridopt.wrap(tiny_llama(), peft_config=config))
    comes_back(trained(wrapped(model.merge_and_unload())), tmp_path)


def test_another_dtype_after_merging(tmp_path):
    model = trained(wrapped(trained(wrapped(tiny_llama())).merge_and_unload().bfloat16()))
    comes_back(model, tmp_path, lambda: tiny_llama().bfloat16())


def test_changes_by_hand_between_two_wraps(tmp_path):
    model = trained(hybridopt.wrap(tiny_llama())).hybrid.unwrap()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(0.5)
    comes_back(trained(wrapped(model)), tmp_path)


def test_several_adapters_made_one(tmp_path):
    model = trained(wrapped(tiny_llama()))
    model.add_adapter("second", LoraConfig(**LORA))
    model.set_adapter("second")
    trained(model)
    model.add_weighted_adapter(["default", "second"], [0.7, 0.4], "both", combination_type="cat")
    model.set_adapter("both")
    comes_back(model, tmp_path / "three")
    model.delete_adapter("second")
    comes_back(model, tmp_path / "two")
    comes_back(trained(wrapped(model.merge_and_unload(adapter_names=["both"]))), tmp_path / "merged")


def test_adapters_that_were_merged_off_leave_a_base_to_save(tmp_path):
    model = trained(wrapped(tiny_llama()))
    merged = model.merge_and_unload()
    assert torch.equal(logits(comes_back(model, tmp_path)), logits(merged))


def test_adapters_that_were_taken_off_or_deleted_are_not_saved(tmp_path):
    model = trained(wrapped(tiny_llama()))
    model.unload()
    assert torch.equal(logits(comes_back(model, tmp_path / "unloaded")), logits(tiny_llama()))
    model = trained(wrapped(tiny_llama()))
    model.delete_adapter("default")
    model.hybrid.save_pretrained(tmp_path / "deleted")
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path / "deleted")), logits(tiny_llama()))


def test_a_model_whose_base_was_wrapped_again_is_refused(tmp_path):
    old = trained(wrapped(tiny_llama()))
    new = hybridopt.wrap(old.merge_and_unload(), peft_config=LoraConfig(**LORA | {"r": 2}))
    for call in (lambda: old.hybrid.save_pretrained(tmp_path), old.hybrid.optimizer):
        with pytest.raises(HybridOptError, match=r"wrapped again.*model that the last wrap has returned"):
            call()
    assert not list(tmp_path.iterdir())
    comes_back(trained(new), tmp_path)


def test_a_base_with_other_values_where_nothing_was_merged_is_refused(tmp_path):
    model = trained(wrapped(trained(wrapped(tiny_llama())).merge_and_unload()))
    model.hybrid.save_pretrained(tmp_path)
    other = tiny_llama()
    with torch.no_grad():
        other.model.layers[1].self_attn.k_proj.weight.mul_(2)
    refused(other, tmp_path, "k_proj.weight' has other values.*merged.*before")


def test_adapters_put_on_after_wrap_and_merged_are_changes_of_the_base(tmp_path):
    model = hybridopt.wrap(tiny_llama())
    peft_model = get_peft_model(model, LoraConfig(**LORA, init_lora_weights=False))
    model.hybrid.save_pretrained(tmp_path / "before")
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path / "before")
    assert torch.equal(again(**batch(again)).logits, peft_model(**batch(again)).logits)
    merged = peft_model.merge_and_unload()
    assert merged is model
    comes_back(model, tmp_path)


# ---- quantized bases: merging quantizes anew


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_rounds_on_a_quantized_base(scheme, dtype, tmp_path):
    model = trained(wrapped(tiny_llama().to(dtype), quantization=scheme))
    for _ in range(2):
        model = trained(wrapped(model.merge_and_unload()))
    assert model.hybrid.quantization == scheme
    comes_back(model, tmp_path, lambda: tiny_llama().to(dtype))


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_a_base_that_was_given_quantized(scheme, tmp_path):
    def base():
        return based(tiny_llama(), scheme)

    model = trained(wrapped(trained(wrapped(base())).merge_and_unload()))
    again = comes_back(model, tmp_path, base)
    assert not again.hybrid.quantized
    refused(tiny_llama(), tmp_path / "first", f"quantized with {scheme}")


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_merging_back_and_forth_requantizes_and_is_saved(scheme, tmp_path):
    model = wrapped(tiny_llama(), quantization=scheme)
    assert not model.hybrid.changed_tensors()
    for _ in range(2):
        trained(model)
        model.merge_adapter()
        model.unmerge_adapter()
    assert all(".kept." in name for name in model.hybrid.changed_tensors())
    comes_back(model, tmp_path)


def test_a_quantized_model_without_its_adapters_is_saved(tmp_path):
    model = trained(wrapped(tiny_llama(), quantization="nf4"))
    merged = model.merge_and_unload()
    assert torch.equal(logits(comes_back(model, tmp_path)), logits(merged))


def test_unwrapping_does_not_forget_what_was_quantized(tmp_path):
    model = wrapped(tiny_llama(), quantization="nf4").hybrid.unwrap()
    model = trained(hybridopt.wrap(model))
    model.hybrid.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / DELTA[0]).exists()
    comes_back(model, tmp_path)


def test_scales_that_are_trained_beside_merged_codes(tmp_path):
    merged = trained(wrapped(tiny_llama(), quantization="nf4")).merge_and_unload()
    model = hybridopt.wrap(merged, policy="qzo")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    optimizer.step(lambda: model(**batch(model)).loss)
    comes_back(model, tmp_path)


def test_parts_that_are_missing_or_of_another_shape_are_refused(tmp_path):
    model = trained(wrapped(trained(wrapped(tiny_llama(), quantization="nf4")).merge_and_unload()))
    model.hybrid.save_pretrained(tmp_path)
    held = load_file(tmp_path / DELTA[0])
    codes = next(name for name in held if name.endswith("codes"))
    for damaged, text in (
        ({n: x for n, x in held.items() if n != codes}, "lacks .*kept"),
        ({**held, codes: held[codes][1:].clone()}, "codes' has shape"),
        ({**held, codes + "x": held[codes].clone()}, "codesx', which the base model has not"),
    ):
        save_file(damaged, tmp_path / DELTA[0])
        (tmp_path / MANIFEST).unlink()
        seal(tmp_path)
        refused(tiny_llama(), tmp_path, text)


@pytest.mark.parametrize("scheme", ["nf4", "int8", "int8-trainable"])
def test_a_trained_base_is_quantized_by_a_later_wrap(scheme, tmp_path):
    """Its codes are made of trained weights, which the base on disk has not."""
    full = trained(hybridopt.wrap(tiny_llama())).hybrid.unwrap()
    merged = trained(wrapped(tiny_llama())).merge_and_unload()
    for name, base in (("full", full), ("merged", merged.requires_grad_(True))):
        trains = scheme == "int8-trainable"
        model = trained(hybridopt.wrap(base, quantization=scheme) if trains else wrapped(base, quantization=scheme))
        comes_back(model, tmp_path / name)
