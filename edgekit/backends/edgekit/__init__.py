"""Single-file models for libedgekit, edgekit's own runtime."""
