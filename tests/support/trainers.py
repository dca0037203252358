"""Arguments, data and wrapped models for the transformers Trainer."""

import torch
from peft import LoraConfig
from transformers import TrainingArguments

import hybridopt
from support.models import tiny_llama

STEPS, WARMUP, LR = 6, 2, 1e-2
POLICY = {"density": 0.25, "update_gap": 2}  # a checkpoint at step 3 is in the middle of a window
KINDS = {
    "full": {},
    "lora-nf4": {"peft_config": LoraConfig(r=8, target_modules="all-linear"), "quantization": "nf4"},
}


def data(count=16):
    random = torch.Generator().manual_seed(1)
    rows = torch.randint(3, 96, (count, 8), generator=random)
    return [{"input_ids": row, "labels": row.clone()} for row in rows]


def arguments(folder, **changes):
    settings = dict(
        output_dir=str(folder),
        max_steps=STEPS,
        warmup_steps=WARMUP,
        learning_rate=0.5,  # the optimizer's own counts
        lr_scheduler_type="linear",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=3,
        logging_steps=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    return TrainingArguments(**settings | changes)


def wrapped(kind):
    return hybridopt.wrap(tiny_llama(), policy="frugal", seed=5, **POLICY, **KINDS[kind])
