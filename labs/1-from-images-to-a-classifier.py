# %% [markdown]
# # Lab 1 · From images to a classifier
#
# At the end you can take a set of labelled images and give a classifier with a test accuracy that one can trust. You will have written,
# and checked: normalisation, the usual image processing and augmentation, a search for leaks, the sizes of a network, the comparison of
# settings over seeds, the verdict on a curve, an interval for the result, and the experiment that shows what a CNN assumes of images.
#
# Lab 0 built loaders, network, loss, optimizers and the training loop by hand. Here `cnnlab.fit` runs that same loop, and the work is in what
# lies before and after it.
#
# **How to work.** Run the cells from the top. Fifteen cells have a `TODO`: put your code in the place of `...`, run the cell, then the check
# below it. Later cells use your answers, so go on when the check passes. After a restart of the kernel run all cells again.

# %%
import math
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import cnnlab
from cnnlab.labs import check

FULL = os.environ.get("CNNLAB_LABS") == "full"  # False: a minute or two in all. True: more images and epochs
DATA = os.environ.get("CNNLAB_DATA")  # a folder with data sets, if there is one
RUNS = Path("runs/lab1")  # everything this lab writes

shutil.rmtree(RUNS, ignore_errors=True)
plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1 · The images, normalised
#
# We use **CIFAR-10**, 32×32 colour photographs of ten classes, where `CNNLAB_DATA` has it, and otherwise the **digits** that come with
# cnnlab, 8×8 and grey. Every step is the same.

# %%
if DATA and (Path(DATA) / "cifar10-jpeg").is_dir():
    SET, WHERE = "folder", {"root": Path(DATA) / "cifar10-jpeg"}  # one folder per class, JPEG files
elif DATA and (Path(DATA) / "cifar-10-batches-py").is_dir():
    SET, WHERE = "cifar10", {"root": DATA}
else:
    SET, WHERE = "digits", {}
LIMIT = None if SET == "digits" else (2000 if FULL else 300)  # images per split at most
EPOCHS = 6 if FULL else (4 if SET == "digits" else 3)
SEEDS = (0, 1)  # of each comparison
KEYS = {**WHERE, "batch_size": 32}

data = cnnlab.load_data(SET, **KEYS, limit=LIMIT, augment="none")
channels, (height, width) = data.in_channels, data.image_size
print("classes:", ", ".join(data.classes))
print("images:", {part: len(data.split[part]) for part in ("train", "val", "test")})
images, labels = next(iter(data.train))
print("a batch:", tuple(images.shape), images.dtype, " labels", tuple(labels.shape), labels.dtype)
cnnlab.show_batch(images, labels, data.classes, data.preprocess, limit=16)

# %% [markdown]
# These batches are normalised already. We take that back, to do it ourselves: `raw(loader)` gives the images of a part with values
# from 0 to 1, as their files have them.


# %%
def raw(loader):
    """The images of a loader, (N, C, H, W) float32, 0 to 1. (That of train leaves out a last batch that is smaller.)"""
    pixels = torch.cat([data.preprocess.denormalise(batch) for batch, _ in loader])  # (N, H, W, C) uint8
    return pixels.view(len(pixels), height, width, channels).permute(0, 3, 1, 2).float() / 255


train_images, val_images, test_images = raw(data.train), raw(data.val), raw(data.test)
print(tuple(train_images.shape), f"from {train_images.min():.2f} to {train_images.max():.2f}")

# %% [markdown]
# **Normalisation** gives each channel mean 0 and standard deviation 1 over the training images: $x' = (x - \mu_c)/\sigma_c$. All inputs then
# have the size for which weights are initialized, and no channel counts more because it is brighter.
#
# **Exercise 1.1.** Write both functions. `x.mean(dim=(0, 2, 3))` is the mean over images, rows and columns; `view(1, -1, 1, 1)` makes
# (C,) fit to (N, C, H, W).


# %% TODO 1.1
def channel_statistics(images):
    """(N, C, H, W) → mean and standard deviation of each channel, (C,) and (C,)."""
    ...


def normalise(images, mean, std):
    """(N, C, H, W), (C,), (C,) → (x - mean) / std, channel by channel."""
    ...


# %% solution 1.1
def channel_statistics(images):
    """(N, C, H, W) → mean and standard deviation of each channel, (C,) and (C,)."""
    return images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))


def normalise(images, mean, std):
    """(N, C, H, W), (C,), (C,) → (x - mean) / std, channel by channel."""
    return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


# %%
check("1.1", (channel_statistics, normalise))

# %%
mean, std = channel_statistics(train_images)
print("yours ", [f"{value:.3f}" for value in (*mean, *std)])
print("cnnlab", [f"{value:.3f}" for value in (*data.preprocess.mean, *data.preprocess.std)])
for name, part in (("train", train_images), ("val", val_images)):
    after = channel_statistics(normalise(part, mean, std))
    print(f"{name:<6}after: mean {after[0].mean():+.3f}, std {after[1].mean():.3f}")

# %% [markdown]
# On validation the result is near 0 and 1 and not equal: $\mu$ and $\sigma$ are those of the **training** images. Validation and test stand for
# images of the future; nothing of them may be measured before training, not even their mean.

