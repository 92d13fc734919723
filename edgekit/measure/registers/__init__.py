"""Effects of registers in a model: token norms, attention maps, objects found without training."""
