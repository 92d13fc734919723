"""The reference DINOv2 in torch, the zoo that names checkpoints, and the readers that convert them."""
