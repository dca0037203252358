"""TRL's trainer of preferences, for models of which several processes have a part each."""

from typing import Any

import torch
from torch.utils.data import DataLoader
from trl import DPOTrainer

from hybridopt.core.patching import instead
from hybridopt.model.fsdp.sharded_tensors import reshard_

__all__ = ["PreferenceTrainer"]


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer whose reference log-probabilities, computed beforehand, are kept with the examples.

    TRL's own lets one process write them into a file of its own, where others do not find it, and names that file by a
    digest of the weights, which cannot be made of shards.

    Args:
        model: what is trained.
        *args: TRL's own.
        **kwargs: TRL's own.
    """

    def __init__(self, model: Any = None, *args: Any, **kwargs: Any) -> None:
        with instead(model, "state_dict", dict):  # all that is asked of it here is the digest
            super().__init__(model, *args, **kwargs)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Return a dataset with the log-probabilities that the model gives both answers now; all processes call this.

        Args:
            dataset: of pairs.
            name: of the dataset.
            batch_size: pairs of a pass.
        """
        model = self.ref_model or self.model
        loader = self.accelerator.prepare(DataLoader(dataset, batch_size, collate_fn=self.data_collator))
        found = [self.accelerator.gather_for_metrics(self.compute_ref_log_probs(model, each)) for each in loader]
        reshard_(model)  # what FSDP2 keeps whole after a pass is not what is trained
        for title, parts in zip(("chosen", "rejected"), zip(*found, strict=True), strict=True):
            dataset = dataset.add_column(f"ref_{title}_logps", torch.cat(parts).float().cpu().numpy())
        return dataset
