# %% [markdown]
# # Lab 2 · ConvNets 101
#
# Networks are made of blocks. You build the classic ones yourself (VGG, residual, U-Net), repair a broken network, turn a convolution
# around, write a data set of your own, and take a trained network to other images: to other classes, and to another *domain*.
#
# At the end you can write these blocks with all their options, read an error message of PyTorch back to the line that caused it, say what a
# transposed convolution computes, segment an image, and decide what to keep of a trained network.
#
# **How to work.** As in [lab 0](0-by-hand.ipynb): eleven cells have a `TODO`; write, run, then run the check below.

# %%
import copy
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import cnnlab
from cnnlab.labs import check

FULL = os.environ.get("CNNLAB_LABS") == "full"  # False: seconds per cell. True: minutes
DATA = os.environ.get("CNNLAB_DATA")  # a folder with MNIST and photographs, if there is one
ROOT = Path(DATA) if DATA else None
RUNS = Path("runs/lab2")  # everything this lab writes

shutil.rmtree(RUNS, ignore_errors=True)
plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# The images: digits of 28×28 pixels, **MNIST** where `CNNLAB_DATA` has it, otherwise the 8×8 digits of cnnlab, enlarged to 20×20 and set on
# black, as MNIST's are. All comparisons are made on **validation** images; the test set stays closed (`test=False`).

# %%
MNIST = ROOT is not None and (ROOT / "MNIST").is_dir()
LIMIT = 3000 if FULL else 500  # images per split at most
name, where = ("mnist", {"root": ROOT, "download": False}) if MNIST else ("digits", {"test_fraction": 0.3})
digits = cnnlab.load_data(name, **where, limit=LIMIT, val_fraction=0.0, batch_size=50, augment="none")
images, labels = (torch.cat(parts) for parts in zip(*digits.train, *digits.test, strict=True))
COUNT = len(digits.split["train"])  # so many are for training and validation, the others for the test
FIT = COUNT * 4 // 5  # where we split by hand, the last fifth of them is for validation
held_out = slice(FIT, COUNT)
grey = digits.preprocess.denormalise(images)[..., 0]  # (N, H, W) uint8
if not MNIST:
    enlarged = F.interpolate(grey[:, None].float(), (20, 20), mode="bicubic").clamp(0, 255)
    grey = F.pad(enlarged[:, 0], (4, 4, 4, 4)).to(torch.uint8)


def write_images(pixels, labels, root, keep=range(10)):
    """(N, 28, 28[, 3]) uint8 → ROOT/{train,test}/CLASS/*.png, which is what data=folder reads."""
    for i, (image, label) in enumerate(zip(pixels.numpy(), labels.tolist(), strict=True)):
        if label in keep:
            folder = root / ("train" if i < COUNT else "test") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:05}.png")


write_images(grey, labels, RUNS / "grey")
settings = {"augment": "light", "batch_size": 25, "val_fraction": 0.2}
plain = cnnlab.load_data("folder", root=RUNS / "grey", channels=1, **settings)
print({part: len(plain.split[part]) for part in ("train", "val", "test")})

# %% [markdown]
# ## 1 · Historical and modern CNNs
#
# **Historical** CNNs ([LeNet](https://doi.org/10.1109/5.726791), [AlexNet](https://papers.nips.cc/paper/4824),
# [VGG](https://arxiv.org/abs/1409.1556)) have two parts: convolutions and pools that make the map smaller and deeper, then **linear layers** on
# the flattened map. **Modern** ones end in a **global average**: one number per channel, and one linear layer behind it.
#
# The linear layer on a flattened map has a weight for each place of the map. So it holds most of the parameters, and it fixes the size
# of the image. The global average does neither.


# %%
def convolutions():
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return [*layers, nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]  # (B, 32, 7, 7) of 28×28


def count(part):
    return sum(p.numel() for p in part.parameters())


historical = [nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)]
modern = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
for name, head in {"historical": historical, "modern": modern}.items():
    network = nn.Sequential(*convolutions(), *head)
    share = sum(count(layer) for layer in network if isinstance(layer, nn.Linear)) / count(network)
    try:
        network(torch.zeros(1, 1, 40, 40))
        other = "takes 40×40 too"
    except RuntimeError as error:
        other = f"40×40: {str(error).splitlines()[0]}"
    print(f"{name:<12}{count(network):>8,} parameters, {share:>4.0%} in linear layers; {other}")

# %% [markdown]
# AlexNet, a historical network, and ResNet-20, a modern one, as cnnlab draws them (`cnnlab model alexnet --svg` writes such a file): the height of a block is the size of its map, the width the number
# of its channels.

