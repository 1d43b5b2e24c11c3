"""The command line: reads options, calls one function, prints one answer.

Heavy imports stand inside the commands, so that ``--help`` is quick.
"""
# ruff: noqa: PLC0415 - torch, zarr and dask are loaded only by a command that needs them

import dataclasses
import json
import logging
import shlex
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsiseg import __version__
from wsiseg.cli_models import models
from wsiseg.cli_options import SLIDE, add_options, taken
from wsiseg.cli_pretrain import pretrain
from wsiseg.cli_results import polygons, report
from wsiseg.cli_train import compare, evaluate, patches, train
from wsiseg.cli_view import view
from wsiseg.errors import GeoJSONError, OutputError, WsisegError
from wsiseg.interruption import CTRL_C, Interruption, heeded, leave
from wsiseg.location import Location, printable
from wsiseg.options import ClusterOptions, InputOptions, MapOptions, PolygonOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsiseg.inputs import SlideInput
    from wsiseg.run import Batch, Outcome

__all__ = ["main"]

log = logging.getLogger(__name__)


class _Group(click.Group):
    """Turns our errors into one sentence and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WsisegError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            code = error.exit_code if isinstance(error, Interruption) else CTRL_C
            with suppress(OSError):  # the terminal may be what is gone
                again = "the same command with --resume goes on"
                again = again if ctx.invoked_subcommand == "train" else "run the same command again to go on"
                click.echo(f"interrupted; what is done stays, {again}", err=True)
            leave(code)
            ctx.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wsiseg")
@click.option("-v", "--verbose", count=True, help="Say more; twice for tracebacks of failed slides.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
def main(*, verbose: int, quiet: bool) -> None:
    """Find adenocarcinoma in whole-slide images. Research use only; not a medical device.

    Example: wsiseg segment slide.svs, then drop tumor.geojson on the slide in QuPath.
    """
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    said = logging.StreamHandler(sys.stderr)
    said.addFilter(lambda record: _is_said(record, level))
    # Only our own words grow more: at DEBUG Pillow tells every tag of a picture, whoever is named there.
    logging.basicConfig(
        level=max(level, logging.WARNING), format="%(levelname)s: %(message)s", handlers=[said]
    )
    logging.getLogger("wsiseg").setLevel(min(level, logging.INFO))  # for the log file of a batch


def _is_said(record: logging.LogRecord, level: int) -> bool:
    """Whether a record is for stderr: progress, unless a terminal shows it anyway, or grave enough."""
    if record.name == "wsiseg.progress":
        return level < logging.ERROR and not sys.stderr.isatty()
    return record.levelno >= level


for _command in (train, pretrain, evaluate, compare, patches, models):
    main.add_command(_command)
main.add_command(polygons)
main.add_command(report)
main.add_command(view)


@main.command()
@click.argument("slides", nargs=-1, type=SLIDE, metavar="SLIDES...")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("wsiseg-out"),
    show_default=True,
    help="The folder that gets one folder per slide.",
)
@click.option(
    "--overwrite", is_flag=True, help="Redo slides that are done, or were done with other settings."
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first slide that fails.")
@click.option("--dry-run", is_flag=True, help="Print each slide's plan and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per slide on stdout.")
def segment(
    slides: "tuple[Location, ...]",
    out: Path,
    *,
    overwrite: bool,
    fail_fast: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Segment slides: a probability map, tumour polygons for QuPath and a record for each.

    SLIDES are files, folders, patterns or URLs.

    Example: wsiseg segment *.svs -o results --device cuda
    """
    from wsiseg.forecast import blocks_in_flight
    from wsiseg.inputs import find_slides
    from wsiseg.run import Batch

    said = dict(options)
    map_options, polygon_options = taken(MapOptions, options), taken(PolygonOptions, options)
    where = taken(InputOptions, options)
    inputs = find_slides(slides, recursive=where.recursive, slide_list=where.slide_list)
    cluster = taken(ClusterOptions, options).for_slides(len(inputs))
    if dry_run:
        in_flight = blocks_in_flight(map_options, cluster.workers or 1)
        paths = tuple(one.path for one in inputs)
        _inspect(paths, dataclasses.replace(map_options, threads=in_flight), as_json=as_json)
        return
    batch = Batch(out, map_options, polygon_options, overwrite=overwrite, cluster=cluster)
    with _log_file(out), heeded():
        failed = _run(batch, inputs, said, fail_fast=fail_fast, as_json=as_json)
    if failed:
        sys.exit(1)


