"""What keys of other tools are called in run.yaml: those of transformers, TRL, LLaMA-Factory, axolotl and mlx-lm."""

from difflib import get_close_matches

__all__ = ["REFUSED", "elsewhere"]

# Keys that are refused with a reason.
REFUSED = {
    "trust_remote_code": "code that comes with a model or with data is never run here; leave it out, and take a model "
    "that transformers knows",
    "chunk": "trainers compute their losses in tiles of their own, as the plan knows; leave it out",
    "device_map": "training is on one device; leave it out",
    "deepspeed": "training is on one device; leave it out",
    "fsdp": "training is on one device; leave it out",
}

# (names elsewhere, name here)
ROWS = (
    ("base_model model_name model_name_or_path model_id", "model"),
    ("stage rl", "task"),
    ("beta loss_type num_generations reward reward_funcs", "task_options"),
    ("optimizer optim", "method.policy"),
    ("policy_options optim_args", "method.options"),
    ("adapter peft_config finetuning_type peft", "method.lora"),
    ("lora_r lora_rank rank", "method.lora.r"),
    ("lora_alpha", "method.lora.alpha"),
    ("lora_dropout", "method.lora.dropout"),
    ("target_modules lora_target lora_target_modules", "method.lora.targets"),
    ("load_in_4bit load_in_8bit quantization_bit quantization_config", "method.quantization"),
    ("dataset datasets train_file train_data dataset_path dataset_name", "data.train"),
    ("validation_file val_set_size eval_dataset valid_data validation val test_size", "data.eval"),
    ("chat_template", "data.template"),
    ("assistant_only_loss completion_only_loss train_on_inputs train_on_prompt mask_prompt", "data.loss_on"),
    ("sample_packing neat_packing", "data.packing"),
    ("max_seq_length max_seq_len cutoff_len sequence_len seq_len seq_length model_max_length", "data.max_length"),
    ("num_train_epochs num_epochs", "train.epochs"),
    ("iters num_iterations steps", "train.max_steps"),
    ("per_device_train_batch_size micro_batch_size batch_size train_batch_size", "train.batch"),
    ("gradient_accumulation_steps accumulation_steps grad_accumulation_steps micro_batches", "train.accumulate"),
    ("learning_rate", "train.lr"),
    ("lr_scheduler_type lr_scheduler scheduler", "train.schedule"),
    ("warmup_ratio warmup_steps", "train.warmup"),
    ("max_grad_norm clip_grad_norm gradient_clip_val", "train.clip"),
    ("bf16 fp16 torch_dtype precision", "train.dtype"),
    ("gradient_checkpointing grad_checkpoint", "train.checkpointing"),
    ("logging_steps steps_per_report", "train.log_every"),
    ("eval_steps evals_per_epoch steps_per_eval", "train.eval_every"),
    ("save_steps saves_per_epoch", "train.save_every"),
    ("save_total_limit", "train.keep"),
    ("early_stopping_patience patience", "train.early_stopping"),
    ("output_dir adapter_path", "output.folder"),
    ("push_to_hub hub_model_id hub_id", "output.push"),
)
HERE = {name: here for names, here in ROWS for name in names.split()}


def elsewhere(key: str) -> str | None:
    """Return what another tool's key is called here, also where it is nearly spelled so; None where nobody knows."""
    plain = key.lower().replace("-", "_")
    near = get_close_matches(plain, HERE, 1, 0.85)
    return HERE.get(plain) or (HERE[near[0]] if near else None)
