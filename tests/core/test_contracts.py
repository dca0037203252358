"""The contracts are complete: what is asked of a part is declared, and nothing is asked for with getattr."""

import ast

import pytest

from hybridopt.core.contracts import (
    Activations,
    Adapters,
    Backend,
    Clipping,
    Codec,
    Launcher,
    Noise,
    Part,
    Ready,
    Release,
    ReleasedParameters,
    Rule,
    Schedule,
    Scheme,
    Source,
    Split,
    Store,
)
from support.contracts import declared
from support.paths import ROOT
from support.sources import FILES, found_in, path, tree

AXES = {"full": Rule, "free": Rule, "split": Split, "codec": Codec, "store": Store, "source": Source, "part": Part}
CONTRACTS = (Rule, Split, Part, Source, Noise, Codec, Store, Schedule, Ready, Release, Backend)
CONTRACTS += (Clipping, ReleasedParameters, Scheme, Adapters, Launcher, Activations)
HOLDERS = {"treatment", "t", "job"}  # variables and attributes whose attributes of these names are parts
PARTS = {*AXES, "rule", "noise", "policy", "ready"}
SUPPORT = sorted((ROOT / "tests" / "support").rglob("*.py"))

# What getattr and hasattr may ask for, as it need not be there, by whom it is asked of. No part is among them.
TENSORS = "to_local full_tensor __tensor_flatten__ codes quant_state quant_type CB SCB absmax state2"
MODULES = """adapter_layer_names merged weight state config hybrid peft_config get_base_model base_model_prefix nf
    get_output_embeddings offset loss_function modules_to_save gradient_checkpointing is_transposed is_quantized
    rope_type supports_gradient_checkpointing support_avx512bf16_for_cpu packing_format_for_cpu name_or_path _orig_mod
    _compiled_call_impl _keep_in_fp32_modules _keep_in_fp32_modules_strict _keys_to_ignore_on_load_missing
    _keys_to_ignore_on_load_unexpected vocab_size _hf_peft_config_loaded adapter_state_dict update_and_allocate
    all_tied_weights_keys _keys_to_ignore_on_save generation_config reset_iter_state"""
CONFIGURATIONS = """to_dict model_type num_hidden_layers num_labels quantization_config dtype architectures id2label
    _name_or_path _commit_hash r use_dora target_modules init_lora_weights layer_replication"""  # of both libraries
LIBRARIES = "find_packed_sequence_indices _can_use_grouped_mm use_duck_shape _from_config"
OTHERS = "value last_epoch __name__ __func__ __code__ __dict__ __len__ __isabstractmethod__ func hook loss optimizer"
ASKED = {name for names in (TENSORS, MODULES, CONFIGURATIONS, LIBRARIES, OTHERS) for name in names.split()}
ALONE = {("addax/activations.py", "shape")}  # of a batch's value
BY_VARIABLE = {  # the name is no literal
    "a record, for its own fields": set("self run known.request a b t value now then asked asked.train".split()),
    "a module or a tensor": set(
        "module model model.get_submodule(owner) root state tensor p m owner old layer layer.state".split()
    ),
    "a configuration": {"config", "s", "source", "CONFIG_MAPPING[kind]()"},
    "a library, a class, a loader": {"transformers", "torch", "nn.init", "cls", "loader", "type(module)"},
    "what a module returns": {"output"},
    "an operation of a backward pass": {"node"},
}


def asks(file):
    """(asked of, name or None, line) of every getattr and hasattr."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            whom, name = node.args[:2]
            yield ast.unparse(whom), name.value if isinstance(name, ast.Constant) else None, node.lineno


def test_nothing_is_asked_of_a_part_with_getattr_or_hasattr():
    for file, (whom, name, line) in found_in(FILES, asks):
        where = f"{path(file)}:{line}: getattr({whom}, {name!r})"
        if any(path(file).endswith(end) and name == alone for end, alone in ALONE):
            continue
        assert not path(file).startswith(("hybridopt/parts", "hybridopt/policy")), f"{where} in a part or a policy"
        if name is None:
            assert whom in set().union(*BY_VARIABLE.values()), f"{where}: declare it in a contract, or list it here"
        else:
            assert name in ASKED, f"{where}: declare it in a contract, or list it here as no part's"
            assert whom.rpartition(".")[2] not in PARTS, f"{where} is asked of a part"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_no_contract_declares_what_may_be_missing(contract):
    assert not declared(contract) & ASKED


def test_what_is_asked_of_a_treatments_parts_is_declared():
    for file, node in found_in(FILES + SUPPORT, lambda file: ast.walk(tree(file))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in AXES:
            axis, holder = node.value.attr, ast.unparse(node.value.value).rpartition(".")[2]
            tests_know = {"dim", "count"} if file in SUPPORT and axis == "part" else set()
            known = declared(AXES[axis]) | tests_know
            assert holder not in HOLDERS or node.attr in known, f"{path(file)}:{node.lineno}: {axis}.{node.attr}"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_everything_that_a_contract_declares_is_explained(contract):
    files = (ROOT / "hybridopt" / "core" / "contracts").glob("*.py")
    classes = (node for file in files for node in tree(file).body if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == contract.__name__)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(after, ast.Expr), f"{ast.unparse(node)} has no sentence below it"
        if isinstance(node, ast.FunctionDef):
            more = [argument.arg for argument in node.args.args[1:]]
            text = ast.get_docstring(node) or ""
            assert text and (len(more) < 3 or all(f"\n    {name}: " in text for name in more)), node.name
