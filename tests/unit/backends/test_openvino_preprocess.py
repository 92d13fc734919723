"""The transform inside the graph against the one in Pillow, and the artifact that carries it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.artifact import Artifact, Preprocess, WholeImage
from edgekit.backends.openvino.backend import OpenVinoBackend
from edgekit.errors import DataError, ExportError
from edgekit.images.preprocess import preprocess
from edgekit.models.vit import VisionTransformer
from tests.support.plans import export_source

ov = pytest.importorskip("openvino")

SIZES = [(301, 200), (97, 330), (56, 57), (640, 481)]  # (width, height): wide, tall, nearly square, large


def photograph(width: int, height: int) -> Image.Image:
    """Smooth blobs with some noise: natural enough for a resampling comparison."""
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def tiny(tiny_model: VisionTransformer) -> VisionTransformer:
    return tiny_model.bake(56, 56)


def export(model: VisionTransformer, folder: Path, transform: Preprocess) -> Artifact:
    source = export_source(model, transform, None)
    return OpenVinoBackend().export(source, "fp32", "standard", folder / "model.xml")


@pytest.mark.parametrize("crop", [(56, 56), (84, 42), (28, 126)])
@pytest.mark.parametrize("normalize", ["host", "graph"])
@pytest.mark.parametrize("whole", [None, WholeImage()], ids=["cropped", "whole"])
def test_pixels_equal_pillow(crop: tuple[int, int], normalize: str, whole: WholeImage | None) -> None:
    from edgekit.backends.openvino.preprocess import transformed

    transform = Preprocess.for_size(*crop, normalize=normalize).model_copy(update={"whole_image": whole})
    image = ov.opset13.parameter([-1, -1, -1, 3], np.uint8)
    graph = ov.Model([ov.opset13.result(transformed(image.output(0), transform))], [image])
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    level = 1.0 if normalize == "graph" else 1 / 255 / min(transform.std)
    for size in SIZES:
        photo = photograph(*size)
        difference = np.abs(compiled(np.asarray(photo)[None])[0][0] - preprocess(photo, transform)) / level
        # Both round to a level after each of the two passes, but Pillow 13 runs the cheaper pass first.
        assert difference.max() < 2.1, size
        assert difference.mean() < 0.3, size


def test_features_equal_those_of_host_preprocessing(tiny: VisionTransformer, tmp_path: Path) -> None:
    from edgekit.backends.openvino.preprocess import embed_preprocessing

    transform = Preprocess.for_size(56, 56)
    plain = export(tiny, tmp_path, transform)
    embedded = embed_preprocessing(plain, tmp_path / "model_image.xml")
    assert embedded.inputs[0].dtype == "uint8"
    assert embedded.preprocess.normalize == "graph"
    assert embedded.sha256 != plain.sha256
    backend = OpenVinoBackend()
    for size in SIZES:
        photo = photograph(*size)
        image = backend.runner(embedded, 1)(np.asarray(photo)[None])
        host = backend.runner(plain, 1)(preprocess(photo, transform)[None])
        for name in host:
            error = np.linalg.norm(image[name] - host[name]) / np.linalg.norm(host[name])
            assert error < 0.01, (size, name)


def test_preprocessing_goes_in_once(tiny: VisionTransformer, tmp_path: Path) -> None:
    from edgekit.backends.openvino.preprocess import embed_preprocessing

    embedded = embed_preprocessing(export(tiny, tmp_path, Preprocess.for_size(56, 56)), tmp_path / "image.xml")
    with pytest.raises(ExportError, match="already"):
        embed_preprocessing(embedded, tmp_path / "again.xml")


def test_load_gives_images_to_a_file_that_takes_them(tiny: VisionTransformer, tmp_path: Path) -> None:
    import edgekit
    from edgekit.backends.openvino.preprocess import embed_preprocessing

    plain = export(tiny, tmp_path, Preprocess.for_size(56, 56))
    embed_preprocessing(plain, tmp_path / "model_image.xml")
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    pictures = [Image.fromarray(small).resize(size, Image.Resampling.BICUBIC) for size in ((90, 77), (131, 200))]
    expected = edgekit.load(plain.path)(pictures)["pooler_output"]
    model = edgekit.load(tmp_path / "model_image.xml")
    assert model.artifact.inputs[0].name == "image"
    actual = model(pictures)["pooler_output"]
    cosine = (actual * expected).sum(1) / np.linalg.norm(actual, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.9999
    with pytest.raises(DataError, match="no picture"):
        model(np.zeros((1, 3, 70, 56), np.float32))
