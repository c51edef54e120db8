# %% [markdown]
# # Lab 4 · Design your own
#
# A task as you meet it outside of courses: photographs, some dozens per class, all of different sizes. You read them with a Dataset of your
# own, set a baseline with AlexNet, compose configurations, design a network that beats the baseline, test the winner once, and
# hand it to others: a predictor, an exported file, a demo page, the cloud.
#
# At the end you can read a folder of photographs, say where a network's parameters are, predict which value of a composed configuration
# holds, keep an honest table of what was tried, and say whether one network is better than another by more than chance.
#
# **How to work.** As in [lab 0](0-by-hand.ipynb): nine cells have a `TODO`; write, run, then run the check below.

# %%
import csv
import json
import os
import shutil
from math import comb
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

FULL = os.environ.get("CNNLAB_LABS") == "full"  # False: a minute or two. True: half an hour
DATA = os.environ.get("CNNLAB_DATA")  # a folder with Caltech-101, if there is one
ROOT = Path(DATA) if DATA else None
RUNS = Path("runs/lab4")  # everything this lab writes

shutil.rmtree(RUNS, ignore_errors=True)
plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1 · The photographs
#
# **Caltech-101** has 101 classes, 40 to 800 photographs each, about 300×200 pixels, and a folder `BACKGROUND_Google` that is no class. The full
# setting of this lab takes ten classes at 200 rows by 300 columns, the small one four at 64×96; all 101 are a matter of hours on two
# cores: `cnnlab train data=caltech101 data.image_size=[200,300]`. Without `CNNLAB_DATA` we draw four shapes, so that every step still
# has something to work on (they are much easier than photographs, and the results mean little).

# %%
SOURCE = ROOT / "caltech101" / "101_ObjectCategories" if ROOT else None
PHOTOS = RUNS / "photos"
NAMES = ["Motorbikes", "airplanes", "watch", "bonsai"]
NAMES += ["butterfly", "chandelier", "grand_piano", "ketch", "laptop", "starfish"] if FULL else []


