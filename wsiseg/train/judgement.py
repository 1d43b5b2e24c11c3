"""The judgement of a bundle: ``judgement.json`` beside its weights, and the part of the card made from it.

It is bound to the weights it was made with: a bundle that was trained again counts as not judged.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wsiseg.bundle import BundleSpec
from wsiseg.errors import BundleError
from wsiseg.train.records import write_text

__all__ = [
    "HEADING",
    "JUDGEMENT",
    "differences",
    "read_judgement",
    "section",
    "with_section",
    "write_judgement",
]

JUDGEMENT = "judgement.json"
HEADING = "## Judgement"
Record = dict[str, Any]


def write_judgement(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``judgement.json``, whole or not at all."""
    write_text(folder / JUDGEMENT, json.dumps(record, indent=1) + "\n")


def read_judgement(folder: Path, spec: BundleSpec) -> Record | None:
    """What was judged of a bundle; None where nothing was, or it was of other weights.

    Raises:
        BundleError: the file is damaged.
    """
    path = folder / JUDGEMENT
    if not path.is_file():
        return None
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["weights"] == spec.weights_key else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is damaged ({error!r}): fetch the bundle again, or judge it again"
        raise BundleError(msg) from error


def headline(record: Mapping[str, Any] | None) -> dict[str, float]:
    """The figures by which bundles are told apart in a list; none for a bundle that was not judged.

    ``left_out`` is the mean over left-out domains, ``false`` the worst tumour-free source.
    """
    if record is None:
        return {}
    found = {name: record["held_out"][name] for name in ("dice_mean", "dice_low", "dice_high", "n")}
    domains = [s["dice_mean"] for s in (record.get("left_out") or {}).values()]
    false = [s["fraction"] for s in record["slides"]["false"].values() if s["in_rule"]]
    found |= {"left_out": sum(domains) / len(domains)} if domains else {}
    return found | ({"false": max(false)} if false else {})


def differences(kept: Any, found: Any, *, within: float, at: str = "") -> list[str]:
    """Where two judgements differ: numbers by more than ``within``, everything else at all.

    >>> differences({"a": 1.0, "b": "x"}, {"a": 1.001, "b": "y"}, within=0.01)
    ["b: 'x' was kept, 'y' was found"]
    """
    if isinstance(kept, dict) and isinstance(found, dict):
        names = sorted({*kept, *found})
        parts = [differences(kept.get(n), found.get(n), within=within, at=f"{at}.{n}") for n in names]
        return [one for part in parts for one in part]
    if isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        pairs = enumerate(zip(kept, found, strict=True))
        return [d for n, (a, b) in pairs for d in differences(a, b, within=within, at=f"{at}[{n}]")]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (kept, found))
    same = abs(kept - found) <= within * max(1.0, abs(kept)) if numbers else kept == found
    return [] if same else [f"{at.lstrip('.')}: {kept!r} was kept, {found!r} was found"]


def with_section(card: str, text: str) -> str:
    """A card with the judgement in its place: before the data, instead of an earlier one."""
    head, found, rest = card.partition(f"{HEADING}\n")
    if found:
        _, mark, after = rest.partition("\n## ")
        card = head + (f"## {after}" if mark else "")
    before, mark, after = card.partition("## Data\n")
    return f"{before}{text}\n{mark}{after}" if mark else f"{before.rstrip()}\n\n{text}"


def section(record: Mapping[str, Any]) -> str:
    """The card's section, as Markdown."""
    parts = (_made, _held_out, _left_out, _calibration, _shifts, _slides, _disagreement, _worst)
    return "\n".join([f"{HEADING}\n", *(part(record) for part in parts)])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _made(record: Mapping[str, Any]) -> str:
    return (
        "`python scripts/judge.py BUNDLE --data DATA --slides SLIDES.csv --work WORK --check` makes these "
        "figures "
        f"again from the committed weights ({record['weights'][:12]}) and says where they differ. Made on "
        f"{record['device']}. Intervals are 95 %, from a bootstrap that draws whole patients.\n"
    )


