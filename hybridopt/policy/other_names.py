"""What options of other tools are called here, for those who come from them.

The names are those of torch, transformers, GaLore, APOLLO, Q-GaLore, FRUGAL, BAdam, LOMO, MeZO and timm.
"""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from ..core.errors import HybridOptError, known, nearest, shown

__all__ = ["check_known", "instead", "names_here"]

HERE = "here it is {here}="
SAME = HERE + "{value}"
SHARE = "here it is {here}, the rank as a share of a matrix's shorter side: {share}"
ADAMW, MOMENTUM = HERE + "hybridopt.parts.AdamW(", HERE + "hybridopt.parts.Momentum("
OPTIMIZER = "it belongs to the optimizer: model.hybrid.optimizer({call}), or HybridOptimizer(..., {call})"
WRAP = "it belongs to hybridopt.wrap(model, {here}=...), which changes the model"
OUT = "leave it out: "
KERNELS = OUT + "hybridopt chooses kernels itself (`compile` of the optimizer says more)"
TARGETS = OUT + "roles say what is trained how; for another choice write a hybridopt.Policy of routes"
BLOCKS = OUT + "numbered layers are found in the model"
ORDERS = "'random', 'ascending', 'descending' or 'mirror'"
RANKS = "rank r galore_rank apollo_rank proj_rank low_rank"
BETA1, BETA2 = "beta1 adam_beta1 b1", "beta2 adam_beta2 b2"

# (names elsewhere, name here, what to write); the first row counts whose option there is, or whose name here is empty
ROWS = (
    (RANKS, "rank", SAME),
    (RANKS, "density", SHARE),
    ("update_proj_gap proj_gap update_freq update_frequency update_interval", "update_gap", SAME),
    ("subspace_update_interval switch_block_every switch_every reset_interval", "update_gap", SAME),
    ("proj_type projection_type galore_proj_type proj_side", "side", SAME),
    ("proj_type projection_type proj_side", "split", HERE + "'columns', 'svd' ..."),
    ("galore_scale apollo_scale proj_scale alpha proj_params_lr_scale", "scale", SAME),
    ("galore_scale apollo_scale proj_scale scale proj_params_lr_scale", "lr_scale", SAME),
    ("inactive_lr_scale", "free_lr_scale", SAME),
    ("inactive_update_rule", "free", HERE + "'signsgd', 'sgd' or 'no_update'"),
    ("reset_statistics reset_state", "reset", SAME),
    ("switch_mode block_order", "order", HERE + ORDERS),
    ("active_blocks num_blocks n_layers num_layers", "blocks", SAME),
    ("active_blocks num_blocks n_layers num_layers", "density", "here it is {here}, their share"),
    ("block_prefix_list block_prefixes", "", BLOCKS),
    ("optim_bits bits num_bits", "codec", HERE + "'int8', which keeps state in 8 bits"),
    ("betas", "full", ADAMW + "betas={value})"),
    (BETA1, "betas", HERE + "({value}, 0.999)"),
    (BETA1, "full", ADAMW + "betas=({value}, 0.999))"),
    (BETA2, "betas", HERE + "(0.9, {value})"),
    (BETA2, "full", ADAMW + "betas=(0.9, {value}))"),
    ("epsilon adam_epsilon adam_eps zo_eps zo_epsilon perturbation_scale", "eps", SAME),
    ("eps epsilon adam_epsilon adam_eps", "full", ADAMW + "eps={value})"),
    ("momentum_factor mu", "momentum", SAME),
    ("momentum momentum_factor mu", "full", MOMENTUM + "{value})"),
    ("q n num_samples n_samples num_directions num_pert", "samples", SAME),
    ("base_optimizer optimizer_type inner_optimizer update_rule", "full", HERE + "'adamw', 'lion' ..."),
    ("lr learning_rate base_lr max_lr", "lr", OPTIMIZER),
    ("weight_decay wd decay l2 weight_decay_rate", "weight_decay", OPTIMIZER),
    ("clip max_grad_norm clip_grad_norm grad_clip clip_gradients gradient_clip_val", "clip", OPTIMIZER),
    *((name, name, OPTIMIZER) for name in ("release", "clip_mode", "nonfinite", "compile")),
    ("adapter lora lora_config peft adapter_config", "peft_config", WRAP),
    *((name, name, WRAP) for name in ("peft_config", "quantization")),
    ("batch_size per_device_train_batch_size", "batch", SAME),
    ("max_seq_length max_length sequence_length block_size", "seq_len", SAME),
    ("gradient_accumulation_steps accumulation_steps", "micro_batches", SAME),
    ("gpu gpu_memory max_memory memory_limit", "memory", HERE + "'24GiB'"),
    ("foreach fused capturable", "", KERNELS),
    ("amsgrad maximize differentiable", "", OUT + "there is no such variant here"),
    ("target_modules target_modules_list optim_target_modules", "", TARGETS),
)
ELSEWHERE = (OPTIMIZER, WRAP)  # these need no option of the thing that was asked


def check_known(
    owner: str, given: Mapping[str, object], allowed: Iterable[str], policys: Collection[str] = ()
) -> None:
    """Raise HybridOptError for an option that is not there, naming the near ones, and what other tools' are here.

    Args:
        owner: what was given the options, such as a policy's name.
        given: the options.
        allowed: the names of all options that there are.
        policys: names of options that belong to the policy, and not to the owner.
    """
    allowed = list(allowed)
    for key, value in given.items():
        if key in policys:
            raise HybridOptError(f"{key}={value!r} belongs to the policy: hybridopt.wrap(model, ..., {key}=...)")
        if key not in allowed:
            near = nearest(key, allowed)
            said = instead(key, value, allowed) or (None if near else _misspelled(key, value, allowed))
            cure = f"{said}. Known: {', '.join(sorted(allowed)) or 'none'}" if said else known(key, allowed)
            raise HybridOptError(f"{owner} has no option {key!r} (value {shown(value)}); {cure}")


def _misspelled(key: str, value: object, allowed: Collection[str]) -> str | None:
    """Return what to write where a key is nearly one of the known names, such as "weight_decy"."""
    names = {name for row in ROWS for name in row[0].split()}
    near = get_close_matches(key.lower().replace("-", "_"), names, 1, 0.85)
    return instead(near[0], value, allowed) if near else None


def names_here(key: str) -> tuple[str, ...]:
    """Return what another tool's option is called here, wherever it belongs; nothing where it is not known."""
    return tuple(here for here, _ in _rows(key) if here)


def instead(key: str, value: object, allowed: Collection[str]) -> str | None:
    """Return what to write in place of another tool's option; None where nothing is known.

    Args:
        key: the other tool's name.
        value: what was given.
        allowed: the options that there are here.
    """
    for here, text in _rows(key):
        if not here or here in allowed or text in ELSEWHERE:
            said = SAME if here in allowed and text in ELSEWHERE else text
            return said.format(here=here, value=repr(value), share=_share(value), call=f"{here}={value!r}")
    return None


def _rows(key: str) -> list[tuple[str, str]]:
    plain = key.lower().replace("-", "_")
    return [(here, text) for names, here, text in ROWS if plain in names.split()]


def _share(rank: object) -> str:
    """Return what share a rank is, of a matrix for an example."""
    if not isinstance(rank, int) or rank < 1:
        return "64 of 1024 is 0.0625"
    side = max(1024, 1 << (rank - 1).bit_length())
    return f"{rank} of {side} is {rank / side:g}"
