"""Every engine gives the features of torch in fp32, on real photos, drawn people and both precisions.

Shapes: N images, D features.
"""

import csv
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from finefold.data.cachedir import cache_root
from finefold.data.images import list_images
from finefold.errors import EngineError
from finefold.metrics.summary import summarise
from finefold.nn import engines
from finefold.nn.backbones import EMBEDDED_BACKBONE, Backbone, find_backbone
from finefold.nn.devices import has_bf16
from finefold.nn.engines import BATCH, Choice, choose_engine, engine_note, make_engine
from finefold.nn.features import PrefixCache, load_input
from finefold.nn.probe import fit_probe
from finefold.steps.demo import elpv_folder

NUM_PHOTOS, NUM_DRAWN, NUM_SCORED = 64, 32, 256
MAX_PIXELS = 10**8
FACES = Path(__file__).resolve().parents[3] / "shared" / "data" / "maskfaces" / "train" / "images"

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return find_backbone(EMBEDDED_BACKBONE, "embedded")


@pytest.fixture(scope="module")
def cells() -> tuple[list[Path], np.ndarray]:
    """Solar cells, spread over the whole set: files, and whether each is defective."""
    folder = elpv_folder()
    if folder is None:
        pytest.skip("the elpv-dataset package is not installed")
    with (folder / "labels.csv").open() as file:
        rows = [row for row in csv.reader(file, delimiter=" ", skipinitialspace=True) if row]
    chosen = [rows[place] for place in np.linspace(0, len(rows) - 1, NUM_SCORED).astype(int)]
    return [folder / row[0] for row in chosen], np.array([float(row[1]) > 0.5 for row in chosen], np.int64)


