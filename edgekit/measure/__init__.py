"""What a model costs and what it loses: feature drift, task accuracy, latency, memory, and the host it ran on."""
