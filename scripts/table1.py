"""The paper's Table 1 on your data: three strategies on two tasks, the same folds for each.

    python scripts/table1.py --data DATA --out runs/table1            # the recipe of the paper
    python scripts/table1.py --data DATA --out runs/quick --quick     # small, for two CPU cores

Options it does not know go to every `wsiseg train` (such as `--epochs 4` or `--limit 60`). In so
few steps random weights learn little: give `--encoder-weights`, or an encoder that has some
(`--encoder mobilenet_v2 --encoder-weights mobilenet_v2_imagenet.safetensors`).
With `--steps N` an epoch of a union takes 2 N: it has both tasks to learn, as in the paper.
Stopped and started again it goes on where it was. A union network learns the same, in the
same order, whichever task it is judged by: it is trained once and judged on both.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

QUICK = ["--encoder", "mit_b0", "--encoder-weights", "none", "--mpp", "1.0", "--crop", "128"]
QUICK += ["--batch", "8", "--epochs", "5", "--learning-rate", "1e-3", "--limit", "50"]
"""At 1 µm a crop shows as much tissue as one of 256 px at 0.5 µm does, for a quarter of the work."""


def main() -> None:
    """Run what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs=2, default=["task1", "task2"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a small form for two CPU cores")
    parser.add_argument("--steps", type=int, help="steps of an epoch; a union takes twice as many")
    given, more = parser.parse_known_args()
    recipe = [*(QUICK if given.quick else ["--preset", "paper"]), *more]
    once, both = ([] if given.steps is None else ["--steps", str(n * given.steps)] for n in (1, 2))
    one, two = given.tasks
    begun = time.perf_counter()

    def train(strategy: str, task: str, *extra: str) -> None:
        name = f"{strategy}-{task}"
        print(f"== {name} ({(time.perf_counter() - begun) / 60:.0f} min)", flush=True)
        options = ["--strategy", strategy, "--task", task, "--data", str(given.data)]
        wsiseg("train", *options, "-o", str(given.out / name), "--resume", *recipe, *extra)

    train("standard", one, *once)
    train("standard", two, *once)
    train("cross-task", one, *once, "--init-from", str(given.out / f"standard-{two}"))
    train("cross-task", two, *once, "--init-from", str(given.out / f"standard-{one}"))
    train("union", one, *both)
    lend(given.out / f"union-{one}" / "run", given.out / f"union-{two}" / "run")
    train("union", two, *both)
    runs = [str(given.out / f"{s}-{t}") for s in ("standard", "cross-task", "union") for t in given.tasks]
    wsiseg("compare", *runs, "-o", str(given.out), "--data", str(given.data))


def wsiseg(*arguments: str) -> None:
    """Run one command of wsiseg, and stop where it stops."""
    done = subprocess.run([sys.executable, "-m", "wsiseg", *arguments], check=False)  # noqa: S603  # our own
    if done.returncode:
        sys.exit(done.returncode)


def lend(source: Path, target: Path) -> None:
    """Copy finished folds' checkpoints, so that they are judged again and not trained again."""
    for path in sorted(source.glob("fold-*/last.pt")):
        there = target / path.parent.name
        if not (there / "last.pt").exists():
            there.mkdir(parents=True, exist_ok=True)
            for name in ("metrics.jsonl", "best.safetensors", "last.pt"):
                shutil.copyfile(path.parent / name, there / name)


if __name__ == "__main__":
    main()
