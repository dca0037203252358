"""adapter_config.json as a stranger writes it: refused before PEFT sees it; patterns of users are kept as names."""

import json
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

import hybridopt
from hybridopt import HybridOptError
from hybridopt.integrations.peft import configurations, patterns
from hybridopt.saving import manifest
from support.models import tiny_llama
from support.saved import logits, refused, train

LORA = "adapter_config.json"
CATASTROPHE = r"(([a-z0-9_]+)\.?)+!"


@pytest.fixture
def folder(tmp_path):
    """One adapter in the folder itself, one below it."""
    model = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj"]))
    model.hybrid.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder, name=LORA, **changes):
    data = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    (folder / manifest.MANIFEST).unlink()
    manifest.seal(folder)


@pytest.mark.parametrize("name", [LORA, f"second/{LORA}"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "NOTHING"}, "peft_type='NOTHING' is not known.*LORA"),
        ({"peft_type": 7}, "'peft_type' must be a string"),
        ({"peft_type": ...}, "'peft_type' is missing"),
        ({"peft_type": "PREFIX_TUNING"}, "prompt learning|not allowed"),
        ({"task_type": "NOTHING"}, "NOTHING"),
        ({"task_type": 7}, "task_type=7"),
        ({"auto_mapping": "os.system"}, "auto_mapping='os.system'"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path=7"),
        ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path"),
        ({"revision": {}}, "revision={}"),
        ({"inference_mode": "yes"}, "inference_mode='yes'"),
        ({"r": 10**9}, "r=1000000000.*at most 1024"),
        ({"r": -1}, "r=-1"),
        ({"r": True}, "r=True"),
        ({"r": 2.0}, "r=2.0"),
        ({"r": "two"}, "r='two'"),
        ({"r": None}, "adapter|PEFT cannot put"),
        ({"r": 0}, "PEFT cannot put"),
        ({"r": 5}, "has shape"),
        ({"lora_alpha": "16"}, "lora_alpha='16'"),
        ({"lora_alpha": True}, "lora_alpha=True"),
        ({"lora_alpha": 10**12}, "number beyond"),
        ({"lora_dropout": 7}, "PEFT cannot put"),
        ({"target_modules": 7}, "target_modules=7"),
        ({"target_modules": [7]}, r"target_modules=\[7\]"),
        ({"target_modules": {"a": 1}}, "target_modules="),
        ({"target_modules": "nowhere"}, "nowhere"),
        ({"modules_to_save": [CATASTROPHE]}, "modules_to_save has .*for ever"),
        ({"modules_to_save": "lm_head"}, "modules_to_save='lm_head'"),
        ({"rank_pattern": {CATASTROPHE: 2}}, "rank_pattern has .*for ever"),
        ({"rank_pattern": {"q_proj": 10**9}}, "r=1000000000"),
        ({"rank_pattern": {"q_proj": True}}, "r=True"),
        ({"rank_pattern": [2]}, "rank_pattern="),
        ({"alpha_pattern": {CATASTROPHE: 2}}, "alpha_pattern has .*for ever"),
        ({"alpha_pattern": {"q_proj": "2"}}, "alpha_pattern has '2'"),
        ({"bias": "some"}, "bias='some'"),
        ({"init_lora_weights": "nothing"}, "init_lora_weights='nothing'"),
        ({"init_lora_weights": "pissa_niter_1000"}, "init_lora_weights='pissa_niter_1000'"),
        ({"init_lora_weights": 7}, "init_lora_weights=7"),
        ({"layer_replication": [[0, 10**9]]}, "layer_replication=1000000000"),
        ({"layer_replication": [[0, 4096]] * 4096}, "layers of layer_replication=16777216"),
        ({"layer_replication": [[1, 0]]}, "layer_replication=0"),
        ({"layer_replication": [[0]]}, "layer_replication"),
        ({"layer_replication": 7}, "layer_replication=7"),
        ({"megatron_config": {"a": 1}}, "megatron_config names modules to import"),
        ({"megatron_core": "os"}, "megatron_config names modules to import"),
        ({"eva_config": 7}, "eva_config=7"),
        ({"target_parameters": [CATASTROPHE]}, "target_parameters has .*for ever"),
        ({"trainable_token_indices": {CATASTROPHE: [1]}}, "trainable_token_indices has .*for ever"),
        ({"trainable_token_indices": [10**12]}, "number beyond"),
        ({"trainable_token_indices": [96]}, "trainable_token_indices=96.*at most 95"),
        ({"trainable_token_indices": {"embed_tokens": [-1]}}, "trainable_token_indices=-1"),
        ({"trainable_token_indices": [True]}, "trainable_token_indices=.True."),
    ],
)
def test_configurations_that_peft_never_wrote(folder, name, changes, text):
    edit(folder, name, **changes)
    refused(tiny_llama(), folder, text)