def _row(name: str, s: Mapping[str, Any]) -> list[str]:
    dice = f"{s['dice_mean']:.3f} ± {s['dice_std']:.3f}"
    return [name, str(s["n"]), str(s["patients"]), dice, f"{s['dice_low']:.3f} – {s['dice_high']:.3f}"]


def _held_out(record: Mapping[str, Any]) -> str:
    found = record["held_out"]
    rows = [[*_row("**all**", found), f"{found['ece']:.3f}"]]
    rows += [[*_row(name, s), f"{s['ece']:.3f}"] for name, s in found["domains"].items()]
    return (
        "**Held out.** Each image judged by every fold that never saw its patient (an image that several "
        "folds "
        "have not seen counts once for each), at 0.5; `wsiseg evaluate BUNDLE --data DATA --by held-out` "
        "gives "
        "the same.\n\n"
        + _table(["", "judged", "patients", "Dice", "interval", "calibration error"], rows)
        + "\nBy fold: "
        + ", ".join(f"{name}: {s['dice_mean']:.3f} ({s['n']})" for name, s in found["folds"].items())
        + ".\n"
    )


def _left_out(record: Mapping[str, Any]) -> str:
    found = record.get("left_out") or {}
    trained = {name: scores for name, scores in found.items() if "networks" not in scores}
    unseen = {name: scores for name, scores in found.items() if "networks" in scores}
    kinds = {
        "The same recipe trained without a domain and judged on it, one network each": trained,
        "None of the networks has learnt from anything of these, and each is judged by itself": unseen,
    }
    parts = [_elsewhere(how, some) for how, some in kinds.items() if some]
    return "\n".join(parts) or "**Left-out domains.** Not measured for this bundle.\n"


def _elsewhere(how: str, domains: Mapping[str, Mapping[str, Any]]) -> str:
    heads, rows = ["left out", "images", "patients", "Dice", "interval"], [_row(*d) for d in domains.items()]
    text = f"**Left-out domains.** {how}: what to expect of tissue from elsewhere."
    if any(scores.get("mosaics") for scores in domains.values()):
        text += (
            " *On mosaics*: Dice of so many of the images with tumour, edge to edge as tissue on a slide, "
            "at the bundle's own threshold and areas; and what is called tumour of mosaics without any."
        )
        heads += ["on mosaics", "of benign mosaics"]
        rows = [row + _on_mosaics(d.get("mosaics")) for row, d in zip(rows, domains.values(), strict=True)]
    return f"{text}\n\n" + _table(heads, rows)


