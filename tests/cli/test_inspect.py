"""finefold inspect."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from finefold.cli.main import main
from finefold.nn.catalogue import build_model

SMALL = "test_resnet"  # timm's own model for tests


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The state of a small model as .pth, as .safetensors, and wrapped for several devices."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state = build_model("torchvision:squeezenet1_1", num_classes=5).state_dict()
    torch.save(state, folder / "squeezenet1_1.pth")
    save_file(state, folder / "squeezenet1_1.safetensors")
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, folder / "squeezenet1_1_ddp.pt")
    return folder


def told(capsys, *arguments: object) -> dict:
    assert main(["inspect", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_name_shows_tree_stages_and_cuts(capsys):
    """A name prints the tree with what is folded counted, the stages, and where the model can be cut."""
    assert main(["inspect", SMALL]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].startswith(f"timm model {SMALL}: ")
    assert lines[1] == "weights: random (none on this machine; --download fetches them)"
    assert "stages: stem, layer1, layer2, layer3, layer4, head" in lines
    assert any(line.strip().startswith("layer1 (+") and line.rstrip().endswith("cut") for line in lines)
    assert "Traceback" not in said.err


def test_json_has_the_whole_tree(capsys):
    """--json holds every module, stage and cut, and sums that agree with the model."""
    seen = told(capsys, SMALL)
    model = build_model(SMALL)
    assert [row["name"] for row in seen["modules"]] == [name for name, _ in model.named_modules()]
    assert seen["parameters"] == sum(parameter.numel() for parameter in model.parameters()) == seen["trainable"]
    assert {stage["name"] for stage in seen["stages"]} >= {"stem", "head"}
    assert all({"name", "modules", "shape"} <= cut.keys() for cut in seen["cuts"])
    assert "forward" not in seen
    assert "gradients" not in seen


def test_depth_folds_the_tree(capsys):
    """--depth 0 shows the model alone, a greater depth more."""
    counts = []
    for depth in (0, 1, 3):
        assert main(["inspect", SMALL, "--depth", str(depth)]) == 0
        counts.append(len(capsys.readouterr().out.splitlines()))
    assert counts[0] < counts[1] < counts[2]


def test_forward_follows_the_data(capsys):
    """--forward lists modules in the order of their calls, with shapes, operations and time."""
    assert main(["inspect", SMALL, "--forward"]) == 0
    assert "forward, in the order in which data flows: 1 of 8 drawn faces, fp32, cpu" in capsys.readouterr().out
    flow = told(capsys, SMALL, "--forward")["forward"]
    assert flow["batch"] == 1
    rows = flow["rows"]
    assert [row["order"] for row in rows] == list(range(len(rows)))
    assert rows[0]["name"] == ""
    assert rows[0]["shape"] == [1, 1000]
    assert rows[0]["flops"] > sum(row["flops"] for row in rows if row["name"].startswith("layer")) / 4 > 0
    assert rows[0]["seconds"] > 0


def test_gradients_name_what_got_none(capsys):
    """--gradients gives every parameter's gradient on a batch of drawn faces; a sound model has no findings."""
    seen = told(capsys, SMALL, "--gradients")
    rows = seen["gradients"]["rows"]
    assert [row["name"] for row in rows] == [name for name, _ in build_model(SMALL).named_parameters()]
    assert seen["gradients"]["batch"] == 8
    assert all(row["zeros"] is not None and row["not_finite"] == 0 for row in rows)
    assert not [finding for finding in seen["findings"] if finding["severity"] == "error"]
    assert seen["images"] == "8 drawn faces, labels made up"


