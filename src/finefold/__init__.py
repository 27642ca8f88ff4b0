"""finefold fine-tunes pretrained image classifiers and tells you the truth about them.

The public names load what they need when they are first used, so that importing finefold costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finefold.data.findings import Finding
    from finefold.data.labels import Attribute, Bands, LabelSpace
    from finefold.data.predictions import Ledger, Predictions
    from finefold.data.preprocessing import Preprocessing
    from finefold.data.samples import SampleTable
    from finefold.data.splits import Split, read_split, write_split
    from finefold.data.synthetic import draw_portraits
    from finefold.doctor.diagnosis import Checked, Diagnosis
    from finefold.errors import FinefoldError
    from finefold.metrics.intervals import Score
    from finefold.nn.catalogue import build_model
    from finefold.nn.cutting import Cut, cut, find_cuts
    from finefold.nn.modules import Inspection, inspect_model
    from finefold.nn.settings import apply_settings
    from finefold.nn.stages import find_stages
    from finefold.nn.transplant import Match, match_weights
    from finefold.nn.watching import Watcher
    from finefold.recipe.loader import load_recipe
    from finefold.recipe.schema import Recipe
    from finefold.steps.answers import Answers
    from finefold.steps.audit import Audit, audit
    from finefold.steps.compare import Comparison, compare
    from finefold.steps.correct import Corrections, correct
    from finefold.steps.diagnose import diagnose
    from finefold.steps.ensemble import Ensemble, make_ensemble
    from finefold.steps.evaluate import evaluate
    from finefold.steps.init import init
    from finefold.steps.own import Own
    from finefold.steps.pick import Picked, pick
    from finefold.steps.predict import predict
    from finefold.steps.pseudo import PseudoLabelled, pseudo
    from finefold.steps.reading import Data, read_data
    from finefold.steps.run import Run, open_run
    from finefold.steps.runs import Board, list_runs
    from finefold.steps.soup import Soup, make_soup
    from finefold.steps.split import make_split
    from finefold.steps.train import train

__version__ = "0.1.0"

_HOME = {
    "Answers": "steps.answers",
    "Attribute": "data.labels",
    "Audit": "steps.audit",
    "Bands": "data.labels",
    "Checked": "doctor.diagnosis",
    "Board": "steps.runs",
    "Comparison": "steps.compare",
    "Corrections": "steps.correct",
    "Cut": "nn.cutting",
    "Data": "steps.reading",
    "Diagnosis": "doctor.diagnosis",
    "Ensemble": "steps.ensemble",
    "Finding": "data.findings",
    "FinefoldError": "errors",
    "Inspection": "nn.modules",
    "LabelSpace": "data.labels",
    "Ledger": "data.predictions",
    "Match": "nn.transplant",
    "Own": "steps.own",
    "Picked": "steps.pick",
    "Predictions": "data.predictions",
    "Preprocessing": "data.preprocessing",
    "PseudoLabelled": "steps.pseudo",
    "Recipe": "recipe.schema",
    "Run": "steps.run",
    "SampleTable": "data.samples",
    "Score": "metrics.intervals",
    "Soup": "steps.soup",
    "Split": "data.splits",
    "Watcher": "nn.watching",
    "apply_settings": "nn.settings",
    "audit": "steps.audit",
    "build_model": "nn.catalogue",
    "compare": "steps.compare",
    "correct": "steps.correct",
    "cut": "nn.cutting",
    "diagnose": "steps.diagnose",
    "draw_portraits": "data.synthetic",
    "evaluate": "steps.evaluate",
    "find_cuts": "nn.cutting",
    "find_stages": "nn.stages",
    "init": "steps.init",
    "inspect_model": "nn.modules",
    "list_runs": "steps.runs",
    "load_recipe": "recipe.loader",
    "make_ensemble": "steps.ensemble",
    "make_soup": "steps.soup",
    "make_split": "steps.split",
    "match_weights": "nn.transplant",
    "open_run": "steps.run",
    "pick": "steps.pick",
    "predict": "steps.predict",
    "pseudo": "steps.pseudo",
    "read_data": "steps.reading",
    "read_split": "data.splits",
    "train": "steps.train",
    "write_split": "data.splits",
}

__all__ = [
    "Answers",
    "Attribute",
    "Audit",
    "Bands",
    "Board",
    "Checked",
    "Comparison",
    "Corrections",
    "Cut",
    "Data",
    "Diagnosis",
    "Ensemble",
    "Finding",
    "FinefoldError",
    "Inspection",
    "LabelSpace",
    "Ledger",
    "Match",
    "Own",
    "Picked",
    "Predictions",
    "Preprocessing",
    "PseudoLabelled",
    "Recipe",
    "Run",
    "SampleTable",
    "Score",
    "Soup",
    "Split",
    "Watcher",
    "apply_settings",
    "audit",
    "build_model",
    "compare",
    "correct",
    "cut",
    "diagnose",
    "draw_portraits",
    "evaluate",
    "find_cuts",
    "find_stages",
    "init",
    "inspect_model",
    "list_runs",
    "load_recipe",
    "make_ensemble",
    "make_soup",
    "make_split",
    "match_weights",
    "open_run",
    "pick",
    "predict",
    "pseudo",
    "read_data",
    "read_split",
    "train",
    "write_split",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finefold' has no attribute '{name}'")
    return getattr(import_module(f"finefold.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
