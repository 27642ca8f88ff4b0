"""Weights on this machine: found where they may be expected, without asking any network."""

import hashlib
from pathlib import Path

import pytest
import torch

from finefold.errors import WeightsError
from finefold.nn import finding
from finefold.nn.finding import embedded_file, list_weights, local_weights, told_as_heads
from finefold.nn.weights import write_weights


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches of the hub's client and of torch."""
    for variable in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def hub_file(cache: Path, repository: str, snapshot: str, name: str = "model.safetensors") -> Path:
    """A file as the hub's client lays it: a link to a blob."""
    blob = put(cache / f"models--{repository}" / "blobs" / f"{snapshot}-{name}", snapshot.encode())
    link = cache / f"models--{repository}" / "snapshots" / snapshot / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)
    return link


def test_each_place_is_looked_through(caches):
    """Embedded, hub cache, torch cache, folders and what is below them: path, place, model, size and hash."""
    hub = hub_file(caches / "hub", "timm--resnet18.a1_in1k", "abc")
    hub_file(caches / "hub", "timm--resnet18.a1_in1k", "abc", "config.json")
    torch_file = put(caches / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth")
    plain = put(caches / "torch" / "hub" / "checkpoints" / "mine.pth")
    deep = put(caches / "mine" / "a" / "b" / "w.pt", b"12345")
    put(caches / "mine" / "notes.txt")
    found = {file.path: file for file in list_weights([caches / "mine"])}
    assert found.keys() == {embedded_file(), hub, torch_file, plain, deep}
    places = {path: (file.where, file.model) for path, file in found.items()}
    assert places[embedded_file()] == ("embedded", "tf_efficientnet_lite0")
    assert places[hub] == ("timm cache", "resnet18.a1_in1k")
    assert places[torch_file] == ("torch cache", "resnet50")
    assert places[plain] == ("torch cache", "mine")
    assert places[deep] == ("folder", "")
    assert found[deep].bytes == 5
    assert found[deep].hash == hashlib.sha256(b"12345").hexdigest()[:16]


def test_the_order_is_the_same_every_time(caches):
    """Files come place by place, each in the order of its names."""
    for name in ("c.pth", "a.pth", "b.safetensors"):
        put(caches / "mine" / name)
    assert [file.path.name for file in list_weights([caches / "mine"])][1:] == ["a.pth", "b.safetensors", "c.pth"]


def test_empty_caches_and_links_to_nothing_are_no_error(caches):
    """Where nothing was downloaded, only the embedded weights are there; a broken link is no file."""
    (caches / "mine").mkdir()
    (caches / "mine" / "gone.pth").symlink_to(caches / "nowhere.pth")
    assert [file.where for file in list_weights([caches / "mine"])] == ["embedded"]


def test_without_the_embedded_package_the_rest_is_listed(caches, monkeypatch):
    """The package that embeds weights may be missing: then they are not listed, and nothing fails."""
    monkeypatch.setattr(finding, "EMBEDDED_PACKAGE", "no_such_package")
    put(caches / "mine" / "w.pth")
    assert [file.path.name for file in list_weights([caches / "mine"])] == ["w.pth"]


def test_a_missing_folder_is_told(caches):
    """A folder that is not there, or is a file, is an error that names it."""
    put(caches / "file.pth")
    for name in ("gone", "file.pth"):
        with pytest.raises(WeightsError, match=f"there is no folder .*{name}"):
            list_weights([caches / name])


def test_progress_counts_every_byte(caches):
    """What is told while hashing adds up to the sizes of all files."""
    put(caches / "mine" / "a.pth", bytes(1000))
    put(caches / "mine" / "b.pth", bytes(234))
    told: list[int] = []
    found = list_weights([caches / "mine"], advance=told.append)
    assert sum(told) == sum(file.bytes for file in found)
    assert told[-2:] == [1000, 234]


def test_local_weights_are_those_the_libraries_would_load(caches):
    """Pretrained weights downloaded before are found: timm's in the hub's cache, torchvision's in torch's."""
    from torchvision.models import ResNet18_Weights

    assert local_weights("resnet18") is None
    assert local_weights("torchvision:resnet18") is None
    hub = hub_file(caches / "hub", "timm--resnet18.a1_in1k", "abc")
    assert local_weights("resnet18") == hub
    assert local_weights("timm:resnet18") == hub
    assert local_weights("resnet18.tv_in1k") is None
    name = ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    file = put(caches / "torch" / "hub" / "checkpoints" / name)
    assert local_weights("torchvision:resnet18") == file
    assert local_weights("tf_efficientnet_lite0") == embedded_file()
    assert local_weights("test_vit") is None


@pytest.mark.usefixtures("caches")
def test_an_unknown_name_has_no_weights():
    """A name that is none is an error that offers near ones."""
    with pytest.raises(WeightsError, match="there is no model `resnet81`") as caught:
        local_weights("resnet81")
    assert "did you mean" in str(caught.value.hint)


def test_the_hubs_cache_is_where_its_client_looks(tmp_path, monkeypatch):
    """HF_HUB_CACHE goes before HF_HOME, and that before the cache's usual place, as in the client itself."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    steps = [
        ("HF_HUB_CACHE", tmp_path / "one", tmp_path / "one"),
        ("HF_HOME", tmp_path / "two", tmp_path / "two" / "hub"),
        ("XDG_CACHE_HOME", tmp_path / "three", tmp_path / "three" / "huggingface" / "hub"),
    ]
    for variable, value, cache in steps:
        hub_file(cache, "timm--test_vit.r160_in1k", "abc")
        monkeypatch.setenv(variable, str(value))
    for variable, _, cache in steps:
        assert local_weights("test_vit").is_relative_to(cache)
        monkeypatch.delenv(variable)


def test_nothing_is_loaded_to_be_listed(caches):
    """Listing reads bytes only: a file that is no weights is listed like any other."""
    put(caches / "mine" / "broken.pth", b"no weights")
    torch.save({"w": torch.ones(2)}, caches / "mine" / "w.pth")
    assert {file.path.name for file in list_weights([caches / "mine"])} >= {"broken.pth", "w.pth"}


def test_a_folds_weights_say_what_they_are(tmp_path):
    """What a run's folds wrote is told by its header; other files, finefold's own among them, are not taken for it."""
    tensors = {"joint.weight": torch.ones(3, 2)}
    for kind in ("heads", "tuned", "backbone"):
        write_weights(tmp_path / f"{kind}.safetensors", tensors, {"kind": kind, "fold": 2})
    torch.save(tensors, tmp_path / "plain.pth")
    assert told_as_heads(tmp_path / "heads.safetensors").startswith("the heads of fold 2 of a run")
    assert told_as_heads(tmp_path / "tuned.safetensors").startswith("only what was trained of fold 2")
    assert [told_as_heads(tmp_path / name) for name in ("backbone.safetensors", "plain.pth", "gone.pth")] == [""] * 3
