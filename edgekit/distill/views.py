"""Random views of images: more training data without more photographs."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SIDE = 0.6  # of a crop, as share of the image's


def views(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One crop of each image (n, 3, H, W), of 60 to 100 % of its sides, enlarged again; every second one mirrored."""
    height, width = pixels.shape[2:]
    found = []
    for image in pixels:
        share, top, left, mirrored = torch.rand(4, generator=generator).tolist()
        share = LEAST_SIDE + (1 - LEAST_SIDE) * share
        rows, columns = round(share * height), round(share * width)
        y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        crop = image[None, :, y : y + rows, x : x + columns]
        crop = torch.nn.functional.interpolate(crop, size=(height, width), mode="bilinear", align_corners=False)
        found.append(crop.flip(-1) if mirrored < 0.5 else crop)
    return torch.cat(found)