def draw_shapes(folder, count):
    """Four classes of coloured shapes of every size before noise, and a folder that is no class."""
    random = np.random.default_rng(0)
    for name in ("circle", "cross", "square", "stripes", "BACKGROUND_Google"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            height, width = random.integers(80, 140, 2)
            y, x = np.mgrid[:height, :width]
            y, x = y - height * random.uniform(0.4, 0.6), x - width * random.uniform(0.4, 0.6)
            size = min(height, width) * random.uniform(0.25, 0.4)
            box = np.maximum(abs(x), abs(y)) < size
            ink = {
                "circle": np.hypot(x, y) < size,
                "cross": box & (np.minimum(abs(x), abs(y)) < size / 3),
                "square": box,
                "stripes": box & (np.sin(x * 12 / size) > 0),
            }.get(name, box & False)
            image = random.integers(0, 120, (height, width, 3))
            image[ink] = random.integers(100, 256, 3)
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{i:03}.jpg")


if SOURCE is not None and SOURCE.is_dir():
    for name in [*NAMES, "BACKGROUND_Google"]:
        (PHOTOS / name).mkdir(parents=True)
        for file in sorted((SOURCE / name).glob("*.jpg"))[:70]:
            shutil.copy(file, PHOTOS / name)
else:
    draw_shapes(PHOTOS, 70)
print(*sorted(folder.name for folder in PHOTOS.iterdir()))

# %% [markdown]
# **Exercise 4.1.** Write the Dataset. `classes`: the names of the folders in alphabetical order, **without** `BACKGROUND_Google`. `files`: the path of each
# image, class by class, in order. `_load_image(i)`: a Pillow image in **RGB** (some photographs are grey). `_load_label(i)`: the number of
# the class. `__getitem__(i)`: the image, after `transform` if there is one, and the label.


# %% TODO 4.1
class Caltech101(Dataset):
    def __init__(self, root, transform=None): ...

    def _load_image(self, i): ...

    def _load_label(self, i): ...

    def __len__(self): ...

    def __getitem__(self, i): ...


# %% solution 4.1
class Caltech101(Dataset):
    def __init__(self, root, transform=None):
        root = Path(root)
        self.classes = sorted(f.name for f in root.iterdir() if f.is_dir() and f.name != "BACKGROUND_Google")
        self.files = [file for name in self.classes for file in sorted((root / name).glob("*.jpg"))]
        self.transform = transform

    def _load_image(self, i):
        return Image.open(self.files[i]).convert("RGB")

    def _load_label(self, i):
        return self.classes.index(self.files[i].parent.name)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        image = self._load_image(i)
        return image if self.transform is None else self.transform(image), self._load_label(i)


# %%
check("4.1", Caltech101)

# %%
photographs = Caltech101(PHOTOS)
sizes = np.array([photographs[i][0].size for i in range(0, len(photographs), 5)])  # (width, height)
print(f"{len(photographs)} photographs of {len(photographs.classes)} classes")
print(
    f"widths {sizes[:, 0].min()} to {sizes[:, 0].max()}, heights {sizes[:, 1].min()} to {sizes[:, 1].max()}"
)

# %% [markdown]
# Images of different sizes do not fit into one batch. **Squashing** changes the shape of things, **cropping** loses what is at the edge, and
# a **letterbox** keeps both: the image is resized until it fits, and what is left over becomes black.
#
# **Exercise 4.2.** Write the letterbox: the scale is the same in both directions and as large as possible, the image lies in the middle.
# Round the new sides to whole pixels.


# %% TODO 4.2
def letterbox(image, height, width):
    """A Pillow image of any size → one of height × width."""
    ...


# %% solution 4.2
def letterbox(image, height, width):
    """A Pillow image of any size → one of height × width."""
    scale = min(width / image.width, height / image.height)
    new_width, new_height = round(image.width * scale), round(image.height * scale)
    page = Image.new(image.mode, (width, height))
    page.paste(image.resize((new_width, new_height)), ((width - new_width) // 2, (height - new_height) // 2))
    return page


# %%
check("4.2", letterbox)

# %%
image = photographs[0][0]
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
shown = {
    "as it is": image,
    "squashed to 128×128": image.resize((128, 128)),
    "letterbox": letterbox(image, 128, 128),
}
for axis, (name, one) in zip(axes, shown.items(), strict=True):
    axis.imshow(one)
    axis.set_title(name)
    axis.set_axis_off()

# %% [markdown]
# From here on cnnlab reads the folder; `data.fit` chooses between crop and squash. `augment="standard"` cuts out random parts and mirrors, for training
# alone; validation and test see the whole image, without any chance. The split is stratified and seeded.

# %%
shutil.rmtree(PHOTOS / "BACKGROUND_Google")
SIZE = [200, 300] if FULL else [64, 96]
parts = {"val_fraction": 0.25, "test_fraction": 0.25}
data = cnnlab.load_data("folder", root=PHOTOS, image_size=SIZE, **parts, batch_size=32, augment="standard")
height, width = data.image_size
print(*(f"{part}: {len(data.names(part))} images" for part in ("train", "val", "test")), sep="   ")
findings = cnnlab.audit(data)
print(f"{len(data.quarantined)} files cannot be read, {len(findings.leaks)} leaks")
images, labels = next(iter(data.train))
cnnlab.show_batch(images, labels, data.classes, data.preprocess, limit=8)

# %% [markdown] teacher
# **For the teacher.** Frequent mistakes in 4.1: the background folder counted as a class, a grey photograph of one channel that breaks the first batch that
# holds it, labels by `os.listdir` in the order of the disk. In 4.2: width and height swapped, since Pillow says (width, height) and
# everybody else (height, width).

# %% [markdown]
# ## 2 · The baseline: AlexNet
#
# [Krizhevsky et al. 2012](https://papers.nips.cc/paper/4824): five convolutions, three linear layers, dropout. As PyTorch has it:
#
# | layer | kernel | stride | padding | channels |
# |---|---|---|---|---|
# | convolution, pool | 11, 3 | 4, 2 | 2, 0 | 64 |
# | convolution, pool | 5, 3 | 1, 2 | 2, 0 | 192 |
# | convolution | 3 | 1 | 1 | 384 |
# | convolution | 3 | 1 | 1 | 256 |
# | convolution, pool | 3, 3 | 1, 2 | 1, 0 | 256 |
#
# Then a 6×6 average, and linear layers from 256·6·6 to 4096, to 4096, to the classes.
#
# **Exercise 4.3.** How large is the last map (before the 6×6 average) for images of `height`×`width`, and how many parameters have the five convolutions and
# the three linear layers, biases included, for `classes` classes? For 200×300 do it on paper first.


# %% TODO 4.3
def alexnet_sizes(height, width, classes):
    """→ (rows, columns) of the last map, parameters of the convolutions, parameters of the linear layers."""
    ...


# %% solution 4.3
def alexnet_sizes(height, width, classes):
    """→ (rows, columns) of the last map, parameters of the convolutions, parameters of the linear layers."""

    def last(side):
        for kernel, stride, padding in ((11, 4, 2), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 2, 0)):
            side = (side + 2 * padding - kernel) // stride + 1  # the 3×3 convolutions keep the size
        return side

    channels, kernels = (3, 64, 192, 384, 256, 256), (11, 5, 3, 3, 3)
    pairs = zip(channels, channels[1:], kernels, strict=False)
    convolutions = sum(b * (a * k * k + 1) for a, b, k in pairs)
    widths = (256 * 6 * 6, 4096, 4096, classes)
    linear = sum(b * (a + 1) for a, b in zip(widths, widths[1:], strict=False))
    return (last(height), last(width)), convolutions, linear


# %%
check("4.3", alexnet_sizes)

# %%
place, convolutions, linear = alexnet_sizes(200, 300, 101)
print(
    f"200×300: last map {place[0]}×{place[1]}; {convolutions:,} parameters in convolutions, {linear:,} in linear layers"
)
cnnlab.draw_network(cnnlab.create_model("alexnet", num_classes=101, image_size=[200, 300]), (3, 200, 300))

# %% [markdown]
# Most parameters sit in the first linear layer, which learns for each *place* separately what a convolution learns once for all. In the small setting we
# take a narrower AlexNet.

# %%
EPOCHS = 25 if FULL else 10
SEEDS = (0, 1) if FULL else (0,)
shape = {"image_size": [height, width], "in_channels": data.in_channels, "num_classes": data.num_classes}
small = {"width": 32, "hidden": [512, 512]} if FULL else {"width": 16, "hidden": [256, 256]}


def train(name, model, words=(), data=data, epochs=EPOCHS):
    shutil.rmtree(RUNS / name, ignore_errors=True)
    settings = ["optimizer=adamw", "logger=none", *words]
    return cnnlab.fit(
        model, data, epochs=epochs, dir=RUNS / name, overrides=settings, test=False, progress=False
    )


torch.manual_seed(0)
baseline = train("alexnet-0", cnnlab.create_model("alexnet", **small, **shape), ["optimizer.lr=0.001"])
print(f"validation accuracy after the last epoch {baseline.history[-1]['val_accuracy']:.1%}")
cnnlab.plot_curves({"AlexNet": baseline.history})

# %% [markdown]
# ## 3 · Configuration by composition
#
# On the command line the same settings are words, composed by [Hydra](https://hydra.cc): a **group** such as `model=resnet` chooses a file of settings,
# a **key** such as `model.depth=20` changes one of them. `--explain` prints each value with its origin. What holds:
#
# 1. a key that was given beats everything, wherever it stands; of two values for one key the **last** holds;
# 2. a group that was given (`optimizer=sgd`) beats what the recipe of the data set says for that group;
# 3. otherwise the recipe's value holds, then the default.
#
# Your own groups lie in `conf/`; an **experiment** is a file of settings that belong together, and is chosen with `experiment=NAME`.
#
# **Exercise 4.4.** Write the text of `conf/experiment/mine.yaml`: ResNet of depth 14 and width 8, the optimizer AdamW at rate 0.003, batches of 16,
# label smoothing 0.1, 5 epochs. `defaults` choose groups, the rest are keys:
#
# ```
# # @package _global_
# defaults:
#   - override /model: vgg
# trainer: {epochs: 3}
# ```


# %% TODO 4.4
EXPERIMENT = """
# @package _global_
...
"""

# %% solution 4.4
EXPERIMENT = """
# @package _global_
defaults:
  - override /model: resnet
  - override /optimizer: adamw
model: {depth: 14, width: 8}
optimizer: {lr: 0.003}
trainer: {epochs: 5, batch_size: 16, label_smoothing: 0.1}
"""

# %%
check("4.4", EXPERIMENT)

# %% [markdown]
# **Exercise 4.5.** Which values hold in these four commands? Give a list of four: the epochs of the first, the depth of the second, the name of the optimizer
# of the third, the rate of the fourth.
#
# ```
# cnnlab train experiment=mine trainer.epochs=9
# cnnlab train model.depth=32 experiment=mine model.depth=20
# cnnlab train experiment=mine optimizer=sgd
# cnnlab train optimizer.lr=0.01 experiment=mine
# ```


# %% TODO 4.5
HOLDS = ...

# %% solution 4.5
HOLDS = [9, 20, "sgd", 0.01]

# %%
check("4.5", HOLDS)

# %% [markdown] teacher
# **For the teacher.** The fourth is the one that is guessed wrong: the experiment stands behind the key, and the key holds all the same. Let everyone run
# `cnnlab train … --explain` with their guess written down first.

# %% [markdown]
# ## 4 · Your own network
#
# What has been learned since 2012: small kernels in blocks, batch norm, shortcuts, and instead of the large linear layers the **global average** of the
# last map. That leaves $K·C$ weights in the head, and every place of the image counts alike.
#
# **Exercise 4.6.** Design one. A `cnnlab.Classifier` is an `nn.Module` cut in two: `forward_features` (images → last map, at most 1/8 of the image's side) and
# `forward_head` (map → logits). It must take any size from 64×96 on and have at most **400,000** parameters at 10 classes. The constructor
# takes `width` (the size of everything; default as you like), `in_channels` and `num_classes`, and sets `self.num_classes`.


# %% TODO 4.6
class MyNet(cnnlab.Classifier):
    def __init__(self, width=16, in_channels=3, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        ...

    def forward_features(self, x):
        """(B, in_channels, H, W) → (B, C, h, w)."""
        ...

    def forward_head(self, features):
        """(B, C, h, w) → logits (B, num_classes)."""
        ...


# %% solution 4.6
class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut; with stride 2 the map becomes half as large."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            *[nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()],
            *[nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)],
        )
        project = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Identity() if (inputs, stride) == (outputs, 1) else nn.Sequential(*project)

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class MyNet(cnnlab.Classifier):
    """A stem, four residual blocks, and the average of the last map."""

    def __init__(self, width=16, in_channels=3, num_classes=10):
        super().__init__()
        self.num_classes = num_classes
        stem = [nn.Conv2d(in_channels, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(2))
        steps = (
            (width, width, 1),
            (width, 2 * width, 2),
            (2 * width, 4 * width, 2),
            (4 * width, 8 * width, 2),
        )
        self.blocks = nn.Sequential(*(Block(*step) for step in steps))
        self.head = nn.Linear(8 * width, num_classes)

    def forward_features(self, x):
        """(B, in_channels, H, W) → (B, C, h, w)."""
        return self.blocks(self.stem(x))  # (B, 8·width, H/32, W/32)

    def forward_head(self, features):
        """(B, C, h, w) → logits (B, num_classes)."""
        return self.head(features.mean((2, 3)))


# %%
check("4.6", MyNet)

# %%
cnnlab.register_model("mynet")(MyNet)
cnnlab.draw_network(cnnlab.create_model("mynet", num_classes=data.num_classes), (3, height, width))

# %% [markdown]
# **The table of what was tried.** One thing changes at a time, from the line above it or from MyNet. All figures are of validation images. Interesting
# things to change: width, augmentation, label smoothing, regularisation, the pretrained weights of lab 2.

# %%
tried = {
    "AlexNet": ("alexnet", small | shape, ["optimizer.lr=0.001"]),
    "MyNet": ("mynet", {}, ["optimizer.lr=0.003"]),
    "MyNet, half the width": ("mynet", {"width": 8}, ["optimizer.lr=0.003"]),
    "MyNet, label smoothing": ("mynet", {}, ["optimizer.lr=0.003", "trainer.label_smoothing=0.1"]),
    "MyNet, average of weights off": ("mynet", {}, ["optimizer.lr=0.003", "trainer.ema=null"]),
}
results, runs = {}, {}
for number, (name, (kind, arguments, words)) in enumerate(tried.items()):
    if kind == "mynet":
        arguments = {"in_channels": data.in_channels, "num_classes": data.num_classes} | arguments
    for seed in SEEDS:
        torch.manual_seed(seed)
        run = train(f"tried-{number}-{seed}", cnnlab.create_model(kind, **arguments), words)
        metrics = cnnlab.evaluate(run.dir, split="val", trust_code=True)
        results.setdefault(name, []).append(metrics)
        runs.setdefault(name, run)
print(
    f"validation accuracy on {results['MyNet'][0]['n']} images, {len(SEEDS)} seed(s); 95 % interval of the first"
)
for name, rows in results.items():
    low, high = rows[0]["accuracy_interval"]
    values = ", ".join(f"{row['accuracy']:.1%}" for row in rows)
    print(f"{name:<32}{values:<18}({low:.1%} to {high:.1%})")
best = max(results, key=lambda name: np.mean([row["accuracy"] for row in results[name]]))
print(f"chosen: {best}")

# %% [markdown]
# Read the intervals first: with this few validation images, lines that differ by one or two images do not differ significantly, and the choice between them is
# a matter of taste (take the smaller network). More seeds and more images are what helps. AlexNet has a learning rate of its own:
# a comparison at one rate for both would compare rates.
#
# Whoever picks the best of five networks by their **test** accuracy reports the luckiest of five results. The validation split is there to be used up; the
# test split is for the one network you hand over, and for the baseline beside it.
#
# ### Is it better by more than chance?
#
# Both are tested on the same images, so we can count where they disagree: $b$ images that only the first gets right, $c$ that only the second
# does. If they were equally good, each disagreement would be the toss of a coin. **McNemar's exact test** sums how likely a split at least as
# uneven as this one is, on both sides: $p = \min\big(1,\; 2\sum_{i=0}^{\min(b,c)} \binom{b+c}{i} / 2^{\,b+c}\big)$.
#
# **Exercise 4.7.** Write it.


# %% TODO 4.7
def mcnemar(first, second):
    """Two lists of bool, whether each image was answered right → p, 0 to 1."""
    ...


# %% solution 4.7
def mcnemar(first, second):
    """Two lists of bool, whether each image was answered right → p, 0 to 1."""
    b = sum(x and not y for x, y in zip(first, second, strict=True))
    c = sum(y and not x for x, y in zip(first, second, strict=True))
    return min(1.0, 2 * sum(comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c))


# %%
check("4.7", mcnemar)

# %%
tested = {}
for name in dict.fromkeys(["AlexNet", best]):
    tested[name] = cnnlab.evaluate(runs[name].dir, split="test", trust_code=True)
    low, high = tested[name]["accuracy_interval"]
    print(f"{name:<32}test accuracy {tested[name]['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})")


def is_right(run):
    with open(run.dir / "predictions.csv", encoding="utf-8", newline="") as file:
        return [row["true"] == row["predicted"] for row in csv.DictReader(file)]


print(f"p = {mcnemar(is_right(runs['AlexNet']), is_right(runs[best])):.3g}")

# %% [markdown]
# **Metrics saved and loaded.** `test.json` in the run folder holds all of them; accuracy is not the only one. With classes of different sizes the **macro F1**
# counts each class alike: per class $F_1 = \frac{2\,TP}{2\,TP + FP + FN}$, then the mean over the classes.
#
# **Exercise 4.8.** Compute it from the confusion matrix (a row per true class, a column per prediction). A class that is neither there nor predicted has $F_1 = 0$.


# %% TODO 4.8
def macro_f1(matrix):
    """(K, K) counts → a number from 0 to 1."""
    ...


# %% solution 4.8
def macro_f1(matrix):
    """(K, K) counts → a number from 0 to 1."""
    matrix = np.asarray(matrix, dtype=float)
    right = matrix.diagonal()
    both = matrix.sum(0) + matrix.sum(1)  # 2 TP + FP + FN
    return float(np.mean(2 * right / np.maximum(both, 1)))


# %%
check("4.8", macro_f1)

# %%
loaded = json.loads((runs[best].dir / "test.json").read_text())
print(f"macro F1 by hand {macro_f1(loaded['confusion_matrix']):.4f}, in test.json {loaded['macro_f1']:.4f}")
assert abs(macro_f1(loaded["confusion_matrix"]) - loaded["macro_f1"]) < 1e-6

# %% [markdown]
# ## 5 · What does the last map know of places?
#
# [Agrawal, Girshick and Malik 2014](https://arxiv.org/abs/1407.1610) take trained networks apart: what does fine-tuning change, how long must one pre-train, do
# single units stand for single classes, and **how much of the information lies in where a feature responds, how much in how strongly**? They remove one or the
# other from the maps and see what the accuracy loses. Read the paper with your own design in mind: what is thrown away
# by an average over all places?
#
# **Exercise 4.9.** An experiment in its spirit. Shuffle the **places** of a map: the same random permutation for all channels of an image, another
# one for each image (`torch.randperm(h * w, generator=generator)`).


# %% TODO 4.9
def shuffle_places(features, generator):
    """(B, C, h, w) → the same values at shuffled places, (B, C, h, w)."""
    ...


# %% solution 4.9
def shuffle_places(features, generator):
    """(B, C, h, w) → the same values at shuffled places, (B, C, h, w)."""
    flat = features.flatten(2)  # (B, C, h·w)
    shuffled = [one[:, torch.randperm(one.shape[1], generator=generator)] for one in flat]
    return torch.stack(shuffled).view(features.shape)


# %%
check("4.9", shuffle_places)


# %%
@torch.no_grad()
def accuracy(model, shuffled):
    right, generator = [], torch.Generator().manual_seed(0)
    for images, labels in data.val:
        features = model.forward_features(images)
        if shuffled:
            features = shuffle_places(features, generator)
        right.append((model.forward_head(features).argmax(1) == labels).float())
    return torch.cat(right).mean().item()


for name in dict.fromkeys(["AlexNet", "MyNet"]):
    model, _ = cnnlab.load_run(runs[name].dir, trust_code=True)
    print(
        f"{name:<10}validation accuracy {accuracy(model, False):.1%}, with shuffled places {accuracy(model, True):.1%}"
    )

# %% [markdown]
# Your network cannot notice: an average does not change when its terms are shuffled. AlexNet's linear layers have a weight for each place, and lose what
# they learned about it. That shows what each trained network *uses*, not what it is worth: for that, train the same features with two heads, one that
# averages and one that knows the place. When would you expect the place to be worth having?

# %% [markdown] teacher
# **For the teacher.** Discuss before 4.9 what each network will lose. The design of the student is right if it meets the budget; whether it beats AlexNet
# is decided by the table. Good questions for the table: which of the lines differ by more than their intervals, and what would a
# second seed change?

# %% [markdown]
# ## 6 · Where it looks, and what it gets wrong
#
# **Grad-CAM** ([Selvaraju et al. 2017](https://arxiv.org/abs/1610.02391)) weights each channel of the last map by the mean gradient of the class's logit there. Your
# two halves, features and head, are all it needs; `cnnlab explain` does the same for networks that name their last map.


# %%
def gradcam(model, images, targets):
    """→ (B, H, W) in [0, 1]: where the evidence for each image's target lies."""
    features = model.forward_features(images)  # (B, C, h, w)
    features.retain_grad()
    model.forward_head(features)[torch.arange(len(images)), targets].sum().backward()
    weights = features.grad.mean((2, 3), keepdim=True)
    maps = (weights * features).sum(1, keepdim=True).relu().detach()
    maps = F.interpolate(maps, images.shape[2:], mode="bilinear")[:, 0]
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-8)


model, _ = cnnlab.load_run(runs[best].dir, trust_code=True)  # "mynet" is code of this notebook: we trust it
shown, truth = (torch.cat(parts) for parts in zip(*data.val, strict=True))
with torch.no_grad():
    probabilities = model(shown).softmax(1)
guesses = probabilities.argmax(1)
order = torch.argsort(probabilities[torch.arange(len(truth)), truth])[:6]  # the true class least probable
maps = gradcam(model, shown[order], guesses[order])  # (6, H, W)
pixels = data.preprocess.denormalise(shown[order]).numpy()
figure, axes = plt.subplots(2, 3, figsize=(10, 5), layout="constrained")
for axis, i, image, heat in zip(axes.flat, order, pixels, maps, strict=True):
    axis.imshow(cnnlab.explain.overlay(image, heat.numpy()))
    axis.set_title(f"{data.classes[guesses[i]]} (it is {data.classes[truth[i]]})", fontsize=10)
    axis.set_axis_off()

# %% [markdown]
# ## 7 · Hand it over
#
# **A predictor** takes files, bytes or images of any size and treats them as the test did. **An export** runs without PyTorch; it is written only if it gives
# the same answers.

# %%
predictor = cnnlab.Predictor.from_run(runs[best].dir, trust_code=True)
image = Image.fromarray(pixels[0])
for name, one in {
    "upright": image,
    "on its side": image.rotate(90, expand=True),
    "grey": image.convert("L"),
}.items():
    answer = predictor.predict([one])[0]
    print(f"{name:<14}{answer.label:<14}{answer.probability:.1%}")
exported = cnnlab.export_run(runs[best].dir, trust_code=True)
right = exported.results["accuracy"]
print(
    f"{exported.file.name}: {exported.results['bytes'] / 1e6:.2f} MB, accuracy {right['export']:.1%}, the model's {right['model']:.1%}"
)

# %% [markdown]
# A softmax always names a class, and is often sure of it, for an image on its side as well: probabilities are calibrated, if at all, for images like those of
# the test split.
#
# **A demo** for everyone else, and **the cloud**. In a terminal, beside this notebook:
#
# ```
# cnnlab demo runs/lab4/tried-0-0                                 a page at http://127.0.0.1:8000: drop an image, see where it looks
# cnnlab export runs/lab4/tried-0-0 --format web                  a folder that runs in the browser, without a server
# cnnlab demo gs://BUCKET/runs/mine --spec cloudrun --image IMAGE what Google Cloud needs to serve it
# ```
#
# A network of your own needs its class in a file that both sides can import: put it into `mynet.py`, train with `model=mynet:MyNet`, and serve with
# `--trust-code`. Nothing in a run folder runs code unless you say so. How to put it behind an address on the internet is in
# [Export and demo](../docs/deploy.md) and [Google Cloud](../docs/gcp.md).

# %% [markdown] teacher
# **For the teacher.** About five hours. What is handed in: the notebook, and the run folder of the chosen network; `cnnlab compare FOLDER --out class.html` makes a
# table of all of them. Grade the table of what was tried (one thing at a time, on validation, with intervals) higher than the accuracy.
