"""Which model a state is of: told by its keys and shapes, never by its file's name."""

import pytest
import torch

from finefold.nn.catalogue import build_model
from finefold.nn.identify import identify_model


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("torchvision:resnet18", "resnet18"),
        ("torchvision:resnet18", "resnet34"),
        ("torchvision:vit_b_16", "vit_base_patch16_224"),
        ("torchvision:swin_t", "swin_tiny_patch4_window7_224"),
        ("torchvision:mobilenet_v3_large", "mobilenetv3_large_100"),
        ("torchvision:squeezenet1_1", "resnet18"),
        ("torchvision:densenet121", "densenet121"),
        ("torchvision:inception_v3", "inception_v3"),
        ("torchvision:efficientnet_v2_s", "tf_efficientnetv2_s"),
        ("test_vit", "test_vit"),
    ],
)
def test_a_state_tells_its_model(name, like):
    """A state is recognised whatever it is to be laid onto; torchvision's models all, timm's near the name."""
    model = build_model(name)
    found = identify_model(model.state_dict(), like)
    assert found is not None
    assert found.model.state_dict().keys() == model.state_dict().keys()
    assert type(found.model) is type(model)
    found.model.load_state_dict(model.state_dict())
    images_BCHW = torch.randn(1, 3, 224, 224) if "inception" not in name else torch.randn(1, 3, 299, 299)
    if name.startswith("test_"):
        images_BCHW = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(found.model.eval()(images_BCHW), model(images_BCHW))


@pytest.mark.parametrize(
    "name", ["torchvision:resnet18", "torchvision:squeezenet1_1", "torchvision:mobilenet_v2", "test_vit"]
)
def test_another_number_of_classes_is_no_other_model(name):
    """Fine-tuned to 7 classes, a model is recognised and built with 7."""
    state = build_model(name, num_classes=7).state_dict()
    found = identify_model(state, name)
    assert found is not None
    assert found.name == name
    assert {key: value.shape for key, value in found.model.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }


@pytest.mark.parametrize("prefix", ["module.", "model.backbone."])
def test_a_wrapper_is_looked_through(prefix):
    """What DataParallel or Lightning wrapped is recognised by what is inside."""
    state = {prefix + key: value for key, value in build_model("torchvision:resnet18").state_dict().items()}
    found = identify_model(state, "resnet50")
    assert found is not None
    assert found.name == "torchvision:resnet18"


def test_missing_batch_counters_do_not_matter():
    """States older than the counters are recognised."""
    state = build_model("torchvision:resnet18").state_dict()
    found = identify_model({key: value for key, value in state.items() if "tracked" not in key}, "resnet18")
    assert found is not None
    assert found.name == "torchvision:resnet18"


def test_what_is_no_known_model_is_not_guessed():
    """A key more, or another shape inside: none is identified."""
    state = build_model("torchvision:resnet18").state_dict()
    wider = {**state, "conv1.weight": torch.zeros(64, 4, 7, 7)}
    for other in (state | {"extra.weight": torch.zeros(2)}, wider):
        assert identify_model(other, "resnet18") is None


@pytest.mark.parametrize("name", ["tf_mobilenetv3_small_100", "mobilenetv3_small_100"])
def test_models_of_the_same_keys_are_not_chosen_between_by_chance(name):
    """timm's MobileNetV3 and TensorFlow's have the same keys and compute otherwise: only its own name makes it one."""
    state = build_model(name).state_dict()
    for like in ("torchvision:mobilenet_v3_small", "mobilenetv3_small_100", "tf_mobilenetv3_small_100"):
        assert identify_model(state, like) is None
    found = identify_model(state, name, is_likely=True)
    assert found is not None
    assert found.name == name
