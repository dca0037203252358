"""What a model is made of: the role of every parameter, its blocks, its values, its quantized layers."""