# %%
cnnlab.draw_network(cnnlab.create_model("alexnet"), (3, 224, 224))

# %%
cnnlab.draw_network(cnnlab.create_model("resnet", depth=20), (3, 32, 32))

# %% [markdown]
# VGG has one idea more: instead of one large kernel, several 3×3 kernels one after the other. Two of them see 5×5 pixels, as one 5×5
# kernel does, with $2·9\,C^2 = 18\,C^2$ weights instead of $25\,C^2$, and with one more activation between.
#
# **Exercise 2.1.** Write a VGG block with all its options: `convs` times (convolution that keeps the size, batch norm if asked for,
# activation), then a 2×2 max pool if asked for. `activation` is a **class**, such as `nn.ReLU`; the block makes a new object of it each time.
# A convolution before batch norm needs no bias, one without does.


# %% TODO 2.1
def vgg_block(convs, inputs, outputs, activation=nn.ReLU, batch_norm=True, pool=True, kernel=3):
    """→ nn.Sequential, (B, inputs, H, W) → (B, outputs, H/2, W/2), or H, W without the pool. `kernel` is odd."""
    ...


# %% solution 2.1
def vgg_block(convs, inputs, outputs, activation=nn.ReLU, batch_norm=True, pool=True, kernel=3):
    """→ nn.Sequential, (B, inputs, H, W) → (B, outputs, H/2, W/2), or H, W without the pool. `kernel` is odd."""
    layers = []
    for i in range(convs):
        channels = inputs if i == 0 else outputs
        layers.append(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(activation())
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


# %%
check("2.1", vgg_block)


# %%
@cnnlab.register_model("my_vgg")
class MyVGG(cnnlab.Classifier):
    """Two of your blocks, a global average, one linear layer."""

    def __init__(self, width=16, in_channels=1, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(vgg_block(2, in_channels, width), vgg_block(2, width, 2 * width))
        self.head = nn.Linear(2 * width, num_classes)
        self.stages = ("features.0", "features.1")  # for transfer learning: what can be frozen

    def forward_features(self, x):  # (B, 1, 28, 28) → (B, 2·width, 7, 7)
        return self.features(x)

    def forward_head(self, features):
        return self.head(features.mean((2, 3)))


for row in cnnlab.summarise(cnnlab.create_model("my_vgg"), (1, 28, 28)).layers:
    if row.arithmetic:
        shape = "×".join(map(str, row.output))
        print(f"{row.name:<14}{row.kind:<12}{shape:<12}{'; '.join(row.arithmetic)}")

# %% [markdown]
# `@cnnlab.register_model` makes the class known by a name, so that a run folder can build it again. `forward` is features, then head: that cut
# is all that transfer learning, activation maps and localization need.

# %%
EPOCHS = 6 if FULL else 4
SETTINGS = ["optimizer=adamw", "optimizer.lr=0.01", "schedule=linear", "trainer.ema=null", "logger=none"]


def train(name, model, data, epochs=EPOCHS, more=()):
    shutil.rmtree(RUNS / name, ignore_errors=True)
    words = [*SETTINGS, *more]
    return cnnlab.fit(
        model, data, epochs=epochs, dir=RUNS / name, overrides=words, test=False, progress=False
    )


torch.manual_seed(0)
vgg = train("vgg", cnnlab.create_model("my_vgg"), plain)
print(f"validation accuracy {vgg.history[-1]['val_accuracy']:.1%}")

# %% [markdown] teacher
# **For the teacher.** Frequent mistakes in 2.1: `activation` appended as a class; the second convolution with `inputs` channels again; padding 1
# for every kernel size; one activation object shared, which works until somebody gives it parameters (`nn.PReLU`). Question:
# what does a position of `my_vgg`'s last map see? (Twice 3×3 is 5, the pool makes it 6 at step 2, twice 3×3 adds 8: 14; the pool adds 2: 16.)

# %% [markdown]
# ## 2 · A broken network
#
# Somebody wrote this at night. It has **nine** mistakes: most stop it with an error, one only makes it worse without a word. Run it and read the
# **last line** of the error first, then find your own line in the traceback.
#
# **Exercise 2.2.** Repair it: three blocks of two convolutions with 8, 16 and 32 channels, batch norm and activation after each
# convolution, a pool after each block, the global average, one linear layer. The check says what is still wrong.


# %% TODO 2.2
class Repaired(nn.Module):
    def block(self, inputs, outputs, activation=nn.SiLU):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, padding=1),
            nn.BatchNorm2d(inputs),
            activation,
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.MaxPool2d(2),
        )

    def __init__(self, num_classes=10):
        super().__init__()
        self.features = nn.Sequential(self.block(3, 8), self.block(8, 16), self.block(8, 32, activ=nn.SiLU))
        self.pool = nn.AdaptiveAvgPool2d(out_size=1)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        """(B, 3, H, W) → logits (B, num_classes)."""
        x = self.pool(self.features(x))
        return self.head(x)


