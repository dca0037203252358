"""TRL with any policy: DPO with FRUGAL on LoRA, then GRPO with AdaLomo, which frees each gradient at once."""

import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from hybridopt.integrations.trainer import HybridTrainerMixin


class DPO(HybridTrainerMixin, DPOTrainer):
    """TRL's, with policy=, policy_options= and optimizer_options=."""


class GRPO(HybridTrainerMixin, GRPOTrainer):
    """The same mixin goes with SFTTrainer, RewardTrainer, KTOTrainer and RLOOTrainer."""


words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 64)}}, unk_token="<pad>"))
words.pre_tokenizer = WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, eos_token_id=1
)


def few_high_numbers(completions, **columns):
    """The reward: the share of words below w32."""
    numbers = [[int(word[1:]) for word in text.split() if word[1:].isdigit()] for text in completions]
    return [sum(n < 32 for n in one) / max(len(one), 1) for one in numbers]


usual = {"bf16": False, "use_cpu": not torch.cuda.is_available(), "report_to": "none", "save_strategy": "no"}
usual |= {"per_device_train_batch_size": 8, "logging_steps": 4, "disable_tqdm": True}
prompts = [f"w{i} w{i + 1} " for i in range(2, 18, 2)]
with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)
    pairs = {"prompt": prompts, "chosen": ["w3 w4 w5"] * 8, "rejected": ["w50 w49 w48"] * 8}
    trainer = DPO(
        LlamaForCausalLM(config),
        args=DPOConfig(folder, max_steps=20, learning_rate=1e-2, **usual),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),  # TRL adds the adapters
        policy="frugal",
        policy_options={"density": 0.5, "update_gap": 10},
    )
    trainer.train()

    trainer = GRPO(
        LlamaForCausalLM(config),
        args=GRPOConfig(folder, max_steps=24, learning_rate=4e-2, max_completion_length=8, num_generations=8, **usual),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        reward_funcs=few_high_numbers,
        policy="adalomo",
        optimizer_options={"release": "fused", "clip": 1.0, "clip_mode": "previous"},
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    print(f"reward {rewards[0]:.2f}, then {rewards[-1]:.2f}")
