"""Running a model to see inside: shapes, operations and time forward, gradients backward."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finefold.errors import ModelError
from finefold.nn.catalogue import build_model
from finefold.nn.measuring import Flow, Gradients, measure_flow, measure_gradients


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def images_BCHW() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4, 5),
    )


class Backwards(nn.Module):
    """Its modules are defined in another order than they are used in; one is used twice, one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 5)
        self.twice = nn.Conv2d(4, 4, 1)
        self.stem = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.twice(self.twice(self.stem(images_BCHW))).mean((2, 3)))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.unused = nn.Linear(192, 4), nn.Linear(4, 5), nn.Linear(2, 2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.stem(images_BCHW.flatten(1)).detach())


def rows_of(flow: Flow) -> dict:
    return {row.name: row for row in flow.rows}


# --- forward ----------------------------------------------------------------------------------------------------------


def test_rows_stand_in_the_order_in_which_data_flows(images_BCHW):
    """Modules are listed by first call, parents before children; what is not called is not listed."""
    flow = measure_flow(Backwards(), images_BCHW)
    assert [row.name for row in flow.rows] == ["", "stem", "twice", "head"]
    assert [row.order for row in flow.rows] == [0, 1, 2, 3]
    assert [row.kind for row in flow.rows] == ["Backwards", "Conv2d", "Conv2d", "Linear"]
    assert [row.calls for row in flow.rows] == [1, 1, 2, 1]
    names = [row.name for row in measure_flow(classifier(), images_BCHW).rows]
    assert names == ["", "0", "0.0", "0.1", "0.2", "1", "2", "3", "4"]


def test_shapes_are_those_of_the_outputs(images_BCHW):
    """Each row has the shape of what its module gives, batch included."""
    rows = rows_of(measure_flow(classifier(), images_BCHW))
    assert {name: row.shape for name, row in rows.items()} == {
        "": (4, 5),
        **dict.fromkeys(("0", "0.0", "0.1", "0.2"), (4, 4, 4, 4)),
        "1": (4, 4, 1, 1),
        **dict.fromkeys(("2", "3"), (4, 4)),
        "4": (4, 5),
    }


def test_operations_are_those_counted_by_hand(images_BCHW):
    """A convolution costs 2 B Ho Wo Co Ci kh kw operations, a linear layer 2 B I O, anything else nothing."""
    rows = rows_of(measure_flow(classifier(), images_BCHW))
    conv, linear = 2 * 4 * (4 * 4) * 4 * 3 * 3 * 3, 2 * 4 * 4 * 5
    assert {name: row.flops for name, row in rows.items()} == {
        "": conv + linear,
        "0": conv,
        "0.0": conv,
        **dict.fromkeys(("0.1", "0.2", "1", "2", "3"), 0),
        "4": linear,
    }


def test_grouped_and_dilated_convolutions_cost_what_they_do(images_BCHW):
    """Groups divide a convolution's operations; dilation only changes the size of what it gives."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.Conv2d(6, 2, 2, dilation=2))
    rows = rows_of(measure_flow(model, images_BCHW))
    assert rows["0"].flops == 2 * 4 * 36 * 6 * 1 * 9
    assert rows["1"].flops == 2 * 4 * 16 * 2 * 6 * 4


def test_a_module_called_twice_counts_its_first_call_and_all_its_time(images_BCHW):
    """`flops` of a module are its first call's, while the model's are those of every call."""
    rows = rows_of(measure_flow(Backwards(), images_BCHW))
    stem, once, head = 2 * 4 * 64 * 4 * 3, 2 * 4 * 64 * 4 * 4, 2 * 4 * 4 * 5
    assert (rows["stem"].flops, rows["twice"].flops, rows["head"].flops) == (stem, once, head)
    assert rows[""].flops == stem + 2 * once + head


def test_attention_is_counted(images_BCHW):
    """torch's own attention, which has one fused call in evaluation mode, costs its projections and its products."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), layer).eval()
    rows = rows_of(measure_flow(model, images_BCHW))
    tokens, dims, hidden = 4 * 3, 8, 16
    attention = 2 * tokens * dims * 3 * dims + 2 * (2 * tokens * 3 * dims) + 2 * tokens * dims * dims
    assert rows["2.self_attn"].flops == attention
    assert rows["2"].flops == attention + 2 * (2 * tokens * dims * hidden)


