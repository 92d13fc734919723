"""Measurements of an artifact: feature drift, task accuracy, latency, memory, and the host it ran on."""
