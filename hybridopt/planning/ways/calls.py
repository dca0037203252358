"""Write the lines of Python that set a planned way of training up."""

from textwrap import indent

from ...core.dtypes import DTYPES
from ...model.activations.scheme import written
from ...model.adapters import usual_library
from ...model.placement.placement import Placement
from ..request import Request

__all__ = ["calls", "script"]


def calls(request: Request, lr: float) -> str:
    """Return the lines that call `hybridopt.wrap` and `optimizer`, for a model loaded in the dtype planned for."""
    return "\n".join(
        [
            *_started(request),
            *_loaded(request),
            *_imports(request),
            *_before(request),
            _wrap(request if request.placement is None else request.but(quantization=None)),
            *_several(request),
            _optimizer(request, lr),
            *_training(request),
        ]
    )


def script(request: Request, lr: float, model: str, causal: bool = True) -> str:
    """Return a whole program that trains in this way: a causal language model on a text file, others on own batches.

    Args:
        request: the way.
        lr: learning rate.
        model: its name, or its folder.
        causal: whether it is a causal language model.
    """
    loaded = f"{_load(request, dtype=True)}.train()"
    lines = [
        *_started(request),
        *_imports(request),
        *(["from transformers import AutoTokenizer", ""] if causal else ["import torch", ""]),
        "import hybridopt",
        "",
        f'folder = "{model}"  # with *.safetensors and the tokenizer (hf download NAME --local-dir ...)',
        f"model = {loaded}",
        *_before(request),
        _wrap(request.but(quantization=None)),  # that was done while it was loaded
        *_several(request),
        _optimizer(request, lr),
        "",
        *(_texts(request) if causal else _own(request)),
        *(["passes = passes[distributed.get_rank() :: distributed.get_world_size()]"] if request.gpus > 1 else []),
    ]
    called = "replica" if request.gpus > 1 and request.parallel == "ddp" else "model"
    loop = _loop(request, f"{called}(input_ids=batch, labels=batch).loss" if causal else f"{called}(**batch).loss")
    if request.chunk:
        loop = f"with hybridopt.chunked_loss(model, {request.chunk}):\n{indent(loop, '    ')}"
    return "\n".join([*lines, loop, 'model.hybrid.save_pretrained("trained")'])


def _texts(request: Request) -> list[str]:
    """Return the lines that make `passes` of a text file."""
    return [
        'text = open("train.txt").read()',
        'tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids[0]',
        f"size = {request.batch} * {request.seq_len}  # tokens of a pass",
        "passes = tokens[: len(tokens) // size * size]"
        f'.view(-1, {request.batch}, {request.seq_len}).to("{request.device}")',
    ]


def _own(request: Request) -> list[str]:
    """Return the line that loads `passes` of one's own."""
    told = f"{request.batch} x {request.seq_len} tokens each: dicts of input_ids, attention_mask, labels"
    return [f'passes = torch.load("passes.pt", map_location="{request.device}")  # a list, {told}']


def _loop(request: Request, loss: str) -> str:
    """Return the loop over `passes`, as a release and a source of gradients want it.

    loss: the expression that computes it of `batch`.
    """
    many = request.micro_batches
    if request.probes:
        given = f"lambda: {loss}" if many == 1 else f"[lambda batch=batch: {loss} for batch in step]"
        step = [f"    print(float(optimizer.step({given})))"]
    elif many == 1:
        step = [f"    loss = {loss}", "    loss.backward()", "    optimizer.step()", "    optimizer.zero_grad()"]
        step += ["    print(loss.item())"]
    elif request.frees_gradients:
        step = ["    with optimizer.hold():", "        for batch in step[:-1]:"]
        step += [f"            ({loss} / {many}).backward()", "    batch = step[-1]"]
        step += [f"    ({loss} / {many}).backward()", "    optimizer.step()", "    optimizer.zero_grad()"]
    else:
        step = ["    for batch in step:", f"        ({loss} / {many}).backward()"]
        step += ["    optimizer.step()", "    optimizer.zero_grad()"]
    if many == 1:
        return "\n".join(["for batch in passes:", *step])
    head = [f"for i in range(0, len(passes) - {many - 1}, {many}):", f"    step = passes[i : i + {many}]"]
    return "\n".join([*head, *step])


