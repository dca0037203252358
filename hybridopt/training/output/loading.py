"""How what was saved is loaded: lines for the model card, and for the end of a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import HybridOptError
from ...core.files import tensors
from ...saving.labels import classes_of
from ...saving.names import DELTA, REPLAY
from ...saving.served import changed_beside, vllm_rank_of

__all__ = ["Held", "held_in", "loading_lines"]

CLASSES = (
    ("ForSequenceClassification", "SequenceClassification"),
    ("ForTokenClassification", "TokenClassification"),
    ("ForQuestionAnswering", "QuestionAnswering"),
    ("ForCausalLM", "CausalLM"),
)


@dataclass(frozen=True)
class Held:
    """What a saved folder holds.

    Args:
        architecture: the class of the model.
        adapters: are there adapters? Otherwise it is a whole model.
        settings: adapter_config.json of the first adapter.
        more: whether tensors of the base were changed beside the adapters.
        labels: of a classifier, in the order of its outputs.
        vllm_rank: the --max-lora-rank with which vLLM takes the adapters; None: it takes them by none.
    """

    architecture: str
    adapters: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False
    labels: tuple[str, ...] = ()
    vllm_rank: int | None = None

    @property
    def loader(self) -> str:
        """The end of the names of the classes that load it: "CausalLM" of AutoModelForCausalLM."""
        return next((end for part, end in CLASSES if self.architecture.endswith(part)), "")


def held_in(folder: Path, model: nn.Module) -> Held:
    """Return what the files in a folder hold.

    Args:
        folder: of a model or of adapters.
        model: that was saved, without adapters around it.
    """
    architecture = type(model).__name__
    labels = tuple(classes_of(model)) if architecture.endswith("ForSequenceClassification") else ()
    path = next(iter(sorted(folder.rglob("adapter_config.json"))), None)
    if path is None:
        return Held(architecture, False, labels=labels)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HybridOptError(f"{path} cannot be read: {error}") from error
    return Held(architecture, True, settings, _more(folder, path), labels, vllm_rank_of(path.parent))


def _more(folder: Path, adapter: Path) -> bool:
    """Return whether tensors of the base were changed that no copy in the adapter stands for."""
    if not (folder / DELTA).exists():
        return (folder / REPLAY).exists()
    copied = tensors.names(adapter.with_name("adapter_model.safetensors"), "the adapter")
    return (folder / REPLAY).exists() or changed_beside(tensors.names(folder / DELTA, "changed base tensors"), copied)


def loading_lines(held: Held, base: str | None) -> list[str]:
    """Return lines of Markdown that say how a folder is loaded by PEFT or transformers, and by vLLM.

    Args:
        held: what it holds.
        base: the base model on the hub; None: it is a folder.
    """
    if held.adapters:
        return _of_adapters(held, base)
    lines = _python(f"from transformers import AutoModel{_for(held)}, AutoTokenizer", f"AutoModel{_for(held)}")
    return [*lines, *(["```bash", "vllm serve FOLDER", "```"] if held.loader == "CausalLM" else [])]


def _for(held: Held) -> str:
    return f"For{held.loader}" if held.loader else ""


def _of_adapters(held: Held, base: str | None) -> list[str]:
    if held.labels:
        lines = _classifier(held, base)
    else:
        kind = f"AutoPeftModel{_for(held)}" if held.loader else "PeftModel"
        lines = _python(f"from peft import {kind}\nfrom transformers import AutoTokenizer", kind, not held.loader)
    if held.more:
        return [
            "Beside the adapters, tensors of the base were changed, which PEFT does not load: "
            "`hybridopt merge FOLDER -o MERGED` makes a whole model of all of it, and "
            "`hybridopt.from_pretrained(base_model, FOLDER)` puts it onto the base.",
        ]
    merged = "`hybridopt merge FOLDER -o MERGED` makes a whole model of it."
    if held.loader != "CausalLM" or held.vllm_rank is None:
        return [*lines, "", merged]
    serve = f"vllm serve {base or 'BASE'} --enable-lora --lora-modules tuned=FOLDER --max-lora-rank {held.vllm_rank}"
    return [*lines, "```bash", serve, "```", merged]


def _classifier(held: Held, base: str | None) -> list[str]:
    """Return code that makes the base with as many outputs as were trained, which PEFT does not know of."""
    names = f"{{{', '.join(f'{number}: {name!r}' for number, name in enumerate(held.labels))}}}"
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'folder = "FOLDER"  # this folder, or the name of the repository',
        f"labels = {names}",
        f'kind, base = AutoModelForSequenceClassification, "{base or "BASE"}"',
        "model = kind.from_pretrained(base, num_labels=len(labels), id2label=labels)",
        "model = PeftModel.from_pretrained(model, folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    return ["```python", *lines, "```"]


def _python(imports: str, kind: str, needs_base: bool = False) -> list[str]:
    load = f"{kind}.from_pretrained(base_model, folder)" if needs_base else f"{kind}.from_pretrained(folder)"
    lines = [*imports.splitlines(), "", 'folder = "FOLDER"  # this folder, or the name of the repository']
    return ["```python", *lines, f"model = {load}", "tokenizer = AutoTokenizer.from_pretrained(folder)", "```"]
