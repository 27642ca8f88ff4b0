"""finefold weights list, finefold weights match."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from finefold.cli.main import main
from finefold.nn.catalogue import build_model
from finefold.nn.weights import read_header

TARGET = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ResNet-18 in DataParallel's wrapping with 7 classes, and a SqueezeNet in safetensors."""
    made = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state = build_model("torchvision:resnet18", num_classes=7).state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, made / "resnet18.pth")
    squeeze = build_model("torchvision:squeezenet1_1").state_dict()
    save_file(squeeze, made / "squeeze.safetensors")
    return made


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Caches of the hub's client and of torch, with one file each."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    snapshot = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(build_model("test_resnet").state_dict(), snapshot / "model.safetensors")
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({}, tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    return tmp_path


def matched(capsys, *arguments: object, code: int = 0) -> dict:
    assert main(["weights", "match", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("caches")
def test_list_shows_what_is_on_this_machine(folder, capsys):
    """Embedded weights, both caches and the folders given, each with its size and hash."""
    assert main(["weights", "list", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(file["where"], file["model"]) for file in found] == [
        ("embedded", "tf_efficientnet_lite0"),
        ("timm cache", "test_resnet.r160_in1k"),
        ("torch cache", "resnet18"),
        ("folder", ""),
        ("folder", ""),
    ]
    assert all(len(file["hash"]) == 16 and file["bytes"] > 0 for file in found)
    assert main(["weights", "list", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "squeeze.safetensors" in said
    assert "weights on this machine" in said


@pytest.mark.usefixtures("caches")
def test_a_folder_that_is_not_there_is_told(capsys):
    """A missing folder exits 1."""
    assert main(["weights", "list", "nowhere"]) == 1
    assert "there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.usefixtures("caches")
def test_weights_in_a_cache_are_used_by_name(capsys):
    """A name whose weights were downloaded before is inspected and matched with them, offline."""
    assert main(["inspect", "test_resnet", "--state"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    told = matched(capsys, "test_resnet", "test_resnet")
    assert not told["source_is_random"]
    assert not told["problems"]


def test_a_match_is_shown_with_its_reasons_and_its_proof(capsys):
    """Two names are matched with random weights: mapping, settings that differ, and the proof, on stdout."""
    assert main(["weights", "match", "torchvision:mobilenet_v3_small", "mobilenetv3_small_100"]) == 0
    said = capsys.readouterr()
    assert "torchvision:mobilenet_v3_small (random weights) -> mobilenetv3_small_100" in said.out
    assert "the same place in the flow of data" in said.out
    assert "eps is 0.001 in the source, 1e-05 in the model (34 modules: bn1" in said.out
    assert "proof: both models run on the same input; outputs [2, 1000] differ by" in said.out
    assert said.out.rstrip().endswith(": equal")
    assert "error" not in said.err


def test_all_shows_every_tensor(capsys):
    """--all prints a line for each tensor, without it one for neighbours in a block."""
    counts = []
    for more in ([], ["--all"]):
        assert main(["weights", "match", "torchvision:squeezenet1_1", "torchvision:squeezenet1_1", *more]) == 0
        counts.append(sum("same name" in line for line in capsys.readouterr().out.splitlines()))
    assert counts[1] == len(build_model("torchvision:squeezenet1_1").state_dict())
    assert 0 < counts[0] < counts[1]


def test_a_file_is_matched_proved_and_written(folder, tmp_path, capsys):
    """A wrapped file with a head of another size: told by its keys, proved on features, written without the head."""
    out = tmp_path / "new.safetensors"
    told = matched(capsys, folder / "resnet18.pth", "resnet18", "--out", out)
    assert told["source_model"] == "torchvision:resnet18"
    assert told["proof"]["holds"]
    assert told["proof"]["compared"] == "features"
    assert set(told["missing"]) == {"fc.weight", "fc.bias"}
    assert told["missing"]["fc.weight"] == "a head of another size: fc has 7, this one 1000"
    assert told["left_out"]["module.fc.weight"] == "a head of another size"
    assert all({"key", "sources", "how", "confidence", "reason", "rivals"} <= one.keys() for one in told["tensors"])
    written = load_file(out)
    model = build_model("resnet18", num_classes=0)
    model.load_state_dict(written, strict=True)
    assert torch.equal(
        model.conv1.weight, torch.load(folder / "resnet18.pth", weights_only=True)["module.conv1.weight"]
    )
    header = read_header(out)
    assert (header["kind"], header["name"], header["left_as_they_were"]) == (
        "transplant",
        "resnet18",
        ["fc.weight", "fc.bias"],
    )


def test_classes_and_channels_are_the_targets(folder, capsys):
    """--classes gives the target the source's head size, --channels 1 a stem that sums the source's three."""
    told = matched(capsys, folder / "resnet18.pth", "resnet18", "--classes", 7, "--channels", 1)
    assert not told["missing"]
    assert next(one for one in told["tensors"] if one["key"] == "conv1.weight")["how"] == "channels"
    assert told["proof"]["holds"]
    assert told["proof"]["compared"] == "outputs"


def test_what_is_there_is_not_overwritten(folder, tmp_path, capsys):
    """--out over a file that is there, or to another kind of file, exits 2 and changes nothing."""
    out = tmp_path / "there.safetensors"
    out.write_text("mine")
    assert main(["weights", "match", str(folder / "resnet18.pth"), "resnet18", "--out", str(out)]) == 2
    assert "there.safetensors exists" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["weights", "match", str(folder / "resnet18.pth"), "resnet18", "--out", str(tmp_path / "a.pth")]) == 2
    assert "is no .safetensors file" in capsys.readouterr().err


def test_random_values_are_not_written(tmp_path, capsys):
    """A name without weights on this machine has nothing to write: exit 1, and how to fetch them."""
    out = tmp_path / "new.safetensors"
    arguments = ["weights", "match", "torchvision:squeezenet1_1", "torchvision:squeezenet1_1", "--out", str(out)]
    assert main(arguments) == 1
    assert "add --download to fetch them" in capsys.readouterr().err
    assert not out.exists()


def test_another_architecture_exits_1(folder, tmp_path, capsys):
    """Weights of another model are refused, saying how many tensors found no place; nothing is written."""
    out = tmp_path / "new.safetensors"
    assert main(["weights", "match", str(folder / "squeeze.safetensors"), "test_resnet", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "error: the weights do not fit: " in said.err
    assert "found no source" in said.err
    assert not out.exists()
    told = matched(capsys, folder / "squeeze.safetensors", "test_resnet", code=1)
    assert told["problems"]


def test_hints_that_are_none_exit_2(folder, tmp_path, capsys):
    """A hint file that is missing or holds no hints exits 2; one that names unknown tensors exits 1."""
    source = str(folder / "resnet18.pth")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "odd.json").write_text('{"nothing.weight": "module.conv1.weight"}')
    for file, code, message in (
        ("gone.json", 2, "cannot read the hints"),
        ("list.json", 2, "holds no hints"),
        ("odd.json", 1, "a hint names `nothing.weight`, which the model does not have"),
    ):
        assert main(["weights", "match", source, "resnet18", "--hints", str(tmp_path / file)]) == code
        assert message in capsys.readouterr().err


def test_twins_are_ambiguous_until_somebody_decides(tmp_path, capsys):
    """Tensors that could change places are shown with their rivals, and refused until accepted or hinted."""
    torch.manual_seed(0)
    state = build_model("test_vit").state_dict()
    names = {"norm1": "zzz", "norm2": "aaa"}  # sorted, and with nothing in common with the model's
    other = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(f".{old}.", f".{new}.")
        other[key] = value
    file = tmp_path / "vit.safetensors"
    save_file(other, file)
    told = matched(capsys, file, "test_vit", code=1)
    assert any(key.endswith("norm1.weight") for key in told["ambiguous"])
    assert all("norm" in key for key in told["ambiguous"])
    assert "could as well come from elsewhere" in told["problems"][0]
    assert main(["weights", "match", str(file), "test_vit"]) == 1
    said = capsys.readouterr()
    assert "(or " in said.out
    assert "--accept" in said.err
    assert matched(capsys, file, "test_vit", "--accept")["problems"] == []
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    hints = {f"blocks.{n}.{old}.weight": f"blocks.{n}.{new}.weight" for n in blocks for old, new in names.items()}
    (tmp_path / "hints.json").write_text(json.dumps(hints))
    out = tmp_path / "new.safetensors"
    told = matched(capsys, file, "test_vit", "--hints", tmp_path / "hints.json", "--out", out)
    assert told["ambiguous"] == []
    written = load_file(out)
    assert all(torch.equal(written[key], value) for key, value in state.items())
