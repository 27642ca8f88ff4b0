"""How long looking inside a model and moving its weights takes, beside what no tool could do without.

.venv/bin/python benchmarks/inside.py

Each line is a process of its own, as a user's shell starts it, next to a process that only imports torch and timm,
builds the model (for a match: both models) and runs one forward of each. Wanted on 2 cores: `inspect --forward`
of a ViT-B in under 10 s, `weights match` of any listed pair in under 15 s.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

PAIRS = {
    "resnet18": "resnet18",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0",
    "mnasnet1_0": "mnasnet_100",
    "convnext_tiny": "convnext_tiny",
    "vit_b_16": "vit_base_patch16_224",
    "regnet_y_400mf": "regnety_004",
}
BARE = """
import sys, torch, timm
from torchvision import models
for name in sys.argv[1:]:
    plain = name.removeprefix("torchvision:")
    model = models.get_model(plain) if plain != name else timm.create_model(plain)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 224, 224))
"""
SAVE = """
import sys, torch
from torchvision import models
torch.save(models.get_model(sys.argv[1]).state_dict(), sys.argv[2])
"""


def seconds(*arguments: str, folder: str) -> float:
    """Wall time of a Python process."""
    start = time.perf_counter()
    environment = {**os.environ, "FINEFOLD_CACHE": folder}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def line(what: str, ours: float, bare: float) -> None:
    """One row, with the ratio."""
    print(f"{what:60} {ours:6.1f} s   bare {bare:5.1f} s   {ours / bare:4.1f}x", flush=True)


with TemporaryDirectory() as folder:
    vit = "vit_base_patch16_224"
    seconds("-c", BARE, "resnet18", folder=folder)  # fills the file cache
    line(
        f"inspect {vit} --forward",
        seconds("-m", "finefold", "inspect", vit, "--forward", folder=folder),
        seconds("-c", BARE, vit, folder=folder),
    )
    for source, target in PAIRS.items():
        file = str(Path(folder) / f"{source}.pth")
        seconds("-c", SAVE, source, file, folder=folder)
        line(
            f"weights match {source}.pth {target}",
            seconds("-m", "finefold", "weights", "match", file, target, folder=folder),
            seconds("-c", BARE, f"torchvision:{source}", target, folder=folder),
        )
