"""AdamW at three bytes a weight and one a moment, beside the package flashoptim: arithmetic, bytes, quality."""
