"""The model that is planned: its configuration, its inputs, its quantized and trained layers."""
