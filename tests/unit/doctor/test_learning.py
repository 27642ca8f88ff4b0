"""Is anything learned? Models with one fault each, and models without; the given model stays as it is."""

import json
import random
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finefold.doctor.checks import make_checks
from finefold.doctor.learning import check_learning
from finefold.doctor.subject import Subject
from finefold.errors import ModelError
from finefold.runs.folder import RunFolder
from unit.doctor.planted import planted, subject_of

FEATURES, LABELS = planted(200, num_classes=3)


class Patches:
    """Small noisy pictures, brighter in one channel: the class."""

    def __init__(self, *, times: float = 1.0, same: bool = False, first: int = 0) -> None:
        self.times, self.same, self.first = times, same, first

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        random.random(), np.random.rand(), torch.rand(1)
        rng = np.random.default_rng(0 if self.same else index)
        image = rng.random((3, 12, 12)) * 0.5
        image[0 if self.same else LABELS[index]] += 0.4
        return torch.from_numpy(image * self.times).float(), int(LABELS[index]) + self.first


def network(outputs: int = 3, *, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.BatchNorm2d(16) if norm else nn.Identity(),
        *(nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, outputs)),
    )


def given(model: nn.Module, dataset: Patches | None = None, *, names: str = "012") -> Subject:
    subject = subject_of(FEATURES, LABELS, num_classes=3)
    return replace(subject, dataset=dataset or Patches(), model=model, class_names=tuple(names))


def kinds(model: nn.Module, dataset: Patches | None = None) -> dict[str, str]:
    return {one.kind: one.severity for one in check_learning(given(model, dataset)).findings}


class Cut(nn.Module):
    """Most of the model behind a `detach()`."""

    def __init__(self, *, at: str) -> None:
        super().__init__()
        self.body, self.head, self.at = network()[:-1], nn.Linear(64, 3), at

    def forward(self, images: Tensor) -> Tensor:
        if self.at == "end":
            return self.head(self.body(images)).detach()
        return self.head(self.body(images).detach())


@pytest.mark.parametrize("norm", [False, True])
def test_a_model_that_can_learn_has_no_finding(norm):
    """32 images are learned by heart, every tensor is reached, and the check says in how many steps."""
    said = check_learning(given(network(norm=norm)))
    assert not said.findings and said.is_done
    assert re.search(r"the model on (32|16|8) images: first loss 1\.\d+ .* right after \d+ steps of Adam", said.says)
    assert f"gradients reach {6 + 2 * norm} of {6 + 2 * norm} tensors" in said.says


def test_the_given_model_is_left_as_it_was():
    """Values, mode, gradients and all random numbers."""
    model = network(norm=True).eval()
    before, states = deepcopy(model.state_dict()), (random.getstate(), np.random.get_state()[1].tolist())
    torchs = torch.get_rng_state()
    check_learning(given(model))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert all(one.grad is None for one in model.parameters())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert torch.equal(torch.get_rng_state(), torchs)


def test_a_trained_model_has_no_finding():
    """It knows the batch before the first step."""
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    rows = [Patches()[row] for row in range(len(LABELS))]
    images, labels = torch.stack([image for image, _ in rows]), torch.tensor([label for _, label in rows])
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    assert kinds(model) == {}


def test_most_parameters_behind_a_detach_are_an_error():
    """They are named; the head above them learns the batch all the same."""
    (found,) = check_learning(given(Cut(at="middle"))).findings
    assert (found.kind, found.severity) == ("no-gradient", "error")
    assert found.evidence["parameters"] == ["body.0.bias", "body.0.weight", "body.3.bias", "body.3.weight"]
    assert "4 of 6 tensors" in found.cause


def test_a_loss_without_any_graph_is_an_error():
    """Outputs that were detached teach nothing at all."""
    assert kinds(Cut(at="end")) == {"no-gradient": "error", "nothing-learned": "error"}


def test_an_unused_layer_is_a_warning():
    """A few tensors that nothing reaches are told, and are no error."""
    model = network()
    model[1] = nn.Identity()
    model[1].unused = nn.Linear(3, 3)
    assert kinds(model) == {"no-gradient": "warning"}


def test_a_frozen_model_is_a_warning():
    """Nothing requires a gradient: perhaps it is finished."""
    assert kinds(network().requires_grad_(False)) == {"no-gradient": "warning"}


