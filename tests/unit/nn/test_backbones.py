"""Backbones: a name and weights become one file that says everything about itself."""

import numpy as np
import pytest
import torch
from torch import nn

from finefold.errors import WeightsError
from finefold.nn.backbones import EMBEDDED_BACKBONE, Backbone, find_backbone
from finefold.nn.weights import read_header, read_state, state_hash, write_weights


@pytest.fixture(scope="module")
def images_BHWC():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    """A state dict of torchvision's ResNet-18 with its classifier, random."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18(weights=None).state_dict(), file)
    return file


def features(backbone: Backbone, images_BHWC: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return backbone.build()(images_BHWC)


def test_embedded_preprocessing_is_the_packages_own(images_BHWC):
    """The embedded backbone computes (x - 127) / 128 at 224 px, and its network sees exactly that."""
    backbone = find_backbone(EMBEDDED_BACKBONE, "embedded")
    preprocessing = backbone.preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((127.0,) * 3, (128.0,) * 3)
    assert (preprocessing.height_px, preprocessing.width_px, preprocessing.crop_fraction) == (224, 224, 0.875)
    assert (preprocessing.fit, preprocessing.interpolation) == ("crop", "bicubic")
    module = backbone.build()
    with torch.inference_mode():
        by_hand_BD = module.network((images_BHWC.permute(0, 3, 1, 2).float() - 127) / 128).flatten(1)
    assert torch.equal(features(backbone, images_BHWC), by_hand_BD)
    assert by_hand_BD.shape == (3, backbone.num_features) == (3, 1280)


def test_a_backbone_is_frozen():
    """Nothing in a built backbone can be trained, and it is in evaluation mode."""
    module = find_backbone(EMBEDDED_BACKBONE, "embedded").build()
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())


def test_the_same_weights_have_the_same_hash(tmp_path, monkeypatch):
    """Made again in an empty cache, a backbone is the same value but for its place, and hashes its own tensors."""
    first = find_backbone(EMBEDDED_BACKBONE, "embedded")
    monkeypatch.setenv("FINEFOLD_CACHE", str(tmp_path))
    second = find_backbone(EMBEDDED_BACKBONE, "embedded")
    assert second.file.is_relative_to(tmp_path)
    assert second.file.read_bytes() == first.file.read_bytes()
    assert first.weights_hash == second.weights_hash == state_hash(read_state(second.file))


def test_what_is_read_back_is_the_same(images_BHWC, tmp_path):
    """A copy of a backbone's file is the same backbone: its header, and bitwise its features."""
    backbone = find_backbone(EMBEDDED_BACKBONE, "embedded")
    backbone.copy_to(tmp_path / "backbone.safetensors")
    again = Backbone.read(tmp_path / "backbone.safetensors")
    assert (again.name, again.preprocessing, again.weights_hash, again.num_features) == (
        backbone.name,
        backbone.preprocessing,
        backbone.weights_hash,
        backbone.num_features,
    )
    assert torch.equal(features(again, images_BHWC), features(backbone, images_BHWC))
    assert [file.name for file in tmp_path.iterdir()] == ["backbone.safetensors"]


def test_a_torchvision_backbone_comes_from_a_file(resnet_file, images_BHWC):
    """`torchvision:resnet18` with a file of weights is that network less its classifier, on its own preprocessing."""
    from torchvision.models import ResNet18_Weights, resnet18

    backbone = find_backbone("torchvision:resnet18", str(resnet_file))
    network = resnet18(weights=None)
    network.load_state_dict(torch.load(resnet_file, weights_only=True))
    network.fc = nn.Identity()
    transforms = ResNet18_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (transforms.mean, transforms.std))
    with torch.inference_mode():
        expected_BD = network.eval()((images_BHWC.permute(0, 3, 1, 2).float() - mean) / std)
    assert torch.allclose(features(backbone, images_BHWC), expected_BD, atol=1e-4)
    preprocessing = backbone.preprocessing
    assert (backbone.num_features, preprocessing.height_px, preprocessing.crop_fraction) == (512, 224, 0.875)
    assert preprocessing.interpolation == "bilinear"


