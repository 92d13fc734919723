"""TFLite files of integers throughout: int16 activations, int8 weights."""