def _loaded(request: Request) -> list[str]:
    """Return the lines that load a model which does not fit before it is quantized."""
    if request.placement is not None:
        return [f"model = {_load(request)}"]
    if not request.quantization:
        return []
    return [
        "# Without a full-precision copy in memory (then leave quantization out below):",
        f"# model = {_load(request)}",
    ]


def _load(request: Request, dtype: bool = False) -> str:
    """Return the call that loads the model of a folder, quantized and placed."""
    given = [f"quantization={_text(request.quantization)}"] if request.quantization else []
    given += [f"dtype={_text(DTYPES[request.dtype])}"] if dtype else []
    given += [f"placement={_placement(request.placement)}"] if request.placement else []
    return f"hybridopt.load({', '.join(['folder', *given, f'device={_text(request.device)}'])})"


def _placement(placement: Placement) -> str:
    """Return a placement as it is written in Python, without what is usual."""
    usual = vars(Placement(placement.base))
    own = [f"{name}={_text(value)}" for name, value in vars(placement).items() if value != usual[name]]
    return f"hybridopt.Placement({', '.join([_text(placement.base), *own])})" if own else _text(placement.base)


def _imports(request: Request) -> list[str]:
    return [usual_library().code(request.lora)[0]] if request.lora and request.peft_config is None else []


def _before(request: Request) -> list[str]:
    lines = ["model.config.use_cache = False"] if request.probes else []
    if not request.checkpointing:
        return lines
    lines += [f'model.gradient_checkpointing_enable({{"use_reentrant": {request.reentrant}}})']
    return lines + (["model.enable_input_require_grads()"] if request.reentrant else [])


def _wrap(request: Request) -> str:
    given = {"policy": request.policy, **request.options}
    parts = [f"{name}={_text(value)}" for name, value in given.items()]
    if request.lora:
        own = usual_library().code(request.lora)[1]
        parts.append(f"peft_config={own if request.peft_config is None else 'peft_config'}")
        if request.adapter_dtype:
            parts.append(f"adapter_dtype={_text(request.adapter_dtype)}")
    if request.kept:
        parts.append(f"activations={_text(written(request.kept))}")
    if request.quantization:
        parts.append(f"quantization={_text(request.quantization)}")
    return f"model = hybridopt.wrap(model, {', '.join(parts)})"


def _started(request: Request) -> list[str]:
    """Return the lines with which each process of torchrun meets the others."""
    if request.gpus == 1:
        return []
    return [
        f"# torchrun --nproc-per-node {request.gpus} FILE",
        "import torch",
        "from torch import distributed",
        "",
        "distributed.init_process_group()",
        *(["torch.cuda.set_device(distributed.get_node_local_rank())"] if request.device == "cuda" else []),
        "",
    ]


def _several(request: Request) -> list[str]:
    """Return the lines that share a model among processes."""
    if request.gpus == 1:
        return []
    if request.parallel == "ddp":
        return ["replica = torch.nn.parallel.DistributedDataParallel(model)  # call it in place of model, to train"]
    whole = "{p for p in model.parameters() if not p.is_floating_point()}"
    ignored = f", ignored_params={whole}" if request.scheme is not None and not request.scheme.shards else ""
    return [
        "from torch.distributed.fsdp import fully_shard",
        "for layer in next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList)):",
        f"    fully_shard(layer{ignored})",
        f"fully_shard(model{ignored})",
    ]


def _optimizer(request: Request, lr: float) -> str:
    release = f', release="{request.release}"' if request.release != Request.release else ""
    return f"optimizer = model.hybrid.optimizer(lr={lr:g}{release})"


def _training(request: Request) -> list[str]:
    return [f"# train within: with hybridopt.chunked_loss(model, {request.chunk}):"] if request.chunk else []


def _text(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
