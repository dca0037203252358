"""Addax under the Hugging Face Trainer: gradients from short rows, probes of long ones, split by a memory budget."""

import tempfile

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from hybridopt.integrations.trainer import HybridTrainer

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=128, **sizes))

text = "one potato, two potato, three potato, four; five potato, six potato, seven potato, more. " * 4
rows = []
for i in range(80):  # 16 to 127 letters
    letters = torch.tensor(list(text[i % 88 : i % 88 + 16 + i * 61 % 112].encode()))
    rows.append({"input_ids": letters, "labels": letters})


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pad; the Trainer calls it for each half of a step."""
    fill = {"input_ids": 0, "labels": -100}
    return {k: pad_sequence([row[k] for row in rows], batch_first=True, padding_value=v) for k, v in fill.items()}


with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        learning_rate=0.1,
        max_steps=40,
        max_grad_norm=0,  # gradients are used and freed one by one, so there are none to clip
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = HybridTrainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=collate,
        policy="addax",
        policy_options={"alpha": 1e-3},
        optimizer_options={"release": "fused"},
        assignment="4MiB",  # prints what is chosen; "free" takes the free memory of the GPU
    )
    trainer.train()

losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"first loss {losses[0]:.2f}, last loss {losses[-1]:.2f}")
