"""Distillation: from a teacher into smaller students, and from a float model into its own quantized form."""
