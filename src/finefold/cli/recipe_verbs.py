"""`finefold recipe`: its two verbs."""

from pathlib import Path
from typing import Annotated

import typer

from finefold.cli.options import AsJson, Overrides

recipe_app = typer.Typer(
    help="List the recipes that come with finefold, or explain every value of one.",
    epilog="Example: finefold recipe explain quick",
    rich_markup_mode=None,
)


@recipe_app.command("list", epilog="Example: finefold recipe list")
def recipe_list(as_json: AsJson = False) -> None:
    """Show the recipes that come with finefold. Each by its name for --recipe, and what it is for."""
    from finefold.cli import show_recipe
    from finefold.steps.recipe import presets

    show_recipe.listed(presets(), as_json=as_json)


@recipe_app.command("show", epilog="Example: finefold recipe show quick > mine.toml")
def recipe_show(
    name: Annotated[str, typer.Argument(help="a preset's name, or a TOML file", metavar="NAME|FILE")],
    override: Overrides = None,
) -> None:
    """Print a recipe as a file, to be changed and given to --recipe. With --set every value is written out."""
    from finefold.steps.recipe import recipe_text

    print(recipe_text(name, override or []), end="")


@recipe_app.command("explain", epilog="Example: finefold recipe explain quick --data data.toml --set seed=1")
def recipe_explain(
    name: Annotated[str, typer.Argument(help="a preset's name, or a TOML file", metavar="NAME|FILE")],
    data: Annotated[
        Path | None, typer.Option(help="a data.toml: say what its size means, and what does not suit it")
    ] = None,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Print every value of a recipe. Where it came from, and why it is what it is."""
    from finefold.cli import show_recipe
    from finefold.steps.recipe import explain

    show_recipe.explained(explain(name, override or [], data=data), as_json=as_json)
