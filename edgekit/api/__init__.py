"""The library in a few calls for scripts and notebooks: `edgekit` itself offers each by its name.

Their examples run as they stand in a folder with a checkpoint `vit.safetensors` and a folder of pictures `photos`.
"""
