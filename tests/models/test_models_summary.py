"""The layer table: sizes, costs and receptive fields against known numbers and against gradients."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnlab.errors import ModelError
from cnnlab.models import operations
from cnnlab.models.convnet import ConvNet
from cnnlab.models.cost import multiply_adds, run_on_meta_device, to_meta_device
from cnnlab.models.mlp import MLP
from cnnlab.models.resnet import ResNet
from cnnlab.models.summary import WHOLE, LayerRow, Summary, summarise
from cnnlab.models.table import as_table, facts, short_bytes, short_count
from cnnlab.models.trace import ArithmeticMismatch, TraceMode
from cnnlab.models.traced_tensor import TracedTensor


def row_of(summary: Summary, name: str) -> LayerRow:
    (row,) = [row for row in summary.layers if row.name == name]
    return row


# ---- known networks


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_a_resnet_20_is_that_of_the_paper(shortcut: str) -> None:
    summary = summarise(ResNet(depth=20, shortcut=shortcut), (3, 32, 32))
    assert summary.receptive_field == 81  # 3 + 6·2, + 2 + 5·4, + 4 + 5·8
    assert summary.parameters == {"A": 269722, "B": 272474, "C": 283962}[shortcut]
    strided = row_of(summary, "stage2.0.conv1")
    assert strided == LayerRow(
        name="stage2.0.conv1",
        kind="Conv2d",
        input=(16, 32, 32),
        output=(32, 16, 16),
        arithmetic=("⌊(32+2·1−3)/2⌋+1 = 16",),
        parameters=16 * 32 * 9,
        multiply_adds=16 * 32 * 9 * 16 * 16,
        receptive_field=17,
        jump=2,
        activation_bytes=32 * 16 * 16 * 4,
    )
    last = summary.layers[-1]
    assert (last.name, last.output, last.receptive_field, last.jump) == ("head", (10,), WHOLE, None)


def test_the_slices_of_shortcut_a_are_in_the_table() -> None:
    row = row_of(summarise(ResNet(depth=8), (3, 32, 32)), "stage2.0.shortcut")
    assert (row.kind, row.arithmetic, row.receptive_field, row.jump) == ("PadShortcut", ("⌈32/2⌉ = 16",), 7, 2)


# Araujo et al. 2019, table 1, for AlexNet, VGG-16 and Inception v3; the others have torchvision's own strides.
@pytest.mark.parametrize(
    ("name", "size", "field", "millions"),
    [
        ("alexnet", 224, 195, 714),
        ("vgg16", 224, 212, 15470),
        ("resnet18", 224, 435, 1814),
        ("resnet50", 224, 427, 4089),
        ("inception_v3", 299, 1311, 5713),
        ("mobilenet_v3_small", 224, 639, 57),  # squeeze-and-excitation, depthwise
        ("shufflenet_v2_x0_5", 224, 527, 40),  # chunks, and channels shuffled by views
        ("convnext_tiny", 224, 1688, 4456),  # linear layers on channels-last maps
    ],
)
def test_networks_of_the_literature(name: str, size: int, field: int, millions: int) -> None:
    more = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(**more)
    summary = summarise(model, (3, size, size))
    assert summary.receptive_field == field
    assert round(summary.multiply_adds / 1e6) == millions
    assert summary.multiply_adds == multiply_adds(model, (3, size, size))
    assert summary.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert summary.idle_parameters == (3326696 if name == "inception_v3" else 0)  # its auxiliary head


def test_conv5_3_of_a_vgg_16_sees_196_pixels() -> None:
    with torch.device("meta"):
        summary = summarise(torchvision.models.vgg16(), (3, 224, 224))
    assert row_of(summary, "features.28").receptive_field == 196
    assert row_of(summary, "features.28").jump == 16
    assert row_of(summary, "flatten()").arithmetic == ("512·7·7 = 25088",)
    assert row_of(summary, "classifier.0").parameters == (25088 + 1) * 4096


def test_an_mlp_sees_the_whole_image() -> None:
    for channels in (1, 3):
        summary = summarise(MLP(hidden=[20], image_size=8, in_channels=channels), (channels, 8, 8))
        assert summary.receptive_field == WHOLE
        assert {row.receptive_field for row in summary.layers} == {WHOLE}
        assert summary.layers[0].arithmetic == (f"{channels}·8·8 = {64 * channels}",)


def test_a_map_of_one_position_is_no_whole_image() -> None:
    """LeNet-5's C5 sees 32 pixels, and so do the layers on top of it."""
    lenet = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.AvgPool2d(2), nn.Conv2d(16, 120, 5), nn.Flatten(),
        nn.Linear(120, 10),
    )  # fmt: skip
    assert [row.receptive_field for row in summarise(lenet, (1, 32, 32)).layers] == [5, 6, 14, 16, 32, 32, 32]


