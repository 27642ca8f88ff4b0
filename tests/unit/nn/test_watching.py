"""The watcher beside a loop: each fault is said once, a healthy loop is left in peace, and no number changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finefold.nn.gradients import look_at_gradients, stages_by_name
from finefold.nn.watching import Watcher, entropy_of

K = 3


def blobs(count: int = 32, *, seed: int = 0, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """[B, 8] points around three centres, and which one."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (count,), generator=rng)
    centres = spread * torch.randn(K, 8, generator=torch.Generator().manual_seed(99))
    return centres[labels] + torch.randn(count, 8, generator=rng), labels


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, K))


def trained(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    steps: int = 220,
    watcher: Watcher | None = None,
    batch: Callable[[int], tuple[Tensor, Tensor]] = lambda step: blobs(seed=step),
) -> Watcher:
    watcher = watcher or Watcher(num_classes=K, every=10)
    optimiser = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr, momentum=0.9)
    for step in range(steps):
        points, labels = batch(step)
        logits = model(points)
        loss = F.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        watcher.step(loss, logits, labels, model)
        optimiser.step()
    return watcher


def kinds(watcher: Watcher) -> set[str]:
    return {finding.kind for finding in watcher.findings}


@pytest.mark.parametrize("lr", [1e-4, 1e-2])
def test_a_loop_that_learns_is_left_in_peace(lr):
    """Easy points, at a slow and a fitting rate: nothing is said."""
    assert kinds(trained(plain(), lr=lr)) == set()


def test_labels_that_say_nothing_leave_the_loss_at_the_priors_entropy():
    """Random labels: the loss stays at log K, which is said once, with both numbers."""
    found = trained(plain(), lr=1e-2, batch=lambda step: (blobs(seed=step)[0], blobs(seed=step + 5000)[1]), steps=400)
    (finding,) = [one for one in found.findings if one.kind == "nothing-learned"]
    assert finding.evidence["surprise"] == pytest.approx(np.log(K), abs=0.08)
    assert finding.evidence["entropy"] == pytest.approx(np.log(K), abs=0.02)


def test_a_rate_far_too_high_is_named():
    """The loss rises far above where it began, or is no number."""
    found = trained(plain(), lr=3.0)
    assert kinds(found) & {"rate-too-high", "not-finite"}


def test_one_class_for_all_is_a_collapse():
    """A head whose bias drowns everything: one class, by its name."""
    model = plain()
    with torch.no_grad():
        model[4].bias[2] = 50
    model[4].requires_grad_(False)
    watcher = trained(model, lr=1e-6, watcher=Watcher(class_names=["a", "b", "c"], every=10))
    (finding,) = [one for one in watcher.findings if one.kind == "one-class-collapse"]
    assert finding.evidence["class"] == "c" and finding.evidence["share"] == 1


