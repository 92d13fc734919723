"""Photographs that are resized whole: pixels of transformers' DPTImageProcessor, sizes of Depth Anything's own code."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from edgekit.artifact import IMAGENET_MEAN, IMAGENET_STD, Preprocess, WholeImage
from edgekit.bundle.hub import preprocessor_config
from edgekit.errors import DataError
from edgekit.images.preprocess import placed, preprocess
from edgekit.models.depth_anything import whole_image_of

SHAPES = [(640, 480), (480, 640), (1920, 1080), (518, 518), (300, 200), (200, 900), (1000, 90), (60, 100)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
PUBLISHED = {"size": {"height": 518, "width": 518}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}


def photo(shape: tuple[int, int]) -> Image.Image:
    """Noise (width, height), the hardest picture to resize."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), np.uint8))


def transform_of(size: tuple[int, int], whole: WholeImage) -> Preprocess:
    return Preprocess.for_size(*size).model_copy(update={"whole_image": whole})


def theirs(picture: Image.Image, **settings: object) -> np.ndarray:
    processor = DPTImageProcessorPil(
        resample=Image.Resampling.BICUBIC, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD), **settings
    )
    return processor(picture, return_tensors="np")["pixel_values"][0]


@shapes
def test_a_photograph_at_its_published_size_has_the_pixels_of_transformers(shape: tuple[int, int]) -> None:
    expected = theirs(photo(shape), **PUBLISHED)
    whole = WholeImage(rule="minimal")
    size = whole.size_of(shape[1], shape[0])
    assert size == expected.shape[1:]
    assert np.abs(preprocess(photo(shape), transform_of(size, whole)) - expected).max() < 1e-5


@shapes
def test_a_file_of_one_size_has_the_pixels_that_its_bundle_describes(shape: tuple[int, int]) -> None:
    transform = transform_of((252, 350), WholeImage())
    described = preprocessor_config(transform)
    assert described.pop("image_processor_type") == "DPTImageProcessor"
    expected = DPTImageProcessorPil(**described)(photo(shape), return_tensors="np")["pixel_values"][0]
    found = preprocess(photo(shape), transform)
    assert found.shape == (3, 252, 350)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("photograph", "official", "minimal"),  # (height, width); depth_anything_v2/util/transform.py with lower_bound
    [
        ((480, 640), (518, 686), (518, 686)),
        ((640, 480), (686, 518), (686, 518)),
        ((1080, 1920), (518, 924), (518, 924)),
        ((240, 320), (518, 686), (392, 518)),
        ((2000, 2000), (518, 518), (518, 518)),
        ((90, 1000), (518, 5754), (42, 518)),
    ],
)
def test_the_two_rules_differ_for_small_photographs_alone(photograph, official, minimal) -> None:
    assert WholeImage().size_of(*photograph) == official
    assert WholeImage(rule="minimal").size_of(*photograph) == minimal


def test_no_side_falls_below_the_lower_bound() -> None:
    whole = WholeImage(size=(520, 520))
    assert whole.size_of(520, 520) == (532, 532)
    assert whole.model_copy(update={"rule": "minimal"}).size_of(520, 520) == (518, 518)


def test_without_aspect_every_photograph_has_one_size() -> None:
    whole = WholeImage(size=(392, 518), keep_aspect_ratio=False, rule="minimal")
    assert {whole.size_of(*shape) for shape in SHAPES} == {(392, 518)}


def test_a_record_says_it_and_one_without_it_keeps_its_bytes() -> None:
    plain, whole = Preprocess.for_size(224, 224), transform_of((224, 224), WholeImage(rule="minimal"))
    assert "whole_image" not in plain.model_dump_json()
    assert Preprocess.model_validate_json(whole.model_dump_json()) == whole
    assert placed((640, 480), whole) == ((224, 224), (0, 0))


def test_a_folder_says_the_size_and_the_official_code_where_it_does_not() -> None:
    assert whole_image_of(PUBLISHED) == WholeImage(rule="minimal")
    assert whole_image_of({}) == WholeImage(rule="lower_bound")


@pytest.mark.parametrize(
    "wrong",
    [{"resample": 2}, {"do_resize": False}, {"do_pad": True}, {"size": {"shortest_edge": 518}}, {"size": [0, 518]}],
)
def test_a_processor_that_resizes_in_another_way_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match=rf"preprocessor_config\.json says {next(iter(wrong))}"):
        whole_image_of(PUBLISHED | wrong)
