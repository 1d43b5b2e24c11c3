"""Trials of recipes, judged on domains left out of training, as a table for a decision record.

    python scripts/trials.py --data DATA --out runs/trials --teacher-weights mobilenet.safetensors
    python scripts/trials.py --data DATA --out runs/quick --quick --only baseline bce+dice glass

Every trial changes the baseline in one thing and makes the same number of steps; encoders that
are pretrained here never see the domain that is left out, with or without labels. What stands
in --more goes to every command (such as --more "--limit 60"). With --slides, a list of slides
without tumour (path, name, mpp), each trial's networks segment those too: what they call tumour
there is false. Stopped and started again it goes on where it was. The table is printed and written
to OUT/trials.md.
"""

import argparse
import csv
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wsiseg.train.metrics import Score, by_domain, paired
from wsiseg.train.records import read_scores

START = "--encoder mobilenet_v2 --encoder-weights {teacher}"
"""An encoder that has learnt something before: networks that have learnt nothing compare nothing."""
BASE = f"{START} --mpp 0.5 --crop 256 --batch 8 --epochs 20 --steps 200 --warmup 1"
QUICK = f"{START} --mpp 1.0 --crop 128 --batch 8 --epochs 4 --steps 50 --warmup 0.5 --learning-rate 1e-3"
"""At 1 µm a crop shows as much tissue as one of 256 px at 0.5 µm does, for a quarter of the work."""

STRONG = "--stain-jitter 0.25 --colour-jitter 0.3"
TRIALS = {
    "baseline": "",
    "twice the steps": "--epochs {twice}",
    "standard": "--strategy standard",
    "cross-task": "--strategy cross-task",
    "balanced": "--balance 1",
    "half balanced": "--balance 0.5",
    "lr 3e-4": "--learning-rate 3e-4",
    "lr 3e-3": "--learning-rate 3e-3",
    "bce+dice": "--loss bce+dice",
    "no stain jitter": "--stain-jitter 0",
    "strong stain jitter": STRONG,
    "strong scale": "--scale-jitter 0.5",
    "blur and JPEG": "--blur 1.5 --jpeg 40",
    "glass": "--glass 0.3",
    "mosaic": "--mosaic 0.5",
    "strong all": f"{STRONG} --scale-jitter 0.5 --blur 1.5 --jpeg 40 --glass 0.3",
    "other mpp": "--mpp {other_mpp}",
    "mobilenet from scratch": "--encoder-weights none",
    "mit_b0 from scratch": "--encoder mit_b0 --encoder-weights none",
    "mit_b0 distilled": "--encoder mit_b0 --encoder-weights {out}/encoders/distil-{fold}.safetensors",
    "mit_b0 self-supervised": "--encoder mit_b0 --encoder-weights {out}/encoders/masked-{fold}.safetensors",
}
"""Name to what it changes; of an option given twice the last one counts."""


LESSONS = (("distil", "mit_b0 distilled"), ("masked", "mit_b0 self-supervised"))