PATTERNS = [CATASTROPHE, "(a|a)*" * 9, "(?=.*_proj$)(([a-z.]+)+)!", ".*" * 30 + "!", "((", "x" * 5000]


@pytest.mark.parametrize("pattern", PATTERNS, ids=range(len(PATTERNS)))
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "layers_pattern"])
def test_patterns_that_choose_modules_are_not_used(folder, key, pattern):
    """The adapter's own tensors say where it was: whatever the pattern is, the same model is loaded."""
    before = logits(hybridopt.from_pretrained(tiny_llama(), folder))
    edit(folder, **{key: pattern} | ({"layers_to_transform": [0]} if key == "layers_pattern" else {}))
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), folder)), before)


@pytest.mark.parametrize("init", ["orthogonal", "mica"])
def test_starts_that_read_dense_weights_on_a_base_to_be_quantized(tmp_path, init):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    hybridopt.wrap(tiny_llama(), peft_config=config, quantization="nf4").hybrid.save_pretrained(tmp_path)
    edit(tmp_path, init_lora_weights=init)
    refused(tiny_llama(), tmp_path, f"init_lora_weights='{init}'.*full-precision")


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_9", "olora", "corda", "loftq"])
def test_starts_that_change_the_base_in_a_folder_without_a_changed_base(folder, init):
    """PEFT would change the weights once more, or fail in the middle of it."""
    edit(folder, init_lora_weights=init, loftq_config={"loftq_bits": 4})
    refused(tiny_llama(), folder, f"init_lora_weights='{init}' begins by changing.*no changed weight of any")


@pytest.mark.parametrize("init", ["pissa_niter_9", "corda"])
def test_starts_that_change_the_base_are_not_begun_again(tmp_path, init):
    model = hybridopt.wrap(
        tiny_llama(), peft_config=LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa")
    )
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path)
    edit(tmp_path, init_lora_weights=init)
    again = hybridopt.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.peft_config["default"].init_lora_weights == init


KEPT = [
    {"target_modules": r".*layers\.1.*(q|v)_proj"},
    {"target_modules": r"(?=.*q_proj$)((m|l|[a-z._0-9])+)"},
    {"exclude_modules": r".*\.0\..*"},
    {"layers_to_transform": [1], "layers_pattern": "layers"},
    {"rank_pattern": {r"((?:\w)+\.)+0.*": 3}, "alpha_pattern": {r"layers\.[01]\..*k_proj": 7, ".*q.*": 5}},
    {"target_modules": ".*q_proj", "modules_to_save": ["lm_head"], "rank_pattern": {"q_proj": 3}},
    {"target_modules": "all-linear", "rank_pattern": {"^model.layers.0.self_attn.q_proj": 3}},
]


