"""Is anything learned? A model on a handful of images before training; the logs of a run after it.

Shapes: N rows, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finefold.data.findings import Finding
from finefold.doctor.answers import tensor_of
from finefold.doctor.datasets import random_numbers_kept, row_of, split_row
from finefold.doctor.diagnosis import Checked
from finefold.doctor.logs import findings_of_run
from finefold.doctor.overfitting import ENOUGH_STEPS, Lesson, count_outputs, overfit
from finefold.doctor.subject import Subject
from finefold.nn.watching import DEAD, DEAD_REMEDY, dead_cause, listed

NAME = "learning"
BATCH = 32
NOTHING = 0.9  # of the entropy of the batch's labels: a loss that never falls below it
CUT_REMEDY = (
    "look for `detach()`, `.data`, `no_grad()`, `argmax` or a layer that is not called; freeze what is not to train"
)
TOO_LARGE = 3.0  # times log K, and one nat: a first loss above that is no even guess


def check_learning(subject: Subject) -> Checked:
    """Whether a batch can be learned by heart and gradients reach every parameter; or what a run's logs say."""
    if subject.run is not None:
        says, findings = findings_of_run(subject.run, subject.labels_N)
        return Checked(NAME, says, findings)
    if subject.model is not None:
        return _of_model(subject)
    return _of_head(subject)


def _of_model(subject: Subject) -> Checked:
    """The model that was given, on a batch as the data set yields it."""
    model, dataset = subject.model, subject.dataset
    assert model is not None
    rows = _in_turns(subject.labels_N)
    with random_numbers_kept():
        images_B = [tensor_of(split_row(row_of(dataset, int(row)), int(row))[0]) for row in rows]
        targets_B = _targets(subject, rows)
        wrong = _wrong_outputs(subject, model, images_B, targets_B)
        if wrong is not None:
            return Checked(NAME, "the model's outputs were counted", (wrong,))
        lesson = overfit(model, images_B, targets_B)
    same = _all_alike(images_B)
    findings = [found for found in (*_of_gradients(lesson), _of_lesson(lesson, same), *_of_outputs(lesson)) if found]
    return Checked(NAME, _says(lesson, "the model"), tuple(findings), numbers=_numbers(lesson))


