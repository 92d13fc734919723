"""TFLite flatbuffers for LiteRT."""