def _run(
    batch: "Batch", inputs: "list[SlideInput]", said: dict[str, Any], *, fail_fast: bool, as_json: bool
) -> "list[Outcome]":
    """Do a batch, tell of each slide, and keep its records; return the slides that failed."""
    from wsiseg.progress import Display
    from wsiseg.records import RunRecord
    from wsiseg.report import write_report

    quiet = not logging.getLogger().isEnabledFor(logging.WARNING)
    record, display = RunRecord(batch.out, sys.argv, said), Display(len(inputs), quiet=quiet)
    failed: list[Outcome] = []
    how = "interrupted"
    log.info("wsiseg %s begins, %d slides: %s", __version__, len(inputs), shlex.join(record.command))
    try:
        with display.shown():
            for outcome in batch.run(inputs, display):
                name, status = outcome.slide.name, outcome.status
                with display.ended(outcome.slide, failed=status == "failed"):
                    _tell(outcome, as_json=as_json)
                try:
                    record.add(outcome)
                except OutputError as error:  # a disk may be full for a while; the next slide tries again
                    log.warning("%s: %s", name, error)
                reason = record.rows[name]["reason"]
                log.info("%s: %s", name, f"{status}: {reason}" if reason else status)
                failed += [outcome] if status == "failed" else []
                if fail_fast and failed:
                    break
        write_report(batch.out)
        how = "stopped at the first failure" if fail_fast and failed else "complete"
    except WsisegError as error:
        how = f"ended by an error: {error}"
        raise
    finally:
        count = _count(len(inputs), display.done - len(failed), len(failed))
        log.info("%s: %s", how, count)
        try:
            record.finish(how)
        finally:
            if len(inputs) > 1 and display.done:
                click.echo(
                    "\n".join([count, *(f"  {printable(str(o.slide.path))}: {o.reason}" for o in failed)]),
                    err=True,
                )
    return failed


def _count(slides: int, done: int, failed: int) -> str:
    """What became of a batch, in one line.

    >>> _count(9, 3, 1), _count(4, 4, 0)
    ('3 of 9 slides done, 1 failed, 5 not begun or not finished', '4 of 4 slides done, 0 failed')
    """
    left = slides - done - failed
    rest = f", {left} not begun or not finished" if left else ""
    return f"{done} of {slides} slides done, {failed} failed{rest}"


class _LogFile(logging.FileHandler):
    """Goes without the lines that a full disk does not take, whose want other sentences tell of."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing."""


@contextmanager
def _log_file(out: Path) -> "Iterator[None]":
    """Keep what is logged in ``OUT/wsiseg.log`` too, with the time."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(out / "wsiseg.log")
    except OSError as error:
        msg = f"{out} cannot be written: {error.strerror}; choose another folder with -o"
        raise OutputError(msg) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _tell(outcome: "Outcome", *, as_json: bool) -> None:
    slide, manifest = outcome.slide, outcome.manifest
    if as_json:
        record = None if manifest is None else manifest.model_dump(mode="json")
        about = {"slide": str(slide.path), "status": outcome.status, "reason": outcome.reason}
        click.echo(json.dumps({**about, "folder": str(outcome.folder), "record": record}))
    elif manifest is None:
        click.echo(f"{printable(str(slide.path))}: failed: {outcome.reason}", err=True)
    else:
        found = manifest.result
        tissue = "" if found.tissue_mm2 is None else f", tissue {found.tissue_mm2:.2f} mm²"
        again = "already done: " if outcome.status == "skipped" else ""
        regions = "1 region" if (count := manifest.counts.polygons) == 1 else f"{count} regions"
        seconds, idle = manifest.seconds.get("total", 0.0), manifest.device_idle
        waited = "" if idle is None else f" (device idle {idle:.0%})"
        click.echo(
            f"{printable(str(slide.path))}: {again}tumor {found.tumor_mm2:.3f} mm²{tissue}, "
            f"{regions}, {seconds:.0f} s{waited} -> {outcome.folder}"
        )
        if found.note:
            click.echo(f"  note: {found.note}")


@main.command()
@click.argument("slides", nargs=-1, required=True, type=SLIDE, metavar="SLIDE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def inspect(slides: "tuple[Location, ...]", *, as_json: bool, **options: Any) -> None:
    """Print what a slide is and what segmenting it would take; reads no full-resolution pixel.

    Example: wsiseg inspect slide.svs --json
    """
    _inspect(slides, taken(MapOptions, options), as_json=as_json)


def _inspect(slides: "tuple[Location, ...]", options: MapOptions, *, as_json: bool) -> None:
    from wsiseg.drawn import check_tissue_option
    from wsiseg.inspection import Inspection, inspect_slide

    check_tissue_option(options.tissue, len(slides))
    failed = False
    for path in slides:
        try:
            found: Inspection = inspect_slide(path, options)
        except WsisegError as error:
            failed = True
            click.echo(printable(f"{path}: {error}"), err=True)
            continue
        click.echo(found.model_dump_json() if as_json else found.as_text())
    if failed:
        sys.exit(1)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def check(files: tuple[Path, ...], *, as_json: bool) -> None:
    """Say whether QuPath will import a GeoJSON file, rule by rule.

    Example: wsiseg check results/slide/tumor.geojson
    """
    from wsiseg.qupath import check as look

    refused = False
    for path in files:
        try:
            problems = look(path)
        except GeoJSONError as error:
            refused = True
            click.echo(f"{path}: failed: {error}", err=True)
            continue
        errors = [problem for problem in problems if problem.severity == "error"]
        refused |= bool(errors)
        if as_json:
            found = [dataclasses.asdict(problem) for problem in problems]
            click.echo(json.dumps({"file": str(path), "imports": not errors, "problems": found}))
            continue
        for problem in problems:
            click.echo(f"{path}: {problem}")
        empty = any(problem.rule == "empty" for problem in problems)
        fine = "there is nothing in it to import" if empty else "QuPath will import it"
        verdict = "QuPath would refuse the whole file" if errors else fine
        click.echo(f"{path}: {verdict}")
    if refused:
        sys.exit(1)


for _command, _kinds in (
    (segment, (InputOptions, MapOptions, PolygonOptions, ClusterOptions)),
    (inspect, (MapOptions,)),
):
    for _kind in _kinds:
        add_options(_kind)(_command)
