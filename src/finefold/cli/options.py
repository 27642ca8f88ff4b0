"""Arguments and options that several verbs take, worded once."""

from pathlib import Path
from typing import Annotated

import typer

DataFile = Annotated[Path, typer.Argument(help="data.toml, as `finefold init` writes it", metavar="DATA.toml")]
RunDir = Annotated[Path, typer.Argument(help="a folder that `finefold train --out` wrote", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
RecipeName = Annotated[str, typer.Option(help="a preset's name, or a TOML file")]
SplitFile = Annotated[Path | None, typer.Option(help="a split file; DATA.split.csv by default, made where absent")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="key.path=value on top of the recipe; repeat it")]
