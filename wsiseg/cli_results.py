"""The commands that work on results: outline again, report; thin, and no torch is ever loaded."""
# ruff: noqa: PLC0415  # zarr, shapely and scipy are loaded only when a command runs

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsiseg.cli_options import add_changes
from wsiseg.errors import OutputError, UsageError
from wsiseg.options import PolygonOptions

if TYPE_CHECKING:
    from wsiseg.manifest import SlideManifest
    from wsiseg.reoutline import Swept

__all__ = ["polygons", "report"]


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option(
    "--sweep", is_flag=True, help="Write nothing; print area and count for thresholds 0.05 to 0.95."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per slide on stdout.")
def polygons(folders: tuple[Path, ...], *, sweep: bool, as_json: bool, **options: Any) -> None:
    """Outline finished slides again from their stored maps, in seconds; the slide is not needed.

    FOLDER is a slide's result (OUT/<slide>). What no option names stays as it was. The slide's row in
    OUT/summary.csv is renewed too; OUT/report.html by wsiseg report OUT.

    Example: wsiseg polygons results/slide --threshold 0.35 --min-area 10000
    """
    from wsiseg import reoutline

    given = {name: value for name, value in options.items() if value is not None}
    if sweep and "threshold" in given:
        msg = "--sweep tries many thresholds: leave --threshold out"
        raise UsageError(msg)
    failed = False
    for folder in folders:
        try:
            if sweep:
                _tell_sweep(folder, list(reoutline.sweep(folder, given)), as_json=as_json)
            else:
                _tell(folder, reoutline.reoutline(folder, given), as_json=as_json)
        except OutputError as error:
            failed = True
            click.echo(f"{folder}: failed: {error}", err=True)
    if failed:
        sys.exit(1)


def _tell(folder: Path, manifest: "SlideManifest", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "record": manifest.model_dump(mode="json")}))
        return
    found, how, seconds = manifest.result, manifest.polygon_options, manifest.seconds
    regions = "1 region" if (count := manifest.counts.polygons) == 1 else f"{count} regions"
    of_run = f" (the run that made the map: {seconds['total']:.1f} s)" if "total" in seconds else ""
    sure = f" ({manifest.more_asked:g} in places)" if manifest.more_asked else ""
    click.echo(
        f"{folder}: tumor {found.tumor_mm2:.3f} mm² at p >= {how['threshold']:g}{sure}, "
        f"{regions}, {seconds['outlined again']:.1f} s{of_run}"
    )
    if found.note:
        click.echo(f"  note: {found.note}")


def _tell_sweep(folder: Path, swept: "list[Swept]", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "sweep": [dataclasses.asdict(one) for one in swept]}))
        return
    click.echo(f"{folder}\nthreshold   sure  regions  tumor mm²  of tissue")
    for one in swept:
        sure = f"{one.sure:g}" if one.sure else "-"
        part = "" if one.tissue_fraction is None else f"{one.tissue_fraction:9.1%}"
        click.echo(f"{one.threshold:9.2f}  {sure:>5}  {one.regions:7d}  {one.tumor_mm2:9.3f}  {part}")


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False), metavar="OUT")
def report(out: Path) -> None:
    """Write OUT/report.html: a row per slide, failures first, sortable, in one file.

    Example: wsiseg report results
    """
    from wsiseg.report import write_report

    click.echo(f"wrote {write_report(out)}")


add_changes(PolygonOptions)(polygons)
