"""sentence-transformers: an encoder of sentences, trained by its own trainer with FRUGAL."""

import tempfile

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from hybridopt.integrations.trainer import HybridTrainerMixin


class Tuner(HybridTrainerMixin, SentenceTransformerTrainer):
    """Theirs, with policy=, policy_options= and optimizer_options=."""


torch.manual_seed(0)
words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, 64)}}, unk_token="<unk>"))
words.pre_tokenizer = WhitespaceSplit()
sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
with tempfile.TemporaryDirectory() as folder:  # in place of the name of a pretrained model
    BertModel(BertConfig(**sizes, num_attention_heads=4, max_position_embeddings=32)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    encoder = Transformer(folder)
    model = SentenceTransformer(modules=[encoder, Pooling(64)], device="cuda" if torch.cuda.is_available() else "cpu")

    topics = range(2, 62, 4)  # sentences are alike if their words are neighbours
    pairs = {"anchor": [f"w{i} w{i + 1}" for i in topics], "positive": [f"w{i + 2} w{i + 3}" for i in topics]}
    trainer = Tuner(
        model,
        args=SentenceTransformerTrainingArguments(
            folder, max_steps=30, learning_rate=3e-3, logging_steps=10, report_to="none", disable_tqdm=True
        ),
        train_dataset=Dataset.from_dict(pairs),
        loss=MultipleNegativesRankingLoss(model),
        policy="frugal",
        policy_options={"density": 0.25, "update_gap": 10},
    )
    trainer.train()
