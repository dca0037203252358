"""The Hugging Face Trainer, unchanged, with FRUGAL: hand it the optimizer."""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import hybridopt

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=256, num_key_value_heads=2, **sizes))
text = torch.tensor(list(open(__file__, "rb").read()))
data = [{"input_ids": text[i : i + 64], "labels": text[i : i + 64]} for i in range(0, len(text) - 64, 8)]

hybridopt.wrap(model, policy="frugal", density=0.25, update_gap=10)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=4,
        per_device_train_batch_size=8,
        eval_strategy="epoch",
        logging_steps=20,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
    )
    optimizer = model.hybrid.optimizer(lr=3e-3)
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data[::4], optimizers=(optimizer, None))
    trainer.train()
    print(trainer.evaluate())
