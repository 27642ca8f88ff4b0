"""Laws of training beside gaps: what is missing of a sample changes nothing of what is known, of it or of others."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from finefold.data.labelling import label_samples
from finefold.data.labels import Attribute, LabelSpace
from finefold.data.samples import SampleTable
from finefold.nn.heads import JOINT
from finefold.nn.loaders import TrainRole
from finefold.recipe.schema import Recipe
from finefold.steps.own import NOTHING
from finefold.steps.training import Training, head_losses

laws = settings(deadline=None, max_examples=20)
NUM_ROWS = 14
SPACE = LabelSpace(
    tuple(
        Attribute(name, tuple(classes), name, tuple((one,) for one in classes), missing=("",))
        for name, classes in (("mask", "nw"), ("age", "abc"))
    )
)


def samples(codes_NA: NDArray[np.int64]) -> SampleTable:
    """A table whose attributes have these codes."""
    ids = [f"{number:02}" for number in range(len(codes_NA))]
    columns = {
        one.name: [one.classes[code] if code >= 0 else None for code in codes_N]
        for one, codes_N in zip(SPACE.attributes, codes_NA.T.tolist(), strict=True)
    }
    frame = pl.DataFrame({"id": ids, "path": ids, "group": ids, "source": [""] * len(ids)})
    raw = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return SampleTable(label_samples(frame, raw, SPACE, None), SPACE, Path())


def role_of(count: int) -> TrainRole:
    """All samples train, and nothing besides."""
    return cast(TrainRole, SimpleNamespace(shown_E=np.arange(count), num_extra=0))


def gradients(table: SampleTable, recipe: Recipe, logits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the loss of a batch of all samples, by each head's logits."""
    training = cast(Training, SimpleNamespace(recipe=recipe, samples=table, own=NOTHING, teacher_FNK=None))
    losses, strata = head_losses(training, role_of(len(table))), table.train_strata
    given = {name: values.clone().requires_grad_() for name, values in logits.items()}
    losses(given, torch.eye(len(strata))[torch.from_numpy(strata.codes_N)]).backward()
    return {name: cast(Tensor, values.grad) for name, values in given.items()}


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.int64], int, dict[str, Tensor]]:
    """Codes of which every class occurs and some ages are missing, a row whose age is known, and logits of heads."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    codes_NA = np.stack([rng.integers(0, 2, NUM_ROWS), rng.integers(0, 3, NUM_ROWS)], axis=1)
    codes_NA[:6] = [(mask, age) for mask in range(2) for age in range(3)]
    codes_NA[10:13, 1] = np.where(rng.random(3) < 0.5, -1, codes_NA[10:13, 1])
    sizes = {"mask": 2, "age": 3, JOINT: 6}
    logits = {name: torch.from_numpy(rng.normal(size=(NUM_ROWS, size))).float() for name, size in sizes.items()}
    return codes_NA, draw(st.integers(6, 9)), logits


def recipe_of(heads: str, **loss: object) -> Recipe:
    return Recipe.model_validate({"model": {"heads": heads}, "loss": loss})


@laws
@given(cases(), st.sampled_from(["none", "loss", "logit_adjust"]))
def test_masking_a_value_leaves_the_other_heads(
    case: tuple[NDArray[np.int64], int, dict[str, Tensor]], balance: str
) -> None:
    """Without a row's age, the mask's head has the gradients it had, of this row too, and the age's has none of it."""
    codes_NA, row, logits = case
    recipe, heads = recipe_of("per_attribute", balance=balance), {name: logits[name] for name in SPACE.names}
    whole = gradients(samples(codes_NA), recipe, heads)
    masked_NA = codes_NA.copy()
    masked_NA[row, 1] = -1
    masked = gradients(samples(masked_NA), recipe, heads)
    torch.testing.assert_close(masked["mask"], whole["mask"])
    assert (masked["age"][row] == 0).all()
    assert (masked["age"][:6] != 0).all()


@laws
@given(cases())
def test_masked_rows_train_as_if_they_were_not_there(case: tuple[NDArray[np.int64], int, dict[str, Tensor]]) -> None:
    """The age's head has the gradients that it has without the rows whose age is missing."""
    codes_NA, row, logits = case
    codes_NA = codes_NA.copy()
    codes_NA[row, 1] = -1
    recipe, heads = recipe_of("per_attribute", balance="loss"), {name: logits[name] for name in SPACE.names}
    known = codes_NA[:, 1] >= 0
    all_rows = gradients(samples(codes_NA), recipe, heads)["age"]
    alone = gradients(samples(codes_NA[known]), recipe, {name: values[known] for name, values in heads.items()})["age"]
    torch.testing.assert_close(all_rows[known], alone)


@laws
@given(cases())
def test_a_joint_head_learns_what_is_known(case: tuple[NDArray[np.int64], int, dict[str, Tensor]]) -> None:
    """The gradients of a row without age push towards the classes of its mask by their shares, and sum to 0."""
    codes_NA, row, logits = case
    codes_NA = codes_NA.copy()
    codes_NA[row, 1] = -1
    found_BK = gradients(samples(codes_NA), recipe_of("joint"), {JOINT: logits[JOINT]})[JOINT] * NUM_ROWS
    probs_K = logits[JOINT][row].softmax(dim=0)
    is_possible_K = torch.from_numpy(SPACE.attribute_codes()["mask"] == codes_NA[row, 0])
    expected_K = probs_K - torch.where(is_possible_K, probs_K / probs_K[is_possible_K].sum(), 0.0)
    torch.testing.assert_close(found_BK[row], expected_K)
    plain_BK = gradients(samples(np.maximum(codes_NA, 0)), recipe_of("joint"), {JOINT: logits[JOINT]})[JOINT] * NUM_ROWS
    others = [other for other in range(NUM_ROWS) if (codes_NA[other] >= 0).all()]
    torch.testing.assert_close(found_BK[others], plain_BK[others])


@pytest.mark.parametrize("heads", ["joint", "per_attribute"])
def test_a_whole_table_trains_as_it_did(heads: str) -> None:
    """Without gaps no share is taken, nothing is spread, and members are the joint classes alone."""
    codes_NA = np.array([(mask, age) for mask in range(2) for age in range(3)])
    training = SimpleNamespace(recipe=recipe_of(heads), samples=samples(codes_NA), own=NOTHING, teacher_FNK=None)
    losses = head_losses(cast(Training, training), role_of(6))
    assert losses.spread is None
    assert not losses.shares
    assert all(len(member_SC) == 6 for member_SC in losses.members.values())
