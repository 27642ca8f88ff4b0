"""A network, a loss, an augmentation of one's own: folds, ledger, resume and prediction as with built-in ones."""

import resource
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import finefold as ff
from finefold.errors import FinefoldError, TrainingError, UsageError, WeightsError
from finefold.nn.devices import has_compiler

RECIPE = """
[split]
folds = 2
[model]
engine = "torch"
[[phase]]
trainable = "head"
until = "probe"
[[phase]]
trainable = "{trainable}"
until = "2 epochs"
lr = 1e-2
[augment]
views = ["plain"]
[train]
batch_size = 8
save_seconds = 0.0
"""
SIZE_PX = 32


class Mine(nn.Module):
    """Three small stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.body(self.stem(images_BCHW)).mean((2, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory, shapes):
    """The small pictures, described."""
    home = tmp_path_factory.mktemp("data")
    ff.init(shapes, out=home / "data.toml")
    return ff.read_data(home / "data.toml")


@pytest.fixture
def network() -> Mine:
    torch.manual_seed(0)
    return Mine()


def train(data, home, own: ff.Own, trainable: str = "last:1", name: str = "run") -> ff.Run:
    home.mkdir(exist_ok=True)
    (home / "recipe.toml").write_text(RECIPE.format(trainable=trainable), encoding="utf-8")
    return ff.train(data, recipe=str(home / "recipe.toml"), out=home / name, own=own)


@pytest.mark.parametrize("trainable", ["last:1", "all"])
def test_a_network_of_ones_own_is_trained_and_predicts(data, network, shapes, tmp_path, trainable):
    """Any module is a backbone: its folds are trained, its run predicts, and it is itself left as it was."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    own = ff.Own(network=network, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX))
    run = train(data, tmp_path, own, trainable)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert run.manifest["backbone"]["name"].startswith("own:Mine-")
    assert run.manifest["own"]["network"].startswith("Mine ")
    again = ff.open_run(tmp_path / "run", network=network).predict(shapes)
    assert again.predictions.probs_NK.shape == (48, 2)
    assert np.array_equal(run.predict(shapes).predictions.probs_NK, again.predictions.probs_NK)
    with pytest.raises(WeightsError, match="is a module of your own") as told:
        ff.open_run(tmp_path / "run").predict(shapes)
    assert "open_run(RUN, network=" in str(told.value.hint)


def test_a_loss_of_ones_own_is_what_is_minimised(data, network, tmp_path):
    """A loss that prefers class 0 whatever the target: every image is predicted class 0."""

    def prefers_the_first(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        assert torch.allclose(targets_BC.sum(1), torch.ones(len(targets_BC)))
        return F.cross_entropy(logits_BC, torch.zeros(len(logits_BC), dtype=torch.long)) * 100

    own = ff.Own(network=network, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX), loss=prefers_the_first)
    run = train(data, tmp_path, own, "all")
    assert (run.ledger().predictions.codes_N == 0).all()


def test_an_augmentation_of_ones_own_is_applied_to_training_alone(data, network, tmp_path):
    """It sees training images, each epoch anew, and never when samples are judged."""
    seen: list[tuple[int, ...]] = []

    def augment(image_HWC):
        seen.append(image_HWC.shape)
        return np.zeros_like(image_HWC)

    own = ff.Own(network=network, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX), augment=augment)
    run = train(data, tmp_path, own)
    assert len(seen) == 48 * 2  # each of two folds trains on half of the 48, twice over
    assert run.manifest["plan"]["phases"][1]["cut"] == "images"
    probs_NK = run.ledger().predictions.probs_NK
    assert len(np.unique(probs_NK[:, 0])) > 40  # judged images are not black


def test_a_run_with_own_parts_goes_on_after_an_error(data, network, tmp_path):
    """What stops in the middle goes on with the same command, and ends bitwise as if it had not stopped."""
    calls = 0

    def stumbling(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = F.cross_entropy(logits_BC, targets_BC)
        return loss * float("nan") if calls == 5 else loss

    preprocessing = ff.Preprocessing(SIZE_PX, SIZE_PX)
    with pytest.raises(TrainingError):
        train(data, tmp_path, ff.Own(network, preprocessing, stumbling))
    broken = train(data, tmp_path, ff.Own(network, preprocessing, stumbling))
    calls = 100
    whole = train(data, tmp_path, ff.Own(network, preprocessing, stumbling), name="whole")
    assert np.array_equal(broken.ledger().predictions.probs_NK, whole.ledger().predictions.probs_NK)


def test_a_network_needs_its_preprocessing(network):
    """A network without preprocessing, and preprocessing without a network, are told."""
    with pytest.raises(UsageError, match="needs its preprocessing"):
        ff.Own(network=network)
    with pytest.raises(UsageError, match="needs its preprocessing"):
        ff.Own(preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX))