@pytest.mark.parametrize("build", [classifier, Backwards, lambda: build_model("test_vit")])
def test_time_is_nested(build):
    """No time is negative, and no module took longer than the module around it; nor cost more operations."""
    rows = rows_of(measure_flow(build(), torch.randn(1, 3, 160, 160)))
    for name, row in rows.items():
        assert row.seconds >= 0
        if name:
            parent = rows[name.rpartition(".")[0]]
            assert row.seconds <= parent.seconds, name
            assert row.flops <= parent.flops, name
    assert rows[""].seconds > 0


def test_the_number_of_runs_is_the_callers(images_BCHW):
    """One forward warms up and counts, and `runs` more are timed."""
    model, calls = classifier(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    measure_flow(model, images_BCHW, runs=5)
    assert len(calls) == 6


def test_a_flow_says_where_it_ran(images_BCHW):
    """Batch, device and number of threads are told, as plain values too."""
    flow = measure_flow(classifier(), images_BCHW)
    assert (flow.batch, flow.device, flow.threads) == (4, "cpu", torch.get_num_threads())
    assert flow.to_dict()["rows"][1]["name"] == "0"


def test_modules_that_give_several_tensors_or_none(images_BCHW):
    """The shape is the first tensor's, of a tuple, list or dict; empty where a module gives no tensor."""

    class Gives(nn.Module):
        def __init__(self, value: object) -> None:
            super().__init__()
            self.value = value

        def forward(self, _: Tensor) -> object:
            return self.value

    class Collects(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            one, two = torch.ones(2, 3), torch.ones(5)
            self.parts = nn.ModuleList(map(Gives, [(one, two), [two, one], {"x": None, "y": one}, "words", None, 3]))

        def forward(self, images_BCHW: Tensor) -> list[object]:
            return [part(images_BCHW) for part in self.parts]

    rows = rows_of(measure_flow(Collects(), images_BCHW))
    assert [rows[f"parts.{number}"].shape for number in range(6)] == [(2, 3), (5,), (2, 3), (), (), ()]


def test_an_error_that_a_model_catches_itself_does_no_harm(images_BCHW):
    """A part that fails, and whose caller goes on without it, leaves the other rows right."""

    class Fails(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("not today")

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails, self.head = Fails(), nn.Linear(192, 5)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            try:
                return self.fails(images_BCHW)
            except ValueError:
                return self.head(images_BCHW.flatten(1))

    rows = rows_of(measure_flow(Tries(), images_BCHW))
    assert rows["head"].flops == rows[""].flops == 2 * 4 * 192 * 5
    assert rows["fails"].shape == ()


def test_a_model_that_calls_itself_is_measured(images_BCHW):
    """A module inside its own forward counts each of its calls once."""

    class Recurs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.head = nn.Linear(192, 192), nn.Linear(192, 5)

        def forward(self, images_BCHW: Tensor, times: int = 2) -> Tensor:
            values_BD = self.step(images_BCHW.flatten(1))
            return self(values_BD, times - 1) if times else self.head(values_BD)

    rows = rows_of(measure_flow(Recurs(), images_BCHW))
    assert (rows[""].calls, rows["step"].calls, rows["head"].calls) == (3, 3, 1)
    assert rows["step"].flops == 2 * 4 * 192 * 192


@pytest.mark.parametrize("measure", [measure_flow, measure_gradients])
def test_measuring_leaves_no_hooks_even_where_it_fails(measure, images_BCHW):
    """After a measurement, or a failed one, the model has the hooks and modes that it had before."""
    model = classifier().train()
    model[0][1].eval()
    model[4].register_forward_hook(lambda *_: None)
    modes = [module.training for module in model.modules()]
    measure(model, images_BCHW)
    with pytest.raises(ModelError, match=r"the model does not run on images \[4, 2, 8, 8\]: ") as caught:
        measure(model, images_BCHW[:, :2])
    assert caught.value.hint == "give images of the size and channels it wants"
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == [0] * 8 + [1]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_forward_measures_in_evaluation_mode(images_BCHW):
    """Running statistics stay, and dropout draws no random numbers."""
    model = classifier().train()
    before, rng = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    measure_flow(model, images_BCHW)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


# --- backward ---------------------------------------------------------------------------------------------------------


def by_name(gradients: Gradients) -> dict:
    return {row.name: row for row in gradients.rows}


@pytest.mark.parametrize("labels_B", [None, torch.tensor([4, 4, 0, 1])], ids=["made up", "given"])
def test_norms_are_those_of_a_plain_backward_in_training_mode(labels_B, images_BCHW):
    """Loss and norms are those of cross-entropy in training mode, labels 0, 1, 2 ... where none are given."""
    model = classifier()
    model[3] = nn.Identity()
    seen = measure_gradients(model.eval(), images_BCHW, labels_B)
    expected_B = torch.arange(4) if labels_B is None else labels_B
    loss = F.cross_entropy(model.train()(images_BCHW), expected_B)
    loss.backward()
    assert seen.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert seen.batch == 4
    assert [row.name for row in seen.rows] == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        row = by_name(seen)[name]
        assert row.shape == tuple(parameter.shape)
        assert row.norm == pytest.approx(float(parameter.grad.norm()), rel=1e-5, abs=1e-8), name
        assert row.zeros == pytest.approx(float((parameter.grad == 0).float().mean())), name
        assert (row.trainable, row.not_finite) == (True, 0)


def test_classes_fewer_than_images_are_dealt_in_turn(images_BCHW):
    """Labels that are made up stay below the number of classes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    loss = F.cross_entropy(model(images_BCHW), torch.tensor([0, 1, 0, 1]))
    assert measure_gradients(model, images_BCHW).loss == pytest.approx(float(loss.detach()), rel=1e-6)


def test_gradients_leave_the_model_as_it_was(images_BCHW):
    """Batch norm's statistics, parameters, `.grad`, modes and random numbers are restored; twice gives the same."""
    model = classifier().eval()
    model[4].weight.grad = torch.ones(5, 4)
    before, rng = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    first = measure_gradients(model, images_BCHW)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model[4].weight.grad, torch.ones(5, 4))
    assert [name for name, one in model.named_parameters() if one.grad is not None] == ["4.weight"]
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert measure_gradients(model, images_BCHW) == first


def test_what_gets_no_gradient_is_found(images_BCHW):
    """Parameters that the loss does not depend on, detached or unused, are the finding `no-gradient`, by name."""
    seen = measure_gradients(Detached(), images_BCHW)
    (finding,) = seen.findings
    lost = ("stem.weight", "stem.bias", "unused.weight", "unused.bias")
    assert (finding.kind, finding.severity, finding.ids) == ("no-gradient", "error", lost)
    assert finding.evidence == {"parameters": 4, "of": 6, "first": list(lost)}
    assert "`stem.weight`, `stem.bias`, `unused.weight` and 1 more can be trained" in finding.cause
    assert [(row.norm, row.zeros) for row in seen.rows if row.name in lost] == [(None, None)] * 4
    assert by_name(seen)["head.weight"].norm > 0


def test_a_model_whose_output_depends_on_no_parameter_is_found(images_BCHW):
    """Where the whole output is detached, every parameter is without a gradient."""

    class Detaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.fc(images_BCHW.flatten(1)).detach()

    assert measure_gradients(Detaches(), images_BCHW).findings[0].ids == ("fc.weight", "fc.bias")


def test_gradients_that_are_not_finite_are_found(images_BCHW):
    """NaN makes the finding `not-finite` with the parameters that got it; norm and loss are then None."""
    model = classifier()
    with torch.no_grad():
        model[4].bias[1] = torch.nan
    seen = measure_gradients(model, images_BCHW)
    assert seen.loss is None
    finding = next(one for one in seen.findings if one.kind == "not-finite")
    assert finding.severity == "error"
    assert set(finding.ids) == {row.name for row in seen.rows if row.not_finite}
    assert finding.evidence["values"] == sum(row.not_finite for row in seen.rows) > 0
    assert finding.evidence["loss_is_finite"] is False
    row = by_name(seen)["4.weight"]
    assert (row.norm, row.not_finite) == (None, 20)
    assert seen.to_dict()["loss"] is None


def test_gradients_of_zeros_are_found(images_BCHW):
    """A gradient of nothing but zeros is the warning `zero-gradient`; some zeros are only a share."""

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(192, 4), nn.Linear(4, 5)
            nn.init.constant_(self.stem.bias, -100.0)
            with torch.no_grad():
                self.stem.bias[0] = 100.0

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.head(F.relu(self.stem(images_BCHW.flatten(1))))

    seen = measure_gradients(Dead(), images_BCHW)
    assert seen.findings == ()
    assert by_name(seen)["stem.bias"].zeros == 0.75
    model = Dead()
    with torch.no_grad():
        model.stem.bias[0] = -100.0
    (finding,) = measure_gradients(model, images_BCHW).findings
    assert (finding.kind, finding.severity) == ("zero-gradient", "warning")
    assert finding.ids == ("stem.weight", "stem.bias", "head.weight")


def test_frozen_parameters_are_listed_and_no_finding(images_BCHW):
    """What is frozen has a row without a gradient and is not reported."""
    model = Detached()
    model.stem.requires_grad_(False)
    model.unused.requires_grad_(False)
    seen = measure_gradients(model, images_BCHW)
    assert seen.findings == ()
    assert [row.name for row in seen.rows if not row.trainable] == [
        "stem.weight",
        "stem.bias",
        "unused.weight",
        "unused.bias",
    ]
    assert all((row.norm, row.zeros) == (None, None) for row in seen.rows if not row.trainable)


def test_a_model_of_which_all_is_frozen_is_an_error(images_BCHW):
    """Without anything to train there is no gradient to measure."""
    with pytest.raises(ModelError, match="no parameter requires a gradient"):
        measure_gradients(classifier().requires_grad_(False), images_BCHW)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 5], "labels run from 0 to 5, and the model has 5 outputs"),
        ([-1, 1, 2, 4], "labels run from -1 to 4, and the model has 5 outputs"),
    ],
)
def test_labels_out_of_range_are_told(labels, message, images_BCHW):
    """Class numbers that the model has no output for are an error with the range."""
    with pytest.raises(ModelError, match=message) as caught:
        measure_gradients(classifier(), images_BCHW, torch.tensor(labels))
    assert caught.value.hint == "give class numbers from 0 to 4"