def test_layers_that_start_at_zero_are_reached_later():
    """A last norm of a branch that starts at 0 keeps the branch's first gradients at 0, which is no fault."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
            nn.init.zeros_(self.norm.weight)

        def forward(self, maps: Tensor) -> Tensor:
            return maps + self.norm(self.conv(maps))

    model = network()
    model[1] = Branch()
    assert kinds(model) == {}


def test_units_that_no_image_wakes_are_a_warning():
    """Biases far below 0 in most of a layer."""
    model = network()
    with torch.no_grad():
        model[3].bias[:14] = -100
    (found,) = check_learning(given(model)).findings
    assert (found.kind, found.severity, found.evidence["layers"]) == ("dead-units", "warning", {"3": "14 of 16"})


def test_a_model_that_no_image_wakes_learns_nothing():
    """All units of a layer: an error, with what the loss came to."""
    model = network()
    with torch.no_grad():
        model[3].bias[:] = -1e4
    found = {one.kind: one for one in check_learning(given(model)).findings}
    assert found["nothing-learned"].severity == "error" and found["no-gradient"].severity == "error"
    assert "never active" in found["no-gradient"].cause and "lower the rate" in found["no-gradient"].remedy
    assert found["nothing-learned"].evidence["best_loss"] > 0.9 * found["nothing-learned"].evidence["entropy"]


def test_images_that_are_all_the_same_are_named():
    """A data set that gives one image for every index: the cause is in the sentence."""
    (found,) = check_learning(given(network(), Patches(same=True))).findings
    assert (found.kind, found.severity) == ("nothing-learned", "error") and "they are all the same" in found.cause


def test_a_softmax_inside_the_model_is_named():
    """Probabilities where the loss wants logits are a warning, whether or not the batch was learned."""
    assert kinds(nn.Sequential(network(), nn.Softmax(1)))["not-logits"] == "warning"


def test_images_of_0_to_255_show_in_the_first_loss():
    """The loss before any step is many times that of even guesses."""
    said = kinds(network(), Patches(times=255))
    assert said.get("first-loss") == "warning"


def test_labels_from_1_have_no_output():
    """K labels from 1 to K beside K outputs, with what to do."""
    subject = given(network(), Patches(first=1), names="123")
    (found,) = check_learning(subject).findings
    assert (found.kind, found.severity, found.remedy) == ("too-few-outputs", "error", "count classes from 0")


def test_a_model_that_cannot_be_copied_is_told():
    """The error says what the doctor needs a copy for."""
    model = network()
    model.lock = (one for one in ())
    with pytest.raises(ModelError, match="cannot be copied"):
        check_learning(given(model))


def test_a_head_is_tried_where_there_is_no_model():
    """Of a data.toml: a linear head on features learns 32 images by heart, unless features are all alike."""
    subject = subject_of(FEATURES, LABELS, num_classes=3)
    said = check_learning(subject)
    assert not said.findings and "a linear head on the backbone's features on 32 images" in said.says
    blank = subject_of(np.ones_like(FEATURES), LABELS, num_classes=3)
    assert [one.kind for one in check_learning(blank).findings] == ["nothing-learned"]


def run_with(folder: Path, fold: int, losses: list[float], valid: list[float]) -> None:
    (folder / f"fold-{fold}").mkdir(parents=True)
    lines = [{"phase": 1, "step": step, "epoch": 0, "loss": loss, "norm": 1.0} for step, loss in enumerate(losses, 1)]
    lines += [{"phase": 1, "step": len(losses), "epoch": 0, "accuracy": 0.5, "log_loss": loss} for loss in valid]
    RunFolder(folder).fold_log(fold).write_text("\n".join(map(json.dumps, lines)))


def of_run(folder: Path) -> Subject:
    return replace(subject_of(FEATURES, LABELS, num_classes=3), run=RunFolder(folder))


def test_logs_of_a_run_that_learned_have_no_finding(tmp_path):
    """Losses that fall, and validation below the prior's entropy; and a run that took no steps."""
    run_with(tmp_path / "run", 0, np.linspace(1.1, 0.3, 100).tolist(), [0.8, 0.6, 0.55])
    said = check_learning(of_run(tmp_path / "run"))
    assert not said.findings and "logs of 1 folds, 100 steps" in said.says
    assert "takes no steps" in check_learning(of_run(tmp_path)).says


def test_a_loss_at_the_priors_entropy_is_read_from_the_logs(tmp_path):
    """Training does not fall, validation is never below what the shares alone give."""
    run_with(tmp_path, 0, [1.1] * 100, [1.12, 1.11])
    run_with(tmp_path, 1, [1.1] * 99 + [float("1.2")], [1.12, 1.11])
    (found,) = check_learning(of_run(tmp_path)).findings
    assert (found.kind, found.severity, found.evidence["folds"]) == (
        "nothing-learned",
        "warning",
        ["fold-0", "fold-1"],
    )


def test_training_far_above_validation_is_read_from_the_logs(tmp_path):
    """Training's loss goes to nothing while validation's rises."""
    run_with(tmp_path, 0, np.linspace(1.1, 0.01, 100).tolist(), [0.6, 0.9, 1.4])
    (found,) = check_learning(of_run(tmp_path)).findings
    assert found.kind == "train-above-valid" and found.evidence["end"] == 1.4


def test_what_the_watcher_kept_is_told_once_per_kind(tmp_path):
    """Findings of folds become one with the folds it was said of, also where an attribute has its own models."""
    line = {"kind": "rate-too-high", "severity": "warning", "ids": [], "evidence": {"start": 1.0}, "cause": "the loss "}
    for folder in (tmp_path, tmp_path / "attributes" / "age"):
        run_with(folder, 0, [1.0] * 10, [0.5])
        RunFolder(folder).fold_findings(0).write_text(json.dumps({**line, "remedy": "slower"}) + "\n{half a li")
    (found,) = check_learning(of_run(tmp_path)).findings
    assert (found.kind, found.evidence["folds"], found.remedy) == ("rate-too-high", ["age/fold-0", "fold-0"], "slower")
    assert found.cause.startswith("while age/fold 0, fold 0 trained: the loss")


def test_a_collapse_is_explained_by_the_rate(tmp_path):
    """One class for all images, and a rate that the watcher called too high: the likely cause."""
    run_with(tmp_path, 0, [1.0] * 10, [0.5])
    line = {"kind": "rate-too-high", "severity": "warning", "ids": [], "evidence": {}, "cause": "", "remedy": ""}
    RunFolder(tmp_path).fold_findings(0).write_text(json.dumps(line) + "\n")
    subject = replace(of_run(tmp_path), predict=lambda: np.zeros(len(LABELS), np.int64))
    said = make_checks(subject, ["learning", "collapse"])
    assert "the rate was too high" in next(one for one in said.findings if one.kind == "one-class-collapse").cause
