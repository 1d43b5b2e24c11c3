"""The bundles in models/, from the data to the card, by the project's own commands.

    python scripts/train_default.py --data DATA --imagenet FILE --out models/adeno-union
    python scripts/train_default.py --data DATA --imagenet FILE --out OTHER --bundle mobilenet

union: five folds on both tasks, the encoder a MobileNetV2 from ImageNet: what trials found best.
mobilenet: the same on the images that DATA/manifest.csv calls redistributable.
mitb0: a Mix-Vision-Transformer, taught without labels by that MobileNetV2 first, then with a Dice term.
Where the ImageNet weights cannot be fetched, --imagenet names a file of them; another encoder than the
bundle's is named by --encoder, which goes to every training.
Each is trained twice: on small crops, then shortly on larger ones that are put together from
several images, blurred, stored as JPEG and stained more, and the weights of both are blended.
Then: the same with each domain left out (--left-out), threshold, temperature and figures from
scripts/judge.py (with --slides), and the card. --minutes fits the number of steps to this
machine; --quick is for a trial of the script. Options it does not know go to every training.
Stopped and started again it goes on where it was; all of it lies in --work.
"""

import argparse
import csv
import itertools
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "--mpp 1.0 --crop 128 --batch 8 --epochs 10 --steps 100 --warmup 0.5"
RECIPE += " --learning-rate 1e-3 --balance 0.5"
SECOND = "--mpp 1.0 --crop 256 --batch 4 --epochs 8 --steps 50 --warmup 0.5"
SECOND += " --learning-rate 5e-4 --balance 0.5 --mosaic 0.7 --glass 0.15 --blur 1.2 --jpeg 50"
SECOND += " --stain-jitter 0.15 --colour-jitter 0.2 --scale-jitter 0.2 --blend 0.5"
BOTH = 1.8  # the pixels of both trainings, over those of the first
TEACHING = "--learning-rate 1e-3 --balance 1 --scale-jitter 0.3 --stain-jitter 0.2 --epochs {epochs}"
TAUGHT = 5  # the epochs of teaching, over those of a fold's first training
QUICK = "--crop 64 --batch 4 --epochs 2 --steps 3"
PROBE = "--epochs 1 --steps 20 --train-folds 1 --limit 6"
MERGED = "free"


@dataclass(frozen=True)
class Kind:
    """One of the bundles: what it learns from and where its encoder begins."""

    options: str
    encoder: str
    taught: bool = False
    free_only: bool = False
    second: str = ""
    """What its second training does otherwise."""


KINDS = {
    "union": Kind("--strategy union --task task1", "mobilenet_v2"),
    "mitb0": Kind(
        "--strategy union --task task1 --loss bce+dice", "mit_b0", taught=True, second="--mosaic 0.35"
    ),
    "mobilenet": Kind(f"--strategy standard --task {MERGED}", "mobilenet_v2", free_only=True),
}