def _on_mosaics(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", ""]
    false = "" if found["false"] is None else f"{found['false']:.2%}"
    return [f"{found['dice']:.3f} ({found['tiles']})", false]


def _calibration(record: Mapping[str, Any]) -> str:
    found = record["calibration"]
    return (
        f"**Calibration.** Each fold's logits are divided by {found['temperature']:g}, fitted to the "
        "held-out "
        f"pixels ({found['pixels'] / 1e6:.0f} million). Expected calibration error (pixels pooled, 15 equal "
        f"bins of tumour probability): {found['ece_before']:.3f} before, {found['ece_after']:.3f} after "
        f"({found['ece_after_crossed']:.3f} when each fold has the temperature fitted on the others).\n"
    )


def _shifts(record: Mapping[str, Any]) -> str:
    found = record["shifts"]
    rows = [
        [name, f"{s['dice_mean']:.3f}", f"{s['drop']:+.3f}", f"{s['drop_low']:+.3f} … {s['drop_high']:+.3f}"]
        for name, s in found["by_shift"].items()
    ]
    return (
        f"**Another scanner, played.** Dice at 0.5 of {found['n']} held-out answers, "
        f"{found['dice_mean']:.3f} "
        "unchanged, and by how much it falls when each image is changed (brightness ± 20 %; contrast ± 30 %; "
        "each stain's density ± 25 %; Gaussian blur of 1.5 px; JPEG of quality 70; all at the network's "
        "resolution).\n\n" + _table(["change", "Dice", "drop", "interval"], rows)
    )


def _slides(record: Mapping[str, Any]) -> str:
    found = record["slides"]
    point, free = found["point"], found["false"]
    rows = [
        [name, f"{s['tissue_mm2']:.2f}", f"{s['fraction']:.2%}", f"{s['fraction_before']:.2%}"]
        for name, s in free.items()
    ]
    met = (
        "That meets the rule: below 2 % everywhere, and Dice within 2 points of the patches."
        if found["met"]
        else "**The rule is not met** (below 2 % everywhere, Dice within 2 points of the patches): false "
        "positives then come first, as long as Dice stays above half of the best there is."
    )
    sure = point.get("sure", 0.0)
    asked = f" (as much of it must reach {sure:g})" if sure else ""
    return (
        f"**Slides.** The pipeline's own run over slides and mosaics (held-out patches edge to edge). The "
        f"bundle comes with threshold {point['threshold']:g}, smallest region "
        f"{point['min_area_um2']:g} µm²{asked}, smallest hole {point['min_hole_um2']:g} µm². {met} Dice of "
        f"{found['tiles']} images with tumour is {found['dice']:.3f} on mosaics, "
        f"{found['patch_dice']:.3f} as patches at 0.5. Tissue without tumour called tumour:\n\n"
        + _table(["tissue without tumour", "mm²", "called tumour", "at 0.5, nothing dropped"], rows)
    )


def _disagreement(record: Mapping[str, Any]) -> str:
    found = record["disagreement"]
    limit, at = found["review_above"], found["at"]
    told = (
        f"Regions above {limit:g} are classed *Tumor: Review*: {found['flagged']:.0%} of the regions, "
        f"{found['wrong_flagged']:.0%} of the wrong ones."
        if limit is not None
        else "A limit of its own takes ten wrong regions and an interval above chance: none is set."
    )
    rows = [[f"{s['spread']:.3f}", f"{s['wrong']:.0%}", str(s["count"])] for s in found["curve"]]
    return (
        f"**Disagreement.** Of {found['regions']} regions at {at['threshold']:g}, of {at['min_area_um2']:g} "
        f"µm² and more, on {found['images']} images {found['of']}, {found['wrong']:.0%} are wrong (less than "
        "half tumour). Disagreement tells wrong from right with "
        f"an area under the curve of {_area(found, 'auc')} (chance is 0.5), of pixels "
        f"{_area(found, 'pixel_auc')}. {told}\n\n"
        + _table(["disagreement", "wrong", "regions"], rows)
        + "\n![error against disagreement](disagreement.png)\n"
    )


def _area(found: Mapping[str, Any], name: str) -> str:
    if found[name] is None or found[f"{name}_low"] is None:
        return "– (too few to say)"
    return f"{found[name]:.3f} ({found[f'{name}_low']:.3f} – {found[f'{name}_high']:.3f})"


def _worst(record: Mapping[str, Any]) -> str:
    rows = [[f"`{s['key']}`", s["fold"], f"{s['dice']:.3f}", s["licence"]] for s in record["worst"]]
    drawn = record["worst_drawn"]
    picture = (
        "\n![the worst of them that may be drawn: truth green, prediction red](worst.png)\n\nContours of "
        "the worst "
        f"whose licence lets them be drawn, from the top: {', '.join(f'`{key}`' for key in drawn)}.\n"
        if drawn
        else "\nNone of the data's licences lets contours be drawn here.\n"
    )
    head = ["image (its row in the data's manifest)", "fold", "Dice", "licence"]
    return (
        "**Where it fails.** The worst five held-out answers; no image is republished.\n\n"
        + _table(head, rows)
        + picture
    )