@pytest.fixture(scope="module")
def images(backbone, cells, portraits) -> np.ndarray:
    """Preprocessed photos of solar cells, then drawn people."""
    drawn = sorted((portraits / "train" / "images").rglob("*.*"))[:: 126 // NUM_DRAWN][:NUM_DRAWN]
    paths = [*cells[0][:: NUM_SCORED // NUM_PHOTOS], *drawn]
    return np.stack([load_input(path.read_bytes(), backbone.preprocessing, MAX_PIXELS) for path in paths])


def features(backbone: Backbone, images: np.ndarray, name: str, precision: str) -> np.ndarray:
    engine = make_engine(backbone, Choice(name, precision, "test"))
    return np.concatenate([engine(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


@pytest.fixture(scope="module")
def reference_ND(backbone, images) -> np.ndarray:
    return features(backbone, images, "torch", "fp32")


def cosines(first_ND: np.ndarray, second_ND: np.ndarray) -> np.ndarray:
    norms_N = np.linalg.norm(first_ND, axis=1) * np.linalg.norm(second_ND, axis=1)
    return (first_ND * second_ND).sum(axis=1) / norms_N


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_fp32_engines_agree_with_torch(backbone, images, reference_ND, name):
    """In fp32 another engine's features have a cosine above 0.9999 with torch's, for every image."""
    pytest.importorskip(name)
    found_ND = features(backbone, images, name, "fp32")
    assert found_ND.dtype == np.float32
    assert found_ND.shape == (NUM_PHOTOS + NUM_DRAWN, backbone.num_features)
    assert cosines(found_ND, reference_ND).min() > 0.9999


@needs_bf16
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_engines_are_near_torch(backbone, images, reference_ND, name):
    """In bf16 the cosine with torch in fp32 stays near 1, even for the low contrast of solar cells.

    Measured over 256 cells and 63 drawings: medians 0.998 and 0.998, minima 0.967 and 0.988 (OpenVINO).
    """
    pytest.importorskip(name)
    found_N = cosines(features(backbone, images, name, "bf16"), reference_ND)
    for part_N in (found_N[:NUM_PHOTOS], found_N[NUM_PHOTOS:]):
        assert np.median(part_N) > 0.995
        assert part_N.min() > 0.96


@needs_bf16
@pytest.mark.skipif(not FACES.is_dir(), reason=f"{FACES} is not there")
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_engines_agree_on_photos(backbone, name):
    """On photographs, the cosine of bf16 with fp32 is above 0.998 for the median image and 0.99 for the worst."""
    pytest.importorskip(name)
    listed = [FACES / path for path in list_images(FACES).paths if Path(path).stem in ("normal", "mask1")]
    photos = np.stack([load_input(path.read_bytes(), backbone.preprocessing, MAX_PIXELS) for path in listed[:48]])
    found_N = cosines(features(backbone, photos, name, "bf16"), features(backbone, photos, "torch", "fp32"))
    assert np.median(found_N) > 0.998
    assert found_N.min() > 0.99


@pytest.mark.parametrize("name", engines.ENGINES)
def test_an_engine_takes_any_number_of_images(backbone, images, reference_ND, name):
    """One image, or a batch that is not full, gives the same features as a full one."""
    pytest.importorskip(name)
    engine = make_engine(backbone, Choice(name, "fp32", "test"))
    assert cosines(engine(images[:1]), reference_ND[:1]).min() > 0.9999
    assert cosines(engine(images[5:12]), reference_ND[5:12]).min() > 0.9999


@pytest.mark.parametrize("name", engines.ENGINES)
def test_an_engine_may_be_called_side_by_side(backbone, images, reference_ND, name):
    """Calls from several threads do not mix up their images."""
    pytest.importorskip(name)
    engine = make_engine(backbone, Choice(name, "fp32", "test"))
    found: dict[int, np.ndarray] = {}
    calls = [
        threading.Thread(target=lambda at=at: found.update({at: engine(images[at : at + 8])})) for at in (0, 8, 64, 80)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    for at, rows_BD in found.items():
        assert cosines(rows_BD, reference_ND[at : at + 8]).min() > 0.9999
    assert len(found) == len(calls)


@needs_bf16
def test_scores_on_bf16_and_fp32_features_agree(backbone, cells):
    """A probe's out-of-fold scores on bf16 features lie inside the intervals of those on fp32, and the reverse."""
    pytest.importorskip("openvino")
    paths, labels_N = cells
    folds_N = np.random.default_rng(0).permutation(np.arange(len(paths)) % 5)
    scores = []
    for precision in ("fp32", "bf16"):
        cache = PrefixCache(backbone, Choice("openvino", precision, "test"), MAX_PIXELS)
        rows_ND = cache.compute([path.name for path in paths], paths).rows_ND
        probe = fit_probe(
            rows_ND, labels_N, labels_N, folds_N, num_classes=2, strengths=(30.0, 100.0, 300.0), power=0.5
        )
        ledger = {"probs_NK": probe.probs_NC, "labels_N": labels_N, "folds_N": folds_N}
        groups_N = np.arange(len(paths))
        scores.append(summarise(**ledger, groups_N=groups_N, class_names=["whole", "broken"], attributes={}))
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss"):
        fp32, bf16 = (score[key] for score in scores)
        assert fp32["low"] <= bf16["value"] <= fp32["high"]
        assert bf16["low"] <= fp32["value"] <= bf16["high"]
    assert scores[0]["accuracy"]["value"] > 0.7


def test_the_fastest_engine_is_measured_once_and_remembered(backbone, tmp_path, monkeypatch):
    """`auto` tells the rates it measured; asked again it answers the same without measuring."""
    monkeypatch.setenv("FINEFOLD_CACHE", str(tmp_path))
    told: list[str] = []
    rates = iter([30.0, 20.0, 10.0] if has_bf16() else [20.0, 30.0, 10.0])
    monkeypatch.setattr(engines, "make_engine", lambda _backbone, choice: choice)
    monkeypatch.setattr(engines, "measure_rate", lambda _engine, _backbone: next(rates))
    first = choose_engine(backbone, engine="auto", precision="auto", report=told.append)
    second = choose_engine(backbone, engine="auto", precision="auto", report=told.append)
    assert (first.engine, first.reason) == ("torch" if has_bf16() else "openvino", "measured")
    assert (second.engine, second.precision, second.reason) == (first.engine, first.precision, "remembered")
    assert len(told) == 1
    assert told[0].startswith("engines on this machine, images/s: torch")


def test_auto_leaves_out_what_cannot_run(backbone, tmp_path, monkeypatch):
    """An engine that is not installed, or fails, is left out with a line that says so, and another one is taken."""
    monkeypatch.setenv("FINEFOLD_CACHE", str(tmp_path))

    def missing(_backbone: Backbone, _precision: str) -> None:
        raise ImportError("No module named 'openvino'")

    def broken(_backbone: Backbone, _precision: str) -> None:
        raise RuntimeError("cannot compile\nsecond line")

    monkeypatch.setitem(engines.ENGINES, "openvino", missing)
    monkeypatch.setitem(engines.ENGINES, "onnxruntime", broken)
    told: list[str] = []
    choice = choose_engine(backbone, engine="auto", precision="fp32", report=told.append)
    assert (choice.engine, choice.precision) == ("torch", "fp32")
    assert "engine openvino is not used: the engine `openvino` is not installed" in told[0]
    assert "engine onnxruntime is not used" in told[1]
    with pytest.raises(EngineError) as caught:
        make_engine(backbone, Choice("openvino", "fp32", "asked for"))
    assert caught.value.hint == 'pip install "finefold[cpu]"'
    with pytest.raises(EngineError, match=r"cannot run tf_efficientnet_lite0: cannot compile\n") as caught:
        make_engine(backbone, Choice("onnxruntime", "fp32", "asked for"))
    assert caught.value.hint == 'set model.engine = "torch"'


def test_an_engine_that_fails_while_it_is_timed_is_told():
    """An engine that was made and then cannot compute is an EngineError, not a hang."""

    class Failing:
        name, precision, streams = "failing", "fp32", 2

        def __call__(self, _images: np.ndarray) -> np.ndarray:
            raise ValueError("no such operator")

    with pytest.raises(EngineError, match=r"failing cannot run .*: no such operator"):
        engines.measure_rate(Failing(), find_backbone(EMBEDDED_BACKBONE, "embedded"))


def test_onnx_runtime_has_fp32_only(backbone):
    """ONNX Runtime runs in fp32; asked for bf16, it is refused instead of quietly giving something else."""
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="onnxruntime has no bf16"):
        choose_engine(backbone, engine="onnxruntime", precision="bf16", report=lambda _line: None)
    choice = choose_engine(backbone, engine="onnxruntime", precision="auto", report=lambda _line: None)
    assert choice == Choice("onnxruntime", "fp32", "asked for")
    assert engine_note(make_engine(backbone, choice))["precision"] == "fp32"
    with pytest.raises(EngineError, match="onnxruntime has no bf16"):
        make_engine(backbone, Choice("onnxruntime", "bf16", "asked for"))


def test_a_model_is_exported_once(backbone):
    """The ONNX file is made once, whole, and shared by the engines that read it."""
    pytest.importorskip("onnx")
    first = Path(engines.exported_model(backbone))
    written = first.stat().st_mtime_ns
    assert Path(engines.exported_model(backbone)) == first
    assert first.stat().st_mtime_ns == written
    assert first.is_relative_to(cache_root())
    assert sorted(file.name for file in first.parent.iterdir()) == ["about.json", "model.onnx"]


def test_onnx_runtime_reports_nothing_to_its_makers(tmp_path):
    """Its wheels may give the machine an id, keep a journal of sessions and send it: in a new home nothing appears."""
    pytest.importorskip("onnxruntime")
    code = (
        "import io, sys, torch\n"
        "from finefold.nn.exported import OnnxRuntimeRunner, export_onnx\n"
        "sheet = io.BytesIO()\n"
        "export_onnx(torch.nn.Linear(3, 2).eval(), torch.zeros(1, 3), sheet, name='test')\n"
        "runner = OnnxRuntimeRunner(sheet.getvalue, 'fp32')\n"
        "print(runner(torch.zeros(4, 3).numpy()).shape)\n"
    )
    # where it believes to be tested it reports nothing anyway, so it is not to know
    told = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY")
    environment = {key: value for key, value in os.environ.items() if key not in told}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment | home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(4, 2)"
    assert not [file for file in tmp_path.rglob("*") if "onnx" in str(file).lower() or file.name == "deviceid"]
