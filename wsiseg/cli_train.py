"""The commands that train and judge bundles; thin, and torch is loaded only when they run."""
# ruff: noqa: PLC0415  # torch is loaded only when a command runs

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from wsiseg.errors import UsageError
from wsiseg.train.recipe import PRESETS, Recipe, make_recipe
from wsiseg.train.strategies import STRATEGIES

if TYPE_CHECKING:
    from wsiseg.train.experiment import Experiment

__all__ = ["train"]


def _recipe_options(command: click.Command) -> click.Command:
    """Add an option for every field of the recipe, with the field's own help."""
    for name, field in Recipe.model_fields.items():
        option = "--" + name.replace("_", "-")
        kind: Any = field.annotation
        if kind is bool:
            option += "/--no-" + name.replace("_", "-")
        elif get_origin(kind) is Literal:
            kind = click.Choice(get_args(kind))
        text = f"{field.description}  [default: {field.default}]"
        command.params.append(click.Option([option], type=kind, default=None, help=text))
    return command


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
        note=options["card_note"].read_text(encoding="utf-8") if options["card_note"] else "",
        **{name: options[name] for name in kept},
    )


_recipe_options(train)
