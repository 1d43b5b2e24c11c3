"""The commands that train and judge bundles; thin, and torch is loaded only when they run."""
# ruff: noqa: PLC0415  # torch is loaded only when a command runs

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wsiseg.cli_options import add_fields
from wsiseg.errors import UsageError
from wsiseg.train.recipe import PRESETS, Recipe, make_recipe
from wsiseg.train.strategies import STRATEGIES

if TYPE_CHECKING:
    from wsiseg.train.experiment import Experiment

__all__ = ["compare", "evaluate", "patches", "train"]


@click.command()
@click.option(
    "--strategy",
    type=click.Choice(list(STRATEGIES)),
    default="standard",
    show_default=True,
    help="Learn from the task alone, start from the other task's weights, or learn from both.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder with <task>/<domain>/{image,mask}."
)
@click.option("--task", required=True, help="The task to train and validate on, such as task1.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The bundle's folder; needed to train.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="default",
    show_default=True,
    help="The recipe whose fields the options below change; paper is the paper's own.",
)
@click.option("--image-mpp", type=float, help="Microns per pixel of images without a manifest.")
@click.option("--limit", type=click.IntRange(1), help="Use only so many cases of each domain (a trial).")
@click.option("--train-folds", type=click.IntRange(1), help="Train only the first so many folds.")
@click.option("--leave-domain-out", is_flag=True, help="One fold per domain, judged on that domain.")
@click.option("--init-from", type=click.Path(path_type=Path), help="Bundle (name or folder) to start from.")
@click.option("--source-task", help="Task that cross-task training starts from.")
@click.option(
    "--card-note",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with lines for the card's limits.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--fp32", is_flag=True, help="Never compute in bfloat16.")
@click.option("--resume", "existing", flag_value="resume", help="Go on with a training that was stopped.")
@click.option("--overwrite", "existing", flag_value="overwrite", help="Begin anew.")
@click.option("--dry-run", is_flag=True, help="Print the cases and the folds, and train nothing.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events beside metrics.jsonl.")
def train(**options: Any) -> None:
    """Train the folds of a network and write them as a bundle.

    Example: wsiseg train --data DATA --task task1 -o models/mine --epochs 20
    """
    experiment = _experiment(options)
    if options["dry_run"]:
        from wsiseg.train.experiment import plan_table

        click.echo(plan_table(experiment))
        return
    from wsiseg.train.machine import this_machine
    from wsiseg.train.trainer import run_experiment
    from wsiseg.train.watch import FoldWatch

    machine = this_machine(options["device"], fp32=options["fp32"])

    def watch(folder: Path, epochs: int) -> FoldWatch:
        return FoldWatch(folder, epochs, rank=machine.rank, tensorboard=options["tensorboard"])

    done = run_experiment(experiment, machine, existing=options["existing"] or "refuse", watch=watch)
    if not machine.rank:
        click.echo(f"wrote {done}")


def _experiment(options: dict[str, Any]) -> "Experiment":
    from wsiseg.train.experiment import Experiment

    if options["out"] is None and not options["dry_run"]:
        msg = "say where the bundle goes: -o FOLDER (or --dry-run, to look at the folds first)"
        raise UsageError(msg)
    kept = (
        "data",
        "task",
        "image_mpp",
        "limit",
        "train_folds",
        "leave_domain_out",
        "init_from",
        "source_task",
    )
    return Experiment(
        out=options["out"] or Path("dry-run"),
        strategy=STRATEGIES[options["strategy"]],
        recipe=make_recipe(options["preset"], **{name: options[name] for name in Recipe.model_fields}),
        note=_note(options["card_note"]) if options["card_note"] else "",
        **{name: options[name] for name in kept},
    )


def _note(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--card-note {path} cannot be read as text ({error}): save it as UTF-8"
        raise UsageError(msg) from error


add_fields(Recipe)(train)


@click.command()
@click.argument("subjects", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder with <task>/<domain>/{image,mask}.")
@click.option("--task", help="Only this task's images.  [default: all of them]")
@click.option(
    "--by",
    type=click.Choice(["ensemble", "folds", "held-out"]),
    default="ensemble",
    show_default=True,
    help="The folds' mean, each fold alone, or each image by the folds that never saw its patient.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="Probability from which a pixel is tumour; a bundle's own is for slides, see wsiseg models show.",
)
@click.option(
    "--shift",
    "shifts",
    multiple=True,
    type=click.Choice(["brightness", "contrast", "hed", "blur", "jpeg70", "all"]),
    help="Judge the images again, changed as by another scanner; may be given several times.",
)
@click.option("--image-mpp", type=float, help="Microns per pixel of images without a manifest.")
@click.option("--limit", type=click.IntRange(1), help="Use only so many cases of each domain.")
@click.option("--name", default="Tumor", show_default=True, help="The class of the outlines to compare.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--fp32", is_flag=True, help="Never compute in bfloat16.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def evaluate(subjects: tuple[Path, ...], **options: Any) -> None:
    """Judge a bundle on labelled images, or one GeoJSON of outlines against the true one.

    Example: wsiseg evaluate adeno-union --data DATA --task task1 --json
    """
    if len(subjects) == len(("predicted", "truth")):
        _refuse_given(set(options) - {"name", "as_json"}, "two files of outlines")
        found = _outlines(*subjects, name=options["name"])
    elif len(subjects) == 1 and options["data"]:
        _refuse_given({"name"}, "a bundle and images")
        found = _judged(subjects[0], options)
    else:
        msg = "give a bundle with --data DIR, or two GeoJSON files: the predicted one, then the true one"
        raise UsageError(msg)
    if options["as_json"]:
        click.echo(json.dumps(found))
        return
    parts = {"all": found, **found.pop("domains", {})}
    parts |= {f"fold {name}": numbers for name, numbers in found.pop("folds", {}).items()}
    parts |= {f"after {name}": numbers for name, numbers in found.pop("shifts", {}).items()}
    for name, numbers in parts.items():
        told = ", ".join(f"{k} {v:.4g}" for k, v in numbers.items() if isinstance(v, int | float))
        click.echo(f"{name}: {told}" if "n" in numbers else told)


def _refuse_given(names: set[str], what: str) -> None:
    """Refuse options that were given and mean nothing for what is judged."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    ]
    if given:
        msg = f"{what} have no use for {', '.join(given)}: leave that out"
        raise UsageError(msg)


def _outlines(predicted: Path, truth: Path, *, name: str) -> dict[str, Any]:
    from wsiseg.train.objects import compare_outlines, read_outlines

    return dataclasses.asdict(compare_outlines(*read_outlines(predicted, truth, name)))


def _judged(bundle: Path, options: dict[str, Any]) -> dict[str, Any]:
    from wsiseg.train.evaluate import Question, as_json, evaluate, labelled
    from wsiseg.train.shift import SHIFTS

    question = Question(options["by"], threshold=options["threshold"])
    chosen = {name: options[name] for name in ("task", "image_mpp", "limit")}
    folder, spec, cases = labelled(bundle, options["data"], **chosen)
    how = {name: options[name] for name in ("device", "fp32")}
    wanted = SHIFTS if "all" in options["shifts"] else dict.fromkeys(options["shifts"])
    plain = evaluate(folder, cases, question, **how)
    shifts = {
        name: evaluate(folder, cases, dataclasses.replace(question, shift=name), **how) for name in wanted
    }
    return as_json(plain, spec.name, options["by"], shifts=shifts)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(), help="Folder for the table.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="The images: adds a page of worst cases per run."
)
@click.option(
    "--image-mpp",
    type=float,
    help="Microns per pixel of images without a manifest.  [default: what the run was trained with]",
)
@click.option("--worst", type=click.IntRange(1), default=8, show_default=True, help="Cases on such a page.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
def compare(runs: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Print the paper's Table 1 from finished trainings, and write it with its pictures.

    Example: wsiseg compare runs/standard-task1 runs/union-task1 -o runs --data DATA
    """
    from wsiseg.train.compare import as_csv, as_markdown, read_runs
    from wsiseg.train.pictures import draw_folds, write_worst
    from wsiseg.train.records import write_text

    read = read_runs(runs)
    table = as_markdown(read)
    write_text(out / "table1.md", table)
    write_text(out / "table1.csv", as_csv(read))
    draw_folds(read).save(out / "folds.png")
    if options["data"]:
        how = {name: options[name] for name in ("image_mpp", "device")}
        write_worst(out, read, options["data"], options["worst"], **how)
    click.echo(table)


@click.command()
@click.argument("slide", type=click.Path(path_type=Path))
@click.argument("annotations", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The data folder to add to."
)
@click.option("--task", required=True, help="The task the patches belong to.")
@click.option("--domain", required=True, help="Their domain: an organ, a scanner.")
@click.option("--patient", default="", help="The patient, so that folds never split one.")
@click.option("--tumor-class", default="Tumor", show_default=True, help="The class that marks tumour.")
@click.option("--region-class", help="Use only what lies inside annotations of this class (Region*).")
@click.option(
    "--size", "size_px", type=click.IntRange(32), default=1500, show_default=True, help="Pixels a side."
)
@click.option("--mpp", type=float, default=0.5, show_default=True, help="Microns per pixel of the patches.")
@click.option("--slide-mpp", type=float, help="Microns per level-0 pixel, where the slide does not say.")
def patches(slide: Path, annotations: Path, **options: Any) -> None:
    """Cut a slide with QuPath annotations into patches to train on.

    Example: wsiseg patches a.svs a.geojson -o DATA --task mine --domain colon --patient p1
    """
    import numpy as np

    from wsiseg.drawn import read_drawn
    from wsiseg.readers import open_slide
    from wsiseg.readers.preflight import preflight
    from wsiseg.train.annotations import Cut, check_classes, write_patches

    cut = Cut(**{name: options[name] for name in ("task", "domain", "patient", "size_px", "mpp")})
    tumour = read_drawn(annotations, options["tumor_class"], or_none=True)
    region = options["region_class"]
    check_classes(tumour, region)
    regions = read_drawn(annotations, region) if region else None
    preflight(slide)
    with open_slide(slide, mpp=options["slide_mpp"]) as opened:
        inside = np.empty(0, object) if regions is None else regions.in_bounds(opened.info)
        count = write_patches(opened, tumour.in_bounds(opened.info), inside, cut=cut, root=options["out"])
    click.echo(f"wrote {count} patches to {options['out']}")