def main() -> None:
    """Do what is missing of every step."""
    given, more = options()
    begun = time.perf_counter()
    kind, work = KINDS[given.bundle], given.work or Path("runs") / f"default-{given.bundle}"
    work.mkdir(parents=True, exist_ok=True)
    data = free_data(given.data, work / "data") if kind.free_only else given.data
    what = [*shlex.split(kind.options), "--data", str(data), "--encoder", kind.encoder]
    what += ["--device", given.device]
    quick = shlex.split(QUICK) if given.quick else []
    base = [*what, *shlex.split(RECIPE), *quick, *more]
    second = [*what, *shlex.split(f"{SECOND} {kind.second}"), *quick, *more]
    left_out = domains(data, base) if given.left_out else []
    if given.minutes:
        runs = BOTH * (5 + len(left_out)) + kind.taught * TAUGHT * (1 + len(left_out))
        steps = fitted(work, base, given.minutes / runs)
        base += ["--steps", str(steps)]
        second += ["--steps", str(max(1, steps // 2))]
    encoders = str(work / "encoder-{fold}.safetensors") if kind.taught else given.imagenet
    for domain in ["all", *left_out] if kind.taught else []:
        teach(given, base, Path(encoders.replace("{fold}", domain)), domain)
    bundle = work / given.out.name
    twice(base, second, encoders.replace("{fold}", "all"), bundle)
    if given.left_out:
        twice([*base, "--leave-domain-out"], [*second, "--leave-domain-out"], encoders, work / "left-out")
    judge(given, data, work, bundle)
    publish(bundle, given.out)
    wsiseg("models", "verify", str(given.out))
    print(f"wrote {given.out} ({(time.perf_counter() - begun) / 60:.1f} min of this call)")


def options() -> tuple[argparse.Namespace, list[str]]:
    """What the command line says, and what is left for the trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="the bundle's folder; its name is the bundle's"
    )
    parser.add_argument("--bundle", choices=list(KINDS), default="union")
    parser.add_argument("--work", type=Path, help="where everything is made [runs/default-BUNDLE]")
    parser.add_argument(
        "--imagenet",
        default="imagenet",
        help="a file of the encoder's ImageNet weights (for mitb0 its teacher's, a MobileNetV2's)",
    )
    parser.add_argument("--slides", type=Path, help="list of slides without tumour, for scripts/judge.py")
    parser.add_argument("--left-out", action="store_true", help="train once more with each domain left out")
    parser.add_argument("--minutes", type=float, help="how long all trainings together may take, about")
    parser.add_argument("--quick", action="store_true", help="hardly any steps, to try this script")
    parser.add_argument("--device", default="auto")
    return parser.parse_known_args()


def teach(given: argparse.Namespace, base: list[str], out: Path, without: str) -> None:
    """Teach an encoder on every image but a domain's, for longer than a fold is trained."""
    shared = (
        "--data",
        "--encoder",
        "--device",
        "--mpp",
        "--crop",
        "--batch",
        "--epochs",
        "--steps",
        "--warmup",
    )
    wanted = only(base, (*shared, "--limit", "--image-mpp"))
    apart = [] if without == "all" else ["--without", without]
    lesson = shlex.split(TEACHING.format(epochs=TAUGHT * int(value(base, "--epochs"))))
    teacher = ["--lesson", "distil", "--teacher-weights", given.imagenet]
    wsiseg("pretrain", *teacher, *wanted, *apart, *lesson, "-o", str(out))


def twice(base: list[str], second: list[str], encoders: str, out: Path) -> None:
    """Train from an encoder, and then on larger crops from what that gave."""
    first = out.with_name(f"{out.name}-first")
    wsiseg("train", *base, "--encoder-weights", encoders, "--resume", "-o", str(first))
    wsiseg("train", *second, "--init-from", str(first), "--resume", "-o", str(out))


def only(arguments: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Those options, with their values, that a pretraining shares with the training."""
    found = itertools.pairwise(arguments)
    return [part for option, given in found if option in wanted for part in (option, given)]


def value(arguments: list[str], option: str) -> str:
    """The value that counts of an option: the last."""
    return arguments[len(arguments) - arguments[::-1].index(option)]


def domains(data: Path, base: list[str]) -> list[str]:
    """The domains of the task that is trained."""
    with (data / "manifest.csv").open(newline="", encoding="utf-8-sig") as file:
        return sorted({row["domain"] for row in csv.DictReader(file) if row["task"] == value(base, "--task")})


def free_data(data: Path, view: Path) -> Path:
    """A data folder of the images that may be republished, as one task, without a copy of any."""
    view.mkdir(parents=True, exist_ok=True)
    with (data / "manifest.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["redistributable"].startswith("yes")]
    if not rows:
        sys.exit(f"{data / 'manifest.csv'} calls no image redistributable (a column that begins with yes)")
    for task in {row["task"] for row in rows}:
        if not (view / task).exists():
            (view / task).symlink_to((data / task).resolve(), target_is_directory=True)
    with (view / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "task": MERGED} for row in rows)
    return view


def fitted(work: Path, base: list[str], minutes: float) -> int:
    """The steps of an epoch with which a first training takes so many minutes; measured once, then kept."""
    kept = work / "steps.json"
    if not kept.is_file():
        probe = work / "probe"
        wsiseg("train", *base, *shlex.split(PROBE), "--overwrite", "-o", str(probe))
        (metrics,) = probe.glob("run/fold-*/metrics.jsonl")
        rate = json.loads(metrics.read_text().splitlines()[-1])["images_per_s"]
        images = 0.8 * 60 * minutes * rate  # the rest: reading, validation
        steps = int(images / int(value(base, "--batch")) / int(value(base, "--epochs")))
        kept.write_text(json.dumps({"images_per_s": rate, "steps": max(1, steps)}) + "\n")
    return int(json.loads(kept.read_text())["steps"])


def judge(given: argparse.Namespace, data: Path, work: Path, bundle: Path) -> None:
    """Temperature, threshold, smallest areas, figures and card."""
    if given.slides is None:
        print("no --slides: threshold and temperature stay as they are, the card tells of patches alone")
        return
    script = [sys.executable, str(ROOT / "scripts" / "judge.py"), str(bundle), "--data", str(data)]
    more = ["--left-out", str(work / "left-out")] if given.left_out else []
    more += ["--unseen", str(given.data)] if data != given.data else []
    run(
        [
            *script,
            "--slides",
            str(given.slides),
            "--work",
            str(work / "judge"),
            "--device",
            given.device,
            *more,
        ]
    )


def publish(bundle: Path, out: Path) -> None:
    """Copy a bundle without the records of its training; only a bundle is ever replaced."""
    if out.exists() and not (out / "bundle.json").is_file():
        sys.exit(f"{out} is there and is no bundle: choose another --out")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(bundle, partial, ignore=shutil.ignore_patterns("run", "*.partial"))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def wsiseg(*arguments: str) -> None:
    """Run one command of wsiseg, and stop where it stops."""
    print(f"== wsiseg {shlex.join(arguments)}", flush=True)
    run([sys.executable, "-m", "wsiseg", *arguments])


def run(command: list[str]) -> None:
    """Run a command, and stop where it stops."""
    done = subprocess.run(command, check=False)  # noqa: S603  # our own
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
