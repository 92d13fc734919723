"""Shards: the numbers of the single file, kept where they are the same and made again where they are not."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.images.listing import Listing
from edgekit.models.vit import VisionTransformer
from edgekit.shards import WorkerPool, files
from edgekit.workflows.embed import embed_folder, embed_shards
from tests.support import shard_material as material

pytest.importorskip("onnxruntime")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def models(tiny_reg_model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return material.artifacts(tiny_reg_model, tmp_path_factory.mktemp("models"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return material.photos(tmp_path / "photos", 10)


def embed(model: Artifact, images: Path, out: Path, **options):
    return embed_shards(model.path, images, out, WorkerPool(threads=1), **{"shard_size": 4, **options})[1]


def index_of(out: Path) -> dict:
    return json.loads((out / "index.json").read_text())


def test_rows_are_those_of_the_single_file(models, photos, tmp_path):
    embed_folder(models["fp32"].path, photos, tmp_path / "one.npz", threads=1)
    one = np.load(tmp_path / "one.npz")
    ran = embed(models["fp32"], photos, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "features")
    assert table.column_names == ["path", "label", "digest", "pooler_output"]
    assert table["path"].to_pylist() == one["paths"].tolist()
    assert table["label"].to_pylist() == one["labels"].tolist()
    np.testing.assert_array_equal(np.array(table["pooler_output"].to_pylist(), np.float32), one["features"])
    assert [done.images for done in ran.shards] == [4, 4, 2]
    index = index_of(tmp_path / "out")
    assert (index["model"]["sha256"], index["images"], index["failed"]) == (models["fp32"].sha256, 10, 0)
    assert index["preprocess"]["input_size"] == [material.SIDE] * 2


@pytest.mark.parametrize("tokens", ["patches", "all"])
def test_tokens_lie_beside_their_rows(models, photos, tmp_path, tokens):
    embed_folder(models["fp32"].path, photos, tmp_path / "one.npz", tokens=tokens, threads=1)
    embed(models["fp32"], photos, tmp_path / "out", tokens=tokens)
    parts = sorted((tmp_path / "out" / "tokens").iterdir())
    found = files.read_joined(parts, "tokens")
    np.testing.assert_array_equal(found, np.load(tmp_path / "one.npz")["features"])


def test_a_batch_is_not_cut_by_shards_that_it_divides(models, photos, tmp_path):
    embed_folder(models["fp32"].path, photos, tmp_path / "one.npz", batch=2, threads=1)
    embed(models["fp32"], photos, tmp_path / "out", batch=2)
    table = pq.read_table(tmp_path / "out" / "features")
    found = np.array(table["pooler_output"].to_pylist(), np.float32)
    np.testing.assert_array_equal(found, np.load(tmp_path / "one.npz")["features"])


def test_unreadable_images_are_named_and_not_the_end(models, photos, tmp_path):
    for name in ("000", "002", "004", "006", "008"):  # all of one shard, and one of another
        (photos / "dogs" / f"{name}.png").write_bytes(b"no picture")
    (photos / "dogs" / "008.png").write_bytes(b"")
    ran = embed(models["fp32"], photos, tmp_path / "out", shard_size=5)
    assert [(done.images, len(done.failures)) for done in ran.shards] == [(5, 0), (0, 5)]
    with (tmp_path / "out" / "failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"dogs/00{i}.png" for i in (0, 2, 4, 6, 8)]
    assert (rows[0]["reason"], rows[4]["reason"]) == ("not a PNG, JPEG or WebP image", "the file is empty")
    assert index_of(tmp_path / "out")["failed"] == 5
    table = pq.read_table(tmp_path / "out" / "features")
    assert (len(table), table["pooler_output"].type.list_size) == (5, 128)
    assert embed(models["fp32"], photos, tmp_path / "out", shard_size=5).failures == ran.failures  # kept with it


def test_nothing_readable_is_an_error(models, photos, tmp_path):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 10 images"):
        embed(models["fp32"], photos, tmp_path / "out")


def test_a_failing_disk_is_no_unreadable_image(models, photos, tmp_path, monkeypatch):
    def broken(self: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(DataError, match=r"Input/output error.*same command again"):
        embed(models["fp32"], photos, tmp_path / "out")


def test_only_missing_and_damaged_shards_are_made(models, photos, tmp_path):
    out = tmp_path / "out"
    embed(models["fp32"], photos, out, tokens="patches")
    before = material.contents(out)
    (out / "features" / "part-00000.parquet").unlink()
    whole = (out / "tokens" / "part-00001.safetensors").read_bytes()
    (out / "tokens" / "part-00001.safetensors").write_bytes(whole[:-1])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("part-00002*")}
    ran = embed(models["fp32"], photos, out, tokens="patches")
    assert (ran.kept, len(ran.shards)) == (1, 3)
    assert material.contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_shards_of_another_model_or_other_images_are_made_again(models, photos, tmp_path):
    out = tmp_path / "out"
    embed(models["fp32"], photos, out)
    assert embed(models["fp32"], photos, out).kept == 3
    ran = embed(models["fp16"], photos, out)
    assert (ran.kept, ran.stale) == (0, 3)
    changed = photos / "cats" / "001.png"  # the same name and size
    stamp = changed.stat().st_mtime_ns
    os.utime(changed, ns=(stamp, stamp + 1))
    assert (embed(models["fp16"], photos, out).kept, ran.stale) == (2, 3)
    assert embed(models["fp16"], photos, out, batch=2).kept == 0
    assert len(list((out / "features").iterdir())) == 3
    embed(models["fp16"], photos, out, shard_size=8)
    assert [path.name for path in sorted((out / "features").iterdir())] == ["part-00000.parquet", "part-00001.parquet"]
    assert len(pq.read_table(out / "features")) == 10


def test_another_file_under_the_model_s_path_is_refused(models, photos, tmp_path):
    from edgekit.shards.model import require_same

    with pytest.raises(DataError, match="another file here"):
        require_same(models["fp32"].path, models["fp16"].sha256)
    with pytest.raises(DataError, match="every worker needs"):
        require_same(tmp_path / "absent.onnx", models["fp16"].sha256)


def test_a_killed_run_goes_on_from_its_last_shard(models, tmp_path):
    photos, out = material.photos(tmp_path / "photos", 300), tmp_path / "out"
    words = ["embed", str(models["fp32"].path), str(photos), "--out", str(out), "--shard-size", "3", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-m", "edgekit", *words], stderr=subprocess.DEVNULL)
    for _ in range(3000):
        if len(list(out.glob("features/part-*"))) >= 5 or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "index.json").exists()
    ran = embed(models["fp32"], photos, out, shard_size=3)
    assert 5 <= ran.kept < len(ran.shards) == 100
    embed(models["fp32"], photos, tmp_path / "whole", shard_size=3)
    assert material.contents(out) == material.contents(tmp_path / "whole")


def test_a_folder_of_something_else_is_left_alone(models, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds other files .thesis.tex"):
        embed(models["fp32"], photos, tmp_path / "out")


def test_impossible_orders_are_usage_errors(models, photos, tmp_path, capsys):
    words = ["embed", str(models["fp32"].path)]
    for more in (
        [str(photos), "--out", str(tmp_path / "f.npz"), "--engine", "ray"],
        [str(photos), "--out", str(tmp_path / "f.npz"), "--shard-size", "4"],
        [str(photos), "--out", str(tmp_path / "f"), "--workers", "2"],
        [str(photos), "--out", str(tmp_path / "f"), "--samples", "2"],
        ["demo", "--out", str(tmp_path / "f")],
    ):
        assert main([*words, *more]) == 2, more
    assert main(["drift", str(models["fp32"].path), "--engine", "ray"]) == 2
    assert not (tmp_path / "f").exists()
    capsys.readouterr()
    with pytest.raises(RecipeError, match="--engine ray"):
        embed_shards(models["fp32"].path, photos, tmp_path / "f", WorkerPool(workers=2))


def test_the_command_says_what_it_kept_and_skipped(models, photos, tmp_path, capsys):
    (photos / "cats" / "001.png").write_bytes(b"no picture")
    words = ["embed", str(models["fp32"].path), str(photos), "--out", str(tmp_path / "out"), "--shard-size", "4"]
    assert main(words) == 0
    assert "skipped cats/001.png: not a PNG, JPEG or WebP image" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["shards"], said["kept"], len(said["failures"])) == (9, 3, 3, 1)


@pytest.mark.parametrize("package", ["ray", "pyarrow"])
def test_a_missing_package_comes_with_its_command(models, photos, tmp_path, monkeypatch, package):
    from edgekit.shards import files

    monkeypatch.setitem(sys.modules, "ray", None)
    if package == "pyarrow":
        monkeypatch.setattr(files, "find_spec", lambda name: None)
    pool = WorkerPool(engine="ray" if package == "ray" else "local")
    with pytest.raises(BackendMissing, match=r'not installed.*pip install "edgekit\[ray\]"'):
        embed_shards(models["fp32"].path, photos, tmp_path / "out", pool)


def test_a_draw_keeps_the_labels_of_the_whole_folder(photos):
    listing = Listing.scan(photos)
    assert listing.labels == ("cats",) * 5 + ("dogs",) * 5
    assert listing.take([3, 1]).paths == listing.paths[1:4:2]
    assert listing.take([3, 1]).labels == ("cats", "cats")
