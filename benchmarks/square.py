"""noise.square beside ART's SquareAttack: the same network, images, budget and number of queries, in one run.

python -m benchmarks.square [--images 64] [--queries 500] [--cifar10 FOLDER]
"""

from __future__ import annotations

import time

import torch
from torch import nn

from auditkit.budgets import budget_text, parse_budget
from auditkit.plan import Planned
from auditkit_plugins.square import Square
from benchmarks.subjects import BATCH, Subject, arguments, subject, survivors


def art_square(of: Subject, eps: float, queries: int) -> torch.Tensor:
    """Run ART's attack with its own defaults."""
    from art.attacks.evasion import SquareAttack
    from art.estimators.classification import PyTorchClassifier

    classes = of.model.info.classes
    shape = tuple(of.samples.images.shape[1:])
    estimator = PyTorchClassifier(
        of.network, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type="cpu"
    )
    attack = SquareAttack(estimator, eps=eps, max_iter=queries, nb_restarts=1, batch_size=BATCH, verbose=False)
    labels = nn.functional.one_hot(of.samples.labels, classes).numpy()
    return torch.from_numpy(attack.generate(of.samples.images.numpy(), labels))


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, 64)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--subjects", default="resnet20:1/255,resnet2b:8/255")
    options = parser.parse_args()
    for entry in options.subjects.split(","):
        name, _, budget = entry.partition(":")
        of, eps = subject(options.cifar10, name, options.images), parse_budget(budget)
        print(f"{name}, eps {budget_text(eps)}, {options.queries} queries, {len(of.samples)} images")
        times = {}
        for give_up in (True, False):
            check = Square(eps=(eps,), queries=options.queries, give_up=give_up)
            began = time.perf_counter()
            findings = of.bench.run(Planned("noise.square", check, "", {}), of.samples, lambda _: None).findings
            times[give_up] = time.perf_counter() - began
            label = "auditkit" if give_up else "auditkit, every query spent"
            print(f"  {label:28}{times[give_up]:8.1f} s  robust {findings.columns['robust'].mean():.2%}")
        began = time.perf_counter()
        attacked = art_square(of, eps, options.queries)
        seconds = time.perf_counter() - began
        left = survivors(of, attacked, eps).float().mean()
        print(f"  {'ART':28}{seconds:8.1f} s  robust {left:.2%}", end="")
        print(f"  auditkit is {seconds / times[True]:.1f}x faster, {seconds / times[False]:.1f}x with every query")


if __name__ == "__main__":
    main()