# %% [markdown]
# ## 2 · Image processing
#
# Before networks, people wrote such filters by hand, and a network's first layers learn similar ones. They also serve to make training
# images from others. We work on one image.
#
# **Blur**: each pixel becomes the mean of its window. **Edges**: Sobel's two kernels measure the change to the right, $g_x$, and downwards, $g_y$
#
# $$K_x = \begin{pmatrix} -1 & 0 & 1 \\ -2 & 0 & 2 \\ -1 & 0 & 1 \end{pmatrix}, \qquad K_y = K_x^\top, \qquad g = \sqrt{g_x^2 + g_y^2}$$
#
# and a **threshold** on the strength $g$ says where an edge is.
#
# **Exercise 1.2.** Write both without padding. `F.conv2d(x[None, None], kernel[None, None])[0, 0]` slides one kernel over a plane (H, W).


# %% TODO 1.2
def blur(x, size):
    """(H, W) → the mean of each size×size window, (H-size+1, W-size+1)."""
    ...


def edges(x, threshold):
    """(H, W) → True where Sobel's strength is above the threshold, (H-2, W-2)."""
    ...


# %% solution 1.2
def blur(x, size):
    """(H, W) → the mean of each size×size window, (H-size+1, W-size+1)."""
    kernel = torch.ones(size, size) / size**2
    return F.conv2d(x[None, None], kernel[None, None])[0, 0]


def edges(x, threshold):
    """(H, W) → True where Sobel's strength is above the threshold, (H-2, W-2)."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    right = F.conv2d(x[None, None], kernel[None, None])[0, 0]
    down = F.conv2d(x[None, None], kernel.T[None, None])[0, 0]
    return (right**2 + down**2).sqrt() > threshold


# %%
check("1.2", (blur, edges))

# %% [markdown]
# **Resize.** Row $i$ of the result shows row $\lfloor i \cdot H / H' \rfloor$ of the image, and the columns alike: *nearest neighbour*. Smoother is
# *bilinear*, a weighted mean of the four nearest pixels.
#
# **Exercise 1.3.** Write one of the two, without `F.interpolate`. `torch.arange(n)` counts, and `x[:, rows][:, :, columns]` picks rows and columns.


# %% TODO 1.3
def resize(x, height, width):
    """(C, H, W) → (C, height, width)."""
    ...


# %% solution 1.3
def resize(x, height, width):
    """(C, H, W) → (C, height, width)."""
    rows = torch.arange(height) * x.shape[1] // height
    columns = torch.arange(width) * x.shape[2] // width
    return x[:, rows][:, :, columns]


# %%
check("1.3", resize)

# %% [markdown]
# **Colour.** The grey of a pixel is $0.299\,R + 0.587\,G + 0.114\,B$, as the eye sees green brightest. To change the *saturation* (the S of HSV)
# move each pixel away from its grey, or towards it: $\text{grey} + f \cdot (x - \text{grey})$.
#
# **Exercise 1.4.** Write it. The result stays in 0 to 1: `clamp(0, 1)`.


# %% TODO 1.4
def saturate(x, factor):
    """(3, H, W), 0 to 1 → the same; factor 0 is grey, 1 the image, above 1 stronger colours."""
    ...


# %% solution 1.4
def saturate(x, factor):
    """(3, H, W), 0 to 1 → the same; factor 0 is grey, 1 the image, above 1 stronger colours."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = (weights * x).sum(dim=0, keepdim=True)  # (1, H, W)
    return (grey + factor * (x - grey)).clamp(0, 1)


# %%
check("1.4", saturate)

# %% [markdown]
# **Augmentation** changes training images at random, each time anew, so that the network sees no image twice. The two that help most on small
# photographs: pad with zeros and cut a window of the old size at a random place, and mirror in half of the cases.
#
# **Exercise 1.5.** Write it. `F.pad(x, (p, p, p, p))` pads with 0; `int(torch.randint(0, n, ()))` is a number from 0 to n - 1; `x.flip(2)` mirrors.


# %% TODO 1.5
def augment(x, padding):
    """(C, H, W) → a random window of the padded image, (C, H, W), mirrored in half of the cases."""
    ...


# %% solution 1.5
def augment(x, padding):
    """(C, H, W) → a random window of the padded image, (C, H, W), mirrored in half of the cases."""
    _, height, width = x.shape
    padded = F.pad(x, (padding, padding, padding, padding))
    top, left = (int(torch.randint(0, 2 * padding + 1, ())) for _ in range(2))
    crop = padded[:, top : top + height, left : left + width]
    return crop.flip(2) if torch.rand(()) < 0.5 else crop


# %%
check("1.5", augment)