class FillsTheDisk:
    """Cross-entropy that, at its third call, leaves no room for what comes next.

    Args:
        fill: what it does then.
    """

    def __init__(self, fill) -> None:
        self.calls, self.fill = 0, fill

    def __call__(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            self.fill()
        return F.cross_entropy(logits_BC, targets_BC)


@pytest.mark.parametrize("what", ["log.jsonl", "checkpoint.safetensors"])
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on(data, network, tmp_path, what):
    """A log or checkpoint that cannot be written ends the run in plain words; with room, it ends as if undisturbed."""
    preprocessing = ff.Preprocessing(SIZE_PX, SIZE_PX)
    whole = train(data, tmp_path, ff.Own(network=network, preprocessing=preprocessing, loss=FillsTheDisk(int)))
    log = tmp_path / "full" / "fold-0" / "log.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        if what == log.name:
            log.rename(log.with_name("kept"))
            log.symlink_to("/dev/full")
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))

    try:
        with pytest.raises(FinefoldError, match=f"cannot write .*{what}") as told:
            train(data, tmp_path, ff.Own(network, preprocessing, FillsTheDisk(fill)), name="full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "free some space" in str(told.value.hint)
    if what == log.name:
        log.with_name("kept").replace(log)
    assert not (tmp_path / "full" / "manifest.json").exists()
    assert not [file for file in (tmp_path / "full" / "fold-0").iterdir() if file.name.startswith(".checkpoint")]
    gone_on = train(data, tmp_path, ff.Own(network, preprocessing, FillsTheDisk(int)), name="full")
    assert np.array_equal(gone_on.ledger().predictions.probs_NK, whole.ledger().predictions.probs_NK)


class Whole(Mine):
    """The same with a last layer of its own."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.top = nn.Linear(16, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.top(super().forward(images_BCHW))


@pytest.fixture
def model() -> Whole:
    torch.manual_seed(0)
    return Whole()


class Said:
    """Keeps what a step says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def stage(self, *_):
        yield lambda _done: None

    def say(self, line: str) -> None:
        self.lines.append(line)


def recipe_of(home, *phases: str):
    """RECIPE with other phases: trainable, until, lr."""
    head, _, tail = RECIPE.partition("[[phase]]")
    text = head + "".join(f"[[phase]]\n{phase}\n" for phase in phases) + tail[tail.index("[augment]") :]
    (home / "recipe.toml").write_text(text, encoding="utf-8")
    return str(home / "recipe.toml")


BARELY = 'trainable = "all"\nuntil = "1 step"\nlr = 1e-12'


def test_a_whole_model_starts_from_its_own_head(data, model, shapes, tmp_path):
    """Without a probe and hardly trained, its folds answer what it answers itself; it is left as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    preprocessing = ff.Preprocessing(SIZE_PX, SIZE_PX)
    own = ff.Own(model=model, preprocessing=preprocessing)
    run = ff.train(data, recipe=recipe_of(tmp_path, BARELY), out=tmp_path / "run", own=own)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert run.manifest["own"]["head"] == "top"
    images = [
        preprocessing.apply(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)) for path in data.samples.paths
    ]
    frozen = run.backbone.build()
    with torch.no_grad():
        probs_NK = model.eval()(frozen.normalised(torch.from_numpy(np.stack(images)))).softmax(1).numpy()
    assert np.allclose(run.ledger().predictions.rows_for(data.samples.ids).probs_NK, probs_NK, atol=1e-3)
    again = ff.open_run(tmp_path / "run", model=model).predict(shapes)
    assert np.array_equal(run.predict(shapes).predictions.probs_NK, again.predictions.probs_NK)


@pytest.mark.parametrize("trainable", ['"all"', '["top", "body.*"]', '"head"'])
def test_a_whole_model_is_trained_as_the_phases_say(data, model, tmp_path, trainable):
    """Patterns are of its own names, its head's too; what is trained differs from the start, the head always."""
    own = ff.Own(model=model, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX))
    phase = f'trainable = {trainable}\nuntil = "2 epochs"\nlr = 1e-2'
    run = ff.train(data, recipe=recipe_of(tmp_path, phase), out=tmp_path / "run", own=own)
    (planned,) = run.manifest["plan"]["phases"]
    names = {name for group in planned["groups"] for name in group["names"]}
    inside = {"all": 6, "head": 0}.get(trainable.strip('"'), 4)
    assert len([name for name in names if name.startswith("network.")]) == inside
    assert {name for name in names if name.startswith("head.")} == {"head.heads.joint.weight", "head.heads.joint.bias"}
    state = load_file(run.folder.fold_weights(0))
    assert not torch.equal(state["head.heads.joint.weight"], model.top.weight)