# %% solution 2.2
class Repaired(nn.Module):
    def block(self, inputs, outputs, activation=nn.SiLU):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),  # the kernel size was missing
            nn.BatchNorm2d(outputs),  # of what comes out of the convolution
            activation(),  # an object, not the class
            nn.Conv2d(outputs, outputs, 3, padding=1),  # it takes what the first one gives
            nn.BatchNorm2d(outputs),
            activation(),  # there was none
            nn.MaxPool2d(2),
        )

    def __init__(self, num_classes=10):
        super().__init__()
        self.features = nn.Sequential(self.block(3, 8), self.block(8, 16), self.block(16, 32))
        self.pool = nn.AdaptiveAvgPool2d(1)  # its argument is called output_size
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        """(B, 3, H, W) → logits (B, num_classes)."""
        x = self.pool(self.features(x)).flatten(1)  # (B, 32)
        return self.head(x)


# %%
check("2.2", Repaired)

# %% [markdown] teacher
# **For the teacher.** The silent mistake is the missing second activation; without the check most never find it. Let everyone say *how* they found each: by the message, by a shape, or by reading.

# %% [markdown]
# ## 3 · The residual block
#
# A [residual block](https://arxiv.org/abs/1512.03385) does not learn the new map, but what has to be *added* to the old one:
#
# $$y = \mathrm{ReLU}\big(F(x) + x\big)$$
#
# If $F$ gives zero, the block passes $x$ on: a deeper network can always do what a shallower one does. Where the shape changes (stride, or
# other channels), a 1×1 convolution with the same stride and a batch norm bring $x$ to the new shape: the **projection**.
#
# **Exercise 2.3.** Write the block. $F$: 3×3 convolution with the stride, batch norm, ReLU, 3×3 convolution, batch norm; no biases.


# %% TODO 2.3
class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        ...

    def forward(self, x):
        """(B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        ...


# %% solution 2.3
class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x):
        """(B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


# %%
check("2.3", ResidualBlock)


# %%
@cnnlab.register_model("my_resnet")
class MyResNet(cnnlab.Classifier):
    """A stem and three stages of n residual blocks: 6n + 2 layers."""

    def __init__(self, blocks=1, width=16, in_channels=1, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        layers = [nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())]
        inputs = width
        for stage, channels in enumerate((width, 2 * width, 4 * width)):
            for block in range(blocks):
                layers.append(ResidualBlock(inputs, channels, stride=2 if stage and not block else 1))
                inputs = channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, num_classes)

    def forward_features(self, x):
        return self.features(x)  # (B, 4·width, 7, 7)

    def forward_head(self, features):
        return self.head(features.mean((2, 3)))


for blocks in (1, 2, 3):  # the same network as cnnlab's own
    mine = cnnlab.create_model("my_resnet", blocks=blocks)
    theirs = cnnlab.create_model("resnet", depth=6 * blocks + 2, shortcut="B", in_channels=1)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (mine, theirs)]
    print(f"ResNet-{6 * blocks + 2}: {sizes[0]:,} parameters")
    assert sizes[0] == sizes[1]

torch.manual_seed(0)
resnet = train("resnet", cnnlab.create_model("my_resnet", width=8), plain)
cnnlab.plot_curves({"VGG": vgg.history, "ResNet-8": resnet.history})

# %% [markdown]
# One seed each: this says that both learn, not which is better. Why residual networks can be deep is the question of
# [lab 3](3-why-residuals.ipynb).
#
# ## 4 · Transposed convolution
#
# A convolution makes maps smaller; to answer at every pixel we must come back up. A convolution is linear: some matrix $C$ maps the input
# to the output. The **transposed convolution** (often called *deconvolution*, though it inverts nothing) multiplies with
# $C^\top$: each input places a copy of the kernel on the output, times its value, and the copies are **added**. Example in one dimension, stride 2:

# %%
kernel, inputs = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0])
line = torch.zeros(7)
for i, value in enumerate(inputs):
    line[2 * i : 2 * i + 3] += value * kernel
print(line.tolist())
columns = [F.conv1d(unit[None, None], kernel[None, None], stride=2)[0, 0] for unit in torch.eye(7)]
C = torch.stack(columns, dim=1)  # (3, 7): the matrix of the convolution from 7 to 3
assert torch.equal(C.T @ inputs, line)

