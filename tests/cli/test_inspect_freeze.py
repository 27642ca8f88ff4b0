"""finefold inspect --freeze: what a recipe trains of a model."""

import json
import math

import pytest

from finefold.cli.main import main
from finefold.nn.catalogue import build_model

SMALL = "test_resnet"  # timm's own model for tests
TUNED = 'phase=[{trainable="head", until="probe"}, {trainable="last:2", until="3 epochs", lr=0.01, layer_decay=0.5}]'


def planned(capsys, *arguments: str) -> dict:
    assert main(["inspect", SMALL, "--freeze", "probe", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_table_per_phase(capsys):
    """Every phase has a table of all stages, with its length, its rates, and where what is computed once ends."""
    assert main(["inspect", SMALL, "--freeze", "quick", "--set", TUNED]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"freeze plan on {SMALL}\n")
    assert "phase 1: the head, fitted to convergence" in said.out
    assert "phase 2: last:2 for 3 epochs" in said.out
    assert "computed once: the whole network" in said.out
    assert "MB for 1,000 images and one view" in said.out
    lines = [line.split() for line in said.out.splitlines() if line.strip().startswith("layer")]
    assert [line[1] for line in lines if line[0] == "layer1"] == ["frozen", "frozen"]
    assert next(line for line in lines[4:] if line[0] == "layer4")[2] == "of"


def test_numbers_are_those_of_the_model(capsys):
    """Tensors and parameters of all stages are the network's, rates fall with depth, and rows are two bytes a value."""
    probe, tuned = planned(capsys, "--set", TUNED)["phases"]
    network = build_model(SMALL, num_classes=0)
    stages = {stage["stage"]: stage for stage in tuned["stages"]}
    assert sum(stage["all_parameters"] for name, stage in stages.items() if name != "head") == sum(
        value.numel() for value in network.parameters()
    )
    assert stages["layer4"]["parameters"] == sum(value.numel() for value in network.layer4.parameters())
    assert [stages[name]["lr"] for name in ("head", "layer4", "layer3", "layer2")] == [0.01, 0.005, 0.0025, None]
    assert tuned["megabytes"] == pytest.approx(2 * math.prod(tuned["shape"]) / 1000)
    assert probe["cut"] == "pooled"
    assert [stage["stage"] for stage in probe["stages"] if stage["tensors"]] == ["head"]


def test_batch_norms_are_counted(capsys):
    """Where a phase lets batch norms run, those of the stages that train do, and the others stay frozen."""
    one = 'phase=[{trainable="last:1", until="1 epoch", batch_norm="running"}]'
    (phase,) = planned(capsys, "--set", one)["phases"]
    stages = {stage["stage"]: stage for stage in phase["stages"]}
    assert stages["layer4"]["running"] == stages["layer4"]["batch_norms"] > 0
    assert stages["layer3"]["running"] == 0 < stages["layer3"]["batch_norms"]


def test_fresh_augmentation_leaves_nothing_to_compute_once(capsys):
    """With augmentation that is new in every epoch no prefix is cached, and the reason is said."""
    fresh = ["--set", TUNED, "--set", "augment.preset=light"]
    assert planned(capsys, *fresh)["phases"][1]["cut"] == "images"
    assert main(["inspect", SMALL, "--freeze", "probe", *fresh]) == 0
    said = capsys.readouterr().out
    assert "computed once: nothing, every step starts from the images" in said
    assert "nothing can be computed once: augmentation is new in every epoch" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--freeze", "quik"], "did you mean `quick`?"),
        (["--freeze", "quick", "--set", 'phase=[{trainable=["layr4.*"], until="1 epoch"}]'], "did you mean layer4"),
        (["--freeze", "quick", "--set", 'phase=[{trainable="last:9", until="1 epoch"}]'], "the model has 4 stages"),
        (["--freeze", "quick", "--forward", "--depth", "2"], "leave out --depth, --forward"),
        (["--set", "seed=1"], "add --freeze RECIPE"),
    ],
)
def test_mistakes_exit_2(arguments, told, capsys):
    """Unknown recipes and patterns are told with what was meant; flags that have no use together are refused."""
    assert main(["inspect", SMALL, *arguments]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert not said.out


def test_a_folder_or_a_file_is_no_name(tmp_path, capsys):
    """--freeze is of a model's name: a folder is told where a run's own plan is, a file what to give."""
    assert main(["inspect", str(tmp_path), "--freeze", "quick"]) == 2
    assert "`finefold inspect RUN` shows the plan that a run was trained by" in capsys.readouterr().err
    assert main(["inspect", "weights.pth", "--freeze", "quick"]) == 2
    assert "give a timm or torchvision name" in capsys.readouterr().err


def test_a_misspelt_recipe_answers_before_torch(tmp_path):
    """A recipe mistake is told before torch is loaded."""
    from offline.processes import finish, start

    code = (
        "import sys, finefold.cli.main as m; assert m.main(['inspect', 'resnet18', '--freeze', 'quik']) == 2; "
        "print('torch' in sys.modules)"
    )
    assert finish(start("-c", code, cwd=tmp_path)).stdout.strip() == "False"