def _of_head(subject: Subject) -> Checked:
    """The recipe's own classifier on a batch of features: whether images differ at all, and labels with them."""
    features, labels_N = subject.features, subject.labels_N
    usable_N = np.where(features.is_readable_N, labels_N, -1)
    if len(np.unique(usable_N[usable_N >= 0])) < 2:
        return Checked(NAME, "not done: there is only one class", is_done=False)
    rows = _in_turns(usable_N)
    power = subject.recipe.probe.power
    raised_BD = np.sign(rows_BD := features.rows_ND[rows].astype(np.float32)) * np.abs(rows_BD) ** power
    images_B = list(torch.from_numpy(raised_BD.reshape(len(rows), -1)))
    with random_numbers_kept():
        head = nn.Linear(len(images_B[0]), subject.num_classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        lesson = overfit(head, images_B, torch.from_numpy(labels_N[rows]))
    found = _of_lesson(lesson, _all_alike(images_B))
    says = _says(lesson, "a linear head on the backbone's features")
    return Checked(NAME, says, () if found is None else (found,), numbers=_numbers(lesson))


def _in_turns(labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of a batch: classes take turns, each spread over all its rows."""
    turns: list[tuple[int, int, int]] = []
    classes = np.unique(labels_N[labels_N >= 0])
    each = -(-BATCH // len(classes))
    for code in classes.tolist():
        rows = np.flatnonzero(labels_N == code)
        spread = rows[np.unique(np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(int))]
        turns += [(turn, code, int(row)) for turn, row in enumerate(spread)]
    return np.array([row for _, _, row in sorted(turns)[:BATCH]], np.int64)


def _targets(subject: Subject, rows: NDArray[np.int64]) -> torch.Tensor:
    """Labels as a loss would take them: whole numbers as they are, names by their places."""
    names = subject.class_names
    if all(name.isdecimal() for name in names):
        return torch.tensor([int(names[code]) for code in subject.labels_N[rows]])
    return torch.from_numpy(subject.labels_N[rows])


def _wrong_outputs(
    subject: Subject, model: nn.Module, images_B: Sequence[torch.Tensor], targets_B: torch.Tensor
) -> Finding | None:
    """Labels that the model has no output for."""
    num_outputs = count_outputs(model, images_B[:2])
    largest = int(targets_B.max())
    if largest < num_outputs:
        return None
    starts_at_1 = int(targets_B.min()) == 1 and largest == num_outputs
    return Finding(
        "too-few-outputs",
        "error",
        (),
        {"outputs": num_outputs, "classes": subject.num_classes, "largest_label": largest},
        f"labels go up to {largest}, and the model has {num_outputs} outputs, 0 to {num_outputs - 1}",
        "count classes from 0" if starts_at_1 else f"give the model {max(subject.num_classes, largest + 1)} outputs",
    )


def _of_gradients(lesson: Lesson) -> list[Finding]:
    """Parameters that nothing reaches, and units that no image wakes."""
    found = []
    if not lesson.trainable:
        found.append(
            Finding(
                "no-gradient",
                "warning",
                (),
                {"parameters": []},
                "no parameter of the model requires a gradient, so nothing can train",
                "call `requires_grad_(True)` on what is to be trained; where the model is finished, all is well",
            )
        )
    elif lesson.unreached:
        reached_none = len(lesson.unreached) == len(lesson.trainable)
        names = "any parameter" if reached_none else listed(lesson.unreached)
        is_most = 2 * len(lesson.unreached) > len(lesson.trainable)
        count = f"({len(lesson.unreached)} of {len(lesson.trainable)} tensors that are to train)"
        if lesson.are_zero:
            cause = f"gradients of {names} are 0 throughout {count}: layers above are never active"
            remedy = DEAD_REMEDY
        else:
            cause, remedy = f"no gradient reaches {names} {count}", CUT_REMEDY
        evidence = {"parameters": list(lesson.unreached), "trainable": len(lesson.trainable)}
        found.append(Finding("no-gradient", "error" if is_most else "warning", (), evidence, cause, remedy))
    dead = {name: f"{few} of {all_}" for name, (few, all_) in lesson.silent.items() if few >= DEAD * all_}
    if dead:
        found.append(Finding("dead-units", "warning", (), {"layers": dead}, dead_cause(dead), DEAD_REMEDY))
    return found


def _of_lesson(lesson: Lesson, all_alike: bool) -> Finding | None:
    """A batch that was not learned by heart."""
    if lesson.is_learned or not lesson.trainable or (lesson.num_steps < ENOUGH_STEPS and lesson.has_graph):
        return None
    is_nothing = lesson.best_loss > NOTHING * lesson.entropy
    rates = ", ".join(f"{attempt.rate:g}" for attempt in lesson.attempts)
    told = f"{lesson.num_rows} images cannot be learned by heart"
    if all_alike:
        told, remedy = f"{told}: they are all the same", "look at what `dataset[0]` and `dataset[1]` give"
    elif lesson.are_probs:
        told += ": the model gives probabilities, and the loss wants logits"
        remedy = "leave the softmax out of the model: the loss has one"
    elif lesson.unreached:
        told, remedy = f"{told}: gradients do not reach the parameters", "see `no-gradient`"
    else:
        told += f": log loss stays at {lesson.best_loss:.2f} (shares alone: {lesson.entropy:.2f})"
        remedy = "look at how images are scaled, at activations that are 0 or the same for all images, and at the start"
    return Finding(
        "nothing-learned",
        "error" if is_nothing else "warning",
        (),
        {**_numbers(lesson), "rates": rates},
        told,
        remedy,
    )


def _of_outputs(lesson: Lesson) -> list[Finding]:
    """Probabilities instead of logits; a first loss that no even guess has."""
    even = math.log(lesson.num_outputs)
    if lesson.are_probs:
        told = "the model's outputs are probabilities, and cross-entropy takes logits: it flattens them once more"
        remedy = "leave the softmax out of the model, and apply it to what it gives"
        return [Finding("not-logits", "warning", (), {}, told, remedy)]
    if lesson.first_loss <= TOO_LARGE * even + 1:
        return []
    found = Finding(
        "first-loss",
        "warning",
        (),
        {"first_loss": lesson.first_loss, "log_outputs": even},
        f"before any step log loss is {lesson.first_loss:.1f}, where even guesses have {even:.2f}: outputs are far too "
        "large, or the model was trained on other labels",
        "scale the images, and let the last layer start near 0",
    )
    return [found]


def _says(lesson: Lesson, what: str) -> str:
    attempt = lesson.attempts[-1]
    told = f"{what} on {lesson.num_rows} images: first loss {lesson.first_loss:.2f} (even guesses: "
    told += f"{math.log(lesson.num_outputs):.2f}), "
    if lesson.is_learned:
        told += f"{lesson.right:.0%} right after {len(attempt.losses) - 1} steps of Adam at {attempt.rate:g}"
    else:
        told += f"at best {lesson.best_loss:.2f} and {lesson.right:.0%} right after {lesson.num_steps} steps"
        if lesson.trainable and lesson.num_steps < ENOUGH_STEPS:
            told += f", too few to judge: a step takes {lesson.seconds / max(lesson.num_steps, 1):.1f} s"
    if lesson.trainable:
        reached = len(lesson.trainable) - len(lesson.unreached)
        told += f"; gradients reach {reached} of {len(lesson.trainable)} tensors"
    return told


def _numbers(lesson: Lesson) -> Mapping[str, Any]:
    return {
        "first_loss": lesson.first_loss,
        "best_loss": lesson.best_loss,
        "entropy": lesson.entropy,
        "right": lesson.right,
        "rows": lesson.num_rows,
        "steps": lesson.num_steps,
    }


def _all_alike(images_B: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(image, images_B[0]) for image in images_B[1:])
