"""Shards on a local cluster of two workers: the bytes of the local engine, whatever dies, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from edgekit.artifact import Artifact
from edgekit.errors import DataError, RecipeError
from edgekit.models.vit import VisionTransformer
from edgekit.shards import WorkerPool, ray_cluster
from edgekit.workflows.compare import drift_between
from edgekit.workflows.drift import Draw, drift_in_shards
from edgekit.workflows.embed import embed_shards
from tests.support import shard_material as material

pytest.importorskip("onnxruntime")
pytest.importorskip("pyarrow.parquet")
if find_spec("ray") is None:  # not imported here: it takes seconds, in every process that collects tests
    pytest.skip("Ray is not installed", allow_module_level=True)

RAY = WorkerPool(engine="ray", workers=2)
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests of this file, as edgekit starts one; runs use the one their process has."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*ENVIRONMENT.values(), *([before] if before else [])])
    try:
        with ray_cluster.cluster(None, 2, 1) as size:
            assert size == 2
            yield
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture(scope="module")
def models(tiny_reg_model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return material.artifacts(tiny_reg_model, tmp_path_factory.mktemp("models"))


def embed(model: Artifact, photos: Path, out: Path, pool: WorkerPool = RAY, **options):
    return embed_shards(model.path, photos, out, pool, **{"shard_size": 2, **options})[1]


def test_the_same_bytes_as_here_and_only_what_is_missing(models, tmp_path):
    photos = material.photos(tmp_path / "photos", 17)
    (photos / "cats" / "003.png").write_bytes(b"no picture")
    embed(models["fp32"], photos, tmp_path / "local", WorkerPool(threads=1), tokens="patches")
    seen: list[tuple[int, int]] = []
    ran = embed(models["fp32"], photos, tmp_path / "ray", tokens="patches", progress=lambda *done: seen.append(done))
    assert material.contents(tmp_path / "ray") == material.contents(tmp_path / "local")
    assert [failure.path for failure in ran.failures] == ["cats/003.png"]
    assert seen[-1] == (17, 17)
    assert 1 <= len(ran.workers) <= 2
    assert str(os.getpid()) not in {worker.partition(":")[2] for worker in ran.workers}

    for part in ("features/part-00004.parquet", "tokens/part-00006.safetensors"):
        (tmp_path / "ray" / part).unlink()
    assert embed(models["fp32"], photos, tmp_path / "ray", tokens="patches").kept == 7
    assert material.contents(tmp_path / "ray") == material.contents(tmp_path / "local")


@pytest.mark.full
def test_drift_is_that_of_the_images_in_memory(models, tmp_path):
    photos, pair = material.photos(tmp_path / "photos", 60), (models["fp32"], [models["fp16"]])
    expected = drift_between(*pair, str(photos), samples=55, seed=1)
    found, _ = drift_in_shards(*pair, str(photos), tmp_path / "out", RAY, draw=Draw(55, 1), shard_size=8)
    assert found == expected


@pytest.mark.full
def test_curated_by_workers_as_here(tmp_path, capsys, demo):
    from edgekit.cli import main

    photos = material.photos(tmp_path / "photos", 24)
    words = ["curate", str(photos), "-n", "6", "--image-size", "28", "--threads", "1", "--json", "--out"]
    assert main([*words, str(tmp_path / "here")]) == 0
    here = json.loads(capsys.readouterr().out)
    assert main([*words, str(tmp_path / "there"), "--engine", "ray", "--workers", "2", "--shard-size", "16"]) == 0
    assert json.loads(capsys.readouterr().out) == here | {"features": str(tmp_path / "there.features")}
    chosen = {path.name for path in (tmp_path / "here").rglob("*.png")}
    assert {path.name for path in (tmp_path / "there").rglob("*.png")} == chosen


@pytest.mark.full
def test_what_a_worker_refuses_comes_in_its_words(models, tmp_path, monkeypatch):
    from edgekit.shards import embedding

    photos = material.photos(tmp_path / "photos", 4)
    elsewhere = tmp_path / "model.onnx"
    elsewhere.write_bytes(models["fp32"].path.read_bytes())
    real = embedding.EmbedTask.digest

    def swap(task: embedding.EmbedTask) -> str:  # the file changes after the run was planned
        elsewhere.write_bytes(models["fp16"].path.read_bytes())
        return real(task)

    monkeypatch.setattr(embedding.EmbedTask, "digest", swap)
    with pytest.raises(DataError, match="another file here"):
        embed_shards(elsewhere, photos, tmp_path / "out", RAY)
    assert not (tmp_path / "out" / "index.json").exists()
    with pytest.raises(RecipeError, match="fits nowhere"):
        embed(models["fp32"], photos, tmp_path / "out", WorkerPool(engine="ray", threads=64))


@pytest.mark.full
def test_a_worker_that_dies_is_replaced(models, tmp_path):
    photos = material.photos(tmp_path / "photos", 200)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done >= 20 and not killed:
            workers = [
                process
                for process in psutil.process_iter(["name", "cmdline"])
                if "MapWorker" in " ".join(process.info["cmdline"] or [])
            ]
            killed.append(workers[0].pid)
            workers[0].kill()

    ran = embed(models["fp32"], photos, tmp_path / "out", progress=kill)
    assert killed
    assert ran.images == 200
    embed(models["fp32"], photos, tmp_path / "whole", WorkerPool(threads=1))
    assert material.contents(tmp_path / "out") == material.contents(tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_process_and_goes_on(models, tmp_path, how):
    photos, out = material.photos(tmp_path / "photos", 3000), tmp_path / "out"
    (tmp_path / "home").mkdir()
    (tmp_path / "t").mkdir()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "t")}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        environment.pop(name, None)
    words = [
        "embed",
        str(models["fp32"].path),
        str(photos),
        "--out",
        str(out),
        "--shard-size",
        "4",
        "--engine",
        "ray",
        "--workers",
        "2",
    ]
    process = subprocess.Popen([sys.executable, "-m", "edgekit", *words], env=environment, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if len(list(out.glob("features/part-*"))) >= 5 or process.poll() is not None:
            break
        time.sleep(0.1)
    ours = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    assert process.wait(60) == (130 if how == signal.SIGINT else -how)
    _, alive = psutil.wait_procs(ours, timeout=180)  # Ray's agents look for their killed parent now and then
    assert not alive
    left = list(Path("/tmp").glob(f"edgekit-ray-{process.pid}-*"))
    assert how == signal.SIGKILL or not left
    for folder in left:  # what the next run with Ray does
        ray_cluster.remove_left(folder.parent)
        assert not folder.exists()
    assert not list((tmp_path / "home").iterdir())
    assert not (out / "index.json").exists()
    ran = embed(models["fp32"], photos, out, WorkerPool(threads=1), shard_size=4)
    assert 5 <= ran.kept < 750
    assert not [path for path in out.rglob(".*")]
