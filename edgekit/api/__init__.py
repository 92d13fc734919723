"""The library in a few calls for scripts and notebooks; `edgekit` itself offers them by name.

Their examples run as they stand in a folder with a checkpoint `vit.safetensors` and a folder of pictures `photos`.
"""

from edgekit.api.builds import Build, Settings, build
from edgekit.api.measures import bench, drift, embed
from edgekit.api.plans import quantize

__all__ = ["Build", "Settings", "bench", "build", "drift", "embed", "quantize"]
