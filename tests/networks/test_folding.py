import pytest
import timm
import torch

from benchmark.networks.folding import fold_batch_norms


def randomised(name: str) -> torch.nn.Module:
    """An architecture whose normalisations do something: random statistics and weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model


def num_norms(module: torch.nn.Module) -> int:
    return sum(isinstance(child, torch.nn.BatchNorm2d) for child in module.modules())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv2_100"])
def test_folding_removes_every_normalisation_and_changes_nothing(name):
    model, x = randomised(name), torch.randn(2, 3, 64, 64)
    folded = fold_batch_norms(model, x)
    assert num_norms(model) > 0 == num_norms(folded)
    with torch.inference_mode():
        expected = model(x)
        assert torch.allclose(folded(x), expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


class PreActivation(torch.nn.Module):
    """Normalises before it convolves, so that registration order misleads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.norm.running_mean.normal_()
        self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.conv(self.norm(torch.relu(x))).mean(dim=(2, 3))


def test_a_wrong_pair_is_noticed_and_the_module_kept():
    model = PreActivation().eval()
    assert fold_batch_norms(model, torch.randn(1, 3, 16, 16)) is model


def test_a_module_without_normalisation_is_kept():
    model = torch.nn.Conv2d(3, 4, 1).eval()
    assert fold_batch_norms(model, torch.randn(1, 3, 8, 8)) is model
