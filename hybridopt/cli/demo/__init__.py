"""The demo: a pretrained encoder fine-tuned in three ways on a task made from the running Python's own source."""
