"""Do two processes on these cores fight? The same probe alone and twice side by side, threads spinning or sleeping.

.venv/bin/python benchmarks/contention.py
"""

import os
import subprocess
import sys

PROGRAM = """
import time
import numpy as np
import finefold.nn.probe as probe

rng = np.random.default_rng(0)
labels = rng.integers(0, 8, 2_500)
features = (rng.standard_normal((2_500, 1_280)) + rng.standard_normal((8, 1_280))[labels] / 10).astype(np.float32)
start = time.perf_counter()
folds = rng.integers(0, 5, 2_500)
probe.fit_probe(features, labels, labels, folds, num_classes=8, strengths=(10.0, 30.0, 100.0, 300.0, 1000.0))
print(time.perf_counter() - start)
"""


def seconds(copies: int, policy: str) -> float:
    """The slowest of some copies that run at the same time."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    command = [sys.executable, "-c", PROGRAM]
    children = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(copies)]
    return max(float(child.communicate()[0]) for child in children)


for policy in ("ACTIVE", "PASSIVE"):
    alone, together = seconds(1, policy), seconds(2, policy)
    print(f"OMP_WAIT_POLICY={policy}: alone {alone:.1f} s, two at once {together:.1f} s, ratio {together / alone:.1f}")
