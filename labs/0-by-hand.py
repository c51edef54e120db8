# %% [markdown]
# # Lab 0 · By hand
#
# You write every part of an image classifier yourself, in PyTorch: images as tensors, a convolution, a gradient, a data set, a
# network, a loss, three optimizers, the training loop, the test. At the end one call of cnnlab does the same, and you know what is in
# it. You need Python. You need no knowledge of neural networks.
#
# **How to work.** Run the cells from the top. Nineteen cells have a `TODO`: put your code in the place of `...`, run the cell, then
# run the check below it. The check tries your answer on inputs that are new each time, and says what is wrong, or that it passed.
# Checks have no solutions to look at; go on when one passes, since later cells use your answers. If a cell that is not yours
# fails, look first whether every check above it has passed. After a restart of the kernel run all cells again.

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split
from torch.utils.tensorboard import SummaryWriter

import cnnlab
from cnnlab.labs import check

FULL = os.environ.get("CNNLAB_LABS") == "full"  # False: a minute in all. True: all images of MNIST
DATA = os.environ.get("CNNLAB_DATA")  # a folder with MNIST, if there is one
RUNS = Path("runs/lab0")  # everything this lab writes
IMAGES = RUNS / "images"

shutil.rmtree(RUNS, ignore_errors=True)
plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# First we need image files: handwritten digits, one folder per class, as your own photographs would lie. With `CNNLAB_DATA` they are
# those of MNIST (28×28 pixels), otherwise the digits that come with cnnlab (8×8). Every step is the same.

# %%
IS_MNIST = DATA is not None and (Path(DATA) / "MNIST").is_dir()
COUNT = {"train": 60_000 if FULL else 2000, "test": 10_000 if FULL else 500}  # images at most
EPOCHS = 12 if not IS_MNIST else (8 if FULL else 6)
BATCH = 32


def write_images(split):
    """The images of a split → IMAGES/SPLIT/CLASS/NUMBER.png"""
    source = cnnlab.datasets.MNIST(DATA, split) if IS_MNIST else cnnlab.datasets.Digits(split=split)
    for number in range(min(len(source), COUNT[split])):
        image, label = source[number]  # a Pillow image and a number
        file = IMAGES / split / source.classes[label] / f"{number:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)


write_images("train")
write_images("test")
for split in ("train", "test"):
    files = sorted((IMAGES / split).glob("*/*.png"))
    print(f"{split}: {len(files)} files, such as {files[0]}")

# %% [markdown]
# ## 1 · An image is a tensor
#
# A file becomes an array of numbers from 0 (black) to 255 (white): `(H, W)` if it is grey, `(H, W, 3)` with red, green and blue if
# it is in colour. PyTorch wants it in another form:
#
# - the **channels first**, `(C, H, W)`, and grey has one channel, `(1, H, W)`: a convolution then reads each channel as one plane;
# - **float32**, because weights are, and because gradients need numbers that can change a little;
# - **from 0 to 1**, because a network learns best from inputs of about that size.

# %%
file = sorted((IMAGES / "train").glob("*/*.png"))[0]
array = np.array(Image.open(file))
print(array.shape, array.dtype)
print(array[:4])

# %% [markdown]
# **Exercise 0.1.** Write `to_tensor`. You need `torch.from_numpy(array)`, and of a tensor `x`: `x[None]` (a new dimension in front),
# `x.permute(2, 0, 1)` (dimensions in another order), `x.float()`; `array.ndim` is the number of dimensions.
# `reshape` would be wrong for colour: it keeps the order of the numbers in memory and only cuts them elsewhere.


# %% TODO 0.1
def to_tensor(array):
    """(H, W) or (H, W, 3) uint8, 0 to 255 → (C, H, W) float32, 0 to 1."""
    ...


# %% solution 0.1
def to_tensor(array):
    """(H, W) or (H, W, 3) uint8, 0 to 255 → (C, H, W) float32, 0 to 1."""
    x = torch.from_numpy(array)
    x = x[None] if x.ndim == 2 else x.permute(2, 0, 1)  # (C, H, W)
    return x.float() / 255


# %%
check("0.1", to_tensor)

# %% [markdown]
# ## 2 · A convolution
#
# A small **kernel** of weights slides over the image. At each place the numbers under it are multiplied with the weights and added
# up: one output number. With $C$ input channels the kernel has $C$ planes, one for each, and the sum runs over all of them. With
# $O$ kernels there are $O$ output channels, each with a **bias** $b_o$:
#
# $$y_{o,i,j} = b_o + \sum_{c=0}^{C-1} \sum_{u=0}^{K-1} \sum_{v=0}^{K-1} w_{o,c,u,v}\; x_{c,\,i+u,\,j+v}$$
#
# The kernel must lie on the image as a whole, so it fits $H-K+1$ times from top to bottom and $W-K+1$ times from left to right.
# (Mathematicians flip the kernel first, and call what we do a cross-correlation. Weights that are learned do not care.)
#
# **Exercise 0.2.** Write it with loops over `o`, `i`, `j`. Get the sizes from `weight.shape` and `x.shape`, and begin with
# `torch.zeros(O, H - K + 1, W - K + 1)`. The three sums may be one line: `(x[:, i : i + K, j : j + K] * weight[o]).sum()`.