# %%
torch.manual_seed(0)
image = train_images[3].expand(3, -1, -1)  # grey images get three equal channels
plane = image.mean(0)  # (H, W)
shown = {
    "image": image,
    "blur 3×3": blur(plane, 3),
    "edges": edges(plane, 0.8).float(),
    "half the size": resize(image, height // 2, width // 2),
    "grey": saturate(image, 0.0),
    "saturation × 2": saturate(image, 2.0),
    "augmented": augment(image, height // 8),
    "and again": augment(image, height // 8),
}
figure, axes = plt.subplots(1, len(shown), figsize=(14, 2.3), layout="constrained")
for axis, (name, picture) in zip(axes, shown.items(), strict=True):
    axis.imshow(picture.permute(1, 2, 0) if picture.ndim == 3 else picture, cmap="gray")
    axis.set_title(name, fontsize=10)
    axis.set_axis_off()

# %% [markdown]
# An augmentation must **keep the label**: you would still give the same one to the changed image. That depends on the classes. Here are five
# changes: `"mirror"` (left and right swapped), `"shift by a pixel"`, `"half turn"` (by 180°), `"a bit brighter"`, `"crop to one corner"` (a sixteenth
# of the area).
#
# **Exercise 1.6.** Which keep the label of handwritten digits, and which that of photographs of objects? Give two lists.

# %% TODO 1.6
KEEPS = {
    "digits": ...,
    "photographs": ...,
}

# %% solution 1.6
KEEPS = {
    "digits": ["shift by a pixel", "a bit brighter"],
    "photographs": ["mirror", "shift by a pixel", "a bit brighter"],
}

# %%
check("1.6", KEEPS)

# %% [markdown] teacher
# **For the teacher.** Parts 1 and 2 take about 80 minutes. Ask: may one normalise with the statistics of all images? (No: the test would
# have had a say.) Does an augmentation belong on validation images? (No; they stand for images as they come.) A half turn of a photograph
# keeps its label; the check accepts it, but no such image will come, and some capacity is spent on it. Frequent mistakes: division by size instead
# of size²; `randint` without its upper end; a crop at another place for each channel; the variance instead of the standard deviation.

# %% [markdown]
# ## 3 · Splits and leaks
#
# Train is for the gradient, validation for choosing, test for **one** measurement at the end. cnnlab cuts at random with a seed, and each class
# keeps its share (*stratified*). An image that lies in two parts is a **leak**: memory is then rewarded as if it were understanding.
#
# **Exercise 1.7.** Write a function that finds images of `a` that are also in `b`, equal in each pixel. Two loops with `torch.equal(x, y)` will do. Faster is
# a dictionary from the bytes of an image, `x.numpy().tobytes()`, to its places in `b`.


# %% TODO 1.7
def equal_images(a, b):
    """(N, C, H, W), (M, C, H, W) uint8 → a list of the pairs (i, j) with a[i] equal to b[j]."""
    ...


# %% solution 1.7
def equal_images(a, b):
    """(N, C, H, W), (M, C, H, W) uint8 → a list of the pairs (i, j) with a[i] equal to b[j]."""
    places = {}
    for j, image in enumerate(b):
        places.setdefault(image.numpy().tobytes(), []).append(j)
    return [(i, j) for i, image in enumerate(a) for j in places.get(image.numpy().tobytes(), [])]


# %%
check("1.7", equal_images)

# %%
some_train, some_test = ((255 * part[:300]).round().byte() for part in (train_images, test_images))
print("equal images in train and test:", len(equal_images(some_train, some_test)))
planted = some_test.clone()
planted[7] = some_train[2]
print("with a copy planted:           ", equal_images(some_train, planted))
findings = cnnlab.audit(data)  # all parts, and images that are only alike
print(
    "cnnlab.audit: leaks",
    len(findings.leaks),
    " images per class",
    next(iter(findings.class_counts.values())),
)

# %% [markdown]
# ## 4 · Sizes: output, parameters, receptive field
#
# Three numbers say what a layer can do. With input $I$, kernel $K$, stride $S$, padding $P$ on each side, dilation $D$, $C$ input and $O$ output channels:
#
# - **output size** $\lfloor (I + 2P - D(K-1) - 1)/S \rfloor + 1$, as you found in lab 0 (take your function from there, or write it again);
# - **parameters** $O \cdot (C K^2 + 1)$, without the 1 if there is no bias;
# - **receptive field**: how many pixels of the image one number sees, along an axis. Begin with a field of 1 and a step of 1. Each layer adds $(K-1)$ times the
#   step, and *then* multiplies the step by its stride.
#
# `cnnlab look --layer` writes a page with a slider for each of the letters and the kernel at work.
#
# **Exercise 1.8.** Write the three functions.


# %% TODO 1.8
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    """The number of places of a kernel along an axis."""
    ...


def conv_parameters(inputs, outputs, kernel, bias=True):
    """The number of weights of a convolution, with its biases."""
    ...


def receptive_field(layers):
    """[(kernel, stride), …] from the image on → pixels that one number of the last layer sees, along an axis."""
    ...


# %% solution 1.8
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    """The number of places of a kernel along an axis."""
    span = dilation * (kernel - 1) + 1
    return (size + 2 * padding - span) // stride + 1


def conv_parameters(inputs, outputs, kernel, bias=True):
    """The number of weights of a convolution, with its biases."""
    return outputs * (inputs * kernel**2 + bias)


def receptive_field(layers):
    """[(kernel, stride), …] from the image on → pixels that one number of the last layer sees, along an axis."""
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step *= stride
    return field


# %%
check("1.8", (output_size, conv_parameters, receptive_field))

# %% [markdown]
# Now on every convolution and every pooling of the network that we will train, against what PyTorch really gives and against `cnnlab.summarise`.

# %%
SHAPE = {"image_size": [height, width], "in_channels": channels, "num_classes": data.num_classes}
torch.manual_seed(0)
network = cnnlab.create_model("vgg", width=8, **SHAPE)
size, layers = height, []
print(f"{'layer':<14}{'kind':<11}{'output':>7}{'parameters':>12}{'sees':>6}")
for row in cnnlab.summarise(network, (channels, height, width)).layers:
    layer = network.get_submodule(row.name)
    if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
        continue
    kernel, stride, padding = (np.max(v).item() for v in (layer.kernel_size, layer.stride, layer.padding))
    size, layers = output_size(size, kernel, stride, padding), [*layers, (kernel, stride)]
    weights = 0
    if isinstance(layer, nn.Conv2d):
        weights = conv_parameters(layer.in_channels, layer.out_channels, kernel, layer.bias is not None)
    print(f"{row.name:<14}{row.kind:<11}{size:>7}{weights:>12,}{receptive_field(layers):>6}")
    assert size == row.output[-1]
    assert weights == row.parameters == sum(p.numel() for p in layer.parameters())
    assert str(receptive_field(layers)) == str(row.receptive_field)

# %% [markdown] teacher
# **For the teacher.** Parts 3 and 4 take about 45 minutes. Ask: does each number of the last map see the whole image? What would a stride of 2 in the first
# layer change? Would two video frames, one tenth of a second apart, be a leak? (Yes, and no search for equal pixels finds them: split by video.)
# Frequent mistakes: the stride of a layer counted for itself; one bias for the whole layer; images compared by their sum.

# %% [markdown]
# ## 5 · Before training: the first loss
#
# The network gives logits, softmax makes probabilities, and the loss is $-\log p_y$ of the true class $y$.
#
# **Exercise 1.9.** A network that has learned nothing finds all $K$ classes equally likely. Which loss has it? `math.log` is the natural logarithm.


# %% TODO 1.9
def expected_loss(num_classes):
    """The cross-entropy of a network for which all classes are equally likely."""
    ...


# %% solution 1.9
def expected_loss(num_classes):
    """The cross-entropy of a network for which all classes are equally likely."""
    return math.log(num_classes)


# %%
check("1.9", expected_loss)

# %%
network.eval()
with torch.no_grad():
    first = F.cross_entropy(network(images), labels).item()
print(f"expected {expected_loss(data.num_classes):.3f}, the fresh network {first:.3f}")
assert abs(first - expected_loss(data.num_classes)) < 0.3

# %% [markdown]
# Much more than that means logits that are too large from the start; much less means that labels leak into the input. It costs one batch.
#
# ## 6 · Comparing on validation
#
# `cnnlab.fit` is the loop of lab 0; `test=False` leaves the test images alone. We compare **on validation**, change **one thing at a time**, and train each
# setting with **several seeds**: the weights begin at random, so one training is one draw. (The split and the order of the batches are those of
# `load_data`, the same for all. That makes the comparison sharper.)

# %%
SGD = ["optimizer=sgd", "optimizer.lr=0.1"]


def train(name, seed=0, source=data, words=SGD, epochs=EPOCHS, model="vgg", test=False, **arguments):
    """A training from a fresh network → the run; its folder is RUNS/NAME-SEED."""
    folder = RUNS / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # so that a cell can run twice
    torch.manual_seed(seed)
    built = cnnlab.create_model(model, **({"width": 8} if model == "vgg" else {}), **arguments)
    settings = ["trainer.ema=null", *words]
    return cnnlab.fit(built, source, epochs=epochs, dir=folder, overrides=settings, test=test, progress=False)


def accuracies(name, **settings):
    """The validation accuracy after the last epoch, for each seed."""
    runs = [train(name, seed, **SHAPE, **settings) for seed in SEEDS]
    return [run.history[-1]["val_accuracy"] for run in runs], runs


# %% [markdown]
# **Exercise 1.10.** Two small functions. `mean_sd` gives the mean and the standard deviation $\sqrt{\sum_i (a_i - \bar a)^2/(n-1)}$ of some accuracies. It
# says how far single trainings lie apart. `choose_rate` takes a table from learning rate to accuracies and gives the rate with the highest **mean**.


# %% TODO 1.10
def mean_sd(values):
    """A list of numbers → (mean, standard deviation with n - 1)."""
    ...


def choose_rate(table):
    """{rate: [accuracy of each seed]} → the rate with the highest mean."""
    ...


# %% solution 1.10
def mean_sd(values):
    """A list of numbers → (mean, standard deviation with n - 1)."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def choose_rate(table):
    """{rate: [accuracy of each seed]} → the rate with the highest mean."""
    return max(table, key=lambda rate: mean_sd(table[rate])[0])


# %%
check("1.10", (mean_sd, choose_rate))

# %% [markdown]
# **The learning rate** comes first: no other setting matters more, and optimizers can be compared only when each has a good one. We try four of SGD.


# %%
def show_table(head, table):
    """{setting: accuracies} as lines: mean, standard deviation, each seed."""
    print(f"{head:<18}{'mean':>8}{'sd':>8}   each seed")
    for name, values in table.items():
        mean, sd = mean_sd(values)
        print(f"{name!s:<18}{mean:>8.1%}{sd:>8.1%}   " + "  ".join(f"{value:.1%}" for value in values))


rates, rate_runs = {}, {}
for rate in (0.001, 0.03, 0.3, 1.0):
    words = ["optimizer=sgd", f"optimizer.lr={rate}"]
    rates[rate], rate_runs[rate] = accuracies(f"rate-{rate}", words=words)
show_table("rate of SGD", rates)
best_rate = choose_rate(rates)
print("chosen:", best_rate)

# %%
cnnlab.plot_curves({f"rate {rate}": runs[0].history for rate, runs in rate_runs.items()})

# %% [markdown]
# Too small: the loss hardly moves. Too large: it jumps, or grows. If the chosen rate is the first or last of those tried, try more beyond it.
#
# **Optimizers**: SGD with the rate just chosen, Adam and Muon each with the better of two rates. **Losses**: SGD again, with another loss. The
# values of different losses cannot be compared, accuracies can.

# %%
SGD = ["optimizer=sgd", f"optimizer.lr={best_rate}"]
optimizers = {f"sgd, {best_rate}": rates[best_rate]}
for name, tried in {"adam": (0.003, 0.03), "muon": (0.02, 0.1)}.items():
    table = {}
    for rate in tried:
        words = [f"optimizer={name}", f"optimizer.lr={rate}"]
        table[rate], _ = accuracies(f"{name}-{rate}", words=words)
    rate = choose_rate(table)
    optimizers[f"{name}, {rate}"] = table[rate]
losses = {"cross-entropy": rates[best_rate]}
for name, words in {
    "label smoothing": ["trainer.label_smoothing=0.1"],
    "squared error": ["trainer.loss=mse"],
}.items():
    losses[name], _ = accuracies(f"loss-{name.replace(' ', '-')}", words=[*SGD, *words])
show_table("optimizer", optimizers)
print()
show_table("loss", losses)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
for axis, table in zip(axes, (optimizers, losses), strict=True):
    for place, values in enumerate(table.values()):
        axis.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.6)
        axis.plot([place - 0.15, place + 0.15], [mean_sd(values)[0]] * 2, color="black")
    axis.set_xticks(range(len(table)), table)
_ = axes[0].set_ylabel("validation accuracy")

# %% [markdown] results
# In the full setting, with 2000 photographs: the rate 0.001 hardly learns (16.5 %), 0.3 is best (46.4 %), and 1.0 is too large (39.4 %). The best one lies between others, so the
# range was wide enough. Muon is ahead of SGD with 51.3 %, both of its trainings above both of SGD's. But its better rate, 0.1, is the larger of only two, and so is Adam's, 0.03:
# the table ranks these settings, not the optimizers. Label smoothing has the highest mean of the losses, 49.5 %. The two seeds of cross-entropy alone lie 4 points apart,
# so that order may change with two other seeds.

# %% [markdown]
# Points are trainings, lines their means. Two seeds show only differences that are large against the spread; for a small one take ten seeds,
# or leave it open. (`cnnlab study` does such grids from the command line.)

# %% [markdown]
# ## 7 · Reading the curves
#
# - **Overfits**: after some epoch the training loss falls on, while the validation loss has risen clearly (here: by more than 10 %) above its lowest value.
#   The network learns the training images by heart. More images, augmentation, a smaller network, or fewer epochs.
# - **Underfits**: the training loss itself is still high (here: above half of $\log K$). More epochs, another rate, a larger network, or a mistake.
# - **Fits** otherwise.
#
# **Exercise 1.11.** Write the verdict as a function. A rise of validation *with* training (a rate that is too large) is no overfitting.


# %% TODO 1.11
def judge(history, num_classes):
    """{"train_loss": [per epoch], "val_loss": [per epoch]} → "overfits", "underfits" or "fits"."""
    ...


# %% solution 1.11
def judge(history, num_classes):
    """{"train_loss": [per epoch], "val_loss": [per epoch]} → "overfits", "underfits" or "fits"."""
    train, val = history["train_loss"], history["val_loss"]
    lowest = int(np.argmin(val))
    if val[-1] > 1.1 * val[lowest] and train[-1] < train[lowest]:
        return "overfits"
    return "underfits" if train[-1] > 0.5 * math.log(num_classes) else "fits"


# %%
check("1.11", judge)

# %% [markdown]
# Three trainings to try it on: a rate that is far too small; 150 images, many epochs and Adam at a constant rate; and the same images with augmentation
# (`standard`: padded crop and mirror, as yours; for digits `light`, which does not mirror). In the small setting the epochs may be too few to overfit; raise them until you see it.

# %%
MILD = "light" if SET == "digits" else "standard"
few = cnnlab.load_data(SET, **KEYS, limit=150, augment="none")
varied = cnnlab.load_data(SET, **KEYS, limit=150, augment=MILD)
words = ["optimizer=adam", "optimizer.lr=0.003", "schedule=constant"]
long = {"words": words, "epochs": 40 if FULL else 15, **SHAPE}
stories = {
    "rate 0.001": rate_runs[0.001][0],
    "150 images": train("few", source=few, **long),
    "augmented": train("varied", source=varied, **long),
}
figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), layout="constrained")
for axis, (name, one) in zip(axes, stories.items(), strict=True):
    columns = {key: [row[key] for row in one.history] for key in ("train_loss", "val_loss")}
    for key, values in columns.items():
        axis.plot(range(1, len(values) + 1), values, ".-", label=key)
    verdict = judge(columns, data.num_classes)
    axis.set(title=f"{name}: {verdict}", xlabel="epoch", ylim=(0, 5))
    train_loss, val_loss = columns["train_loss"][-1], columns["val_loss"][-1]
    print(f"{name:<12}training {train_loss:.2f}, validation {val_loss:.2f}: {verdict}")
axes[0].legend()
_ = axes[0].set_ylabel("loss")

# %% [markdown] results
# In the full setting: augmentation ends with the lower validation loss, 2.24 instead of 2.48, and both overfit: 150 photographs are too few for either. Each is one training, so
# this shows what the curves look like and proves no advantage.

# %% [markdown]
# Training loss of an augmented run is measured on augmented images, which are harder; so compare the validation losses.

# %% [markdown] teacher
# **For the teacher.** Parts 5 to 7 take about 75 minutes. Ask: why is it not fair to give all optimizers one rate? Why may we choose by validation as often as
# we like, and what do we pay? (The chosen one's validation accuracy is too high.) Let them predict each curve before it is drawn. Frequent mistakes: the best
# single seed taken for the best setting; n instead of n - 1; "overfits" said of every gap between the two curves.

# %% [markdown]
# ## 8 · The training that counts, its logs and its weights
#
# Now the training to be tested: SGD with the rate chosen above, with augmentation and twice the epochs. (If another optimizer was clearly ahead, you may take
# it: that is a choice by validation, too.) `test=True` measures the test images once, at the
# end, with the weights of the epoch that was best on validation.

# %%
final_data = cnnlab.load_data(SET, **KEYS, limit=LIMIT, augment=MILD)
run = train("final", source=final_data, words=SGD, epochs=2 * EPOCHS, test=True, **SHAPE)
cnnlab.plot_curves({"final": run.history})

# %% [markdown]
# **TensorBoard** shows the curves of all runs in the browser, also while they train: `uv run tensorboard --logdir runs`. Its files can be read back:

# %%
events = EventAccumulator(str(run.dir / "tensorboard"))
events.Reload()
print("\n".join(events.Tags()["scalars"]))
logged = [event.value for event in events.Scalars("loss/val")]
assert np.allclose(logged, [row["val_loss"] for row in run.history], rtol=1e-5)

# %% [markdown]
# (Weights & Biases does the same on a server, `logger=wandb`; lab 3 shows it.)
#
# **Saved and loaded.** The best weights lie in `best/`, with a card: classes, preprocessing, how to build the network. `load_run` builds it again,
# ready for use; nothing in the file is executed.

# %%
loaded, card = cnnlab.load_run(run.dir)
print("best epoch:", card["epoch"], "  network:", card["model"]["name"])
with torch.no_grad():
    logits = torch.cat([loaded(batch) for batch, _ in final_data.test])  # (N, K)
truths = torch.cat([batch for _, batch in final_data.test])
hits = int((logits.argmax(1) == truths).sum())
print(f"right on test: {hits} of {len(truths)}; run.test says {run.test['accuracy']:.4f}")
assert abs(hits / len(truths) - run.test["accuracy"]) < 1e-6

# %% [markdown]
# ## 9 · The test, with its interval
#
# Other test images would have given another accuracy. The **95 % interval** says how far it may lie from the accuracy on all images. The one
# of lab 0, $p \pm 1.96\sqrt{p(1-p)/n}$, has no width when all are right. Wilson's (1927) does not fail there. With $z = 1.96$:
#
# $$\frac{1}{1 + z^2/n}\left( p + \frac{z^2}{2n} \pm z \sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4n^2}} \right)$$
#
# **Exercise 1.12.** Write it.


# %% TODO 1.12
def wilson(right, count):
    """How many of how many are right → (low, high), shares from 0 to 1."""
    ...


# %% solution 1.12
def wilson(right, count):
    """How many of how many are right → (low, high), shares from 0 to 1."""
    p, z = right / count, 1.96
    middle = p + z**2 / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return (middle - half) / scale, (middle + half) / scale


# %%
check("1.12", wilson)

# %%
low, high = wilson(hits, len(truths))
print(f"test accuracy {hits / len(truths):.1%}, 95 % interval {low:.1%} to {high:.1%}, {len(truths)} images")
print("cnnlab's interval: {:.1%} to {:.1%}".format(*run.test["accuracy_interval"]))
recall = np.diag(run.test["confusion_matrix"]) / np.sum(run.test["confusion_matrix"], axis=1)
worst = int(recall.argmin())
print(f"hardest class: {data.classes[worst]}, {recall[worst]:.1%} of its images are found")

# %% [markdown] results
# In the full setting: 55.1 %, with an interval from 53.0 % to 57.3 %. In part 6 the same rate had 46.4 % on validation. Two things changed since, augmentation and the number of epochs,
# so we cannot say which of them helped. That would take two more trainings, and some seeds of each.

# %% [markdown]
# The interval holds for *this* network and new images of the same kind. It says nothing about another seed (part 6 does), nor about photographs of another camera.
#
# **Exercise 1.13.** What does the network say of single images? Write the `k` most likely classes with their probabilities, largest first.
# `p.topk(k)` gives values and places.


# %% TODO 1.13
def top_k(logits, classes, k):
    """(B, K) → for each image a list of k pairs (name, probability), the most likely first."""
    ...


# %% solution 1.13
def top_k(logits, classes, k):
    """(B, K) → for each image a list of k pairs (name, probability), the most likely first."""
    values, places = logits.softmax(dim=1).topk(k, dim=1)
    return [
        [(classes[place], value) for value, place in zip(row, column, strict=True)]
        for row, column in zip(values.tolist(), places.tolist(), strict=True)
    ]


# %%
check("1.13", top_k)

# %%
is_right = logits.argmax(1) == truths
confidence = logits.softmax(1).amax(1)
wrong_first = torch.argsort(is_right.float() * 2 - confidence)  # mistakes, the surest first; then right ones
chosen = [*wrong_first[:4].tolist(), *wrong_first[-2:].tolist()]
figure, axes = plt.subplots(2, 6, figsize=(12, 4), layout="constrained")
for (top, bottom), i, rows in zip(axes.T, chosen, top_k(logits[chosen], data.classes, 3), strict=True):
    top.imshow(test_images[i].permute(1, 2, 0), cmap="gray")
    top.set_title(data.classes[truths[i]], color="black" if is_right[i] else "tab:red")
    top.set_axis_off()
    names, values = zip(*rows, strict=True)
    bottom.barh(names, values, color=["tab:green" if n == data.classes[truths[i]] else "grey" for n in names])
    bottom.invert_yaxis()
    bottom.set_xlim(0, 1)
_ = figure.supxlabel("probability (green: the true class; red titles: mistakes)")

# %% [markdown]
# The four mistakes are those of which the network was surest; beside them are the two right answers of which it was least sure. For each ask: is the label right? Would you have known? Is there something that the mistakes
# have in common, as a background or a colour? `report.html` in the run's folder shows more of them, and where in the image the network looked.

# %% [markdown]
# ## 10 · Inductive bias: an MLP against a CNN
#
# A multi-layer perceptron (MLP) joins each pixel with each unit: it does not know which pixels are neighbours, and what it learns at one place it does not know
# at another. A convolution assumes that **near pixels belong together** and that **a pattern means the same wherever it is**. Such an assumption is the
# **inductive bias** of a model. It shows where the test differs from training: we train both on centred digits (MNIST if it is there), then
# shift the validation images.
#
# **Exercise 1.14.** Write the shift to the right, filled with 0, and the accuracy on shifted images. What leaves on the right is gone; 0 pixels change nothing.
# Our images are normalised, so 0 is here the mean and not black; the check is about plain tensors.


# %% TODO 1.14
def shift(images, pixels):
    """(B, C, H, W) → the same, `pixels` columns further to the right, with 0 on the left."""
    ...


def shifted_accuracy(model, loader, pixels):
    """The accuracy, 0 to 1, of the model on the shifted images of the loader."""
    ...


# %% solution 1.14
def shift(images, pixels):
    """(B, C, H, W) → the same, `pixels` columns further to the right, with 0 on the left."""
    moved = torch.zeros_like(images)
    moved[..., pixels:] = images[..., : images.shape[-1] - pixels]
    return moved


def shifted_accuracy(model, loader, pixels):
    """The accuracy, 0 to 1, of the model on the shifted images of the loader."""
    model.eval()
    right = count = 0
    with torch.no_grad():
        for images, labels in loader:
            right += (model(shift(images, pixels)).argmax(1) == labels).sum().item()
            count += len(labels)
    return right / count


# %%
check("1.14", (shift, shifted_accuracy))

# %%
if DATA and (Path(DATA) / "MNIST").is_dir():
    digits = cnnlab.load_data("mnist", root=DATA, limit=3000 if FULL else 500, batch_size=32, augment="none")
else:
    digits = cnnlab.load_data("digits", batch_size=32, augment="none")
ADAM = ["optimizer=adam"]
kinds = {
    "MLP": {"model": "mlp", "hidden": [256, 128], "words": [*ADAM, "optimizer.lr=0.001"]},
    "CNN": {"model": "vgg", "words": [*ADAM, "optimizer.lr=0.01"]},
}
sides = {"image_size": list(digits.image_size), "in_channels": 1, "num_classes": 10}
pixels = range(0, digits.image_size[1] // 4 + 1, max(1, digits.image_size[1] // 14))
lines = {}
for name, settings in kinds.items():
    runs = [train(name, seed, source=digits, epochs=6, **settings, **sides) for seed in SEEDS]
    models = [cnnlab.load_run(one.dir)[0] for one in runs]
    lines[name] = [[shifted_accuracy(model, digits.val, n) for model in models] for n in pixels]
    weights = sum(p.numel() for p in models[0].parameters())
    print(f"{name}, {weights:,} parameters")
    show_table("pixels", dict(zip(pixels, lines[name], strict=True)))

# %%
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for name, values in lines.items():
    axis.plot(pixels, [mean_sd(one)[0] for one in values], "o-", label=name)
axis.set(xlabel="shift to the right, pixels", ylabel="validation accuracy", xticks=list(pixels), ylim=(0, 1))
_ = axis.legend()

# %% [markdown] results
# In the full setting, shifted by 4 pixels: the MLP falls from 92.6 % to 22.5 %, the CNN from 97.2 % to 95.7 %, with fewer than a tenth of the weights. The difference is far larger than the spread
# over seeds. At 6 pixels the CNN loses, too (92.2 %): parts of the digits leave the image.

# %% [markdown]
# Two things make the CNN hold: the same kernel at every place, so that the map shifts with the image (*equivariance*), and the mean over all
# places at its end, which does not ask where (*invariance*). To see what the first assumption costs, permute the pixels of all images in the same way,
# `rearrange="permute"` in `load_data`, and train both again: which of them does not care?

# %% [markdown]
# ## 11 · Look inside
#
# `cnnlab.look` shows a trained network at work: it computes in the page, from an image through the maps of every layer to the
# probabilities. Here it gets two images, a horizontal stroke and a vertical one. *Unfold all* opens the stages; click the small images in
# turn and compare the maps of the first ReLU, `features.0.2`; click a map of `features.0.0` to see its kernel. (`cnnlab look runs/lab1/final-0`
# writes the same page as one file, and *Draw* takes your own strokes.)

# %%
strokes = {}
for name in ("horizontal", "vertical"):
    drawn = np.zeros((height, width, channels), np.uint8)
    drawn[(height // 2, slice(None)) if name == "horizontal" else (slice(None), width // 2)] = 255
    strokes[name] = RUNS / f"{name}.png"
    Image.fromarray(drawn.squeeze()).save(strokes[name])
cnnlab.look(run.dir, images=[str(file) for file in strokes.values()], height=760)

# %% [markdown]
# **Exercise 1.15.** Which filter of the first layer answers to **horizontal** strokes: its map varies more with the horizontal stroke than with the vertical
# one, and more so than that of other filters? Find it by looking; filters are counted from 0. The check asks the network itself: `preference` is how much more each map varies with the
# horizontal stroke, without the border, where the padding makes an edge.

# %%
with torch.no_grad():
    maps = loaded.features[0][:3](torch.stack([data.preprocess(file) for file in strokes.values()]))
inner = maps[:, :, 2:-2, 2:-2]  # (2 strokes, filters, H-4, W-4)
lying, standing = inner.amax((2, 3)) - inner.amin((2, 3))
preference = lying - standing  # (filters,)

# %% TODO 1.15
mine = ...  # the number of the filter

# %% solution 1.15
mine = int(preference.argmax())  # by asking instead of looking

# %%
check("1.15", (mine, preference))

# %%
kernel = loaded.features[0][0].weight[mine].detach().sum(0)  # (3, 3), summed over the colours
print(f"filter {mine}: horizontal {lying[mine]:.2f}, vertical {standing[mine]:.2f}")
print(
    "sums of its rows",
    [f"{v:.2f}" for v in kernel.sum(1)],
    "of its columns",
    [f"{v:.2f}" for v in kernel.sum(0)],
)

# %% [markdown]
# To a long horizontal stroke a kernel is three numbers, the sums of its rows. Compare them with the sums of its columns, which a vertical stroke meets.

# %% [markdown] results
# In the full setting the best filter answers to both strokes, 10.62 to the horizontal and 8.13 to the vertical one: its rows and its columns differ in nearly the same way (4.29 to -4.67 and
# 3.27 to -3.67). It finds changes along a diagonal, and prefers one direction a little. A filter for one direction alone is what textbooks draw; training need not find it.

# %% [markdown] teacher
# **For the teacher.** Parts 8 to 11 take about 70 minutes; four and a half hours in all. Ask: how many test images does one need to tell 90 % from 91 %? (The half
# width is about $1.96\sqrt{p(1-p)/n}$: some 3500 images bring it to one point.) What happens to the result when one tests ten networks and reports the best? Is a CNN with
# a fully connected layer on its flattened map still invariant? Frequent mistakes: `images[..., :-pixels]` with 0 pixels; `torch.roll`, which brings pixels back on the
# other side; top-k of the logits. Grading: a point for each check that passes in a run from the top, and questions in person on 1.6, 1.8, 1.11 and 1.14.

# %% [markdown]
# ## What you can do now
#
# Each step above is a command, too: `cnnlab data`, `cnnlab train`, `cnnlab study`, `cnnlab test`, `cnnlab predict`, `cnnlab model`. Open
# `runs/lab1/final-0/report.html`. Go on with [lab 2](2-convnets-101.ipynb): networks from blocks.