# ---- receptive fields where the gradient is


class Residual(nn.Module):
    def __init__(self, *main: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.main, self.shortcut = nn.Sequential(*main), shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class Joined(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def channels_last_linear(x: Tensor) -> Tensor:
    return F.linear(x.permute(0, 2, 3, 1), torch.ones(2, 2, dtype=x.dtype)).permute(0, 3, 1, 2)


def space_to_depth(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def depth_to_space(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


def even(x: Tensor) -> Tensor:
    return x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]


def temporal_shift(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :1], out[:, 1:] = x[:, 1:], x[:, :1]
    return out


def conv(inputs: int = 2, outputs: int = 2, kernel: int = 3, **settings: int | str) -> nn.Conv2d:
    settings = {"padding": kernel // 2} | settings
    return nn.Conv2d(inputs, outputs, kernel, bias=False, **settings)  # type: ignore[arg-type]


def up(kernel: int, stride: int = 2, padding: int = 0, **settings: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(2, 2, kernel, stride, padding, bias=False, **settings)


def unet(*upsampling: nn.Module) -> nn.Module:
    return nn.Sequential(
        conv(1), Joined(nn.Identity(), nn.Sequential(nn.AvgPool2d(2), conv(), *upsampling)), conv(4, 2)
    )


def bilinear(**settings: bool) -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", **settings)


NETS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: nn.Sequential(conv(1), Residual(conv(), conv(stride=2), shortcut=conv(kernel=1, stride=2))),
    "resnet-D": lambda: nn.Sequential(conv(1), Residual(conv(stride=2), shortcut=nn.AvgPool2d(2)), conv()),
    "slices": lambda: nn.Sequential(conv(1), Residual(conv(stride=2), shortcut=Function(lambda x: x[:, :, ::2, ::2]))),
    "inception": lambda: nn.Sequential(Joined(conv(1, kernel=1), conv(1, kernel=5), conv(1, kernel=3)), conv(6)),
    "dilated": lambda: nn.Sequential(conv(1, padding=2, dilation=2), conv(padding=4, dilation=4)),
    "grouped": lambda: nn.Sequential(conv(1), conv(groups=2), conv(kernel=1), conv(stride=2, groups=2)),
    "one direction": lambda: nn.Sequential(nn.Conv2d(1, 2, (1, 7), bias=False), nn.Conv2d(2, 2, (3, 1), (2, 1))),
    "uneven same": lambda: nn.Sequential(conv(1, kernel=4, padding="same"), conv(kernel=2, padding="same")),
    "ceil mode": lambda: nn.Sequential(conv(1), nn.AvgPool2d(3, 2, ceil_mode=True), conv()),
    "unet, transposed": lambda: unet(up(2)),
    "unet, overlapping": lambda: unet(up(4, padding=1)),
    "unet, bilinear": lambda: unet(bilinear(), conv()),
    "unet, aligned corners": lambda: unet(bilinear(align_corners=True)),
    "unet, nearest": lambda: unet(nn.Upsample(scale_factor=2), conv(kernel=1)),
    "transposed with gaps": lambda: nn.Sequential(conv(1), up(1, 3), conv()),
    "transposed, dilated": lambda: nn.Sequential(conv(1), up(3, 2, 1, output_padding=1, dilation=2)),
    "pixel shuffle": lambda: nn.Sequential(conv(1, 8), nn.PixelShuffle(2), conv()),
    "pixel unshuffle": lambda: nn.Sequential(conv(1), nn.PixelUnshuffle(2), conv(8)),
    "space to depth": lambda: nn.Sequential(conv(1), Function(space_to_depth), conv(8)),
    "depth to space": lambda: nn.Sequential(conv(1, 8), Function(depth_to_space), conv()),
    "channels last": lambda: nn.Sequential(conv(1), Function(channels_last_linear), conv()),
    "channel shuffle": lambda: nn.Sequential(conv(1, 4), nn.ChannelShuffle(2), conv(4)),
    "channels moved in place": lambda: nn.Sequential(conv(1), Function(temporal_shift), conv()),
    "chunks": lambda: nn.Sequential(conv(1), Function(lambda x: x.chunk(2, 1)[0]), conv(1)),
    "crop": lambda: nn.Sequential(conv(1), Function(lambda x: x[:, :, 3:-2, 1:]), conv(stride=2)),
    "pad": lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), conv(1, padding=0)),
    "circular": lambda: nn.Sequential(conv(1, padding_mode="circular"), conv(padding_mode="circular", stride=2)),
    "reflect": lambda: nn.Sequential(conv(1, padding_mode="reflect"), conv(padding_mode="replicate")),
}


def positive(model: nn.Module) -> nn.Module:
    """Weights for which no gradient cancels out."""
    model = model.double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1)
    return model


def trace(model: nn.Module, shape: tuple[int, ...]) -> TracedTensor:
    """What the output of `model` sees."""
    modes: list[TraceMode] = []

    def watch(image: Tensor) -> TraceMode:
        modes.append(TraceMode(image, lambda operation: None))
        return modes[0]

    output = run_on_meta_device(to_meta_device(model), shape, watch)
    traced = modes[0].traced(output)
    assert traced is not None
    return traced


def check_against_gradient(model: nn.Module, size: tuple[int, int]) -> None:
    model = positive(model)
    image = torch.rand(1, 1, *size, dtype=torch.float64, requires_grad=True)
    output = model(image)
    traced = trace(model, (1, *size))
    seen = output.abs().sum(1)[0]
    middle = [side // 2 for side in seen.shape]
    for axis, field in enumerate(traced.fields):
        assert field is not None
        for offset in range(min(len(field.windows), 8)):
            place = list(middle)
            place[axis] += offset
            gradient = torch.autograd.grad(seen[place[0], place[1]], image, retain_graph=True)[0][0, 0]
            pixels = gradient.sum(1 - axis).nonzero().flatten().tolist()
            assert ((pixels[0], pixels[-1]) if pixels else None) == field.window(place[axis])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_the_receptive_field_is_where_the_gradient_is(name: str) -> None:
    torch.manual_seed(0)
    check_against_gradient(NETS[name](), (48, 40))


blocks = st.one_of(
    st.builds(
        lambda k, s, d, extra: conv(kernel=k, stride=s, dilation=d, padding=d * (k // 2) + extra),
        *(st.sampled_from([1, 2, 3, 5]), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1)),
    ),
    st.builds(lambda k: nn.AvgPool2d(k, 2, ceil_mode=True), st.integers(1, 3)),
    st.builds(lambda k: up(2 * k, 2, k - 1), st.integers(1, 2)),
    st.builds(lambda k: Residual(conv(kernel=2 * k + 1), conv()), st.integers(0, 2)),
    st.builds(lambda: nn.Sequential(Joined(conv(), nn.Identity()), conv(4, kernel=1))),
    st.builds(lambda: nn.Sequential(Function(even), Residual(nn.AvgPool2d(2), conv(), bilinear()))),
    st.builds(lambda: Function(lambda x: x[:, :, ::2, ::2])),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(blocks, min_size=1, max_size=4))
def test_random_networks_see_what_their_gradient_reaches(stack: list[nn.Module]) -> None:
    model = nn.Sequential(conv(1, kernel=1), *stack)
    (field, _) = trace(model, (1, 128, 128)).fields
    assert field is not None
    side = (field.size + 4 * field.shift) // 2 * 2 + 32  # enough for padding to stay at the border
    check_against_gradient(model, (side, side + 6))


class Gate(nn.Module):
    """Squeeze-and-excitation by 1×1 convolutions on the map of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.scale = nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(self.pool(x)).sigmoid()


def test_a_gate_does_not_widen_the_field_of_the_map() -> None:
    summary = summarise(nn.Sequential(conv(1), Gate(), conv()), (1, 20, 20))
    assert row_of(summary, "1.pool").receptive_field == WHOLE
    assert row_of(summary, "1.pool").arithmetic == ("mean of 20×20",)
    assert row_of(summary, "1.scale").receptive_field == WHOLE
    assert row_of(summary, "2").receptive_field == summary.receptive_field == 5


def test_positions_that_look_at_all_others_see_the_whole_image() -> None:
    def attend(x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return mixed.transpose(1, 2).reshape(x.shape)

    summary = summarise(nn.Sequential(conv(1), Function(attend), conv()), (1, 6, 4))
    assert [row.receptive_field for row in summary.layers] == [3, WHOLE, WHOLE]
    assert summary.layers[1].multiply_adds == 2 * 24 * 24 * 2


def test_height_and_width_stand_apart_where_they_differ() -> None:
    summary = summarise(nn.Conv2d(1, 1, (3, 5), (2, 1)), (1, 9, 9))
    (row,) = summary.layers
    assert row.arithmetic == ("h: ⌊(9−3)/2⌋+1 = 4", "w: 9−5+1 = 5")
    assert (row.receptive_field, row.jump) == ((3, 5), (2, 1))


def test_other_numbers_of_axes_work_too() -> None:
    video = summarise(nn.Sequential(nn.Conv3d(1, 2, (1, 3, 3)), nn.MaxPool3d(2)), (1, 4, 8, 8))
    assert video.receptive_field == (2, 4, 4)
    assert video.multiply_adds == 2 * 9 * 4 * 6 * 6
    sound = summarise(nn.Sequential(nn.Conv1d(2, 4, 5, groups=2), nn.MaxPool1d(2)), (2, 20))
    assert (sound.receptive_field, sound.multiply_adds) == (6, 4 * 1 * 5 * 16)


# ---- rows


def test_the_first_line_is_the_first_call() -> None:
    names = [row.name for row in summarise(ConvNet(width=4), (3, 128, 128)).layers]
    assert names[:3] == ["stem.0", "stem.1", "stem.2"]
    assert names[-1] == "head"


def test_parameters_of_a_repeated_module_are_counted_once() -> None:
    layer = conv()
    summary = summarise(nn.Sequential(layer, nn.ReLU(), layer), (2, 8, 8))
    assert [row.parameters for row in summary.layers] == [36, 0, 0]
    assert (summary.layers[2].shared, summary.layers[2].shared_with, summary.layers[2].name) == (36, "0", "0")
    assert [row.multiply_adds for row in summary.layers] == [2304, 0, 2304]
    assert summary.parameters == 36


def test_parameters_of_tied_layers_are_counted_once() -> None:
    first, second = conv(), conv()
    second.weight = first.weight
    summary = summarise(nn.Sequential(first, second), (2, 8, 8))
    assert [(row.name, row.parameters, row.shared_with) for row in summary.layers] == [("0", 36, None), ("1", 0, "0")]


class Owner(nn.Module):
    """Holds a parameter besides its layers, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 1, 1), requires_grad=False)
        self.conv, self.idle = conv(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv(x) * self.scale, 2)


def test_a_module_with_parameters_of_its_own_has_a_row() -> None:
    summary = summarise(nn.Sequential(Owner()), (2, 8, 8))
    assert [(row.name, row.kind, row.parameters) for row in summary.layers] == [
        ("0", "Owner", 2),
        ("0.conv", "Conv2d", 36),
    ]
    assert summary.layers[0].arithmetic == ("⌊(8−2)/2⌋+1 = 4",)
    assert summary.layers[0].receptive_field == 4
    assert (summary.parameters, summary.trainable_parameters, summary.idle_parameters) == (50, 48, 12)


class Functional(nn.Module):
    """As in many a tutorial: poolings and flatten are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(1, 4), nn.Linear(4 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.max_pool2d(F.relu(self.conv(x)), 2), 1))


def test_a_function_that_changes_the_size_has_a_row() -> None:
    rows = summarise(Functional(), (1, 8, 8)).layers
    assert [row.name for row in rows] == ["conv", "max_pool2d()", "flatten()", "fc"]
    assert [row.kind for row in rows] == ["Conv2d", "function", "function", "Linear"]
    assert rows[1].arithmetic == ("⌊(8−2)/2⌋+1 = 4",)
    assert rows[2].arithmetic == ("4·4·4 = 64",)
    assert [row.input for row in rows[1:]] == [row.output for row in rows[:-1]]


def test_weights_that_another_layer_uses_are_held_by_that_layer() -> None:
    with torch.device("meta"):
        summary = summarise(nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), (5, 8))
    assert (summary.idle_parameters, summary.parameters) == (0, sum(row.parameters for row in summary.layers))


def test_weights_under_a_parametrization_belong_to_their_layer() -> None:
    layer = nn.utils.parametrizations.weight_norm(conv())
    (row,) = summarise(nn.Sequential(layer), (2, 8, 8)).layers
    assert (row.name, row.parameters, row.multiply_adds) == ("0", 36 + 2, 2304)


def test_what_is_written_in_place_takes_no_memory() -> None:
    layers = nn.Sequential(conv(), nn.ReLU(inplace=True), nn.ReLU(), nn.Identity(), nn.Flatten())
    summary = summarise(layers, (2, 8, 8))
    assert [row.activation_bytes for row in summary.layers] == [512, 0, 512, 0, 0]
    assert summary.activation_bytes == 1024
    assert summary.parameter_bytes == 36 * 4
    assert summarise(layers.bfloat16(), (2, 8, 8)).parameter_bytes == 36 * 2


@pytest.mark.parametrize(
    ("layer", "shape", "cost"),
    [
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 10, 10), 16 * 2 * 9 * 100),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 10, 10), 8 * 9 * 100),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 5), 4 * 25 * 6 * 4),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 5, 5), 4 * 25 * 3 * 4),
        (nn.Conv1d(2, 4, 5), (2, 20), 4 * 16 * 2 * 5),
        (nn.Conv3d(2, 4, 3), (2, 5, 5, 5), 4 * 27 * 2 * 27),
        (nn.Linear(7, 5), (3, 4, 7), 3 * 4 * 7 * 5),
        (nn.BatchNorm2d(4), (4, 8, 8), 0),
    ],
)
def test_multiply_adds_of_a_layer(layer: nn.Module, shape: tuple[int, ...], cost: int) -> None:
    assert multiply_adds(layer, shape) == summarise(layer, shape).multiply_adds == cost


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_is_written_out() -> None:
    (row,) = summarise(nn.Conv2d(1, 1, 4, padding="same"), (1, 8, 8)).layers
    assert row.arithmetic == ("8+1 = 9", "9+2·1−4+1 = 8")
    assert row.input == row.output == (1, 8, 8)


# ---- manners


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    before = copy.deepcopy(model.state_dict())
    summarise(model, (2, 8, 8))
    multiply_adds(model, (2, 8, 8))
    with pytest.raises(ModelError):
        summarise(model, (3, 8, 8))
    assert all(module.training for module in model.modules())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_lazy_layer_gets_its_shape() -> None:
    summary = summarise(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2)), (3, 6, 6))
    assert (summary.parameters, summary.multiply_adds) == (4 * 28 + 2 * 65, 4 * 27 * 16 + 128)


@pytest.mark.parametrize(
    ("model", "shape", "named"),
    [
        (conv(), (3, 8, 8), "(3, 8, 8)"),
        (conv(padding=0), (2, 2, 2), "Kernel size"),
        (nn.Linear(4, 2), (1, 8, 8), "Linear"),
        (MLP(image_size=8), (1, 9, 9), "built for images of shape"),
        (Function(lambda x: x if x.sum() > 0 else -x), (1, 8, 8), "Function"),
        (conv(), (2, 0, 8), "(2, 0, 8)"),
        (conv(), (2, True, 8), "shape"),
        (conv(), (2,), "shape"),
    ],
)
def test_an_image_that_does_not_fit_is_one_line(model: nn.Module, shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(ModelError) as caught:
        summarise(model, shape)
    assert named in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_arithmetic_that_is_not_the_size_of_torch_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "conv_output_size", lambda *numbers: 7)
    with pytest.raises(ArithmeticMismatch, match="convolution"):
        summarise(conv(), (2, 8, 8))
    assert issubclass(ArithmeticMismatch, AssertionError)


def test_a_model_with_several_outputs_has_rows() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
            return {"map": self.conv(x), "mean": self.conv(scale * x).mean((2, 3))}

    summary = summarise(Two(), (2, 8, 8))
    assert [row.name for row in summary.layers] == ["conv", "conv", "mean()"]


# ---- as text


def test_the_facts_are_json() -> None:
    summary = summarise(nn.Conv2d(1, 1, (3, 5), (2, 1)), (1, 9, 9))
    answer = json.loads(json.dumps(facts(summary)))
    assert answer["layers"][0]["arithmetic"] == "h: ⌊(9−3)/2⌋+1 = 4; w: 9−5+1 = 5"
    assert answer["receptive_field"] == [3, 5]
    assert {"name", "kind", "input", "output", "parameters"} <= answer["layers"][0].keys()


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_of_the_table_is_cut_off(width: int) -> None:
    from rich.console import Console

    with torch.device("meta"):
        summary = summarise(torchvision.models.densenet121(), (3, 224, 220))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(as_table(summary))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in summary.layers:
        assert all(line in text for line in row.arithmetic), row.name
    assert "7,978,856" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (40551040, "40.6 M"), (999_999, "1.00 M"), (15 * 10**9, "15.0 G")],
)
def test_counts_have_three_digits(number: int, text: str) -> None:
    assert short_count(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(40, "40 B"), (65536, "64 KiB"), (2**20 - 1, "1 MiB"), (1000 * 1024, "1,000 KiB"), (5 * 2**30, "5 GiB")],
)
def test_bytes_have_three_digits(number: int, text: str) -> None:
    assert short_bytes(number) == text


# ---- torch's compiler


def test_a_summary_leaves_the_compiler_unloaded_and_whole_for_who_needs_it() -> None:
    code = """
import sys, torch
from cnnlab.models.convnet import ConvNet
from cnnlab.torch_patches import without_compiler
from cnnlab.models.summary import summarise
summarise(ConvNet(), (3, 64, 64))
assert "torch._dynamo" not in sys.modules
with without_compiler():
    import torch._dynamo.utils
    assert torch._dynamo.config.recompile_limit
assert torch.compile(torch.nn.ReLU(), backend="eager")(torch.ones(1)) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
