"""The card of a bundle: what it was trained on and how, how well it did, what it is not for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsiseg.bundle import BundleSpec
from wsiseg.train.cases import Case
from wsiseg.train.folds import Fold
from wsiseg.train.metrics import Score, Summary, by_domain, summary
from wsiseg.train.recipe import Recipe

__all__ = ["Story", "licence_of", "trained_on", "write_card"]

NVIDIA = (
    "The Mix Vision Transformer encoder's code (as packaged by segmentation-models-pytorch) and NVIDIA's "
    "ImageNet weights for it are under NVIDIA's licence for non-commercial use."
)


@dataclass(frozen=True, slots=True)
class Story:
    """What a card is written from.

    ``folds`` are those trained, ``scores`` their validation scores, ``start`` says where the
    weights began, ``facts`` are machine and versions, ``note`` is added by whoever trains.
    """

    strategy: str
    task: str
    recipe: Recipe
    folds: Sequence[Fold]
    scores: Sequence[Score]
    start: str
    facts: dict[str, str]
    note: str = ""


def licence_of(encoder: str) -> str:
    """The licence line of ``bundle.json``."""
    mit = "; encoder under NVIDIA's non-commercial licence" if encoder.startswith("mit_") else ""
    return f"research use only{mit}; the training data's licences are in README.md"


def trained_on(cases: Sequence[Case]) -> str:
    """Data sets and the number of images of each, in one line."""
    names = sorted({case.dataset for case in cases})
    return ", ".join(f"{name} ({sum(case.dataset == name for case in cases)} images)" for name in names)


def write_card(spec: BundleSpec, story: Story) -> str:
    """The card, as Markdown."""
    cases = _cases(story)
    unknown = sorted({case.domain for case in cases if not case.patient})
    nominal = sorted({f"{case.domain} ({case.mpp:g}, {case.mpp_is})" for case in cases})
    count = f"{len(spec.folds)} fold{'s' if len(spec.folds) > 1 else ''}"
    what = (
        f"FPN with the {spec.encoder} encoder, {count}, for adenocarcinoma in H&E-stained sections. "
        f"Use it with `wsiseg segment SLIDE --model {spec.name}`.\n"
    )
    use = (
        "Research on H&E whole-slide images: a first outline of tumour for a person to correct. "
        "**It is not a medical device** and must not be used for diagnosis, treatment or any decision "
        "about a patient. It has one class; it does not grade, and it was not judged on organs, stains, "
        "scanners or tumour types other than those below.\n"
    )
    nobody = (
        "Whoever decides about a patient. Whoever may not use its data or its encoder: see the licences "
        "below (commercial use, above all). Whoever has other stains than H&E, frozen sections, or other "
        "tumours than adenocarcinoma, or needs lesions counted, graded or told apart as invasive or in "
        "situ. Whoever cannot have a person look at every outline.\n"
    )
    scale = (
        f"Microns per pixel as the data's manifest gives them: {', '.join(nominal)}. Every image was "
        f"resampled to {spec.canvas_mpp:.3f} µm per pixel (1500 px at {spec.mpp:g} become 1024).\n"
    )
    alone = "Folds never split a patient.\n"
    if unknown:
        alone = (
            "Folds never split a patient. Where patients are unknown each image was taken for a patient "
            f"of its own, so that scores there may be too good: {', '.join(unknown)}.\n"
        )
    nvidia = f" {NVIDIA}" if "NVIDIA" in spec.licence else ""
    parts = [f"# {spec.name}\n", what, "## Intended use\n", use, "## Who should not use it\n", nobody]
    parts += ["## Validation\n", _score_tables(story)]
    parts += ["## Data\n", _data_table(cases), scale, alone, "## Limits\n", _limits(spec, story)]
    parts += ["## Recipe\n", _recipe_table(story)]
    parts += ["## Licence\n", f"{spec.licence[0].upper()}{spec.licence[1:]}.{nvidia}\n"]
    return "\n".join(parts)


def _cases(story: Story) -> list[Case]:
    every = {case.key: case for fold in story.folds for case in (*fold.train, *fold.valid)}
    return [every[key] for key in sorted(every)]


def _score_tables(story: Story) -> str:
    kept = (
        "The weights are the last of the training, so nothing was chosen by these scores."
        if story.recipe.keep == "last"
        else "The weights were chosen by their validation Dice, which flatters these scores."
    )
    text = (
        "Dice per image on each fold's own held-out cases, whole images at the network's resolution, "
        "threshold 0.5, with the fp16 weights of this bundle, one fold at a time (the ensemble is not judged "
        "here: every case has trained some of its folds). Empty truth with empty prediction counts 1, "
        f"either one empty alone 0. {kept} Mean ± standard deviation over images; 95 % bootstrap "
        "interval of the mean, patients drawn whole.\n"
    )
    for task in sorted({s.task for s in story.scores}):
        own = [s for s in story.scores if s.task == task]
        rows = [_score_row(f"**{task}**", summary(own))]
        rows += [_score_row(domain, found) for domain, found in by_domain(own).items()]
        filled = [s for s in own if s.tp + s.fn]
        rows += [_score_row("images with tumour only", summary(filled))] if filled else []
        head = "| | images | Dice | interval | Jaccard | COSAS score |\n|---|---|---|---|---|---|\n"
        text += f"\n{head}" + "".join(rows)
        names = sorted({s.fold for s in own})
        each = [(name, summary([s for s in own if s.fold == name])) for name in names]
        text += "\nBy fold: " + ", ".join(f"{name}: {s.dice_mean:.3f} ({s.n})" for name, s in each) + ".\n"
        empty = len(own) - len(filled)
        text += f"\n{empty} of these images hold no tumour at all.\n" if empty else ""
    return text


def _score_row(name: str, found: Summary) -> str:
    return (
        f"| {name} | {found.n} | {found.dice_mean:.3f} ± {found.dice_std:.3f} | {found.dice_low:.3f} – "
        f"{found.dice_high:.3f} | {found.jaccard_mean:.3f} | {found.cosas_mean:.3f} |\n"
    )


def _data_table(cases: Sequence[Case]) -> str:
    text = "| task | domain | images (empty) | patients | what the mask marks | licence | source |\n"
    text += "|---|---|---|---|---|---|---|\n"
    for task, domain in sorted({(case.task, case.domain) for case in cases}):
        own = [case for case in cases if (case.task, case.domain) == (task, domain)]
        known = {case.patient for case in own if case.patient}
        cells = [
            task,
            f"{domain} ({own[0].dataset}; {_listed(c.organ for c in own)}; {_listed(c.lab for c in own)})",
            f"{len(own)} ({sum(case.empty for case in own)})",
            str(len(known)) if known else "unknown",
            _listed(case.meaning for case in own),
            _listed(case.licence for case in own),
            _listed(case.source for case in own),
        ]
        text += "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n"
    return text


def _listed(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))


def _limits(spec: BundleSpec, story: Story) -> str:
    slides = (
        "Scores are of image patches. Whole slides hold far more tissue that is not tumour (muscle, mucus, "
        "necrosis, folds, pen) than these patches do: expect false positives there."
    )
    lines = [
        slides,
        f"Only resolutions that can be brought to {spec.canvas_mpp:.3f} µm per pixel without much enlarging.",
        "Few images from few laboratories: stains and scanners not seen in training may fail without a sign.",
    ]
    lines += [line.strip("- ").strip() for line in story.note.splitlines() if line.strip()]
    return "".join(f"- {line}\n" for line in lines)


def _recipe_table(story: Story) -> str:
    facts = {
        "strategy": f"{story.strategy} on {story.task}",
        "started from": story.start,
        "folds trained": ", ".join(fold.name for fold in story.folds),
        **story.facts,
    }
    values = {**facts, **{name.replace("_", " "): value for name, value in story.recipe.model_dump().items()}}
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in values.items())