# %% [markdown]
# **Exercise 2.4.** Its size: the formula of the convolution, solved for the input. A stride leaves several inputs with the same output size, so
# `output_padding` says how many more there shall be.


# %% TODO 2.4
def transposed_size(size, kernel, stride=1, padding=0, dilation=1, output_padding=0):
    """→ the output size along one axis, a whole number."""
    ...


# %% solution 2.4
def transposed_size(size, kernel, stride=1, padding=0, dilation=1, output_padding=0):
    """→ the output size along one axis, a whole number."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding


# %%
check("2.4", transposed_size)

# %% [markdown]
# **Exercise 2.5.** Write it in two dimensions, with channels: input channel $c$ at place $(i, j)$ puts `weight[c]`, of shape
# $(O, K, K)$, times its value at rows $iS$ to $iS+K-1$ and the same columns of the output. Two loops over the places will do; the sum over $c$
# can be `torch.einsum("c,cokl->okl", x[:, i, j], weight)`.


# %% TODO 2.5
def conv_transpose(x, weight, stride):
    """x (C, H, W), weight (C, O, K, K) → (O, (H-1)·S+K, (W-1)·S+K)."""
    ...


# %% solution 2.5
def conv_transpose(x, weight, stride):
    """x (C, H, W), weight (C, O, K, K) → (O, (H-1)·S+K, (W-1)·S+K)."""
    _, height, width = x.shape
    _, outputs, size, _ = weight.shape
    y = torch.zeros(outputs, (height - 1) * stride + size, (width - 1) * stride + size)
    for i in range(height):
        for j in range(width):
            copies = torch.einsum("c,cokl->okl", x[:, i, j], weight)  # (O, K, K)
            top, left = i * stride, j * stride
            y[:, top : top + size, left : left + size] += copies
    return y


# %%
check("2.5", conv_transpose)

# %% [markdown]
# **The checkerboard.** Where the stride does not divide the kernel, the copies overlap unevenly: some outputs are written to more often than
# their neighbours. Put ones in, take a kernel of ones, and the output counts the writes.

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for axis, size in zip(axes, (3, 4, 2), strict=True):
    counts = conv_transpose(torch.ones(1, 6, 6), torch.ones(1, 1, size, size), 2)[0]
    axis.imshow(counts, vmin=0, vmax=4, cmap="viridis")
    for (row, column), value in np.ndenumerate(counts.numpy()):
        text_colour = "white" if value < 3 else "black"
        axis.text(column, row, int(value), ha="center", va="center", fontsize=8, color=text_colour)
    even = counts[2:-2, 2:-2].unique().numel() == 1
    axis.set_title(f"K = {size}, S = 2: {'even' if even else 'a checkerboard'} inside")
    axis.set_axis_off()

# %% [markdown] teacher
# **For the teacher.** 2.5: most write `=` instead of `+=` first; the check says so. Question: which padding and output padding make $K=3$, $S=2$
# double the size exactly? ($o = 2P - 1$: $P = 1$, $o = 1$. But $K=4$, $P=1$ doubles as well, evenly, and so does $K=2$.)

# %% [markdown]
# ## 5 · MNIST-M, a Dataset of your own
#
# [MNIST-M](https://arxiv.org/abs/1505.07818) sets digits over photographs: $|p - d|$, channel by channel, of a photograph's pixel $p$ and the
# digit $d$ as a stencil of 0 and 255. On black nothing changes; on the ink the photograph is inverted.
#
# **Exercise 2.6.** Write the Dataset. For image $i$: choose a photograph and a 28×28 part of it at random, **the same each time** for the same $i$
# (a generator made of the seed and $i$: `np.random.default_rng([seed, i])`), and blend. The stencil is 255 where the digit is brighter than 127.


# %% TODO 2.6
class MNISTM(Dataset):
    def __init__(self, digits, labels, photographs, seed=0):
        """digits (N, 28, 28) uint8, labels (N,), photographs: a list of (H, W, 3) uint8 arrays."""
        ...

    def __len__(self): ...

    def __getitem__(self, i):
        """→ image (3, 28, 28) float32, 0 to 1, and its label, an int."""
        ...


# %% solution 2.6
class MNISTM(Dataset):
    def __init__(self, digits, labels, photographs, seed=0):
        """digits (N, 28, 28) uint8, labels (N,), photographs: a list of (H, W, 3) uint8 arrays."""
        self.digits, self.labels, self.photographs, self.seed = digits, labels, photographs, seed

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, i):
        """→ image (3, 28, 28) float32, 0 to 1, and its label, an int."""
        random = np.random.default_rng([self.seed, i])
        photograph = self.photographs[random.integers(len(self.photographs))]
        top, left = (random.integers(side - 28 + 1) for side in photograph.shape[:2])
        part = torch.from_numpy(photograph[top : top + 28, left : left + 28].copy()).float()  # (28, 28, 3)
        stencil = 255.0 * (torch.as_tensor(self.digits[i]) > 127)[..., None]  # (28, 28, 1)
        return (part - stencil).abs().permute(2, 0, 1) / 255, int(self.labels[i])


# %%
check("2.6", MNISTM)

# %%
if ROOT and (ROOT / "bsds500").is_dir():
    files = sorted((ROOT / "bsds500").glob("**/*.jpg"))[:40]
    photographs = [np.asarray(Image.open(file).convert("RGB")) for file in files]
else:
    photographs = cnnlab.datasets.sample_photographs()
mnist_m = MNISTM(grey, labels, photographs)
colour = torch.stack([image for image, _ in mnist_m])  # (N, 3, 28, 28) in [0, 1]
ink = grey > 127  # (N, 28, 28)
write_images((colour * 255).round().to(torch.uint8).permute(0, 2, 3, 1), labels, RUNS / "colour")
both = torch.cat([grey[:8, None].repeat(1, 3, 1, 1), colour[:8] * 255]).float()
cnnlab.show_batch(both, [*labels[:8], *labels[:8]])

# %% [markdown]
# The published set is `cnnlab.datasets.MNISTM(root)`; as every Dataset, it goes into a `DataLoader` and into `cnnlab.fit`.
#
# ## 6 · U-Net
#
# [U-Net](https://arxiv.org/abs/1505.04597) classifies **every pixel**. An encoder halves the map and doubles the channels; a decoder goes
# back up, and at each size sees what the encoder had there (the **skip connections**, concatenated): from below it learns *what*, from
# the side *where*. The task: which pixels of the coloured images are ink?
#
# **Exercise 2.7.** Write a U-Net with two levels. Widths: $w$ at full size, $2w$ at half, $4w$ at a quarter. Down: two 3×3 convolutions (batch
# norm, ReLU), then a 2×2 max pool. Up: a transposed convolution $K=2$, $S=2$ to half the channels, `torch.cat([skip, up], dim=1)`,
# two convolutions. Last a 1×1 convolution to one logit per pixel. It must take **any size**: where a side is odd, the way up is a pixel short;
# `F.interpolate(up, skip.shape[2:])` or `F.pad` corrects that.


# %% TODO 2.7
class UNet(nn.Module):
    def __init__(self, in_channels=3, width=8):
        super().__init__()
        ...

    def forward(self, x):
        """(B, in_channels, H, W) → a logit per pixel (B, 1, H, W)."""
        ...


# %% solution 2.7
def two_convolutions(inputs, outputs):
    return nn.Sequential(
        *[nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()],
        *[nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()],
    )


def join(skip, up):
    """Side by side as channels, `up` brought to the size of `skip`."""
    if up.shape[2:] != skip.shape[2:]:
        up = F.interpolate(up, skip.shape[2:])
    return torch.cat([skip, up], dim=1)


class UNet(nn.Module):
    def __init__(self, in_channels=3, width=8):
        super().__init__()
        self.down1 = two_convolutions(in_channels, width)
        self.down2 = two_convolutions(width, 2 * width)
        self.bottom = two_convolutions(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge2 = two_convolutions(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge1 = two_convolutions(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        """(B, in_channels, H, W) → a logit per pixel (B, 1, H, W)."""
        first = self.down1(x)  # (B, w, H, W)
        second = self.down2(F.max_pool2d(first, 2))  # (B, 2w, H/2, W/2)
        x = self.bottom(F.max_pool2d(second, 2))  # (B, 4w, H/4, W/4)
        x = self.merge2(join(second, self.up2(x)))  # (B, 2w, H/2, W/2)
        x = self.merge1(join(first, self.up1(x)))  # (B, w, H, W)
        return self.head(x)


# %%
check("2.7", UNet)

# %% [markdown]
# The measure is the **intersection over union** (IoU): of all pixels that are ink or are called ink, the share that is both. Pixel accuracy would
# flatter: most pixels are background, and "nothing is ink" is right for all of them.
#
# **Exercise 2.8.** Write it, over all images together.


# %% TODO 2.8
def mask_iou(predicted, truth):
    """Two bool tensors of one shape, (B, 1, H, W) → a number from 0 to 1; 1 where both are empty."""
    ...


# %% solution 2.8
def mask_iou(predicted, truth):
    """Two bool tensors of one shape, (B, 1, H, W) → a number from 0 to 1; 1 where both are empty."""
    union = (predicted | truth).sum().item()
    return (predicted & truth).sum().item() / union if union else 1.0


# %%
check("2.8", mask_iou)


# %%
def train_unet(unet, epochs):
    """The training loop by hand, on the training part of the images."""
    optimizer = torch.optim.AdamW(unet.parameters(), lr=0.01)
    for _ in range(epochs):
        for part in torch.randperm(FIT).split(25):
            loss = F.binary_cross_entropy_with_logits(unet(colour[part] - 0.5), ink[part, None].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return unet.eval()


class NoSkips(UNet):
    """The same network, but the decoder sees zeros in place of the encoder's maps."""

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.merge2(torch.cat([torch.zeros_like(second), self.up2(x)], dim=1))
        x = self.merge1(torch.cat([torch.zeros_like(first), self.up1(x)], dim=1))
        return self.head(x)


