"""The command line: parse, call one step, print. stdout is data, stderr everything else."""

import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

import finefold
from finefold.cli import answer_verbs, decide_verbs, doctor_verbs, pseudo_verbs, rates_verbs, trust_verbs
from finefold.cli.options import AsJson, DataFile, Overrides, RecipeName, SplitFile
from finefold.cli.recipe_verbs import recipe_app
from finefold.cli.weights_verbs import weights_app
from finefold.errors import FinefoldError, FinefoldWarning

app = typer.Typer(
    name="finefold",
    help="Fine-tune pretrained image classifiers with cross-validation, and learn the truth about them.",
    epilog="Start with: finefold demo, or: finefold init FOLDER",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130


def run() -> None:
    """The program: 0 done, 1 foreseen failure, 2 usage or recipe mistake, 130 interrupted."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Runs one command; its exit code."""
    try:
        with warnings.catch_warnings():
            _show_our_warnings()
            code = app(args=arguments or ["--help"], prog_name="finefold", standalone_mode=False)
        if code == INTERRUPTED:  # how typer tells of Ctrl-C
            raise KeyboardInterrupt
    except FinefoldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        _print_usage_error(error, arguments)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted: run the same command again, what was cached is reused", file=sys.stderr)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _show_our_warnings() -> None:
    """finefold's own warnings as one line on stderr, each once; those of others as before."""
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, FinefoldWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    warnings.simplefilter("once", FinefoldWarning)


def _print_usage_error(error: Any, arguments: list[str]) -> None:
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    verb = "".join(f" {one}" for one in arguments[:1] if not one.startswith("-"))  # some mistakes know no context
    command = context.command_path if context else f"finefold{verb}"
    print(f"error: {message}\n\nhint: `{command} --help` shows what can be said", file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(finefold.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Runs before every command."""


@app.command(epilog="Example: finefold demo --data portraits")
def demo(
    data: Annotated[
        Literal["elpv", "portraits"], typer.Option(help="solar cells from the elpv-dataset package, or drawn people")
    ] = "elpv",
    out: Annotated[Path, typer.Option(help="folder for everything the demo makes")] = Path("finefold-demo"),
) -> None:
    """Run the main job on images that are at hand. From folder to submission, with scores."""
    from finefold.cli import show
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.demo import demo as step
        made = step(data=data, out=out, progress=told)
    show.demo(made)


@app.command(epilog="Example: finefold init photos/ --out data.toml")
def init(
    folder: Annotated[Path, typer.Argument(help="a folder with labelled images", metavar="FOLDER")],
    out: Annotated[
        Path, typer.Option(help="where to write data.toml; never inside your data unless you say so")
    ] = Path("data.toml"),
    as_json: AsJson = False,
) -> None:
    """Recognise a folder's layout and write data.toml. Says what is there, and asks nothing."""
    from finefold.cli import show
    from finefold.cli.progress import progress
    from finefold.steps.init import init as step

    with progress() as told:
        found = step(folder, out=out, progress=told)
    show.initialised(found, as_json=as_json)


@app.command(epilog="Example: finefold split data.toml --folds 5 --seed 0")
def split(
    data: DataFile,
    folds: Annotated[int, typer.Option(help="how many")] = 5,
    seed: Annotated[int, typer.Option(help="another seed, another split")] = 0,
    out: Annotated[Path | None, typer.Option(help="a CSV; DATA.split.csv beside DATA.toml by default")] = None,
    as_json: AsJson = False,
) -> None:
    """Deal samples to folds. Groups stay whole, every class is spread as evenly as can be."""
    from finefold.cli import show
    from finefold.cli.progress import progress
    from finefold.steps.reading import read_data
    from finefold.steps.split import split as step

    with progress() as told:
        made = step(read_data(data), folds=folds, seed=seed, out=out, progress=told)
    given = "" if out is None else f" --split {made.file}"
    show.split(made, f"finefold train {data}{given} --recipe probe --out runs/first", as_json=as_json)


@app.command("show", epilog="Example: finefold show data.toml --set augment.preset=medium --out sheet.png")
def contact_sheet(
    data: DataFile,
    recipe: RecipeName = "quick",
    override: Overrides = None,
    out: Annotated[Path, typer.Option(help="the picture, a PNG; written over")] = Path("sheet.png"),
    rows: Annotated[int, typer.Option(min=1, max=200, help="how many samples; scarce classes come first")] = 12,
    as_json: AsJson = False,
) -> None:
    """Draw what each role makes of the images. Originals, evaluation inputs, views, augmented ones."""
    from finefold.recipe.loader import load_recipe

    chosen = load_recipe(recipe, override or [])
    from finefold.cli import show_sheet
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.reading import read_data
            from finefold.steps.show import show as step
        shown = step(read_data(data), recipe=chosen, out=out, rows=rows, progress=told)
    show_sheet.sheet(shown, as_json=as_json)


@app.command(epilog="Example: finefold train data.toml --recipe probe --set model.heads=per_attribute --out runs/first")
def train(
    data: DataFile,
    out: Annotated[Path | None, typer.Option(help="the run's folder; never overwritten")] = None,
    recipe: RecipeName = "probe",
    split: SplitFile = None,
    override: Overrides = None,
    plot_lr: Annotated[
        Path | None, typer.Option(help="draw the learning rates there and train nothing", metavar="FILE.svg")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="a run to learn from besides labels, each fold from its own model", metavar="RUN"),
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option(help="keep curves: tensorboard, mlflow or wandb; repeat it", metavar="NAME")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train every fold and write a run. It holds weights, out-of-fold ledger, scores and pictures."""
    if out is None and plot_lr is None:
        raise typer.BadParameter("Missing option '--out': where to write the run")
    from finefold.recipe.loader import load_recipe

    chosen = load_recipe(recipe, override or [])  # before torch: a misspelt key answers at once
    if plot_lr is not None:
        rates_verbs.plot(data, split, chosen, out=plot_lr, as_json=as_json)
        return
    assert out is not None
    from finefold.cli import show
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.reading import read_data
            from finefold.steps.train import train as step
        made = step(read_data(data), split, recipe=chosen, out=out, teacher=teacher, track=track or [], progress=told)
    show.trained(made, as_json=as_json)


app.command("lr-find", epilog="Example: finefold lr-find data.toml --recipe quick --phase 2 --out lr.svg")(
    rates_verbs.lr_find
)


app.command(epilog="Example: finefold audit data.toml --out audit.html --fix")(trust_verbs.audit)
app.command(epilog="Example: finefold evaluate runs/first --by brightness --pictures pictures/")(answer_verbs.evaluate)


app.command(epilog="Example: finefold compare runs/first runs/second --by accuracy")(decide_verbs.compare)
app.command(epilog="Example: finefold correct runs/first runs/balanced --set after.calibrate=temperature")(
    decide_verbs.correct
)
app.command(epilog="Example: finefold ensemble runs/first runs/second --by greedy --out runs/both")(
    decide_verbs.ensemble
)
app.command(epilog="Example: finefold soup runs/first runs/second --greedy --out runs/soup")(decide_verbs.soup)
app.command(epilog="Example: finefold pick runs/first runs/soup --budget-ms 20")(decide_verbs.pick)
app.command(epilog="Example: finefold runs runs --by accuracy")(decide_verbs.runs)


app.command(epilog="Example: finefold pseudo runs/first --out runs/second --set pseudo.weight=0.5")(pseudo_verbs.pseudo)


app.command(epilog="Example: finefold predict runs/first --out submission.csv")(answer_verbs.predict)


@app.command(epilog="Example: finefold inspect tf_efficientnet_lite0 --freeze quick")
def inspect(
    target: Annotated[
        str, typer.Argument(help="a timm or torchvision name, a run, or a weights file", metavar="NAME|RUN|FILE")
    ],
    depth: Annotated[
        int | None, typer.Option(min=0, help="how deep the tree is shown; by default as deep as the stages")
    ] = None,
    forward: Annotated[
        bool, typer.Option("--forward", help="measure every module's output shape, operations and time")
    ] = False,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="run one batch of images forward and backward")
    ] = False,
    state: Annotated[bool, typer.Option("--state", help="list every tensor: shape, type, mean, std, hash")] = False,
    data: Annotated[
        Path | None, typer.Option(help="a data.toml whose images to use; drawn faces by default", metavar="DATA.toml")
    ] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="of a run: whose head; 0 by default")] = None,
    download: Annotated[bool, typer.Option("--download", help="fetch the pretrained weights of NAME")] = False,
    recipe: Annotated[
        str | None, typer.Option("--freeze", help="show what a recipe trains of NAME, and nothing else")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="with --freeze: key.path=value on top of the recipe; repeat it")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look inside a model. Its modules, stages, cut points, shapes, cost, gradients and state."""
    if recipe is not None:
        others = {"--depth": depth is not None, "--forward": forward, "--gradients": gradients, "--state": state}
        others |= {"--data": data is not None, "--fold": fold is not None, "--download": download}
        _freeze(target, recipe, override or [], [name for name, given in others.items() if given], as_json)
        return
    if override:
        raise typer.BadParameter("--set changes the recipe of --freeze: add --freeze RECIPE")
    from finefold.cli import show_models
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.inspect import inspect as step
        seen = step(
            target,
            forward=forward,
            gradients=gradients,
            state=state,
            data=data,
            fold=fold,
            download=download,
            progress=told,
        )
    show_models.inspected(seen, depth=depth, as_json=as_json)


def _freeze(target: str, recipe: str, overrides: list[str], others: list[str], as_json: bool) -> None:
    """`finefold inspect --freeze`."""
    if others:
        raise typer.BadParameter(f"--freeze shows the plan and nothing else: leave out {', '.join(others)}")
    from finefold.recipe.loader import load_recipe

    chosen = load_recipe(recipe, overrides)  # before torch: a misspelt key answers at once
    from finefold.cli import show_plan
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.freeze import freeze as step
        made = step(target, chosen, progress=told)
    show_plan.planned(made, as_json=as_json)


app.command(epilog="Example: finefold doctor data.toml --only alignment")(doctor_verbs.doctor)
app.add_typer(weights_app, name="weights")
app.add_typer(recipe_app, name="recipe")


@app.command(epilog="Example: finefold cache --clear --older-than 30")
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="remove cached work; everything, unless limited below")
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="clear what was not used for so many days", metavar="DAYS")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="clear the least recently used beyond this size, e.g. 2GB")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is cached, or clear it. Features, exported models, what decodes."""
    from finefold.cli import show
    from finefold.steps import cache as step

    keep_bytes = None if max_size is None else parse_size(max_size)
    if not clear and (older_than is not None or keep_bytes is not None):
        raise typer.BadParameter("--older-than and --max-size say what --clear removes: add --clear")
    state = step.clear(older_than_days=older_than, keep_bytes=keep_bytes) if clear else step.look()
    show.cache(state, was_cleared=clear, as_json=as_json)


def parse_size(text: str) -> int:
    """ "2GB" -> bytes; decimal units."""
    units: dict[str, int] = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
    plain = text.strip().upper()
    unit = next((unit for unit in units if plain.endswith(unit)), "")
    number = plain.removesuffix(unit).strip()
    if not re.fullmatch(r"\d+(\.\d+)?", number, re.ASCII):
        raise typer.BadParameter(f"`{text}` is not a size: write 500MB or 2GB")
    return round(float(number) * units.get(unit, 1))
