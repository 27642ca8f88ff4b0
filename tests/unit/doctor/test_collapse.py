"""A model that gives every image one class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from finefold.data.findings import Finding
from finefold.doctor.answers import answers_of
from finefold.doctor.checks import CHECKS, chosen_checks, make_checks
from finefold.doctor.collapse import check_collapse, with_causes
from finefold.doctor.diagnosis import Checked
from finefold.errors import ModelError, UsageError
from unit.doctor.planted import planted, subject_of

FEATURES, LABELS = planted(200)


def answering(codes_N):
    return replace(subject_of(FEATURES, LABELS), predict=lambda: np.asarray(codes_N))


def test_one_class_is_an_error_with_its_share():
    """All but one answer of one class."""
    (found,) = check_collapse(answering([2] * 199 + [1])).findings
    assert (found.kind, found.severity) == ("one-class-collapse", "error")
    assert found.evidence["class"] == "c" and found.evidence["share"] == 0.995


def test_many_classes_are_fine_and_no_model_is_not_done():
    """Right answers have no finding; without a model the check says so."""
    assert not check_collapse(answering(LABELS)).findings
    assert not check_collapse(subject_of(FEATURES, LABELS)).is_done


def test_a_collapse_is_explained_by_what_else_was_found():
    """An error of another check becomes the likely cause; without one the finding stays as it is."""
    collapse = check_collapse(answering([0] * 200))
    other = Checked("x", "", (Finding("misaligned-labels", "error", ()),))
    assert (
        "likely cause: labels are paired with the wrong images" in with_causes([other, collapse])[1].findings[0].cause
    )
    assert with_causes([collapse]) == [collapse]


def test_checks_are_chosen_by_name():
    """One alone, all by default, and an unknown one is refused with the names there are."""
    assert list(chosen_checks(["collapse"])) == ["collapse"] and list(chosen_checks([])) == list(CHECKS)
    told: list[str] = []
    assert (
        [one.name for one in make_checks(answering(LABELS), ["collapse"], told=told.append).checks]
        == told
        == ["collapse"]
    )
    with pytest.raises(UsageError, match="no check called `colapse`"):
        chosen_checks(["colapse"])


class Pairs:
    """Numbers as images."""

    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3,), float(index)), 0


def test_answers_come_in_order_and_leave_the_model_as_it_was():
    """Every row's highest logit, in evaluation mode; training mode is restored."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.99))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
        model[0].bias.copy_(torch.tensor([0.0, 35.5]))
    assert answers_of(model, Pairs()).tolist() == [1] * 36 + [0] * 34
    assert model.training


def test_a_model_that_does_not_fit_is_told():
    """The error names the shape that the model could not take, and what is expected of it."""
    with pytest.raises(ModelError, match=r"failed on images of shape \[3\]"):
        answers_of(nn.Linear(5, 2), Pairs())
    with pytest.raises(ModelError, match="not logits"):
        answers_of(nn.Flatten(0), Pairs())