@pytest.mark.parametrize("options", KEPT, ids=range(len(KEPT)))
def test_patterns_of_users_come_back_as_names(options, tmp_path):
    """Here and in PEFT; the file has nothing in it that is more than a name."""
    model = hybridopt.wrap(
        tiny_llama(), peft_config=LoraConfig(**{"r": 4, "target_modules": ["q_proj", "k_proj"]} | options)
    )
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path)
    data = json.loads((tmp_path / LORA).read_text())
    texts = [*data["target_modules"], *data["rank_pattern"], *data["alpha_pattern"]]
    assert all(map(patterns.plain, texts)) and not data["exclude_modules"] and not data["layers_pattern"]
    assert torch.equal(logits(hybridopt.from_pretrained(tiny_llama(), tmp_path)), logits(model))
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits(model))


def test_without_patterns_the_file_is_peft_s_own(tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], rank_pattern={"q_proj": 2})
    model = hybridopt.wrap(tiny_llama(), peft_config=config)
    model.hybrid.save_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (json.loads((tmp_path / place / LORA).read_text()) for place in ("ours", "theirs"))
    assert set(ours.pop("target_modules")) == set(theirs.pop("target_modules")) and ours == theirs


def test_modules_of_which_one_ends_as_another_is_called(tmp_path):
    """As a list the names would reach more than the pattern, so the pattern stays."""

    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.inner = torch.nn.Linear(4, 4), torch.nn.Sequential()
            self.inner.add_module("q", torch.nn.Linear(4, 4))

        def forward(self, x):
            return self.inner(self.q(x))

    torch.manual_seed(0)
    base = Inner()
    state = {name: x.clone() for name, x in base.state_dict().items()}
    model = hybridopt.wrap(base, peft_config=LoraConfig(r=2, target_modules="q"))
    model.hybrid.save_pretrained(tmp_path)
    again = Inner()
    again.load_state_dict(state)
    loaded = hybridopt.from_pretrained(again, tmp_path)
    assert [n for n, _ in loaded.named_parameters() if "lora" in n] == [
        n for n, _ in model.named_parameters() if "lora" in n
    ]


@pytest.mark.parametrize(
    ("pattern", "simple"),
    [
        ("q_proj", True),
        ("model.layers.0.self_attn.q_proj", True),
        (r"^model\.layers\.\d+\.self_attn\.(?:q|v)_proj$", True),
        (r".*\.(q_proj|v_proj)", True),
        (r".*layers.*(self_attn|mlp).*(q_proj|up_proj)", True),
        (r".*.*.*.*x", False),
        (r"(a|b)+", False),
        (r"(a+)+", False),
        (r"a?" * 30 + "a" * 30, False),
        (r"(a|a)" * 30, False),
        (r"(?!x).*", False),
        (r"(a)\1", False),
        (r"[a-z]+", False),
        ("(", False),
        ("x" * 1001, False),
    ],
)
def test_which_patterns_are_matched_at_once(pattern, simple):
    assert patterns.simple(pattern) is simple


@pytest.mark.parametrize("kind", PEFT_TYPE_TO_CONFIG_MAPPING)
def test_what_peft_writes_is_taken(kind, tmp_path):
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    try:
        made = AdaLoraConfig(total_step=10) if config is AdaLoraConfig else config()
    except ValueError as error:
        pytest.skip(f"needs options: {error}")
    made.save_pretrained(tmp_path)
    assert configurations.checked(json.loads((Path(tmp_path) / LORA).read_text()), "x", 64) is config


def test_what_the_library_fails_at_is_said_in_plain_words(folder, monkeypatch):
    def fail(*given, **options):
        raise KeyError("eva_state")

    monkeypatch.setattr(PeftModel, "from_pretrained", fail)
    with pytest.raises(HybridOptError, match="do not go on this model.*load it anew .KeyError: 'eva_state'"):
        hybridopt.from_pretrained(tiny_llama(), folder)


def test_the_folder_stays_as_it_was(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hybridopt.from_pretrained(tiny_llama(), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nothing_is_wrong_with_the_fixture(folder):
    with pytest.raises(HybridOptError, match="not the base model"):
        hybridopt.from_pretrained(torch.nn.Linear(2, 2), folder)