@dataclass(frozen=True)
class Plan:
    """What all trials share."""

    data: Path
    out: Path
    task: str
    base: list[str]
    teacher: str
    minutes: float
    threads: int
    slides: Path | None = None

    def value(self, option: str) -> str:
        """What the baseline says for an option."""
        return self.base[len(self.base) - 1 - self.base[::-1].index(option) + 1]

    def options(self, name: str) -> list[str]:
        """A trial's options, its places filled in."""
        places = {
            "{twice}": str(2 * int(self.value("--epochs"))),
            "{other_mpp}": "0.5" if float(self.value("--mpp")) > 0.7 else "1.0",  # noqa: PLR2004
            "{out}": str(self.out),
            "{teacher}": self.teacher,
        }
        return [_filled(part, places) for part in shlex.split(TRIALS[name])]

    def run(self, *arguments: str) -> bool:
        """Run one command of wsiseg within the time there is; say whether it came to its end."""
        command = [sys.executable, "-m", "wsiseg", *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        try:
            done = subprocess.run(command, check=False, env=env, timeout=60 * self.minutes)  # noqa: S603  # our own
        except subprocess.TimeoutExpired:
            return False
        return not done.returncode


def _filled(part: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        part = part.replace(place, value)
    return part


def folder(plan: Plan, name: str) -> Path:
    """A trial's bundle."""
    return plan.out / name.replace(" ", "-").replace("+", "-")


def teach(plan: Plan, lesson: str, domain: str) -> None:
    """Pretrain an encoder on everything but a domain, for as long as a training takes."""
    out = plan.out / "encoders" / f"{lesson}-{domain}.safetensors"
    teacher = ["--teacher-weights", plan.teacher] if lesson == "distil" else []
    about = ["--lesson", lesson, "--data", str(plan.data), "-o", str(out), "--without", domain, *teacher]
    strong = ["--scale-jitter", "0.3", "--stain-jitter", "0.2", "--learning-rate", "1e-3", "--balance", "1"]
    plan.run("pretrain", *about, *plan.base, "--encoder", "mit_b0", "--encoder-weights", "none", *strong)


def train(plan: Plan, name: str) -> tuple[str, float, bool]:
    """One trial; its minutes, and whether it came to its end (both of the last call)."""
    begun, out = time.perf_counter(), folder(plan, name)
    about = ["--task", plan.task, "--data", str(plan.data), "-o", str(out), "--resume"]
    options = ["--strategy", "union", "--leave-domain-out", *about, *plan.base, *plan.options(name)]
    ended = plan.run("train", *options)
    spent = (time.perf_counter() - begun) / 60
    record = out / "minutes.txt"
    if ended and not record.exists():
        record.write_text(f"{spent:.1f}\n")
    if ended and plan.slides:
        onto = ["--slide-list", str(plan.slides), "--model", str(out), "-o", str(out / "slides")]
        ended = plan.run("segment", *onto)
    return name, spent, ended


def false_positives(out: Path) -> str:
    """The part of each tumour-free slide's tissue that a trial's networks call tumour, in percent."""
    summary = out / "slides" / "summary.csv"
    if not summary.is_file():
        return ""
    with summary.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    return ", ".join(
        f"{row['slide']} {100 * float(row['tumor_mm2']) / float(row['tissue_mm2']):.1f}" for row in rows
    )


def table(plan: Plan, names: Sequence[str]) -> str:
    """Dice by left-out domain, their mean, and the difference from the baseline on the same images."""
    found: dict[str, list[Score]] = {}
    for name in names:
        if (folder(plan, name) / "bundle.json").is_file():
            found[name] = read_scores(folder(plan, name))
    domains = sorted({score.domain for scores in found.values() for score in scores})
    told = shlex.join([Path(part).name if part == plan.teacher else part for part in plan.base])
    text = f"Dice on each domain of {plan.task} left out of training (95 % bootstrap interval), in percent; "
    text += f"every trial is the baseline (`--strategy union {told}`) with one change.\n\n"
    head = [
        "trial",
        "changes",
        *domains,
        "mean of domains",
        "against baseline, paired",
        "false on slides",
        "minutes",
    ]
    text += "| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n"
    for name, scores in found.items():
        own = by_domain(scores)
        cells = [
            f"{100 * own[d].dice_mean:.1f} ({_span(own[d].dice_low, own[d].dice_high)})" for d in domains
        ]
        mean = sum(own[d].dice_mean for d in domains) / len(domains)
        against = ""
        if name != "baseline" and "baseline" in found:
            _, difference, low, high = paired(scores, found["baseline"])
            against = f"{100 * difference:+.1f} ({_span(low, high)})"
        minutes = folder(plan, name) / "minutes.txt"
        spent = minutes.read_text().strip() if minutes.is_file() else "not known"
        changes = f"`{TRIALS[name]}`" if TRIALS[name] else ""
        text += (
            "| "
            + " | ".join(
                [
                    name,
                    changes,
                    *cells,
                    f"{100 * mean:.1f}",
                    against,
                    false_positives(folder(plan, name)),
                    spent,
                ]
            )
            + " |\n"
        )
    missing = [name for name in names if name not in found]
    return text + (f"\nNot finished: {', '.join(missing)}.\n" if missing else "")


def _span(low: float, high: float) -> str:
    return f"{100 * low:.1f} – {100 * high:.1f}"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="task1", help="the task whose domains are left out")
    parser.add_argument("--quick", action="store_true", help="a small form for two CPU cores")
    parser.add_argument("--only", nargs="+", choices=list(TRIALS), metavar="TRIAL", help=", ".join(TRIALS))
    parser.add_argument(
        "--teacher-weights", default="imagenet", help="MobileNetV2's encoder: imagenet or a file"
    )
    parser.add_argument("--minutes", type=float, default=600, help="no command may take longer")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time; the cores are shared out")
    parser.add_argument("--more", default="", help="options for every command")
    parser.add_argument("--slides", type=Path, help="a list of slides without tumour: path, name, mpp")
    given = parser.parse_args()
    names = given.only or list(TRIALS)
    preset = (QUICK if given.quick else BASE).replace("{teacher}", shlex.quote(given.teacher_weights))
    base = [*shlex.split(preset), *shlex.split(given.more)]
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    plan = Plan(
        given.data, given.out, given.task, base, given.teacher_weights, given.minutes, threads, given.slides
    )
    domains = sorted(path.parent.name for path in (given.data / given.task).glob("*/image"))
    lessons = [one for one, name in LESSONS if name in names]
    with ThreadPoolExecutor(given.jobs) as pool:
        taught = [pool.submit(teach, plan, lesson, domain) for lesson in lessons for domain in domains]
        first = [name for name in names if "encoders/" not in TRIALS[name]]
        waiting = [pool.submit(train, plan, name) for name in first]
        for future in taught:
            future.result()
        waiting += [pool.submit(train, plan, name) for name in names if name not in first]
        for one in waiting:
            name, spent, ended = one.result()
            print(f"{name}: {'done' if ended else 'NOT finished'} ({spent:.1f} min)", flush=True)
    text = table(plan, names)
    (given.out / "trials.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