def test_a_part_that_no_gradient_reaches_is_named():
    """Parameters behind a detach, by name; frozen ones are none of its business."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.frozen = plain()[:4], nn.Linear(32, K), nn.Linear(3, 3).requires_grad_(False)

        def forward(self, points: Tensor) -> Tensor:
            return self.head(self.body(points).detach())

    (finding,) = trained(Cut(), lr=1e-2).findings
    assert finding.kind == "no-gradient"
    assert finding.evidence["parameters"] == ["body.0.bias", "body.0.weight", "body.2.bias", "body.2.weight"]


def test_called_at_the_wrong_place_it_says_so():
    """After gradients were cleared there is nothing to see, and that is what is said."""
    model, watcher = plain(), Watcher(every=1)
    for _ in range(5):
        points, labels = blobs()
        watcher.step(0.5, model(points), labels, model)
    (finding,) = watcher.findings
    assert "after `backward()`" in finding.remedy


def test_units_that_never_wake_are_counted():
    """A layer whose biases lie far below 0."""
    model = plain()
    with torch.no_grad():
        model[2].bias[:30] = -100
    (finding,) = trained(model, lr=1e-2).findings
    assert (finding.kind, finding.evidence["layers"]) == ("dead-units", {"2": "30 of 32"})


def test_gradients_that_vanish_are_told_by_stage():
    """Sigmoids one after the other: the first stage gets a millionth of what the last one gets."""
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    found = trained(nn.Sequential(*layers, nn.Linear(8, K)))
    (finding,) = [one for one in found.findings if one.kind == "vanishing-gradient"]
    assert finding.evidence["stage"] in ("0", "2", "4") and finding.evidence["share"] < 1e-6


def test_gradients_that_explode_are_told_by_stage():
    """A stage whose gradients are a thousand times what they were."""
    model, watcher = plain(), Watcher(every=1)
    for step in range(20):
        points, labels = blobs(seed=step)
        model.zero_grad()
        logits = model(points)
        (F.cross_entropy(logits, labels) * (1000 if step >= 10 else 1)).backward()
        watcher.step(1.0, logits, labels, model)
    assert [one.kind for one in watcher.findings] == ["exploding-gradient"]
    assert watcher.findings[0].evidence["times"] > 100


def test_a_loss_that_is_no_number_is_an_error_with_its_rows():
    """Said at the step itself, not at the next look."""
    watcher = Watcher()
    watcher.step(torch.tensor(float("nan")), ids=["a.png", "b.png"])
    (finding,) = watcher.findings
    assert (finding.kind, finding.severity, finding.ids) == ("not-finite", "error", ("a.png", "b.png"))


def test_training_far_above_validation_is_told():
    """Points known by heart whose labels say nothing of others."""
    watcher = Watcher(every=5)
    model = plain()
    for round_ in range(3):
        trained(model, lr=0.05, steps=100, watcher=watcher, batch=lambda _: blobs(spread=0.0))
        if round_ == 0:
            assert "train-above-valid" not in kinds(watcher)
        points, labels = blobs(300, seed=7, spread=0.0)
        watcher.validated(model(points).argmax(1), labels)
    assert "train-above-valid" in kinds(watcher)


def test_a_validation_of_one_class_is_a_collapse_unless_the_truth_is():
    """The share is compared with the truth's; missing labels have no say."""
    watcher = Watcher(class_names=["a", "b"])
    watcher.validated(np.zeros(100, int), [0] * 97 + [1] * 3)
    watcher.validated([0, 0], [-1, -1])
    assert not watcher.findings
    watcher.validated(np.zeros(100, int), [0] * 50 + [1] * 50)
    watcher.validated(np.zeros(100, int), [0] * 50 + [1] * 50)
    assert [one.evidence["class"] for one in watcher.news()] == ["a"] and not list(watcher.news())


def test_watching_changes_no_number():
    """Weights after a watched loop are bitwise those of the same loop unwatched, random numbers too."""
    states = []
    for watcher in (Watcher(every=1), Watcher(every=10**9)):
        model = plain()
        trained(model, lr=1e-2, steps=40, watcher=watcher)
        states.append((model.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(states[0][0][key], states[1][0][key]) for key in states[0][0])
    assert torch.equal(states[0][1], states[1][1])


def test_soft_labels_and_missing_ones_are_taken():
    """Shares of classes as mixing makes them; -1 for rows without a label; a batch without any."""
    watcher = Watcher(every=1)
    for labels in (torch.eye(3)[[0, 1, 2, 0]] * 0.9 + 0.1 / 3, torch.tensor([0, -1, 2, 1]), torch.full((4,), -1)):
        watcher.step(1.0, torch.randn(4, 3), labels)
    assert len(watcher._batches) == 2 and watcher._batches[1].num_rows == 3


def test_going_on_it_knows_where_it_stood():
    """Losses of before count as the start; what was said is not said again."""
    watcher = Watcher(num_classes=2, every=1, losses=[0.5] * 30, said=["one-class-collapse"])
    for _ in range(25):
        watcher.step(5.0)
    watcher.validated([0] * 10, [0, 1] * 5)
    assert [one.kind for one in watcher.findings] == ["rate-too-high"]
    assert watcher.findings[0].evidence["start"] == 0.5 and watcher.findings[0].evidence["step"] > 30


def test_stages_are_few_modules_and_only_what_trains():
    """As deep as three stages need; frozen parameters are in none; norms are relative to weights."""
    model = nn.Sequential(plain(), nn.Linear(3, 3).requires_grad_(False))
    assert list(stages_by_name(model)) == ["0.0", "0.2", "0.4"]
    points, labels = blobs()
    F.cross_entropy(model(points), labels).backward()
    look = look_at_gradients(model)
    weight, bias = model[0][4].weight, model[0][4].bias
    own = torch.cat([weight.grad.flatten(), bias.grad]).norm() / torch.cat([weight.flatten(), bias]).norm()
    assert look.strength["0.4"] == pytest.approx(float(own.detach()), rel=1e-5)
    assert not look.missing and not look.still


def test_the_entropy_of_a_prior():
    """In nats, classes without samples left out."""
    assert entropy_of([5, 5, 0]) == pytest.approx(np.log(2))