@pytest.mark.parametrize("labels_B", [torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]]), torch.zeros(4, 5).long()])
def test_labels_that_are_not_one_per_image_are_told(labels_B, images_BCHW):
    """More or fewer labels than images, or several for each, are a ModelError."""
    with pytest.raises(ModelError):
        measure_gradients(classifier(), images_BCHW, labels_B)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integer_type_will_do(dtype, images_BCHW):
    """int32 labels, as numpy gives them, mean the same as int64 ones."""
    model, labels_B = classifier(), torch.tensor([3, 0, 1, 1])
    assert measure_gradients(model, images_BCHW, labels_B.to(dtype)) == measure_gradients(model, images_BCHW, labels_B)


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_logits_may_be_the_first_of_several(kind, images_BCHW):
    """Of a tuple, list or dict, the first tensor is taken for the logits."""

    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)

        def forward(self, images_BCHW: Tensor) -> object:
            logits_BK = self.fc(images_BCHW.flatten(1))
            others = (logits_BK, images_BCHW)
            return {"tuple": others, "list": list(others), "dict": dict(zip("ab", others, strict=True))}[kind]

    model = Gives()
    plain = F.cross_entropy(model.fc(images_BCHW.flatten(1)), torch.arange(4)).detach()
    assert measure_gradients(model, images_BCHW).loss == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize(
    ("output", "got"),
    [(None, "nothing"), (torch.ones(4), r"a tensor \[4\]"), (torch.ones(2, 5), r"a tensor \[2, 5\]")],
    ids=["nothing", "one number an image", "another batch"],
)
def test_what_gives_no_logits_is_told(output, got, images_BCHW):
    """A model whose output is no [B, K] is an error that says what it gives."""

    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, _: Tensor) -> object:
            return None if output is None else output * self.weight

    with pytest.raises(ModelError, match=rf"the model gives {got}, not logits \[B, K\]"):
        measure_gradients(Gives(), images_BCHW)


