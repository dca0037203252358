"""Every tuner of the installed PEFT trains, saves and comes back, or is refused before anything is changed."""

import copy

import peft
import pytest
import torch

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.roles import params
from support.saved import anatomy, bits, different
from support.tuners import REFUSED, TYPES, answers, base, config_of, steps

CURED = "LoraConfig|leave out|use_cache"


def wrapped(model, config, door, **options):
    if door == "get_peft_model":
        return hybridopt.wrap(peft.get_peft_model(model, config), **options)
    return hybridopt.wrap(model, peft_config=config, **options)


def tried(kind, door, tmp_path, **options):
    """Train, save, load and go on; return why it was refused, or None if all of it is equal to the last bit."""
    config, model = config_of(kind), base()
    before, values = anatomy(model), bits(model)
    try:
        trained = wrapped(model, config, door, **options)
    except HybridOptError as error:
        if door == "peft_config":
            assert anatomy(model) == before and not different(bits(model), values)
        return str(error)
    if door == "peft_config":
        assert config.to_dict() == config_of(kind).to_dict()
        assert [e.param for e in trained.hybrid._planned[0].entries] == params(trained)  # as it was foreseen
    names = list(trained.hybrid.tags)
    optimizer = trained.hybrid.optimizer(lr=1e-2)
    steps(trained, optimizer, kind)
    trained.hybrid.save_pretrained(tmp_path)
    state = copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(7)  # what PEFT draws anew must not matter
    again = hybridopt.from_pretrained(base(), tmp_path)
    assert list(again.hybrid.tags) == names and again.hybrid.tags == trained.hybrid.tags
    there, back = dict(trained.named_parameters()), dict(again.named_parameters())
    assert not different(there, back)
    assert {n: p.requires_grad for n, p in there.items()} == {n: p.requires_grad for n, p in back.items()}
    assert not different(dict(trained.named_buffers()), dict(again.named_buffers()))
    assert torch.equal(answers(again, kind), answers(trained, kind))
    resumed = again.hybrid.optimizer(lr=1e-2)
    resumed.load_state_dict(state)
    assert steps(again, resumed, kind, 2) == steps(trained, optimizer, kind, 2)
    return None


@pytest.mark.parametrize("door", ["peft_config", "get_peft_model"])
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_works_or_is_refused_before_anything_is_changed(kind, door, tmp_path):
    if kind.name == "XLORA" and door == "get_peft_model":
        pytest.skip("PEFT itself makes no model of it without trained experts")
    why = tried(kind, door, tmp_path)
    assert (why is None) == (kind.name not in REFUSED), why
    if why is not None:
        assert type(config_of(kind)).__name__ in why and any(word in why for word in CURED.split("|"))


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.name not in REFUSED], ids=lambda kind: kind.name)
def test_every_type_on_quantized_weights_works_or_is_refused_before(kind, scheme, tmp_path):
    why = tried(kind, "peft_config", tmp_path, quantization=scheme)
    assert why is None or f"{type(config_of(kind)).__name__} on {scheme} weights" in why
    if kind.name in ("LORA", "IA3", "VERA", "OFT", "RANDLORA"):  # PEFT has layers of their own for these
        assert why is None
    if kind.name in ("GLORA", "TINYLORA", "HRA", "DEFT", "PEANUT"):  # refused by PEFT, or failing, or silently wrong
        assert "leave out quantization" in why


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.name not in REFUSED], ids=lambda kind: kind.name)
def test_every_type_in_bfloat16_works_or_is_refused_before(kind, tmp_path):
    why = tried(kind, "peft_config", tmp_path, adapter_dtype="bfloat16")
    assert (
        why is None or f"{type(config_of(kind)).__name__} in bfloat16: PEFT cannot train it" in why or "tried" in why
    )
    if kind.name in ("LORA", "LOHA", "LOKR", "VERA", "MISS"):
        assert why is None


def test_codes_that_are_taken_for_weights_are_seen(tmp_path):
    with pytest.raises(HybridOptError, match=r"HRAConfig on int8 weights: .*answers differ by \d+%"):
        hybridopt.wrap(base(), peft_config=config_of(peft.PeftType.HRA), quantization="int8")


def test_prompts_are_refused_by_the_automatic_choice_too():
    with pytest.raises(HybridOptError, match="PromptTuningConfig: PEFT loads prompt learning for inference only"):
        hybridopt.wrap(base(), "auto", memory="1GiB", peft_config=config_of(peft.PeftType.PROMPT_TUNING))


def test_what_peft_does_not_save_whole_is_refused():
    config = config_of(peft.PeftType.VBLORA, save_only_topk_weights=True)
    with pytest.raises(HybridOptError, match="VBLoRAConfig: PEFT does not save .*vblora_logits.* options with which"):
        hybridopt.wrap(base(), peft_config=config)


def test_models_of_several_tuners_are_refused():
    model = peft.get_peft_model(base(), config_of(peft.PeftType.LORA), mixed=True)
    with pytest.raises(HybridOptError, match="PeftMixedModel is no model with adapters itself"):
        hybridopt.wrap(model)
