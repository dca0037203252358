"""What keys of a run say together: checked before anything is loaded."""

from collections.abc import Iterator

from ...core.errors import HybridOptError
from .nodes import Node
from .run import AUTO, Method, Run

__all__ = ["check"]

CHOSEN = ("lora", "quantization", "release", "placement")  # by policy auto, where nothing is said of them


def check(run: Run, tree: Node) -> None:
    """Raise HybridOptError, with the place, for keys that exclude one another, and for options of the policy.

    Args:
        run: as it was read.
        tree: what was given.
    """
    for key, text in _wrong(run, tree):
        raise HybridOptError(f"{_place(tree, key)}: {text}")
    _check_options(run.method, _place(tree, "method.options"))
    _check_activations(run, _place(tree, "method.activations"))


def _wrong(run: Run, tree: Node) -> Iterator[tuple[str, str]]:
    """Yield the key and what is wrong."""
    if not run.data.train:
        yield "data.train", "data.train is missing; give files, folders or hub ids of what is learnt from"
    method = run.method
    if method.policy == AUTO and method.options:
        yield "method.options", "method.options belong to a policy, and method.policy=auto chooses one; name it"
    if method.policy == AUTO and method.activations is not None:
        text = "method.activations goes with a policy, and method.policy=auto chooses one; name it"
        yield "method.activations", text
    for name in CHOSEN:
        key, default = f"method.{name}", vars(Method())[name]
        if method.policy == AUTO and _given(tree, key) and vars(method)[name] == default:
            said = "null" if default is None else default
            text = f"{key}={said} beside method.policy=auto would be chosen as if nothing were said"
            yield key, f"{text}; leave it out, or name a policy"
    if run.train.dtype == "fp16":
        yield (
            "train.dtype",
            "train.dtype=fp16: gradients of such weights vanish or overflow unless losses are scaled, which is not "
            "done here; write train.dtype: bf16, or fp32",
        )
    if run.train.lr_batch is not None and run.train.lr == AUTO:
        yield "train.lr_batch", "train.lr_batch says for which batch train.lr is right; give train.lr, too"
    rests = method.placement
    if rests is not None and rests.ahead >= rests.slots:
        text = (
            f"method.placement.ahead={rests.ahead} is not allowed with slots={rests.slots}; give fewer, or more slots"
        )
        yield "method.placement.ahead", text
    if run.train.early_stopping is not None and (run.data.eval is None or run.train.eval_every is None):
        lacks = "data.eval" if run.data.eval is None else "train.eval_every"
        yield "train.early_stopping", f"train.early_stopping needs evaluations on the way; give {lacks}"
    if run.output.merge and method.policy != AUTO and method.lora is None:
        yield "output.merge", "output.merge=true needs adapters, and method.lora is null; leave output.merge out"


def _check_options(method: Method, place: str) -> None:
    """Raise HybridOptError for options that the policy does not have, and for a .json that is none."""
    if method.policy == AUTO or not (method.options or method.policy.endswith(".json")):
        return
    from ...policy.routes import read_policy  # which imports torch

    try:
        read_policy(method.policy, dict(method.options))
    except HybridOptError as error:
        raise HybridOptError(f"{place}: method.options: {error}") from None


def _check_activations(run: Run, place: str) -> None:
    """Raise HybridOptError for activations that are not known, or cannot be where layers are computed again."""
    if run.method.activations is None:
        return
    from ...model.activations.scheme import read_activations  # which imports torch

    try:
        read_activations(run.method.activations, "method")
    except HybridOptError as error:
        raise HybridOptError(f"{place}: {error}") from None
    if run.train.checkpointing is True:
        raise HybridOptError(
            f"{place}: method.activations={run.method.activations} is not allowed with train.checkpointing=true, as "
            "layers that are computed again would draw other rows; leave one of both out"
        )


def _given(tree: Node, key: str) -> bool:
    return _place(tree, key) is not _place(tree, key.rpartition(".")[0]) and _find(tree, key) is not None


def _find(tree: Node, key: str) -> Node | None:
    node: Node | None = tree
    for name in key.split("."):
        node = node.value.get(name) if node is not None and isinstance(node.value, dict) else None
    return node


def _place(tree: Node, key: str) -> str:
    """Return the place of a key, or of the nearest section around it that was given."""
    found = _find(tree, key)
    if found is not None:
        return found.place
    above = key.rpartition(".")[0]
    return _place(tree, above) if above else tree.place
