"""The words that several commands take, as tyro wants them described."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

ModelFolder = Annotated[Positional[str], arg(metavar="MODEL")]
SourceName = Annotated[Positional[str], arg(metavar="SOURCE")]
OutFolder = Annotated[Positional[Path], arg(metavar="OUT")]