def test_state_lists_every_tensor(capsys, files):
    """--state of a file lists each tensor's shape, type, mean, std and hash, without building a model."""
    state = torch.load(files / "squeezenet1_1.pth", weights_only=True)
    seen = told(capsys, files / "squeezenet1_1.pth", "--state")
    assert [row["key"] for row in seen["state"]] == list(state)
    row, tensor = seen["state"][0], next(iter(state.values()))
    assert (row["shape"], row["dtype"]) == (list(tensor.shape), "float32")
    assert row["mean"] == pytest.approx(float(tensor.double().mean()))
    assert row["std"] == pytest.approx(float(tensor.double().std(correction=0)))
    other = told(capsys, files / "squeezenet1_1.safetensors", "--state")["state"]
    assert {one["key"]: one["hash"] for one in other} == {one["key"]: one["hash"] for one in seen["state"]}


def test_a_file_shows_its_tree(capsys, files):
    """A file without flags shows the tree that its keys tell of, kinds read off the tensors."""
    assert main(["inspect", str(files / "squeezenet1_1.safetensors"), "--depth", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"weights file {files / 'squeezenet1_1.safetensors'}: ")
    assert "convolution" in said
    assert "stages:" not in said


@pytest.mark.parametrize("name", ["squeezenet1_1.pth", "squeezenet1_1_ddp.pt"])
def test_a_files_model_is_told_by_its_keys(name, capsys, files):
    """--forward of a file builds the model that has its keys and shapes, a wrapper's prefix taken off."""
    seen = told(capsys, files / name, "--forward")
    assert seen["what"] == "torchvision:squeezenet1_1, told by its keys and shapes"
    assert seen["forward"]["rows"][0]["shape"] == [1, 5]


def test_a_file_of_no_known_model_says_so(capsys, tmp_path):
    """--forward of a file whose model cannot be told is an error that says what can be done; the tree still shows."""
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "mine.pth")
    assert main(["inspect", str(tmp_path / "mine.pth"), "--forward"]) == 1
    said = capsys.readouterr()
    assert "has tensors and no code" in said.err
    assert not said.out
    assert main(["inspect", str(tmp_path / "mine.pth")]) == 0
    assert "linear" in capsys.readouterr().out


def test_a_run_shows_its_backbone_and_head(capsys, job):
    """A run is its frozen backbone with the head of a fold: only the head is trainable, and gradients reach it."""
    seen = told(capsys, job.run, "--gradients", "--fold", 1)
    assert "fold 1: tf_efficientnet_lite0 with its head" in seen["what"]
    head = [row for row in seen["gradients"]["rows"] if row["trainable"]]
    assert {row["name"] for row in head} == {"head.heads.joint.weight", "head.heads.joint.bias"}
    assert all(row["norm"] > 0 for row in head)
    assert seen["trainable"] == 1280 * 18 + 18
    assert seen["images"].startswith("8 images of ")
    assert seen["gradients"]["loss"] < 20
    assert main(["inspect", str(job.run), "--fold", "3"]) == 1
    assert "has no fold 3" in capsys.readouterr().err


def test_a_run_shows_its_backbones_stages(capsys, job):
    """A run's stages and the depth of its tree are those of the network inside, with the head behind them."""
    assert main(["inspect", str(job.run)]) == 0
    said = capsys.readouterr().out
    blocks = ", ".join(f"network.blocks.{number}" for number in range(7))
    assert f"stages: stem, {blocks}, head\n" in said
    assert any(line.strip().startswith("6 (+1)") for line in said.splitlines())


def test_a_runs_classifier_gives_the_ledgers_probabilities(job):
    """The module that is looked into gives what the run predicted: bitwise the same heads on the same features."""
    import numpy as np

    from finefold.nn.classifier import Classifier
    from finefold.nn.heads import FoldHeads
    from finefold.steps.run import open_run

    run = open_run(job.run)
    model = Classifier.read(run.backbone, run.folder.fold_weights(0), run.space)
    features_BD = np.abs(np.random.default_rng(0).standard_normal((4, 1280)))
    with torch.no_grad():
        logits_BK = model.head(torch.from_numpy(features_BD).float())
    expected_BK = FoldHeads.read(run.folder.fold_weights(0)).joint_probs(features_BD, run.space)
    assert np.allclose(logits_BK.softmax(1).numpy(), expected_BK, atol=1e-5)