def test_one_image_is_told_where_batch_norm_needs_more(images_BCHW):
    """In training mode a batch norm cannot average one value: the error says so."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 5))
    with pytest.raises(ModelError, match="Expected more than 1 value per channel when training"):
        measure_gradients(model, images_BCHW[:1])


@pytest.mark.parametrize("kind", ["expanded", "replaced", "made on the way", "grown"])
def test_buffers_of_every_kind_are_restored(kind, images_BCHW):
    """A buffer that is a view of one value, or that forward() replaces, makes or resizes, is no obstacle."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)
            self.register_buffer("kept", None if kind == "made on the way" else torch.zeros(1).expand(5))
            if kind in ("replaced", "grown"):
                self.kept = torch.zeros(5)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            logits_BK = self.fc(images_BCHW.flatten(1))
            if kind in ("replaced", "made on the way"):
                self.kept = logits_BK.detach().mean(0)
            if kind == "grown":
                self.kept = torch.cat([self.kept, self.kept])
            return logits_BK

    model = Odd()
    before = model.kept
    seen = measure_gradients(model, images_BCHW)
    assert math.isfinite(seen.loss)
    if before is None:
        assert model.kept is None
    else:
        assert torch.equal(model.kept, torch.zeros(5))


def test_a_shared_parameter_has_one_row_with_the_sum_of_its_gradients(images_BCHW):
    """A weight that is used twice is listed once, with the gradient of both uses."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(192, 192, bias=False), nn.Linear(192, 192, bias=False)
            self.two.weight = self.one.weight

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.two(self.one(images_BCHW.flatten(1)))

    model = Tied()
    (row,) = measure_gradients(model, images_BCHW).rows
    F.cross_entropy(model(images_BCHW), torch.arange(4)).backward()
    assert (row.name, row.norm) == ("one.weight", pytest.approx(float(model.one.weight.grad.norm()), rel=1e-5))


def test_values_that_are_told_are_plain(images_BCHW):
    """to_dict() has loss, batch, rows and findings as JSON takes them, whatever went wrong."""
    import json

    model = Detached()
    with torch.no_grad():
        model.head.weight.fill_(torch.inf)
    told = json.loads(json.dumps(measure_gradients(model, images_BCHW).to_dict(), allow_nan=False))
    assert told.keys() == {"loss", "batch", "rows", "findings"}
    assert [finding["kind"] for finding in told["findings"]][:2] == ["no-gradient", "not-finite"]
    assert told["rows"][0] == {
        "name": "stem.weight",
        "shape": [4, 192],
        "trainable": True,
        "norm": None,
        "zeros": None,
        "not_finite": 0,
    }


def test_gradients_are_measured_in_a_callers_inference_mode():
    """A caller that switched gradients off altogether still gets them measured."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images_BCHW = torch.randn(4, 3, 2, 2)
    with torch.inference_mode():
        seen = measure_gradients(model, images_BCHW)
    assert all(row.norm is not None and row.norm > 0 for row in seen.rows)
