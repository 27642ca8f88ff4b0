"""Where models of many families can be cut, and whether the parts give what the whole gives: random weights, every cut.

.venv/bin/python benchmarks/cutting.py [NAME]...
"""

import sys
import time
import warnings

from finefold.errors import FinefoldError
from finefold.nn.catalogue import build_model
from finefold.nn.cutting import cut, find_cuts
from finefold.nn.stages import find_stages

TORCHVISION = (
    "resnet18 efficientnet_b0 mobilenet_v2 mobilenet_v3_small convnext_tiny regnet_y_400mf densenet121 vit_b_16 swin_t "
    "vgg11 squeezenet1_1 alexnet googlenet inception_v3 shufflenet_v2_x0_5 mnasnet0_5 swin_v2_t maxvit_t"
)
TIMM = (
    "resnet18 tf_efficientnet_lite0 mobilenetv2_100 mobilenetv3_small_100 convnext_tiny regnety_004 densenet121 "
    "vit_tiny_patch16_224 swin_tiny_patch4_window7_224 vgg11 inception_v3 swinv2_tiny_window8_256 maxvit_tiny_tf_224 "
    "coat_lite_mini deit_tiny_distilled_patch16_224 mixer_s32_224 resnetv2_50 efficientformer_l1 mobilevit_s "
    "eva02_tiny_patch14_224 beit_base_patch16_224 cait_xxs24_224 crossvit_9_240 hrnet_w18_small levit_128 mobileone_s0 "
    "nfnet_f0 pvt_v2_b0 repvgg_a0 res2net50_14w_8s xcit_nano_12_p16_224 vit_small_patch14_dinov2 convnextv2_atto "
    "edgenext_xx_small fastvit_t8 ghostnet_100 dpn68 dla34"
)


def main(names: list[str]) -> None:
    """A line for each model, and the sums."""
    warnings.simplefilter("ignore")
    total = failed = uncut = 0
    for name in names:
        model = build_model(name)
        start = time.perf_counter()
        chain = find_cuts(model)
        seconds = time.perf_counter() - start
        wrong = []
        for point in chain.cuts:
            try:
                cut(model, point.name)  # raises where the parts and the whole differ
            except FinefoldError as error:
                wrong.append(f"{point.name}: {error.message}")
        total, failed, uncut = total + len(chain.cuts), failed + len(wrong), uncut + (chain.reason is not None)
        stages = [stage.name for stage in find_stages(model, chain)]
        told = chain.reason or f"{len(chain.cuts)} cuts, {len(wrong)} wrong; {len(stages)} stages"
        print(f"{name:42} {seconds:5.2f} s  {told}", *wrong, flush=True)
    print(f"{len(names)} models, {total} cuts, {failed} wrong; {uncut} models without a cut, with the reason")


if __name__ == "__main__":
    main(sys.argv[1:] or [*(f"torchvision:{name}" for name in TORCHVISION.split()), *TIMM.split()])