def test_the_probe_may_fit_a_whole_models_head_anew(data, model, tmp_path):
    """A probe phase replaces the last layer's weights, and says what to write to keep them."""
    own = ff.Own(model=model, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX))
    probe = 'trainable = "head"\nuntil = "probe"'
    said = Said()
    run = ff.train(data, recipe=recipe_of(tmp_path, probe, BARELY), out=tmp_path / "run", own=own, progress=said)
    assert "the probe fits `top` anew; without a probe phase training starts from your weights" in said.lines
    assert not torch.allclose(load_file(run.folder.fold_weights(0))["head.heads.joint.weight"], model.top.weight)


def test_a_whole_model_goes_on_after_an_error(data, model, tmp_path):
    """A training that stopped in the middle ends bitwise as if it had not."""
    calls = 0

    def stumbling(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(logits_BC, targets_BC) * (float("nan") if calls == 5 else 1)

    own = ff.Own(model=model, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX), loss=stumbling)
    recipe = recipe_of(tmp_path, 'trainable = "all"\nuntil = "2 epochs"\nlr = 1e-2')
    with pytest.raises(TrainingError):
        ff.train(data, recipe=recipe, out=tmp_path / "run", own=own)
    broken = ff.train(data, recipe=recipe, out=tmp_path / "run", own=own)
    whole = ff.train(data, recipe=recipe, out=tmp_path / "whole", own=own)
    assert np.array_equal(broken.ledger().predictions.probs_NK, whole.ledger().predictions.probs_NK)


def test_a_whole_model_answers_for_the_data_s_classes(data, network, model, tmp_path):
    """Another number of outputs, heads of another kind, and both a network and a model are told before any work."""
    preprocessing = ff.Preprocessing(SIZE_PX, SIZE_PX)
    with pytest.raises(UsageError, match="gives 3 outputs, and the data has 2 classes: disc, square") as told:
        ff.train(data, out=tmp_path / "run", own=ff.Own(model=Whole(3), preprocessing=preprocessing))
    assert "make its last layer `top` nn.Linear(16, 2)" in str(told.value.hint)
    own = ff.Own(model=model, preprocessing=preprocessing)
    with pytest.raises(UsageError, match="has one head"):
        ff.train(data, out=tmp_path / "run", overrides=["model.heads=per_attribute"], own=own)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="both a network"):
        ff.Own(network=network, model=model, preprocessing=preprocessing)


def test_a_run_of_a_network_opens_with_no_model(data, network, model, tmp_path):
    """Only a run of a whole model knows where its head was."""
    train(data, tmp_path, ff.Own(network=network, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX)))
    with pytest.raises(UsageError, match="was not trained from a whole model"):
        ff.open_run(tmp_path / "run", model=model)


def test_without_a_compiler_steps_are_not_compiled(data, network, tmp_path, monkeypatch):
    """train.compile where there is no C++ compiler: said once, and trained as without it."""
    own = ff.Own(network=network, preprocessing=ff.Preprocessing(SIZE_PX, SIZE_PX))
    plain = train(data, tmp_path, own, "all")
    monkeypatch.setattr("finefold.nn.devices.shutil.which", lambda _: None)
    said = Said()
    recipe, asked = str(tmp_path / "recipe.toml"), ["train.compile=true"]
    run = ff.train(data, recipe=recipe, overrides=asked, out=tmp_path / "asked", own=own, progress=said)
    assert sum(line.startswith("train.compile: there is no C++ compiler here") for line in said.lines) == 1
    assert np.array_equal(run.ledger().predictions.probs_NK, plain.ledger().predictions.probs_NK)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler here")
def test_compiled_training_goes_on_bitwise(data, network, tmp_path):
    """Compiled steps, stopped in the middle and gone on with, end bitwise as if they had not stopped."""
    calls = 0

    def stumbling(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(logits_BC, targets_BC) * (float("nan") if calls == 5 else 1)

    own = ff.Own(network, ff.Preprocessing(SIZE_PX, SIZE_PX), stumbling)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(trainable="all"), encoding="utf-8")
    recipe, asked = str(tmp_path / "recipe.toml"), ["train.compile=true"]
    with pytest.raises(TrainingError):
        ff.train(data, recipe=recipe, overrides=asked, out=tmp_path / "run", own=own)
    broken = ff.train(data, recipe=recipe, overrides=asked, out=tmp_path / "run", own=own)
    whole = ff.train(data, recipe=recipe, overrides=asked, out=tmp_path / "whole", own=own)
    assert np.array_equal(broken.ledger().predictions.probs_NK, whole.ledger().predictions.probs_NK)
