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


def test_equal_names_are_one_line(folder, capsys):
    """Where every tensor was found by its own name, one line says so in place of a table, with the prefix taken off."""
    assert main(["weights", "match", str(folder / "resnet18.pth"), "torchvision:resnet18", "--classes", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = "122 of 122 tensors of torchvision:resnet18 matched, each from the same name (--all shows each)"
    assert lines[1] == told
    assert lines[2].startswith("proof: ")


def test_renamed_layers_are_shown_by_useful_names(tmp_path, capsys):
    """Of layers that lie in one container, the column `from` names the layers, not the container of them all."""
    state = build_model("torchvision:resnet18").state_dict()
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    names = {key: f"net.b{layers.index(key.rpartition('.')[0])}.{key.rpartition('.')[2]}" for key in state}
    torch.save({names[key]: value for key, value in state.items()}, tmp_path / "renamed.pth")
    assert main(["weights", "match", str(tmp_path / "renamed.pth"), "torchvision:resnet18"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert " net.b1 " in rows["bn1"]
    assert " net.b14 ... net.b15 " in rows["layer2.0.downsample"]
    assert not any(f" net {' ' * 4}" in line for line in rows.values())


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


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A whole ResNet-18 of torchvision, plain."""
    made = tmp_path_factory.mktemp("resnet") / "plain.pth"
    torch.manual_seed(1)
    torch.save(build_model("torchvision:resnet18").state_dict(), made)
    return made


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """test_vit with its two norms under names that say nothing, sorted the other way round."""
    made = tmp_path_factory.mktemp("twins") / "vit.safetensors"
    torch.manual_seed(2)
    state = {key: torch.randn(value.shape) for key, value in build_model("test_vit").state_dict().items()}
    save_file({key.replace("norm1", "zzz").replace("norm2", "aaa"): value for key, value in state.items()}, made)
    return made


SCHEMA = {"source", "target", "source_model", "source_is_random", "out", "matched", "tensors", "missing", "left_out"}
SCHEMA |= {"ambiguous", "settings", "proof", "unproved_because", "source_is_renamed", "problems"}


def test_json_has_one_schema(resnet, twins, capsys):
    """Proved, refused, ambiguous, with settings or random: --json has the same keys, and nothing else is on stdout."""
    told = [
        matched(capsys, resnet, "resnet18"),
        matched(capsys, twins, "test_vit", code=1),
        matched(capsys, "torchvision:mobilenet_v3_small", TARGET, code=1),
        matched(capsys, "torchvision:mobilenet_v3_small", "mobilenetv3_small_100"),
    ]
    assert all(one.keys() == SCHEMA for one in told)
    assert [one["source_is_random"] for one in told] == [False, False, True, True]
    assert [bool(one["problems"]) for one in told] == [False, True, True, False]
    assert told[0]["proof"].keys() >= {"difference", "difference_as_is", "compared", "shape", "holds"}
    assert told[0]["proof"]["shape"] == [2, 1000]
    assert told[0]["matched"] == len(told[0]["tensors"]) == len(build_model("resnet18").state_dict())
    assert told[1]["proof"] is None
    assert told[1]["unproved_because"]
    assert all(one.keys() == {"module", "name", "source", "target", "after"} for one in told[3]["settings"])
    assert told[3]["settings"]


def test_a_refusal_says_why_on_stderr_only(folder, capsys):
    """What is wrong goes to stderr with a hint, the mapping as far as it goes to stdout, and the exit code is 1."""
    assert main(["weights", "match", str(folder / "squeeze.safetensors"), "test_resnet"]) == 1
    said = capsys.readouterr()
    assert "error: the weights do not fit: " in said.err
    assert "hint: " in said.err
    assert "error" not in said.out
    assert "left out of the source: " in said.out
    assert "Traceback" not in said.err


def test_a_whole_model_is_written_and_loads_strictly(resnet, tmp_path, capsys):
    """--out holds every tensor under the target's names, and a header that says whence; a folder is made for it."""
    out = tmp_path / "deep" / "new.safetensors"
    assert main(["weights", "match", str(resnet), "resnet18", "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    build_model("resnet18").load_state_dict(load_file(out), strict=True)
    header = read_header(out)
    assert (header["kind"], header["name"], header["left_as_they_were"]) == ("transplant", "resnet18", [])
    assert str(resnet) in header["source"]
    assert len(header["weights_hash"]) == 16
    assert [file.name for file in out.parent.iterdir()] == ["new.safetensors"]
    again = matched(capsys, out, "torchvision:resnet18")
    assert again["proof"]["holds"]


def test_settings_are_written_with_the_weights(tmp_path, capsys):
    """What the model needs beside its tensors is in the header, and read back it makes the outputs equal."""
    from finefold.nn.settings import Setting, apply_settings

    torch.manual_seed(0)
    source = build_model("torchvision:mobilenet_v3_small")
    torch.save(source.state_dict(), tmp_path / "small.pth")
    out = tmp_path / "new.safetensors"
    told = matched(capsys, tmp_path / "small.pth", "mobilenetv3_small_100", "--out", out)
    header = read_header(out)
    assert len(header["settings"]) == len(told["settings"]) == 34
    target = build_model("mobilenetv3_small_100")
    target.load_state_dict(load_file(out), strict=True)
    apply_settings(target, [Setting.from_dict(values) for values in header["settings"]])
    images_BCHW = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected_BK = source(images_BCHW)
        assert (target(images_BCHW) - expected_BK).abs().max() <= 1e-4 * expected_BK.abs().max()


def test_the_sources_model_can_be_said(resnet, folder, capsys):
    """--source-model names what SRC is of, wrapped or plain, with its own number of classes; proved as that."""
    told = matched(capsys, resnet, "resnet18", "--source-model", "torchvision:resnet18")
    assert (told["source_model"], told["proof"]["holds"]) == ("torchvision:resnet18", True)
    told = matched(capsys, folder / "resnet18.pth", "resnet18", "--source-model", "torchvision:resnet18")
    assert (told["source_model"], told["proof"]["holds"]) == ("torchvision:resnet18", True)


@pytest.mark.parametrize("num_classes", [1000, 7])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_source_model_is_used_for_a_file_of_other_names(suffix, num_classes, tmp_path, capsys):
    """Every key renamed, --source-model said: what is which of it is found by structure first, then all is proved."""
    state = build_model("torchvision:resnet18", num_classes=num_classes).state_dict()
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    names = {key: f"net.block{layers.index(key.rpartition('.')[0]):03}.{key.rpartition('.')[2]}" for key in state}
    file = tmp_path / f"renamed{suffix}"
    renamed = {names[key]: value for key, value in state.items()}
    save_file(renamed, file) if suffix == ".safetensors" else torch.save(renamed, file)
    told = matched(capsys, file, "resnet18", "--source-model", "torchvision:resnet18")
    assert (told["proof"]["holds"], told["source_is_renamed"], told["problems"]) == (True, True, [])
    assert all(one["sources"] == [names[one["key"]]] for one in told["tensors"])
    assert told["matched"] == (122 if num_classes == 1000 else 120)
    assert main(["weights", "match", str(file), "resnet18", "--source-model", "torchvision:resnet34"]) == 1
    said = capsys.readouterr().err
    assert "not of the model that was said: 80 of its 218 tensors are not among them" in said
    assert "`layer1.2.conv1.weight`" in said


@pytest.mark.parametrize("wrong", ["torchvision:resnet34", "torchvision:vgg11", "test_vit"])
def test_a_source_model_that_is_not_the_files_is_refused(wrong, resnet, capsys):
    """--source-model of another architecture exits 1 with a reason, and is not taken for a proof."""
    assert main(["weights", "match", str(resnet), "resnet18", "--source-model", wrong]) == 1
    said = capsys.readouterr()
    assert "error: " in said.err
    assert ": equal" not in said.out


def test_a_runs_heads_are_no_source(job, capsys):
    """A fold's weights, which are heads alone, are refused as that."""
    file = job.run / "fold-0" / "weights.safetensors"
    assert main(["weights", "match", str(file), "resnet18"]) == 1
    assert f"{file} is the heads of fold 0 of a run, without the network under them" in capsys.readouterr().err


def test_unknown_names_are_told(resnet, capsys):
    """A target, source or source model that no library has exits 1 and is named; so does a missing file."""
    for arguments, message in (
        ((resnet, "resnet81"), "there is no model `resnet81`"),
        ((resnet, "resnet18", "--source-model", "resnet81"), "there is no model `resnet81`"),
        (("torchvision:resnet81", "resnet18"), "resnet81"),
        (("gone.pth", "resnet18"), "there is no weights file gone.pth"),
    ):
        assert main(["weights", "match", *map(str, arguments)]) == 1
        assert message in capsys.readouterr().err


def test_a_target_that_cannot_be_built_so_is_told(resnet, capsys):
    """torchvision builds no model for one channel: exit 1 or 2, and not a 3-channel model in silence."""
    assert main(["weights", "match", str(resnet), "torchvision:resnet18", "--channels", "1"]) in (1, 2)
    assert "channel" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--channels", "0"], ["--classes", "-1"], ["--classes", "many"], ["--nothing"]])
def test_impossible_options_exit_2(arguments, resnet, capsys):
    """Numbers that cannot be, and options that are none, exit 2."""
    assert main(["weights", "match", str(resnet), "resnet18", *arguments]) == 2
    assert "error: " in capsys.readouterr().err


def test_accepted_guesses_are_written_and_still_shown(twins, tmp_path, capsys):
    """--accept writes the best guess and exits 0; what was in doubt stays marked, and stderr warns of it."""
    out = tmp_path / "guess.safetensors"
    assert main(["weights", "match", str(twins), "test_vit", "--accept", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "tensors are ambiguous" in said.err
    assert "(or " in said.out
    build_model("test_vit").load_state_dict(load_file(out), strict=True)


@pytest.mark.parametrize("text", ['{"a": 1}', '"text"', "{broken", '{"a": ["b"]}'])
def test_a_hint_file_of_another_kind_exits_2(text, resnet, tmp_path, capsys):
    """Hints that are no JSON of names exit 2 before anything is built, and the file is named."""
    (tmp_path / "hints.json").write_text(text)
    assert main(["weights", "match", str(resnet), "resnet18", "--hints", str(tmp_path / "hints.json")]) == 2
    assert "hints.json" in capsys.readouterr().err


def test_all_names_rivals_and_reasons_of_each(twins, capsys):
    """--all has a line for each tensor of the model, with its source, confidence, and rivals where there are any."""
    assert main(["weights", "match", str(twins), "test_vit", "--all"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for key in build_model("test_vit").state_dict():
        assert sum(line.split()[:1] == [key] for line in lines) == 1, key
    assert sum("(or blocks.0.aaa.weight)" in line or "(or blocks.0.zzz.weight)" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["text.pth", "code.pth", "cut.safetensors", "cut.pth"])
def test_broken_and_hostile_files_exit_1(name, resnet, tmp_path, capsys):
    """No weights, a pickle with code, half a file: exit 1, the file named, nothing run, no traceback."""
    path = tmp_path / name
    if name == "text.pth":
        path.write_text("<html>404</html>")
    elif name == "code.pth":
        torch.save(build_model("test_resnet"), path)
    elif name == "cut.pth":
        path.write_bytes(resnet.read_bytes()[:1_000_000])
    else:
        save_file({"w": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    for command in (["weights", "match", str(path), "resnet18"], ["inspect", str(path)]):
        assert main(command) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: ") or "\nerror: " in said.err
        assert name in said.err
        assert "Traceback" not in said.err
        assert "\x1b" not in said.err


def test_list_says_the_same_as_json(caches, folder, capsys):
    """Every file's path, hash and place is in the table too, and a broken file is no reason to fail."""
    (caches / "mine").mkdir()
    (caches / "mine" / "broken.pth").write_text("no weights")
    assert main(["weights", "list", str(folder), str(caches / "mine"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["weights", "list", str(folder), str(caches / "mine")]) == 0
    said = capsys.readouterr()
    assert len(found) == 6
    together = "".join(said.out.split())  # long paths are folded
    for file in found:
        assert file.keys() == {"path", "where", "model", "bytes", "hash"}
        assert file["path"] in together
        assert file["hash"] in said.out
    assert "error" not in said.err


@pytest.mark.usefixtures("caches")
def test_a_cached_name_is_written_from_its_cache(tmp_path, capsys):
    """A name whose weights lie in a cache is a source like a file: its own values are written, without a network."""
    out = tmp_path / "new.safetensors"
    told = matched(capsys, "test_resnet", "test_resnet", "--out", out)
    assert "model.safetensors" in told["source"]
    assert told["proof"]["holds"]
    (cached,) = tmp_path.glob("hub/*/snapshots/*/model.safetensors")
    expected, written = load_file(cached), load_file(out)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], value) for key, value in expected.items())


def test_a_download_that_fails_is_told(tmp_path, monkeypatch, capsys):
    """--download without a network exits 1, says what to do instead, and writes nothing."""
    import timm

    def unreachable(*_arguments: object, pretrained: bool = False, **_options: object) -> object:
        if pretrained:
            raise OSError("cannot reach the hub")
        return build(*_arguments, **_options)

    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    out = tmp_path / "new.safetensors"
    arguments = ["test_convnext2", "test_convnext2", "--download", "--out", str(out)]
    assert main(["weights", "match", *arguments]) == 1
    assert "could not be downloaded: cannot reach the hub" in capsys.readouterr().err
    assert not out.exists()