def test_departures_change_the_preprocessing_and_nothing_else(resnet_file):
    """Another size, crop or fit is another backbone file with the same weights."""
    plain = find_backbone("torchvision:resnet18", str(resnet_file))
    other = find_backbone("torchvision:resnet18", str(resnet_file), size_px=64, crop_fraction=1.0, fit="squash")
    assert other.file != plain.file
    assert other.weights_hash == plain.weights_hash
    assert other.preprocessing.hash != plain.preprocessing.hash
    assert (other.preprocessing.height_px, other.preprocessing.width_px) == (64, 64)
    assert (other.preprocessing.crop_fraction, other.preprocessing.fit) == (1.0, "squash")
    assert (other.preprocessing.mean, other.preprocessing.std) == (plain.preprocessing.mean, plain.preprocessing.std)


def test_what_is_done_besides_goes_into_the_header_and_no_further(resnet_file):
    """Centre, grey and CLAHE are read back from the backbone's file; one without them lies where it always lay."""
    plain = find_backbone("torchvision:resnet18", str(resnet_file))
    assert find_backbone("torchvision:resnet18", str(resnet_file), grey=False, clahe=0.0).file == plain.file
    other = find_backbone("torchvision:resnet18", str(resnet_file), centre=(40, 60), grey=True, clahe=2.0)
    assert (other.preprocessing.centre, other.preprocessing.grey, other.preprocessing.clahe) == ((40, 60), True, 2.0)
    assert other.weights_hash == plain.weights_hash
    assert not {"centre", "grey", "clahe"} & set(read_header(plain.file)["preprocessing"])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("tf_efficientnet_lit0", "tf_efficientnet_lite0"), ("torchvision:resnet81", "torchvision:resnet18")],
)
def test_a_misspelt_backbone_is_told_the_nearest(name, nearest, resnet_file):
    """An unknown name is an error that offers known ones."""
    with pytest.raises(WeightsError, match=f"there is no model `{name}`") as caught:
        find_backbone(name, str(resnet_file))
    assert str(caught.value.hint).startswith("did you mean")
    assert nearest in str(caught.value.hint)


def test_a_name_like_no_other_is_told_what_names_look_like(resnet_file):
    """Where nothing is near, the hint says what kinds of names there are."""
    with pytest.raises(WeightsError) as caught:
        find_backbone("!!!", str(resnet_file))
    assert caught.value.hint == "give a timm name, or torchvision:<name>"


def test_weights_that_are_missing_or_of_another_model_are_told(resnet_file, tmp_path):
    """A missing file, and weights of another architecture, are errors that name the file."""
    with pytest.raises(WeightsError, match=r"cannot read the weights .*gone.pth"):
        find_backbone(EMBEDDED_BACKBONE, str(tmp_path / "gone.pth"))
    with pytest.raises(WeightsError, match=r"resnet18.pth does not fit"):
        find_backbone(EMBEDDED_BACKBONE, str(resnet_file))
    with pytest.raises(WeightsError, match="the embedded weights are tf_efficientnet_lite0's, not resnet18's"):
        find_backbone("resnet18", "embedded")


def test_a_download_that_fails_says_what_to_do_instead(monkeypatch):
    """Without a network, pretrained weights are an error that offers a file or the embedded weights."""
    import timm

    def unreachable(*_arguments: object, **_options: object) -> None:
        raise OSError("cannot find the file on the hub\nlong story")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match=r"could not be downloaded: cannot find the file on the hub\n") as caught:
        find_backbone("resnet18", "pretrained")
    assert "the embedded tf_efficientnet_lite0" in str(caught.value.hint)


def test_a_file_of_heads_is_no_backbone(tmp_path):
    """Another file that finefold wrote is not taken for a backbone."""
    write_weights(tmp_path / "w.safetensors", {}, {"kind": "heads"})
    with pytest.raises(WeightsError, match="holds no backbone"):
        Backbone.read(tmp_path / "w.safetensors")
