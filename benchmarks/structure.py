"""How often structure alone, without the source's model, puts a tensor where it belongs.

.venv/bin/python benchmarks/structure.py [--renamed]

For each pair the places found with the source's model (by the flow of data, and proved by running both) are the
truth. The same state is then matched by its keys alone: in order, as a .pth file has it; sorted, as a .safetensors
file has it; and with every word of every key replaced by a made-up one, in order. A tensor is right, marked as
ambiguous, missing, or wrong without a word; the last must not happen.
"""

import hashlib
import re
import warnings

from torch import Tensor, nn

from finefold.nn.catalogue import build_model
from finefold.nn.layout import Layout
from finefold.nn.matching import lay_out
from finefold.nn.transplant import match_weights

PAIRS = [
    ("torchvision:resnet18", "resnet18"),
    ("torchvision:mobilenet_v2", "mobilenetv2_100"),
    ("torchvision:mobilenet_v3_large", "mobilenetv3_large_100"),
    ("torchvision:efficientnet_b0", "efficientnet_b0"),
    ("torchvision:mnasnet1_0", "mnasnet_100"),
    ("torchvision:convnext_tiny", "convnext_tiny"),
    ("torchvision:vit_b_16", "vit_base_patch16_224"),
    ("torchvision:regnet_y_400mf", "regnety_004"),
    ("torchvision:swin_t", "swin_tiny_patch4_window7_224"),
    ("torchvision:vgg11_bn", "vgg11_bn"),
    ("torchvision:densenet121", "densenet121"),
    ("torchvision:efficientnet_v2_s", "tf_efficientnetv2_s"),
    ("torchvision:mobilenet_v3_small", "mobilenetv3_small_100"),
    ("torchvision:regnet_x_1_6gf", "regnetx_016"),
    ("regnety_004", "torchvision:regnet_y_400mf"),
    ("mobilenetv3_large_100", "torchvision:mobilenet_v3_large"),
    ("efficientnet_b0", "torchvision:efficientnet_b0"),
    ("convnext_tiny", "torchvision:convnext_tiny"),
    ("vit_base_patch16_224", "torchvision:vit_b_16"),
    ("swin_tiny_patch4_window7_224", "torchvision:swin_t"),
]
ROLES = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def renamed(key: str) -> str:
    """The key with every word that says something replaced; what a tensor is to its layer stays."""
    *names, last = key.split(".")
    words = [re.sub(r"[A-Za-z_]+", lambda word: made_up(word[0]), name) for name in names]
    return ".".join([*words, last if last in ROLES else re.sub(r"[A-Za-z_]+", lambda word: made_up(word[0]), last)])


def made_up(word: str) -> str:
    """The same word for the same word, like no other."""
    return "".join(chr(ord("a") + int(digit, 16)) for digit in hashlib.md5(word.encode()).hexdigest()[:5])


def places(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Key of the model -> keys of the source."""
    return {one.key: one.sources for one in layout.placed if one.sources}


def told(state: dict[str, Tensor], model: nn.Module, truth: dict[str, tuple[str, ...]], *, kept: bool) -> str:
    """Right, ambiguous, missing and silently wrong."""
    layout = lay_out(state, model, order_is_kept=kept)
    found, doubtful = places(layout), {one.key for one in layout.ambiguous}
    right = sum(found.get(key) == sources and key not in doubtful for key, sources in truth.items())
    missing = sum(key not in found for key in truth)
    wrong = sum(key in found and found[key] != sources and key not in doubtful for key, sources in truth.items())
    return f"{right:5}{len(doubtful):5}{missing:5}{wrong:5}"


def main() -> None:
    """Prints a line for each pair."""
    warnings.simplefilter("ignore")
    print(f"{'':62}  in order            sorted              renamed")
    print(f"{'pair':62}" + "  right  ?  none wrong" * 3)
    for source, target in PAIRS:
        source_model, model = build_model(source), build_model(target)
        match = match_weights(source_model, model)
        assert match.is_proved, (source, target, match.problems(), match.unproved)
        truth, state = places(match.layout), dict(source_model.state_dict())
        renames = {key: renamed(key) for key in state}
        other = {name: state[key] for key, name in renames.items()}
        assert len(other) == len(state)
        other_truth = {key: tuple(renames[one] for one in sources) for key, sources in truth.items()}
        columns = [
            told(state, model, truth, kept=True),
            told({key: state[key] for key in sorted(state)}, model, truth, kept=False),
            told(other, model, other_truth, kept=True),
        ]
        print(f"{source + ' -> ' + target:62}" + "".join(columns), flush=True)


if __name__ == "__main__":
    main()