def test_a_runs_backbone_file_is_known(capsys, job):
    """backbone.safetensors says itself which model it is."""
    seen = told(capsys, job.run / "backbone.safetensors", "--forward")
    assert seen["what"] == "backbone tf_efficientnet_lite0"
    assert seen["forward"]["rows"][0]["shape"][:2] == [1, 1280]


def test_a_folds_weights_are_told_as_heads(capsys, job):
    """A fold's weights say that they are heads alone; to run them, the run is named that has the network too."""
    file = job.run / "fold-1" / "weights.safetensors"
    assert main(["inspect", str(file)]) == 0
    heading = capsys.readouterr().out.splitlines()[0]
    assert f"{file}, the heads of fold 1 of a run, without the network under them: " in heading
    for flag in ("--forward", "--gradients"):
        assert main(["inspect", str(file), flag]) == 1
        said = capsys.readouterr()
        assert "the heads of fold 1 of a run, without the network under them: it cannot be run" in said.err
        assert f"`finefold inspect {job.run} --fold 1 --forward`" in said.err
        assert not said.out


def test_a_file_says_what_more_could_be_seen(capsys, files):
    """Without flags, the last line says what --forward and --gradients add; with one, it is not there."""
    assert main(["inspect", str(files / "squeezenet1_1.pth")]) == 0
    more = "--forward or --gradients tells which model this is, and adds its stages and cut points"
    assert capsys.readouterr().out.splitlines()[-1] == more
    assert main(["inspect", str(files / "squeezenet1_1.pth"), "--forward"]) == 0
    assert more not in capsys.readouterr().out


def test_a_folder_of_runs_offers_them(capsys, job):
    """A folder that holds runs and is none itself names those in it."""
    assert main(["inspect", str(job.run.parent)]) == 1
    assert f"hint: runs in it: {job.run}; give one of them" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["torchvision:", "timm:"])
def test_a_prefix_alone_is_no_name(name, capsys):
    """A library without a model behind it is told as that, and offers no model by chance."""
    assert main(["inspect", name]) == 1
    said = capsys.readouterr().err
    assert f"`{name}` names no model" in said
    assert "did you mean" not in said


def test_data_gives_the_images(capsys, job):
    """--data takes images and labels from a data.toml; a model of too few classes for them is told."""
    seen = told(capsys, SMALL, "--gradients", "--data", job.data)
    assert seen["images"].startswith("8 images of ")
    assert main(["inspect", SMALL, "--gradients", "--data", "nowhere.toml"]) == 1
    assert "cannot read nowhere.toml" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "squeezenet1_1"])
def test_torchvisions_names_need_no_prefix_where_they_are_its_alone(name, capsys):
    """A name that only torchvision has means torchvision's model."""
    assert told(capsys, name)["what"] == "torchvision model squeezenet1_1"


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("resnet81", "there is no model `resnet81`", "did you mean"),
        ("gone.pth", "there is no weights file gone.pth", "give the path"),
        (".", ". is not a finished run", "finefold train --out"),
    ],
)
def test_what_is_not_there_is_told(target, message, hint, capsys, tmp_path, monkeypatch):
    """An unknown name, a missing file and a folder that is no run exit 1 with what to do."""
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", target]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert hint in said.err
    assert not said.out


