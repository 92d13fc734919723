"""Distillation: from a float model into its own quantized form."""
