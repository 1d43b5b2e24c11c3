"""The command that shows results in a browser; thin, and no torch is ever loaded."""
# ruff: noqa: PLC0415  # zarr, starlette and the readers are loaded only when the command runs

from importlib.util import find_spec
from pathlib import Path

import click

from wsiseg.errors import UsageError

__all__ = ["view"]

PORT = 8760


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False), metavar="OUT")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="Where to listen on this machine; 0 takes any free port.",
)
@click.option(
    "--slides",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="A slide or a folder of slides, where they have moved since; may be given again.",
)
def view(out: Path, *, port: int, slides: tuple[Path, ...]) -> None:
    """Look through finished slides in a browser on this machine: slide, map, outlines; Ctrl-C ends it.

    Only this machine can reach the viewer, and only with the address it prints.

    Example: wsiseg view results
    """
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        msg = f'the viewer needs {" and ".join(missing)}: pip install "wsiseg[view]"'
        raise UsageError(msg)
    from wsiseg.view.serve import serve

    def tell(address: str) -> None:
        click.echo(f"Open {address}")
        click.echo("Ctrl-C ends the viewer.", err=True)

    serve(out, port=port, slides=slides, tell=tell)
