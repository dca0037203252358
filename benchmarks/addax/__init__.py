"""Addax, MeZO, IP-SGD and AdamW on short and long reviews: accuracy against CPU seconds and bytes."""
