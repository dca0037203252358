"""Folders of runs for report.html: what training leaves behind, without training."""

import json
import math

from hybridopt.training.watching.log import LogFile

GIB = 2**30
EVIL = "<script>alert('x')</script>&\"'\u2028</script>"
RUN = """made_with: {torch: 2.13.0, data: [{path: chats.jsonl, sha256: 0123abcd}]}
model: org/name
task: sft
method: {policy: frugal, options: {density: 0.25}, lora: {r: 16, targets: all-linear}, quantization: nf4}
train: {lr: 0.0002, report_to: []}
"""
KINDS = {"weights": 4 * GIB, "quantization": GIB // 8, "gradients": GIB // 4, "state": GIB // 2}


def tensors(layers=4, evil=False):
    """What `tensor_map` tells of a model: nine tensors in each layer, and three outside."""
    found = [
        {"name": f"model.layers.{i}.{part}.weight", "role": "linear", "tag": tag, "shape": [64, 64], "bytes": size}
        for i in range(layers)
        for part, tag, size in [
            ("self_attn.q_proj", "frozen", 8192),
            ("self_attn.q_proj.lora_A", "state-full", 1024),
            ("mlp.up_proj", "split", 16384),
            ("mlp.down_proj", "state-free", 16384),
            *((f"mlp.{k}", "frozen", 64 * k) for k in range(1, 6)),
        ]
    ]
    found += [
        {"name": name, "role": "other", "tag": "frozen", "shape": [], "bytes": 4096}
        for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    ]
    return found + ([{"name": EVIL, "role": EVIL, "tag": EVIL, "shape": [], "bytes": 9}] if evil else [])


def record(step, total):
    """A record of a step."""
    sizes = {f"{kind}_bytes": size for kind, size in KINDS.items()}
    course = {"loss": 1 + 2 * math.exp(-3 * step / total) + 0.1 * math.sin(step), "lr": 1e-4 * (1 - step / total)}
    norm = {"grad_norm": 1 + math.cos(step) / 2, "rewards/margins": step / total, "tokens": 100 * step}
    held = {"tokens_per_second": 1e3, "memory_bytes": 6 * GIB, "peak_bytes": 9 * GIB + step}
    return {"step": step, "epoch": step / total, "seconds": 2.0 * step} | course | norm | held | sizes


def write_run(folder, steps=40, evals=4, evil=False, device="cuda", layers=4, drop=(), finished=True, broken=()):
    """Write run.yaml, plan.json and log.jsonl of a run, and return the folder.

    Args:
        folder: is made where it is not there.
        steps: records of steps.
        evals: of evaluations.
        evil: whether names are HTML.
        device: of plan.json.
        layers: of the model.
        drop: keys that no record has.
        finished: whether the Trainer's last record is there.
        broken: steps whose loss is no number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(RUN.replace("org/name", json.dumps(EVIL)) if evil else RUN)
    planned = {f"{kind}_bytes": size for kind, size in KINDS.items()}
    planned |= {"activations_bytes": 5 * GIB, "peak_bytes": 10 * GIB, "gpu_bytes": 24 * GIB}
    measured = {f"{kind}_bytes": size for kind, size in KINDS.items()}
    measured |= {"peak_bytes": 9 * GIB, "seconds": 2.0 * steps, "training_seconds": 1.5 * steps, "tokens": 100 * steps}
    plan = {"planned": planned, "measured": measured, "device": device, "steps": steps}
    (folder / "plan.json").write_text(json.dumps(plan | {"tensors": tensors(layers, evil)}))
    log = LogFile(folder / "log.jsonl")
    for step in range(1, steps + 1):
        made = record(step, steps) | ({"loss": math.nan} if step in broken else {})
        log.append({key: value for key, value in made.items() if key not in drop} | ({EVIL: 1.0} if evil else {}))
        if evals and step % max(1, steps // evals) == 0:
            log.append({"step": step, "eval_loss": 1.5, "eval_rewards/margins": 0.5, "eval_runtime": 1.0})
    if finished and steps:
        log.append({"step": steps, "seconds": 2.0 * steps, "train_runtime": 2.0 * steps, "train_loss": 1.2})
    log.close()
    return folder