# %% TODO 0.2
def convolve(x, weight, bias):
    """x (C, H, W), weight (O, C, K, K), bias (O,) → (O, H-K+1, W-K+1)."""
    ...


# %% solution 0.2
def convolve(x, weight, bias):
    """x (C, H, W), weight (O, C, K, K), bias (O,) → (O, H-K+1, W-K+1)."""
    outputs, _, size, _ = weight.shape
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    y = torch.zeros(outputs, height, width)
    for o in range(outputs):
        for i in range(height):
            for j in range(width):
                window = x[:, i : i + size, j : j + size]  # (C, K, K)
                y[o, i, j] = (window * weight[o]).sum() + bias[o]
    return y


# %%
check("0.2", convolve)

# %% [markdown]
# What is it good for? These kernels were chosen by hand; a network finds its own. The third image shows where it gets brighter from
# left to right (white) or darker (black), the fourth the same from top to bottom.

# %%
image = to_tensor(array)
kernels = torch.tensor(
    [
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
        [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    ]
).float()
kernels[0] /= 9
edges = convolve(image, kernels[:, None], torch.zeros(3))  # weight (3, 1, 3, 3) → (3, H-2, W-2)
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
names = ("image", "mean of 3×3: blur", "vertical edges", "horizontal edges")
for axis, picture, name in zip(axes, [image[0], *edges], names, strict=True):
    axis.imshow(picture, cmap="gray")
    axis.set_title(name)
    axis.set_axis_off()

# %% [markdown]
# Why a convolution and not any sum of all pixels? It assumes that **near pixels belong together** and that **the same pattern
# matters wherever it is**. Such an assumption is called an *inductive bias*. It saves weights: from an image of 28×28 to 8 maps of
# 26×26, a layer that connects everything to everything has 784 · 5408 weights, 4 million; the convolution has 8 · 9 = 72.

# %% [markdown]
# ## 3 · A gradient
#
# A network learns by small steps that make a **loss** smaller. Which way to step says the **gradient**: for each weight, how much the
# loss $f$ changes if this weight alone grows a little. One can measure it, element by element, with differences to both sides:
#
# $$\frac{\partial f}{\partial x_i} \approx \frac{f(x + \varepsilon e_i) - f(x - \varepsilon e_i)}{2\varepsilon}$$
#
# where $e_i$ is 1 at place $i$ and 0 elsewhere. The difference to one side has an error of order $\varepsilon$, the one to both sides
# of order $\varepsilon^2$.
#
# **Exercise 0.3.** Write it for an `x` of any shape. `for place in np.ndindex(*x.shape)` goes through all elements, `x[place]` is one
# of them. Change a copy, `x.clone()`, since `x` belongs to the caller.


# %% TODO 0.3
def numerical_gradient(f, x, eps=1e-4):
    """f: a function from a tensor to a number; x: float64 of any shape → the gradient of f at x, of the shape of x."""
    ...


# %% solution 0.3
def numerical_gradient(f, x, eps=1e-4):
    """f: a function from a tensor to a number; x: float64 of any shape → the gradient of f at x, of the shape of x."""
    gradient = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.clone(), x.clone()
        up[place] += eps
        down[place] -= eps
        gradient[place] = (f(up) - f(down)) / (2 * eps)
    return gradient


# %%
check("0.3", numerical_gradient)

# %% [markdown]
# That needs two evaluations of $f$ for **each** weight. A network has thousands or millions. PyTorch computes all of them in one go
# backwards through the computation: `requires_grad_()` marks what to differentiate, `backward()` fills `.grad`. The check of one by
# the other is how one tests a new layer.

# %%
torch.manual_seed(0)
weight = torch.randn(2, 1, 3, 3, dtype=torch.float64)


def loss_of(weight):
    return (F.conv2d(image[None].double(), weight) ** 2).mean()


measured = numerical_gradient(loss_of, weight)
weight.requires_grad_()
loss_of(weight).backward()
print(f"differences: {measured[0, 0, 0].tolist()}")
print(f"autograd:    {weight.grad[0, 0, 0].tolist()}")
print(f"largest difference: {(measured - weight.grad).abs().max():.1e}")
assert torch.allclose(measured, weight.grad, atol=1e-6)

# %% [markdown] teacher
# **For the teacher.** Parts 1 to 3 take about 60 minutes. Ask: why is the numerical gradient useless for training but good for a test?
# (2·n evaluations, and rounding: with float32 and ε = 1e-4 half of the digits are lost, which is why `x` is float64 here.) Frequent
# mistakes: `reshape` in place of `permute`; `y[o, i, j] = …` that overwrites in a loop over channels; an ε that is never put back.

# %% [markdown]
# ## 4 · A Dataset
#
# PyTorch asks two things of a data set: how many samples, `len(data)`, and sample $i$, `data[i]`, an image and its label. A class
# answers them with the methods `__len__` and `__getitem__`. Files are read when they are asked for, so a set may be larger than the
# memory. Labels are **numbers**: the place of the class in the sorted list of names. Sorted, because the order in which a disk lists
# its folders is not the same on each machine, and then 3 would mean another class there.
#
# **Exercise 0.4.** Write the class. You need `sorted(root.iterdir())`, `folder.name`, `sorted(root.glob("*/*.png"))`, `file.parent`,
# `list.index(value)`, and `np.array(Image.open(file))`, and your `to_tensor`.


# %% TODO 0.4
class DigitFolder(Dataset):
    """ROOT/CLASS/*.png → (image, label)."""

    def __init__(self, root):
        self.classes = ...  # the names of the folders in `root`, sorted
        self.files = ...  # the paths of all images, sorted

    def load_image(self, i):
        """Image i as a tensor (1, H, W)."""
        ...

    def load_label(self, i):
        """The class of image i, a number."""
        ...

    def __len__(self):
        """The number of images."""
        ...

    def __getitem__(self, i):
        """(image, label) of number i."""
        ...


# %% solution 0.4
class DigitFolder(Dataset):
    """ROOT/CLASS/*.png → (image, label)."""

    def __init__(self, root):
        self.classes = sorted(folder.name for folder in root.iterdir())
        self.files = sorted(root.glob("*/*.png"))

    def load_image(self, i):
        """Image i as a tensor (1, H, W)."""
        with Image.open(self.files[i]) as image:
            return to_tensor(np.array(image))

    def load_label(self, i):
        """The class of image i, a number."""
        return self.classes.index(self.files[i].parent.name)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        """(image, label) of number i."""
        return self.load_image(i), self.load_label(i)


# %%
check("0.4", DigitFolder)

# %%
train_and_val, test_set = DigitFolder(IMAGES / "train"), DigitFolder(IMAGES / "test")
classes = train_and_val.classes
image, label = train_and_val[0]
print(
    f"{len(train_and_val)} and {len(test_set)} images; number 0: {tuple(image.shape)}, class {classes[label]!r}"
)

# %% [markdown]
# ## 5 · Three loaders
#
# The images serve three purposes, and no image may serve two:
#
# | part | used for | how often |
# |---|---|---|
# | train, 75 % | the gradient | every step |
# | val, 25 % | choosing: when to stop, which rate, which network | every epoch |
# | test | the result you report | **once** |
#
# `test` has its own folder; `val` is cut from the training images, **at random**, since files are sorted by class, and **seeded**, so that
# you and others cut the same way again. A `DataLoader` makes batches of a set. The training loader shuffles anew each epoch:
# if all zeros came first, the network would learn to say zero, then one.
#
# **Exercise 0.5.** Write `make_loaders`. You need `random_split(data, [n, m], generator=g)`, `torch.Generator().manual_seed(seed)` and
# `DataLoader(data, batch_size=…, shuffle=…)`.


# %% TODO 0.5
def make_loaders(train_and_val, test_set, batch_size, seed=0):
    """→ three DataLoaders: 75 % of the first set for training, 25 % for validation, and the test set."""
    ...


# %% solution 0.5
def make_loaders(train_and_val, test_set, batch_size, seed=0):
    """→ three DataLoaders: 75 % of the first set for training, 25 % for validation, and the test set."""
    count = int(0.75 * len(train_and_val))
    cut = torch.Generator().manual_seed(seed)
    train, val = random_split(train_and_val, [count, len(train_and_val) - count], generator=cut)
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True),
        DataLoader(val, batch_size=batch_size),
        DataLoader(test_set, batch_size=batch_size),
    )


