"""Resizes pictures as a web page would that leaves it to the browser: on a canvas of headless Chromium."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_PAGE = """<!doctype html><body>%s<script>
onload = () => {
  const [height, width] = %s;
  const out = %s.map(([left, top, w, h], i) => {
    const context = Object.assign(document.createElement('canvas'), { width, height }).getContext('2d');
    context.imageSmoothingQuality = 'high'; // in software Chromium draws all three alike
    context.drawImage(document.images[i], -left, -top, w, h);
    const rgba = context.getImageData(0, 0, width, height).data;
    return btoa(Array.from(rgba, (level) => String.fromCharCode(level)).join(''));
  });
  document.body.textContent = out.join(' ');
};
</script>"""


def chromium() -> str | None:
    """Path of the browser, None when there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


def draw(
    pictures: Sequence[Image.Image], boxes: Sequence[tuple[int, int, int, int]], crop: tuple[int, int]
) -> list[np.ndarray]:
    """Draw each picture onto a canvas, resized; returns what the canvas shows, (H, W, 3) uint8.

    Args:
        pictures: RGB.
        boxes: of each: left and top of the crop in the resized picture, and its width and height, in pixels.
        crop: (height, width) of the canvas.
    """
    images = "".join(f"<img src='{_url(picture)}'>" for picture in pictures)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(_PAGE % (images, list(crop), [list(box) for box in boxes]), encoding="utf-8")
        command = [
            chromium() or "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            f"--user-data-dir={folder}/profile",
            page.as_uri(),
        ]
        dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    words = dumped[dumped.index("<body>") + 6 : dumped.index("</body>")].split()
    if len(words) != len(pictures):
        raise SystemExit(f"Chromium drew {len(words)} of {len(pictures)} pictures")
    return [np.frombuffer(base64.b64decode(word), np.uint8).reshape(*crop, 4)[..., :3] for word in words]


def _url(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
