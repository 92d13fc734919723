"""What registers change in a model: token norms, attention maps, objects found without training."""