masks = {}
for name, kind in {"U-Net": UNet, "without skips": NoSkips}.items() if MNIST else {"U-Net": UNet}.items():
    torch.manual_seed(0)
    unet = train_unet(kind(width=8), 6 if FULL else 4)
    with torch.no_grad():
        masks[name] = unet(colour[held_out] - 0.5) > 0
    print(f"{name:<14}IoU on validation {mask_iou(masks[name], ink[held_out, None]):.1%}")
figure, axes = plt.subplots(2 + len(masks), 8, figsize=(10, 1.3 * (2 + len(masks))), layout="constrained")
rows = {"image": colour[held_out].permute(0, 2, 3, 1), "truth": ink[held_out]}
rows |= {name: mask[:, 0] for name, mask in masks.items()}
for line, (name, pictures) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name)
    for axis, picture in zip(line, pictures, strict=False):
        axis.imshow(picture, cmap="gray")
        axis.set(xticks=[], yticks=[])

# %% [markdown] results
# On 2400 images of MNIST-M the U-Net reached an IoU of 91.6 %, and without its skip connections 80.7 % (one seed each). All that the second knows of
# a place must pass through the 7×7 map, so thin strokes and sharp edges are lost.

# %% [markdown]
# The same in one command, with more images, a Dice loss and a report: `cnnlab train data=mnist_m_seg data.root=data`.