def test_a_broken_file_is_told(capsys, tmp_path, job):
    """A truncated file exits 1 and names it."""
    shutil.copy(job.run / "backbone.safetensors", tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert main(["inspect", str(tmp_path / "cut.safetensors")]) == 1
    assert "cut.safetensors is broken" in capsys.readouterr().err


def test_tables_go_to_stdout_and_progress_to_stderr(capsys):
    """stdout has the tables and nothing of what it took to make them; stderr at most lines of progress."""
    assert main(["inspect", SMALL, "--forward", "--gradients", "--state"]) == 0
    said = capsys.readouterr()
    for title in (
        "modules",
        "forward, in the order",
        "gradients: 8 drawn faces, labels made up, cross-entropy ",
        "state",
    ):
        assert sum(line.startswith(title) for line in said.out.splitlines()) == 1, title
    for stage in ("starting", "building", "running"):
        assert f"{stage}: " not in said.out
    assert all(line.endswith(" s") for line in said.err.splitlines())


def test_every_parameter_and_tensor_has_a_line(capsys):
    """The tables of --gradients and --state are whole: names are not cut, and no row is left out."""
    model = build_model(SMALL)
    assert main(["inspect", SMALL, "--depth", "0", "--gradients", "--state"]) == 0
    gradients, _, state = capsys.readouterr().out.partition("gradients: ")[2].partition("\nstate\n")
    assert [name for name, _ in model.named_parameters() if f" {name} " not in gradients] == []
    assert [key for key in model.state_dict() if f" {key} " not in state] == []


def test_forward_is_as_deep_as_the_tree(capsys):
    """--depth folds the table of --forward as it folds the tree; the JSON has every module all the same."""
    assert main(["inspect", SMALL, "--forward", "--depth", "1"]) == 0
    forward = capsys.readouterr().out.partition("forward, in the order")[2]
    assert " layer1 " in forward
    assert "layer1.0" not in forward
    names = [row["name"] for row in told(capsys, SMALL, "--forward", "--depth", "1")["forward"]["rows"]]
    assert "layer1.0.conv1" in names


def test_what_cannot_be_cut_says_why(capsys):
    """A model without cut points prints the reason in their place; --json has it as `no_cuts_because`."""
    assert main(["inspect", "torchvision:googlenet", "--depth", "0"]) == 0
    reason = "its own code does something else in training than in evaluation"
    said = capsys.readouterr().out
    assert f"no cut points: {reason}\n" in said
    assert "stages:" not in said
    seen = told(capsys, "torchvision:googlenet")
    assert (seen["no_cuts_because"], seen["cuts"], seen["stages"]) == (reason, [], [])


@pytest.mark.parametrize(
    ("name", "what", "last"),
    [
        ("resnet18", "timm model resnet18", "fc"),
        ("timm:resnet18", "timm model resnet18", "fc"),
        ("torchvision:resnet18", "torchvision model resnet18", "fc"),
        ("torchvision:squeezenet1_1", "torchvision model squeezenet1_1", "classifier.3"),
    ],
)
def test_a_prefix_chooses_the_library(name, what, last, capsys):
    """timm's model is meant where both have one, unless `torchvision:` stands before it; `timm:` may stand too."""
    seen = told(capsys, name)
    assert seen["what"] == what
    assert seen["modules"][-1]["name"] == last
    pool = "avgpool" if name == "torchvision:resnet18" else "global_pool"
    if name.endswith("resnet18"):
        assert pool in {row["name"] for row in seen["modules"]}


@pytest.mark.parametrize("name", ["resnet81", "torchvision:resnet81", "tf_efficientnet_lit0"])
def test_each_name_that_is_offered_is_one_that_can_be_given(name, capsys):
    """The hint of a misspelt name offers different names, each of which is known as it stands there."""
    from finefold.nn.catalogue import find_name

    assert main(["inspect", name]) == 1
    hint = capsys.readouterr().err.partition("hint: did you mean ")[2].strip().removesuffix("?")
    offered = hint.split(" or ")
    assert len(offered) == len(set(offered)) > 1
    assert [str(find_name(one)) for one in offered] == offered


def test_weights_that_lie_on_this_machine_are_used_where_values_count(capsys):
    """--state and --gradients of the embedded model lay its file's weights onto it; the tree alone does not."""
    from finefold.nn.finding import embedded_file

    assert told(capsys, "tf_efficientnet_lite0")["weights"].startswith(
        f"random (not needed; {embedded_file()} has them"
    )
    seen = told(capsys, "tf_efficientnet_lite0", "--state")
    assert seen["weights"] == str(embedded_file())
    rows = {row["key"]: row for row in seen["state"]}
    source = torch.load(embedded_file(), weights_only=True)
    assert rows["classifier.bias"]["mean"] in {float(tensor.double().mean()) for tensor in source.values()}


def test_numbers_that_are_none_are_null(capsys, tmp_path):
    """A file with NaN, infinity, empty, whole and truth values prints valid JSON, and a table."""
    tensors = {
        "a.weight": torch.tensor([1.0, torch.nan]),
        "a.bias": torch.tensor([torch.inf]),
        "b.empty": torch.zeros(0, 3),
        "b.counter": torch.tensor(7),
        "b.mask": torch.tensor([True, False]),
        "b.half": torch.ones(2, 2, dtype=torch.bfloat16),
    }
    torch.save(tensors, tmp_path / "odd.pth")
    rows = {row["key"]: row for row in told(capsys, tmp_path / "odd.pth", "--state")["state"]}
    assert [rows[key]["mean"] for key in tensors] == [None, None, None, 7.0, 0.5, 1.0]
    assert main(["inspect", str(tmp_path / "odd.pth"), "--state"]) == 0
    state = capsys.readouterr().out.partition("\nstate\n")[2]
    assert all(f" {key} " in state for key in tensors)
    assert "scalar" in state


def test_labels_that_a_model_has_no_output_for_are_told(capsys, files, job):
    """--data whose classes the model has no outputs for exits 1 and says how many it has."""
    assert main(["inspect", str(files / "squeezenet1_1.pth"), "--gradients", "--data", str(job.data)]) == 1
    said = capsys.readouterr()
    assert "and the model has 5 outputs" in said.err
    assert "hint: give class numbers from 0 to 4" in said.err
    assert not said.out


def test_a_run_prints_what_is_frozen_and_what_learns(capsys, job):
    """Tables of a run say in one line that the backbone is frozen, and of the head's the gradient's norm."""
    assert main(["inspect", str(job.run), "--gradients", "--fold", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"run {job.run}, fold 2: tf_efficientnet_lite0 with its head: ")
    rows = said.partition("gradients: 8 images of ")[2].splitlines()
    (frozen,) = (line for line in rows if line.startswith(" network."))
    assert " ... network." in frozen
    assert frozen.split()[-1] == "frozen"
    head = next(line for line in rows if "head.heads.joint.weight" in line)
    assert float(head.split()[2]) > 0


@pytest.mark.parametrize(("option", "value"), [("--depth", "-1"), ("--fold", "-1"), ("--depth", "deep")])
def test_numbers_that_are_none_are_a_mistake(option, value, capsys):
    """A negative depth or fold, or a word for a number, exits 2 and prints nothing on stdout."""
    assert main(["inspect", SMALL, option, value]) == 2
    said = capsys.readouterr()
    assert f"Invalid value for '{option}'" in said.err
    assert not said.out


def test_without_a_target_it_is_a_mistake(capsys):
    """`finefold inspect` alone exits 2 and says what is missing."""
    assert main(["inspect"]) == 2
    assert "Missing argument 'NAME|RUN|FILE'" in capsys.readouterr().err


def test_what_has_no_use_is_not_ignored(capsys, job):
    """--data where nothing is run, and --fold where there is no run, exit 2 and say so."""
    assert main(["inspect", SMALL, "--data", str(job.data)]) == 2
    assert "add --forward or --gradients" in capsys.readouterr().err
    assert main(["inspect", SMALL, "--fold", "1"]) == 2
    assert "is no run" in capsys.readouterr().err


def test_a_file_of_several_states_says_which_is_read(capsys, tmp_path):
    """A checkpoint with averaged weights beside the plain ones: the plain are read, one line on stderr says so."""
    states = {"state_dict": {"a.weight": torch.ones(2, 2)}, "state_dict_ema": {"a.weight": torch.zeros(3, 3)}}
    torch.save(states, tmp_path / "both.pth")
    assert main(["inspect", str(tmp_path / "both.pth"), "--state"]) == 0
    said = capsys.readouterr()
    assert "2x2" in said.out
    assert said.err.count("`state_dict` is read, and not `state_dict_ema`") == 1