# %%
check("0.5", make_loaders)

# %%
torch.manual_seed(0)
train_loader, val_loader, test_loader = make_loaders(train_and_val, test_set, BATCH)
for name, loader in (("train", train_loader), ("val", val_loader), ("test", test_loader)):
    print(f"{name:<6}{len(loader.dataset):>6} images in {len(loader)} batches")
images, labels = next(iter(train_loader))
print("a batch:", tuple(images.shape), images.dtype, " labels", tuple(labels.shape), labels.dtype)

# %% [markdown]
# A batch is `(B, C, H, W)`: images, channels, height, width. Look at your data before you train: wrong labels, turned or empty
# images are seen at once, and found by no loss.
#
# **Exercise 0.6.** Show a batch: an image per axis with its class **name** as title. You need
# `figure, axes = plt.subplots(rows, columns, squeeze=False)`, `axes.flat`, `axis.imshow(plane, cmap="gray")` with a plane `(H, W)`,
# `axis.set_title`, `axis.set_axis_off`. Return the figure.


# %% TODO 0.6
def show_batch(images, labels, classes):
    """images (B, 1, H, W), labels (B,) → a figure with each image and the name of its class."""
    ...


# %% solution 0.6
def show_batch(images, labels, classes):
    """images (B, 1, H, W), labels (B,) → a figure with each image and the name of its class."""
    rows = -(-len(images) // 8)
    figure, axes = plt.subplots(rows, 8, figsize=(9, 1.3 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        axis.imshow(image[0], cmap="gray")
        axis.set_title(classes[label])
    return figure


# %%
check("0.6", show_batch)

# %%
_ = show_batch(images[:16], labels[:16], classes)

# %% [markdown] teacher
# **For the teacher.** Parts 4 and 5 take about 50 minutes. Ask: what does a student see who takes the first 75 % for training? (Whole
# classes are missing, and the validation accuracy is near 0.) What would be measured wrongly if an image lay in train and val?

# %% [markdown]
# ## 6 · The size of a convolution
#
# Your `convolve` had $O = I - K + 1$. Real layers have three more settings:
#
# - **padding** $P$: so many zeros are put around the image, on each side;
# - **stride** $S$: the kernel moves by so many pixels at a time;
# - **dilation** $D$: the weights of the kernel lie $D$ pixels apart, so that it spans $D(K-1)+1$ pixels.
#
# **Exercise 0.7.** Find the formula: how many places has a kernel along one axis? Draw the padded line on paper: how long is
# it, where does the kernel stand first, how far can it still go, and how many steps is that? A step that does not fit whole does
# not count. Write it as a function of whole numbers (`//` divides and rounds down).


# %% TODO 0.7
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    """The number of outputs along one axis, for an input of `size` pixels."""
    ...


# %% solution 0.7
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    """The number of outputs along one axis, for an input of `size` pixels."""
    span = dilation * (kernel - 1) + 1
    return (size + 2 * padding - span) // stride + 1


# %%
check("0.7", output_size)

# %% [markdown] teacher
# $$O = \left\lfloor \frac{I + 2P - D\,(K-1) - 1}{S} \right\rfloor + 1$$
#
# Let them present it before they go on: the padded line has $I + 2P$ pixels, the kernel covers $D(K-1)+1$ of them at its first
# place, the rest is walked in steps of $S$.

# %% [markdown]
# **Exercise 0.8.** The same for a whole batch: from the shape of the input to the shape of the output. Images need not be square.


# %% TODO 0.8
def output_shape(shape, out_channels, kernel, stride=1, padding=0, dilation=1):
    """(B, C, H, W) → (B, out_channels, H', W'), for a square kernel."""
    ...


# %% solution 0.8
def output_shape(shape, out_channels, kernel, stride=1, padding=0, dilation=1):
    """(B, C, H, W) → (B, out_channels, H', W'), for a square kernel."""
    batch, _, height, width = shape
    sizes = [output_size(size, kernel, stride, padding, dilation) for size in (height, width)]
    return (batch, out_channels, *sizes)


# %%
check("0.8", output_shape)

# %% [markdown]
# Is it right in a real network? We ask **every** convolution and pooling layer of AlexNet, the network that won ImageNet in 2012, for the
# shape it really gives. Pooling takes the largest value under its window; its size follows the same formula, its channels
# stay. (A *hook* is a function that a layer calls whenever it has computed. On the device `meta`, tensors have shapes and no
# numbers, so nothing is computed and nothing downloaded.)


# %%
def compare_sizes(network, shape):
    """Print for each convolution and pooling layer what it gives, and compare it with `output_shape`."""

    def hook(layer, inputs, output):
        one = {
            key: value if isinstance(value, int) else value[0]
            for key in ("kernel_size", "stride", "padding", "dilation")
            for value in [getattr(layer, key)]
        }
        outputs = getattr(layer, "out_channels", inputs[0].shape[1])
        ours = output_shape(tuple(inputs[0].shape), outputs, *one.values())
        settings = "K={kernel_size} S={stride} P={padding} D={dilation}".format(**one)
        print(
            f"{type(layer).__name__:<10}{tuple(inputs[0].shape)!s:<20}{settings:<18}{tuple(output.shape)!s:<20} yours {ours}"
        )
        assert ours == tuple(output.shape)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    device = next(network.parameters()).device
    with torch.no_grad():
        network(torch.zeros(shape, device=device))
    for one in hooks:
        one.remove()
    print(f"{len(layers)} layers, {len(layers)} shapes as computed")


with torch.device("meta"):
    alexnet = torchvision.models.alexnet()
compare_sizes(alexnet.eval(), (1, 3, 200, 300))

# %% [markdown]
# ## 7 · A network
#
# A network is a class that inherits from `nn.Module`. `__init__` makes the layers, `forward` says what happens to a batch. A
# classifier repeats *convolution, activation* and now and then *pooling*: maps get smaller and channels more. Then it takes each
# channel's largest value over all places, and a linear layer turns these into one number per class, the **logits**.
#
# - **Activation**: `F.relu(x)` sets negative numbers to 0. Without it two convolutions in a row are one convolution, since a linear
#   map of a linear map is linear.
# - **Channels must fit**: what a layer gives is what the next one takes. Images have 1.
# - **Padding 1** keeps the size with a 3×3 kernel (use your formula).
# - **The largest value over all places**, `x.amax(dim=(2, 3))`, makes `(B, C)` of `(B, C, H, W)`, whatever the size of the image, and
#   asks of each channel: is your pattern anywhere? (The mean, `x.mean(dim=(2, 3))`, works too, and learns more slowly here.)
# - **No softmax at the end**: the loss does that.
#
# **Exercise 0.9.** Write a CNN with at least two convolutions, for images of any size from 8×8 on. You need `nn.Conv2d(inputs, outputs,
# kernel_size, padding=…)`, `F.relu`, `F.max_pool2d(x, 2)`, `nn.Linear(inputs, outputs)`. A good beginning: 16, 32 and 32 channels,
# one pooling after the second convolution.


# %% TODO 0.9
class CNN(nn.Module):
    """(B, 1, H, W) → logits (B, num_classes)."""

    def __init__(self, num_classes=10):
        super().__init__()
        ...  # your layers: self.conv1 = nn.Conv2d(1, 16, 3, padding=1), and so on

    def forward(self, x):
        """What happens to a batch."""
        ...


# %% solution 0.9
class CNN(nn.Module):
    """(B, 1, H, W) → logits (B, num_classes)."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        x = F.relu(self.conv1(x))  # (B, 16, H, W)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (B, 32, H/2, W/2)
        x = F.relu(self.conv3(x))  # (B, 32, H/2, W/2)
        return self.head(x.amax(dim=(2, 3)))  # (B, num_classes)


# %%
check("0.9", CNN)

# %%
torch.manual_seed(0)
model = CNN(len(classes))
compare_sizes(model, images.shape)
print(f"{sum(one.numel() for one in model.parameters()):,} weights; logits of an image:")
with torch.no_grad():
    print([round(value, 2) for value in model(images[:1])[0].tolist()])

# %% [markdown] teacher
# **For the teacher.** Parts 6 and 7 take about 60 minutes. Ask: how many weights has a convolution from 16 to 32 channels with K = 3?
# (32 · (16 · 9 + 1) = 4640.) What happens without `super().__init__()`, with layers in a plain list, with the activation written
# `self.relu` and never called? The check has a hint for each.

# %% [markdown]
# ## 8 · The loss
#
# The **softmax** makes probabilities of the logits $z$: all positive, their sum 1. The **cross-entropy** is minus the logarithm of the
# probability that the true class $y$ got, as a mean over the $B$ images of the batch:
#
# $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad \mathcal{L} = -\frac1B \sum_{b} \log p_{y_b}$$
#
# Certain and right costs 0, certain and wrong costs much. A network that knows nothing gives each of ten classes 0.1, which
# costs $\log 10 = 2.30$: what you should see before training.
#
# **Exercise 0.10.** Write it with `exp`, `log`, sums and a mean. $e^{1000}$ is infinite for a computer, and logits may be large;
# subtract the largest logit of each image from all its logits first, `z - z.amax(dim=1, keepdim=True)`. The probabilities stay the same (why?).
# `z[torch.arange(len(z)), labels]` picks from each row the number of its true class.


# %% TODO 0.10
def cross_entropy(logits, labels):
    """logits (B, K), labels (B,) → the mean loss, a tensor of one number."""
    ...


# %% solution 0.10
def cross_entropy(logits, labels):
    """logits (B, K), labels (B,) → the mean loss, a tensor of one number."""
    z = logits - logits.amax(dim=1, keepdim=True)  # numerator and denominator are divided by the same number
    log_p = z - z.exp().sum(dim=1, keepdim=True).log()  # (B, K); no logarithm of a p that was rounded to 0
    return -log_p[torch.arange(len(labels)), labels].mean()


# %%
check("0.10", cross_entropy)

# %%
with torch.no_grad():
    logits = model(images)
    print(f"yours {cross_entropy(logits, labels):.4f}, PyTorch's {F.cross_entropy(logits, labels):.4f}")

# %% [markdown]
# ## 9 · Three optimizers
#
# An optimizer turns the gradient $g$ into a step of the weights $w$, with a **learning rate** $\eta$.
#
# **SGD** steps against the gradient, which points uphill: $\; w \leftarrow w - \eta\, g$
#
# **Exercise 0.11.** Write SGD. Each of these functions returns the new tensors.


# %% TODO 0.11
def sgd(w, g, lr):
    """→ the new weights."""
    ...


# %% solution 0.11
def sgd(w, g, lr):
    """→ the new weights."""
    return w - lr * g


# %%
check("0.11", sgd)

# %% [markdown]
# **Momentum** sums up the gradients in a velocity $v$, of which a share $\mu$ stays after each step. Where gradients agree it
# gets faster, where they go to and fro they cancel out:
# $\quad v \leftarrow \mu v + g, \qquad w \leftarrow w - \eta\, v$
#
# **Exercise 0.12.** Write it. At the first step `v` is 0.


# %% TODO 0.12
def momentum(w, g, v, lr, mu):
    """→ the new weights, the new velocity."""
    ...


# %% solution 0.12
def momentum(w, g, v, lr, mu):
    """→ the new weights, the new velocity."""
    v = mu * v + g
    return w - lr * v, v


# %%
check("0.12", momentum)

# %% [markdown]
# **Adam** ([Kingma and Ba 2015](https://arxiv.org/abs/1412.6980)) gives each weight a step of its own size: the mean gradient $m$,
# divided by the root of the mean *squared* gradient $v$. Both means are running ones, and start at 0; so they are too small
# at first, and are divided by what is missing. $t$ is the number of the step, from 1:
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g, \qquad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2$$
#
# $$\hat m = \frac{m}{1-\beta_1^t}, \qquad \hat v = \frac{v}{1-\beta_2^t}, \qquad w \leftarrow w - \eta\, \frac{\hat m}{\sqrt{\hat v} + \varepsilon}$$
#
# **Exercise 0.13.** Write it. Return $m$ and $v$ as they are before the division, for they go into the next step.


# %% TODO 0.13
def adam(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """→ the new weights, m, v; t = 1, 2, … is the number of the step."""
    ...


# %% solution 0.13
def adam(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """→ the new weights, m, v; t = 1, 2, … is the number of the step."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    return w - lr * step, m, v


# %%
check("0.13", adam)

# %% [markdown]
# The three in a valley that is steep across and flat along, $f(a, b) = \tfrac12 a^2 + 10\, b^2$, 25 steps each. SGD goes to and fro
# across; a rate above 0.1 would throw it out, so it may go no faster along. With momentum the same rate carries farther along. Adam
# steps as far along as across, whatever the slope. Change the rates and run the cell again.

# %%
start, slope = torch.tensor([-4.0, 1.2]), torch.tensor([1.0, 20.0])
RATE, MU, ADAM_RATE = 0.08, 0.5, 0.2
plain, heavy, own = [start], [start], [start]  # the path of each
velocity, m, v = torch.zeros(2), torch.zeros(2), torch.zeros(2)
for t in range(1, 26):
    plain.append(sgd(plain[-1], slope * plain[-1], RATE))
    new, velocity = momentum(heavy[-1], slope * heavy[-1], velocity, RATE, MU)
    heavy.append(new)
    new, m, v = adam(own[-1], slope * own[-1], m, v, t, ADAM_RATE)
    own.append(new)
paths = {
    f"SGD, rate {RATE}": plain,
    f"momentum {MU}, rate {RATE}": heavy,
    f"Adam, rate {ADAM_RATE}": own,
}

a, b = np.meshgrid(np.linspace(-4.5, 2, 200), np.linspace(-1.5, 1.5, 200))
figure, axis = plt.subplots(figsize=(9, 3.4), layout="constrained")
axis.contour(a, b, 0.5 * a**2 + 10 * b**2, levels=[0.1, 0.5, 1.5, 4, 8, 14, 22], colors="lightgrey")
for name, path in paths.items():
    axis.plot(*torch.stack(path).T, ".-", label=name, linewidth=1)
axis.set(xlabel="a", ylabel="b")
axis.legend(loc="lower right")
for name, path in paths.items():
    print(f"{name:<26}distance to the minimum after 25 steps {path[-1].norm():.3f}")

# %% [markdown]
# ## 10 · The training loop
#
# One **epoch** is one pass over the training images. For each batch:
#
# 1. forward: the logits, and their loss;
# 2. `optimizer.zero_grad()`: PyTorch *adds* gradients to `.grad`, so the old ones must go;
# 3. `loss.backward()`: the gradients;
# 4. `optimizer.step()`: the new weights.
#
# Call `model.train()` before: some layers (dropout, batch norm) work otherwise in training than in use. The loss of the epoch is the
# mean over **images**. The last batch is smaller, so weight the loss of each batch by its number of images. `loss.item()` is the
# loss as a plain number, without the computation that led to it.
#
# **Exercise 0.14.** Write one epoch.


# %% TODO 0.14
def train_epoch(model, loader, loss_function, optimizer):
    """One pass over the images of `loader` → the mean loss per image, a number."""
    ...


# %% solution 0.14
def train_epoch(model, loader, loss_function, optimizer):
    """One pass over the images of `loader` → the mean loss per image, a number."""
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = loss_function(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count


# %%
check("0.14", train_epoch)

# %% [markdown]
# **Exercise 0.15.** And the measurement, on images that are not trained on: `model.eval()`, no gradients
# (`with torch.no_grad():`), no step. The prediction is the class with the largest logit, `logits.argmax(dim=1)`; the accuracy is
# the share of images for which it is the label.


# %% TODO 0.15
def evaluate(model, loader, loss_function):
    """→ the mean loss per image and the accuracy, from 0 to 1."""
    ...


# %% solution 0.15
def evaluate(model, loader, loss_function):
    """→ the mean loss per image and the accuracy, from 0 to 1."""
    model.eval()
    total, right, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            logits = model(images)
            total += loss_function(logits, labels).item() * len(labels)
            right += (logits.argmax(dim=1) == labels).sum().item()
            count += len(labels)
    return total / count, right / count


# %%
check("0.15", evaluate)

# %% [markdown]
# **Overfit one batch first.** Before you train for an hour, train on eight images until the network knows them by heart. A network that
# cannot has a mistake in model, loss or loop, and more data will not help.
#
# **Exercise 0.16.** Write it: make an optimizer, such as `torch.optim.Adam(model.parameters(), lr=0.01)`, and do the four steps with the
# same batch, again and again, until the loss is below 0.05. Return the loss of each step.


# %% TODO 0.16
def overfit(model, images, labels):
    """Train on one batch until it is known by heart → a list of the losses, one per step."""
    ...


# %% solution 0.16
def overfit(model, images, labels):
    """Train on one batch until it is known by heart → a list of the losses, one per step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    model.train()
    for _ in range(300):
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < 0.02:
            break
    return losses


# %%
check("0.16", overfit)

# %%
torch.manual_seed(0)
losses = overfit(CNN(len(classes)), images[:8], labels[:8])
print(f"your network on eight images: loss {losses[0]:.2f} → {losses[-1]:.3f} in {len(losses)} steps")

# %% [markdown]
# **Now all images.** Which optimizer? The same network from the same start, four epochs each. Change the rates: each optimizer has its own
# best one, and a comparison at one rate for all says little.

# %%
for name, make in {
    "SGD, rate 0.3": lambda weights: torch.optim.SGD(weights, lr=0.3),
    "momentum 0.9, rate 0.03": lambda weights: torch.optim.SGD(weights, lr=0.03, momentum=0.9),
    "Adam, rate 0.005": lambda weights: torch.optim.Adam(weights, lr=0.005),
}.items():
    torch.manual_seed(0)
    one = CNN(len(classes))
    optimizer = make(one.parameters())
    losses = [train_epoch(one, train_loader, cross_entropy, optimizer) for _ in range(4)]
    val_loss, val_accuracy = evaluate(one, val_loader, cross_entropy)
    shown = "  ".join(f"{loss:.2f}" for loss in losses)
    print(f"{name:<24}training loss {shown}   validation loss {val_loss:.2f}, accuracy {val_accuracy:.1%}")

# %% [markdown]
# **Exercise 0.17.** Train `model` for `EPOCHS` epochs. After each, measure it on the **validation** images and append the three numbers to
# `history`. The test set stays untouched: what you choose by it, it can no longer judge.


# %% TODO 0.17
torch.manual_seed(0)
model = CNN(len(classes))  # anew, so that each run of this cell begins from the start
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
history = {"train_loss": [], "val_loss": [], "val_accuracy": []}
for _ in range(EPOCHS):
    ...

# %% solution 0.17
torch.manual_seed(0)
model = CNN(len(classes))  # anew, so that each run of this cell begins from the start
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
history = {"train_loss": [], "val_loss": [], "val_accuracy": []}
for _ in range(EPOCHS):
    history["train_loss"].append(train_epoch(model, train_loader, cross_entropy, optimizer))
    val_loss, val_accuracy = evaluate(model, val_loader, cross_entropy)
    history["val_loss"].append(val_loss)
    history["val_accuracy"].append(val_accuracy)

# %%
check("0.17", history)

# %%
epochs = range(1, len(history["train_loss"]) + 1)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
left.plot(epochs, history["train_loss"], ".-", label="training")
left.plot(epochs, history["val_loss"], ".-", label="validation")
left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
left.legend()
right.plot(epochs, history["val_accuracy"], ".-", color="tab:orange")
right.set(xlabel="epoch", ylabel="validation accuracy")
print(f"after {len(epochs)} epochs: validation accuracy {history['val_accuracy'][-1]:.1%}")

# %% [markdown]
# **How to read it.** Both losses fall: it learns. If the training loss goes on falling while the validation loss rises, the network
# **overfits**: it learns the training images by heart. If both stay high, it **underfits**: a larger network, another rate, or
# more epochs. The training loss is the mean *during* an epoch, the validation loss is measured *after* it, so at first validation
# can be lower.
#
# For longer trainings, **TensorBoard** draws the same curves while the loop runs; `writer.add_scalar` after each epoch is all it needs. Look at
# them with `tensorboard --logdir runs/lab0/tensorboard`.

# %%
with SummaryWriter(RUNS / "tensorboard") as writer:
    for key, values in history.items():
        for epoch, value in enumerate(values, start=1):
            writer.add_scalar(key, value, epoch)

# %% [markdown] teacher
# **For the teacher.** Parts 8 to 10 take about 90 minutes. Let everyone break the loop once on purpose: no `zero_grad`, the step before
# `backward`, a rate of 10, labels shuffled; and say beforehand what the curves will do. Ask why the comparison of optimizers is fair only
# when each has its best rate.

# %% [markdown]
# ## 11 · Save, load, test
#
# The **state dict** is a dictionary from the name of each weight to its tensor: `model.state_dict()`. Save that and not the model itself: a
# saved object opens only with the same code beside it, and a file that holds objects can run anything when it is opened.
# `weights_only=True` refuses such files.
#
# **Exercise 0.18.** Write both functions. You need `torch.save(…, path)`, `torch.load(path, weights_only=True)`,
# `model.load_state_dict(…)`, and `model.eval()`, since a loaded model is there to be used.


# %% TODO 0.18
def save(model, path):
    """Write the weights of `model` to `path`."""
    ...


def load(model, path):
    """Put the weights of `path` into `model`, a network of the same class → the model, ready for use."""
    ...


# %% solution 0.18
def save(model, path):
    """Write the weights of `model` to `path`."""
    torch.save(model.state_dict(), path)


def load(model, path):
    """Put the weights of `path` into `model`, a network of the same class → the model, ready for use."""
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


# %%
check("0.18", (save, load))

# %%
save(model, RUNS / "weights.pt")
loaded = load(CNN(len(classes)), RUNS / "weights.pt")
again = evaluate(loaded, val_loader, cross_entropy)
print(f"validation accuracy of the loaded model {again[1]:.1%}, before {history['val_accuracy'][-1]:.1%}")
assert again[1] == history["val_accuracy"][-1]

# %% [markdown]
# **The test**, once. How sure is the result? With $n$ images an accuracy $a$ has a standard error of about $\sqrt{a(1-a)/n}$.

# %%
test_loss, test_accuracy = evaluate(loaded, test_loader, cross_entropy)
count = len(test_loader.dataset)
error = (test_accuracy * (1 - test_accuracy) / count) ** 0.5
print(
    f"test loss {test_loss:.3f}, accuracy {test_accuracy:.1%} ± {error:.1%} (standard error, {count} images)"
)

# %% [markdown]
# One number says nothing of *which* mistakes there are. The **confusion matrix** counts them: entry $(i, j)$ is how many images of class
# $i$ were taken for class $j$. The diagonal is right.
#
# **Exercise 0.19.** Write it. Two loops or `for truth, guess in zip(labels, predictions)` will do.


# %% TODO 0.19
def confusion_matrix(model, loader, num_classes):
    """→ (K, K) counts: a row per true class, a column per prediction."""
    ...


# %% solution 0.19
def confusion_matrix(model, loader, num_classes):
    """→ (K, K) counts: a row per true class, a column per prediction."""
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    model.eval()
    with torch.no_grad():
        for images, labels in loader:
            for truth, guess in zip(labels, model(images).argmax(dim=1), strict=True):
                matrix[truth, guess] += 1
    return matrix


# %%
check("0.19", confusion_matrix)

# %%
matrix = torch.as_tensor(confusion_matrix(loaded, test_loader, len(classes)))
figure, axis = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
axis.imshow(matrix, cmap="Blues")
for (row, column), number in np.ndenumerate(matrix.numpy()):
    if number:
        ink = "white" if number > matrix.max() / 2 else "black"
        axis.text(column, row, int(number), ha="center", va="center", fontsize=8, color=ink)
axis.set(xlabel="predicted", ylabel="true class")
axis.set_xticks(range(len(classes)), classes)
axis.set_yticks(range(len(classes)), classes)
for spine in axis.spines.values():
    spine.set_visible(False)

# %% [markdown]
# And what does the network say of single images? Softmax turns its logits into a **distribution** over the classes; the bar of
# the true class is green. First the mistakes (red), the worst on the left, then images it got right. Would you have known?

# %%
samples, answers = [], []
with torch.no_grad():
    for images, labels in test_loader:
        answers += list(loaded(images).softmax(dim=1))
        samples += list(zip(images, labels.tolist(), strict=True))
is_right = [bool(p.argmax() == label) for p, (_, label) in zip(answers, samples, strict=True)]
worst = sorted(range(len(samples)), key=lambda i: float(answers[i][samples[i][1]]))  # by the true class
right = [i for i in range(len(samples)) if is_right[i]]
chosen = ([i for i in worst if not is_right[i]][:4] + right[:: len(right) // 6 + 1])[:6]
figure, axes = plt.subplots(2, 6, figsize=(10, 3.4), layout="constrained")
for column, i in zip(axes.T, chosen, strict=False):
    image, label = samples[i]
    column[0].imshow(image[0], cmap="gray")
    column[0].set_axis_off()
    column[0].set_title(f"class {classes[label]}", color="black" if is_right[i] else "tab:red")
    column[1].bar(
        classes, answers[i], color=["tab:green" if k == label else "grey" for k in range(len(classes))]
    )
    column[1].set(ylim=(0, 1), yticks=[0, 1])
    column[1].tick_params(axis="x", labelsize=7)
_ = axes[1, 0].set_ylabel("probability")

# %% [markdown]
# ## 12 · The same with cnnlab, and more
#
# You have written all of it. `cnnlab.fit` runs the same loop: here with **your** network, **your** loaders and the same optimizer.

# %%
torch.manual_seed(0)
run = cnnlab.fit(
    CNN(len(classes)),
    train_loader,
    val=val_loader,
    test=test_loader,
    classes=classes,
    epochs=EPOCHS,
    dir=RUNS / "fit",
    overrides=["optimizer=adam", "optimizer.lr=0.005", "schedule=constant"],
    progress=False,
)
low, high = run.test["accuracy_interval"]
print(f"by hand     {test_accuracy:.1%}")
print(f"cnnlab.fit  {run.test['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})")

# %% [markdown]
# Why not the same number? The batches come in another order, and `fit` keeps the weights of the epoch that was best on validation, where
# you kept those of the last. Each is **one** training: your validation curve jumps by some points from epoch to epoch, and so does
# the result from seed to seed. A difference of that size says nothing about the two loops; train with three seeds each before you compare.
#
# What `fit` does beside: the folder of the run holds the settings, the curves, the
# weights, each prediction, and a report to open in a browser; after Ctrl-C or a power cut it goes on as if nothing had been.

# %%
print("\n".join(sorted(path.name for path in run.dir.iterdir() if path.name[0] != ".")))

# %% [markdown]
# And if you give it the folder of images in place of your loaders, it reads each file once, chooses its settings by what is there, and
# can then predict, explain, export and show the network from the command line:
#
# ```
# cnnlab train   data=folder data.root=runs/lab0/images run.dir=runs/lab0/first
# cnnlab predict runs/lab0/first runs/lab0/images/test/3
# cnnlab look    runs/lab0/first
# ```
#
# Go on with [lab 1](1-from-images-to-a-classifier.ipynb), which begins where this one ends.

# %% [markdown] teacher
# **For the teacher.** Parts 11 and 12 take about 40 minutes; five hours in all. A grading sheet: one point for each check that passes in a run of
# the whole notebook from the top (the last line of the last check says how many), and questions in person on 0.5, 0.7, 0.10 and 0.14.