# %% [markdown] teacher
# **For the teacher.** 2.7 is the longest exercise of the labs, about 40 minutes. The frequent mistakes: skips added up to the wrong level, no
# concatenation at all, sizes that only fit multiples of four. Ask what the network without skips does to thin strokes, and why.

# %% [markdown]
# ## 7 · Transfer learning
#
# A network that has learned 0 to 4 has learned strokes and bends. Is that worth something for 5 to 9, with **five** labelled images per class?
#
# **Exercise 2.9.** Write the step by hand: copy into `model` every tensor of `weights` whose name does **not** begin with `head.`, leave the head as it
# is (its classes are others), and, if asked, freeze what was copied (`requires_grad_(False)`). Return the model.


# %% TODO 2.9
def transfer(model, weights, freeze=False):
    """`weights`: the state dict of a trained network, whose head may have another size → model."""
    ...


# %% solution 2.9
def transfer(model, weights, freeze=False):
    """`weights`: the state dict of a trained network, whose head may have another size → model."""
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    model.load_state_dict(kept, strict=False)
    for name, parameter in model.named_parameters():
        if freeze and name in kept:
            parameter.requires_grad_(False)
    return model


# %%
check("2.9", transfer)

# %%
write_images(grey, labels, RUNS / "low", keep=range(5))
fit_part = torch.cat([torch.arange(FIT), torch.arange(COUNT, len(labels))])  # without our validation images
for i in fit_part.tolist():
    if labels[i] >= 5:
        folder = RUNS / "high" / ("train" if i < FIT else "test") / str(int(labels[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey[i].numpy()).save(folder / f"{i:05}.png")
high = torch.tensor([i for i in range(FIT, COUNT) if labels[i] >= 5])  # for validation
print(f"{len(high)} validation images of 5 to 9")
low = cnnlab.load_data("folder", root=RUNS / "low", channels=1, **settings)
torch.manual_seed(0)
learned = train("low-digits", cnnlab.create_model("my_vgg", num_classes=5), low, epochs=2 * EPOCHS)
weights = cnnlab.load_run(learned.dir)[0].state_dict()

SEEDS = (0, 1, 2) if FULL else (0, 1)
BUDGETS = (15, 60)  # steps: one batch holds all 25 images
labelled = {"augment": "light", "batch_size": 25, "per_class_train": 5, "val_fraction": 0.0}


@torch.no_grad()
def accuracy_on_high(run, data):
    model, _ = cnnlab.load_run(run.dir)
    answers = model(data.preprocess.normalise(grey[high][..., None])).argmax(1)  # 0 to 4 stand for 5 to 9
    return (answers + 5 == labels[high]).float().mean().item()


ways = {"from scratch": None, "all of it learns": False, "only the head learns": True}
results = {}
for name, freeze in ways.items():
    for steps in BUDGETS:
        for seed in SEEDS:
            few = cnnlab.load_data("folder", root=RUNS / "high", channels=1, seed=seed, **labelled)
            torch.manual_seed(seed)
            model = cnnlab.create_model("my_vgg", num_classes=5)
            if freeze is not None:
                model = transfer(model, weights, freeze)
            run = train(f"few-{name}-{steps}-{seed}", model, few, steps, ["optimizer.lr=0.03"])
            results.setdefault((name, steps), []).append(accuracy_on_high(run, few))
print(f"validation accuracy on 5 to 9, mean ± standard deviation of {len(SEEDS)} draws of 25 images")
for name in ways:
    cells = [results[name, steps] for steps in BUDGETS]
    text = "".join(
        f"   {steps} steps {np.mean(c):.1%} ± {np.std(c, ddof=1):.1%}"
        for steps, c in zip(BUDGETS, cells, strict=True)
    )
    print(f"{name:<22}{text}")

# %% [markdown] results
# After 15 steps the network from scratch is at 30.5 %, with taken-over features at 54.7 %, and with the features frozen, where only the head has
# to be learned, at 69.9 %. After 60 steps the order is another: 69.7 %, 79.0 % and 71.0 %. Frozen features help at once and then stay where
# they are, since nothing in them was made for 5 to 9; fine-tuning goes on. The deviations are 3.4 to 10.7 points with three draws, so
# from scratch and the frozen features do not differ significantly after 60 steps.

# %% [markdown]
# Read the table with its deviations: which of the differences are larger than they are?
#
# For photographs the source is much larger: networks trained on ImageNet, whose published weights `cnnlab train model=resnet18
# model.weights=imagenet` downloads once. In cnnlab transfer is `init.from=RUN`, `init.freeze=backbone`; what became of each tensor
# stands in the run's `init.json`.

# %% [markdown] teacher
# **For the teacher.** Frequent mistake in 2.9: `load_state_dict(weights, strict=False)` with the head in it: names fit, shapes do not. Frozen
# layers with batch norm still change their running statistics in training mode: a good question for the fast ones.

# %% [markdown]
# ## 8 · Another domain: MNIST to MNIST-M
#
# Same classes, other images. We train on white digits on black (in three equal channels) and look at the coloured ones.

# %%
domain = cnnlab.load_data("folder", root=RUNS / "grey", channels=3, **settings)
torch.manual_seed(0)
source = train(
    "source", cnnlab.create_model("vgg", width=8, blocks=3, image_size=28), domain, epochs=2 * EPOCHS
)
source_model, _ = cnnlab.load_run(source.dir)
pixels = (colour * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
seen = domain.preprocess.normalise(pixels)  # prepared as the network's own images were


@torch.no_grad()
def accuracy(model, part):
    return (model(seen[part]).argmax(1) == labels[part]).float().mean().item()


print(f"white on black, validation: {source.history[-1]['val_accuracy']:.1%}")
print(f"over photographs:           {accuracy(source_model, held_out):.1%}")

# %% [markdown]
# The network has never seen anything but black around a digit. **AdaBN** ([Li et al. 2016](https://arxiv.org/abs/1603.04779)) helps without a
# single label: batch norm subtracts the mean and divides by the standard deviation of what it saw in training; let it measure both anew
# on the new images. Nothing learns.
#
# **Exercise 2.10.** Write it, on a copy. For each `nn.BatchNorm2d`: `reset_running_stats()` and `momentum = None` (a plain mean over all batches).
# Then run the images through in training mode, without gradients, in batches of 50, and return the copy in evaluation mode.


# %% TODO 2.10
def adapt_batch_norm(model, images):
    """model, images (N, C, H, W) of the new domain → a copy whose batch norms know the new images."""
    ...


# %% solution 2.10
def adapt_batch_norm(model, images):
    """model, images (N, C, H, W) of the new domain → a copy whose batch norms know the new images."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    model.train()
    with torch.no_grad():
        for batch in images.split(50):
            model(batch)
    return model.eval()


# %%
check("2.10", adapt_batch_norm)

# %%
adapted = adapt_batch_norm(source_model, seen[:FIT])
print(f"source only        {accuracy(source_model, held_out):.1%}")
print(f"AdaBN, no label    {accuracy(adapted, held_out):.1%}")
coloured = cnnlab.load_data("folder", root=RUNS / "colour", **settings)
torch.manual_seed(0)
best = train("labelled", cnnlab.create_model("vgg", width=8, blocks=3, image_size=28), coloured, 2 * EPOCHS)
print(f"all labels         {best.history[-1]['val_accuracy']:.1%}")

# %% [markdown] results
# From 97.5 % on black to 11.5 % over photographs, which is guessing: the network never had to tell a digit from its background. AdaBN brings 36.2 %
# without a label, all labels 92.7 % (one seed; the three are measured on different validation images, and most of those digits were seen in grey when
# the source was trained, so only the order of magnitude counts).

# %% [markdown]
# **DANN** ([Ganin et al. 2016](https://arxiv.org/abs/1505.07818)) goes further: a second head tells the domains apart, and its gradient is
# *reversed* before it reaches the features. It needs many steps; with all 60,000 images it is far ahead. That table is in
# [Domain adaptation and semantic segmentation](../docs/domains.md), the commands are `cnnlab train recipe=source_only`,
# `recipe=adabn` and `recipe=dann`.
#
# ## 9 · Which part of the image decides?
#
# Cover a part, and see what becomes of the probability.
#
# **Exercise 2.11.** Write the **occlusion map** ([Zeiler and Fergus 2014](https://arxiv.org/abs/1311.2901)): for each place where a square of
# `side`×`side` pixels fits into the image, cover it with 0 (the mean, in normalised images), and note the softmax probability of `target`.


# %% TODO 2.11
def occlusion_map(model, image, target, side):
    """model, image (C, H, W), a class → (H-side+1, W-side+1): the probability of `target` when the square
    whose upper left corner is there is covered."""
    ...


# %% solution 2.11
@torch.no_grad()
def occlusion_map(model, image, target, side):
    """model, image (C, H, W), a class → (H-side+1, W-side+1): the probability of `target` when the square
    whose upper left corner is there is covered."""
    rows, columns = (length - side + 1 for length in image.shape[1:])
    probabilities = torch.zeros(rows, columns)
    for i in range(rows):
        batch = image.repeat(columns, 1, 1, 1)  # (columns, C, H, W)
        for j in range(columns):
            batch[j, :, i : i + side, j : j + side] = 0
        probabilities[i] = model(batch).softmax(1)[:, target]
    return probabilities


# %%
check("2.11", occlusion_map)

# %%
vgg_model, _ = cnnlab.load_run(vgg.dir)
val_images, val_labels = (torch.cat(parts) for parts in zip(*plain.val, strict=True))
firsts = [int((val_labels == k).nonzero()[0]) for k in (2, 3, 4, 7, 8)]  # one of each of these classes
shown = val_images[firsts]
answers = vgg_model(shown).argmax(1)
figure, axes = plt.subplots(2, 5, figsize=(9, 3.6), layout="constrained")
for column, image, answer in zip(axes.T, shown, answers, strict=True):
    column[0].imshow(plain.preprocess.denormalise(image[None])[0, ..., 0], cmap="gray")
    column[0].set_title(f"answer {plain.classes[answer]}")
    with torch.no_grad():
        heat = occlusion_map(vgg_model, image, answer, 7)
    column[1].imshow(heat, vmin=0, vmax=1)
    column[1].set_title(f"lowest {heat.min():.0%}")
    for axis in column:
        axis.set_axis_off()

# %% [markdown]
# Dark: here the square took the answer away. The part that decides is seldom the whole digit; often a gap or an end is enough, what
# distinguishes this class from its neighbours. `cnnlab.look` lets you do it by hand: *Cover a part*, then drag a box over the image.

# %%
files = []
for i, image in zip(firsts, plain.preprocess.denormalise(shown)[..., 0].numpy(), strict=True):
    files.append(RUNS / f"{i} (a {plain.classes[val_labels[i]]}).png")
    Image.fromarray(image).save(files[-1])
cnnlab.look(vgg.dir, images=[str(file) for file in files], height=760)

# %% [markdown]
# Go on with [lab 3](3-why-residuals.ipynb): why residuals?

# %% [markdown] teacher
# **For the teacher.** About six hours in all: parts 1 to 3, 4 to 6, and 7 to 9 are three sessions. Ask at the end what each of the three
# ways to use a trained network changes: weights (fine-tuning), the head alone (frozen), statistics alone (AdaBN).
