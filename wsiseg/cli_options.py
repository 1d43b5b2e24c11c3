"""Options of the command line, made from the fields of frozen values and the help that stands there."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click

from wsiseg.location import Remote, located

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["SLIDE", "add_changes", "add_fields", "add_options", "taken"]

D = TypeVar("D")


class _Slide(click.Path):
    """A path of this machine, or a URL, which is kept as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        where = located(str(value))
        return where if isinstance(where, Remote) else super().convert(value, param, ctx)


SLIDE = _Slide(path_type=Path)


def add_options(kind: type[Any]) -> Callable[[click.Command], click.Command]:
    """Give a command one option per field."""

    def add(command: click.Command) -> click.Command:
        for field in dataclasses.fields(kind):
            flag = {"is_flag": True}
            more: dict[str, Any] = flag if isinstance(field.default, bool) else _valued(field)
            names = [*field.metadata.get("flags", ()), "--" + field.name.replace("_", "-"), field.name]
            help_text = field.metadata["help"]
            command.params.append(
                click.Option(names, help=help_text, default=field.default, show_default=True, **more)
            )
        return command

    return add


def add_changes(kind: type[Any]) -> Callable[[click.Command], click.Command]:
    """Give a command one option per field that is None where the user says nothing."""

    def add(command: click.Command) -> click.Command:
        for field in dataclasses.fields(kind):
            flag, boolean = "--" + field.name.replace("_", "-"), isinstance(field.default, bool)
            names = [f"{flag}/--no-{flag[2:]}" if boolean else flag, field.name]
            more = {} if boolean else _valued(field)
            command.params.append(click.Option(names, help=field.metadata["help"], default=None, **more))
        return command

    return add


def add_fields(kind: "type[BaseModel]") -> Callable[[click.Command], click.Command]:
    """Give a command one option per field of a pydantic model; None where the user says nothing."""

    def add(command: click.Command) -> click.Command:
        for name, field in kind.model_fields.items():
            option = "--" + name.replace("_", "-")
            wanted: Any = field.annotation
            if wanted is bool:
                option += "/--no-" + name.replace("_", "-")
            elif get_origin(wanted) is Literal:
                wanted = click.Choice(get_args(wanted))
            text = f"{field.description}  [default: {field.default}]"
            command.params.append(click.Option([option], type=wanted, default=None, help=text))
        return command

    return add


def taken(kind: type[D], options: dict[str, Any]) -> D:
    """The frozen value of the options that belong to it; they are taken out of ``options``."""
    return kind(**{field.name: options.pop(field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _valued(field: "dataclasses.Field[Any]") -> dict[str, Any]:
    return {"type": _type(field), "metavar": field.metadata.get("metavar")}


def _type(field: "dataclasses.Field[Any]") -> click.ParamType[Any]:
    about: Mapping[str, Any] = field.metadata
    if "choices" in about:
        return click.Choice(about["choices"])
    whole = "int" in str(field.type)
    if "range" in about:
        low, high = about["range"]
        if "auto" in about:
            return _Auto(about["auto"])
        return click.IntRange(low, high) if whole else _Finite(low, high, min_open=about.get("above", False))
    return click.STRING


class _Finite(click.FloatRange):
    """A number in a range; ``nan`` and ``inf`` are none, though they pass a comparison."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class _Auto(click.IntRange):
    """A number from 1, or ``auto``, which stands for one."""

    def __init__(self, auto: int) -> None:
        super().__init__(1, None)
        self.auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.auto if value == "auto" else super().convert(value, param, ctx)
