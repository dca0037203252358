"""The optimizer step against torch's fused AdamW and the original packages."""
