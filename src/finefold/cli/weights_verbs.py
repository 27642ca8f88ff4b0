"""`finefold weights`: its two verbs."""

from pathlib import Path
from typing import Annotated

import typer

from finefold.cli.options import AsJson

weights_app = typer.Typer(
    help="List weights on this machine, or lay weights onto a model. No network without --download.",
    epilog="Example: finefold weights match torchvision:resnet18 resnet18",
    rich_markup_mode=None,
)


@weights_app.command("list", epilog="Example: finefold weights list checkpoints/")
def weights_list(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="folders to look through too", metavar="[FOLDER]...")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the weights on this machine. Embedded, in timm's and torch's caches, and in folders."""
    from finefold.cli import show_models
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.weights import find
        found = find(folders or [], progress=told)
    show_models.weights_files(found, as_json=as_json)


@weights_app.command("match", epilog="Example: finefold weights match old.pth resnet18 --out resnet18.safetensors")
def weights_match(
    source: Annotated[str, typer.Argument(help="a weights file, or a timm or torchvision name", metavar="SRC")],
    target: Annotated[str, typer.Argument(help="a timm or torchvision name", metavar="DST")],
    out: Annotated[Path | None, typer.Option(help="write the result here, as .safetensors")] = None,
    source_model: Annotated[
        str | None, typer.Option("--source-model", help="the model that SRC is of, where its keys do not tell")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=0, help="outputs of DST; 0 for none (timm)")] = None,
    channels: Annotated[int, typer.Option(min=1, help="channels of DST's images (timm)")] = 3,
    hints: Annotated[Path | None, typer.Option(help='JSON: {"key of DST": "key of SRC"}', metavar="FILE")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="take the best guess where several fit")] = False,
    download: Annotated[bool, typer.Option("--download", help="fetch the weights of SRC, if it is a name")] = False,
    full: Annotated[bool, typer.Option("--all", help="show every tensor, not one line a layer group")] = False,
    as_json: AsJson = False,
) -> None:
    """Lay the weights of one model onto another. By structure, whatever their names; proved where both can run."""
    from finefold.cli import show_models
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.weights import match
        matched = match(
            source,
            target,
            out=out,
            source_name=source_model,
            num_classes=classes,
            channels=channels,
            hints=hints,
            accept=accept,
            download=download,
            progress=told,
        )
    show_models.matched(matched, every=full, as_json=as_json)
    matched.match.check()
