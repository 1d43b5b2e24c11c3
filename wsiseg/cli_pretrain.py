"""The command that teaches an encoder without labels; thin, and torch is loaded only when it runs."""
# ruff: noqa: PLC0415  # torch is loaded only when a command runs

from pathlib import Path
from typing import Any

import click

from wsiseg.cli_options import add_fields
from wsiseg.errors import UsageError
from wsiseg.train.recipe import PRESETS, Recipe, make_recipe

__all__ = ["pretrain"]


@click.command()
@click.option(
    "--lesson",
    type=click.Choice(["masked", "distil"]),
    required=True,
    help="Fill in hidden cells of the picture, or regress the features of another encoder.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder with <task>/<domain>/{image,mask}."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The safetensors file.")
@click.option("--task", help="Only this task's images.  [default: all of them]")
@click.option("--without", multiple=True, help="A domain whose patients are not looked at; may be repeated.")
@click.option("--teacher", default="mobilenet_v2", show_default=True, help="Encoder to distil: any of smp's.")
@click.option("--teacher-weights", help="Its weights: imagenet, or a safetensors file.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="default",
    show_default=True,
    help="The recipe whose fields the options below change.",
)
@click.option("--image-mpp", type=float, help="Microns per pixel of images without a manifest.")
@click.option("--limit", type=click.IntRange(1), help="Use only so many cases of each domain (a trial).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--fp32", is_flag=True, help="Never compute in bfloat16.")
def pretrain(**options: Any) -> None:
    """Teach an encoder on images without their labels; wsiseg train --encoder-weights takes the result.

    A stopped one goes on when the same command is given again.

    Example: wsiseg pretrain --lesson masked --data DATA -o encoder.safetensors --epochs 5
    """
    from wsiseg.train.cases import limited, read_cases
    from wsiseg.train.machine import this_machine
    from wsiseg.train.pretrain import Pretraining, pretrain

    recipe = make_recipe(options["preset"], **{name: options[name] for name in Recipe.model_fields})
    found = limited(
        read_cases(options["data"], image_mpp=options["image_mpp"] or recipe.mpp), options["limit"]
    )
    unknown = {*options["without"]} - {case.domain for case in found}
    if unknown:
        msg = f"{options['data']} has no domain {', '.join(sorted(unknown))}: check --without"
        raise UsageError(msg)
    apart = {case.group for case in found if case.domain in options["without"]}
    cases = [c for c in found if c.group not in apart and options["task"] in {None, c.task}]
    if not cases:
        msg = f"{options['data']} has no image left to look at: check --task and --without"
        raise UsageError(msg)

    def watch(epoch: int, loss: float) -> None:
        click.echo(f"{options['out'].name}: epoch {epoch}/{recipe.epochs}, loss {loss:.4f}", err=True)

    what = Pretraining(
        options["lesson"], recipe, options["out"], options["teacher"], options["teacher_weights"]
    )
    machine = this_machine(options["device"], fp32=options["fp32"])
    click.echo(f"wrote {pretrain(what, cases, machine, watch)}")


add_fields(Recipe)(pretrain)
