# %% [markdown]
# # Lab 3 · Why residuals?
#
# A deeper network can do all that a shallower one can, so deeper should be better. In practice, plain deep networks *train worse*. You
# build plain and residual networks, measure what becomes of activations and gradients on the way through them, and see what that does to
# training, in a table with seeds. Then you open a trained network: **where** does it look, and can it find objects that nobody
# showed it?
#
# At the end you can write a residual network of any depth, say which of two problems a deep plain network has and what removes it, tell
# degradation from overfitting, compute a class activation map, and turn a classifier into a detector of simple objects.
#
# **How to work.** As in [lab 0](0-by-hand.ipynb): fifteen cells have a `TODO`; write, run, then run the check below. You need lab 0, and the
# residual block of [lab 2](2-convnets-101.ipynb) helps.

# %%
import importlib.util
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import cnnlab
from cnnlab.labs import check

FULL = os.environ.get("CNNLAB_LABS") == "full"  # False: a minute or two in all. True: about half an hour
DATA = os.environ.get("CNNLAB_DATA")  # a folder with MNIST, if there is one
ROOT = Path(DATA) if DATA else None
RUNS = Path("runs/lab3")  # everything this lab writes

shutil.rmtree(RUNS, ignore_errors=True)
plt.rcParams.update({"figure.dpi": 72, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## 1 · A deep MLP
#
# The images: MNIST, shrunk to 14×14 so that many trainings fit into a lab, or the 8×8 digits that come with cnnlab. All comparisons of
# this lab are made on **validation**; the test set stays closed (`test=False`).

# %%
MNIST = ROOT is not None and (ROOT / "MNIST").is_dir()
small = {"name": "mnist", "root": ROOT, "download": False, "image_size": 14}
where = small if MNIST else {"name": "digits"}
data = cnnlab.load_data(**where, limit=2400 if FULL else 800, augment="none", batch_size=50)
side = data.image_size[0]
EPOCHS = 8 if FULL else 4
SETTINGS = ["optimizer=sgd", "schedule=cosine", "schedule.warmup=0.1", "trainer.ema=null", "logger=none"]


def train(name, model, rate=0.1, epochs=EPOCHS, data=data, more=()):
    shutil.rmtree(RUNS / name, ignore_errors=True)
    words = [*SETTINGS, f"optimizer.lr={rate}", *more]
    return cnnlab.fit(
        model, data, epochs=epochs, dir=RUNS / name, overrides=words, test=False, progress=False
    )


# %% [markdown]
# **Exercise 3.1.** Write a multilayer perceptron: flatten the image, then a linear layer and a ReLU for each number in `hidden`, and a last
# linear layer to the logits. It takes images `(B, 1, side, side)`.


# %% TODO 3.1
class MLP(nn.Module):
    def __init__(self, side, hidden, num_classes=10):
        super().__init__()
        ...

    def forward(self, x):
        """(B, 1, side, side) → logits (B, num_classes)."""
        ...


# %% solution 3.1
class MLP(nn.Module):
    def __init__(self, side, hidden, num_classes=10):
        super().__init__()
        sizes = [side * side, *hidden]
        layers = [nn.Flatten()]
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))

    def forward(self, x):
        """(B, 1, side, side) → logits (B, num_classes)."""
        return self.layers(x)


# %%
check("3.1", MLP)

# %%
mlps = {}
for layers in (2, 24):
    torch.manual_seed(0)
    mlps[f"{layers} hidden layers"] = train(f"mlp-{layers}", MLP(side, [48] * layers), rate=0.02)
for name, run in mlps.items():
    last = run.history[-1]
    print(
        f"{name:<18}training loss {last['train_loss']:.2f}   validation accuracy {last['val_accuracy']:.1%}"
    )
cnnlab.plot_curves({name: run.history for name, run in mlps.items()})

# %% [markdown]
# Twelve times as many layers, and the *training* loss is higher. So this is not overfitting: the deeper network **is harder to train**,
# although its extra layers would only have to pass on what they get. (One seed here; the table of part 4 has several.)

# %% [markdown] teacher
# **For the teacher.** Ask before the cell runs: which of the two has the lower training loss, and why? Most answer "the deep one".
# Frequent mistakes in 3.1: no activation between the layers, layers in a Python list, a ReLU after the last layer.

# %% [markdown]
# ## 2 · Plain and residual
#
# [He et al. 2016](https://arxiv.org/abs/1512.03385) compare the same layers with and without a **shortcut**:
#
# $$\text{plain: } y = \mathrm{ReLU}(F(x)) \qquad\qquad \text{residual: } y = \mathrm{ReLU}(F(x) + x)$$
#
# $F$ is two 3×3 convolutions with a ReLU between them, each followed by batch norm if there is any. Three **stages** of $n$ blocks have $w$, $2w$
# and $4w$ channels; the first block of stages two and three has stride 2. With the first convolution and the last linear layer that
# makes $6n+2$ layers with weights.
#
# Where a stage begins, $F(x)$ is half as large and twice as deep as $x$. Three ways to add them all the same:
#
# | shortcut | where the shape changes | elsewhere |
# |---|---|---|
# | A | every second pixel, zeros for the new channels | identity |
# | B | 1×1 convolution with stride 2 | identity |
# | C | 1×1 convolution with stride 2 | 1×1 convolution |
#
# **Exercise 3.2.** Write shortcut A. `x[:, :, ::2]` takes every second row; `F.pad(x, (0, 0, 0, 0, 0, more))` puts `more` channels of zeros
# behind those that are there.


# %% TODO 3.2
class ShortcutA(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        ...

    def forward(self, x):
        """(B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉), without parameters."""
        ...


# %% solution 3.2
class ShortcutA(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        """(B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉), without parameters."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


# %%
check("3.2", ShortcutA)

# %% [markdown]
# **Exercise 3.3.** Write the block. The convolutions have no bias; `batch_norm=False` leaves the two batch norms out; `residual=False` leaves
# the addition out. The last ReLU comes **after** the addition.


# %% TODO 3.3
class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1, residual=True, batch_norm=True):
        super().__init__()
        ...

    def forward(self, x):
        """(B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        ...


# %% solution 3.3
class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1, residual=True, batch_norm=True):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.shortcut = ShortcutA(inputs, outputs, stride) if residual else None

    def forward(self, x):
        """(B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = F.relu(self.norm1(self.conv1(x)))  # (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)
        y = self.norm2(self.conv2(y))
        return F.relu(y if self.shortcut is None else y + self.shortcut(x))


# %%
check("3.3", Block)

# %% [markdown]
# **Exercise 3.4.** Write a function that makes the network: a 3×3 convolution to `width` channels (batch norm, ReLU), three stages of
# $n = (\text{depth}-2)/6$ blocks, the global average (`nn.AdaptiveAvgPool2d(1)`), `nn.Flatten()`, and a linear layer. An
# `nn.Sequential` will do.


# %% TODO 3.4
def make_network(depth, width=8, residual=True, batch_norm=True, in_channels=1, num_classes=10):
    """→ nn.Module, images (B, in_channels, H, W) → logits (B, num_classes)."""
    ...


# %% solution 3.4
def make_network(depth, width=8, residual=True, batch_norm=True, in_channels=1, num_classes=10):
    """→ nn.Module, images (B, in_channels, H, W) → logits (B, num_classes)."""
    layers = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(width) if batch_norm else nn.Identity(), nn.ReLU()]
    inputs = width
    for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        for number in range((depth - 2) // 6):
            layers.append(Block(inputs, outputs, stride if number == 0 else 1, residual, batch_norm))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))


# %%
check("3.4", make_network)

# %% [markdown]
# **Exercise 3.5.** How many parameters do shortcuts B and C cost? A 1×1 convolution from $a$ to $b$ channels has $ab$ weights and no bias,
# and the batch norm behind it $2b$ parameters more. Write, for width $w$ and $n$ blocks per stage, what B has more than A, and what C
# has more than B.


# %% TODO 3.5
def added_parameters(width, n):
    """→ (B - A, C - B), two whole numbers."""
    ...


# %% solution 3.5
def added_parameters(width, n):
    """→ (B - A, C - B), two whole numbers."""
    projection = lambda a, b: a * b + 2 * b  # noqa: E731
    w = width
    b = projection(w, 2 * w) + projection(2 * w, 4 * w)
    c = n * projection(w, w) + (n - 1) * (projection(2 * w, 2 * w) + projection(4 * w, 4 * w))
    return b, c


# %%
check("3.5", added_parameters)


# %%
def parameters(model):
    return sum(p.numel() for p in model.parameters())


print("parameters at width 16, three colours")
for depth in (20, 56, 110):
    counts = {
        option: parameters(cnnlab.create_model("resnet", depth=depth, shortcut=option)) for option in "ABC"
    }
    assert counts["A"] == parameters(make_network(depth, width=16, in_channels=3))  # yours
    print(f"depth {depth:<4}" + "".join(f"   {option} {count:>9,}" for option, count in counts.items()))

# %% [markdown] teacher
# **For the teacher.** 3.3: the usual mistakes are the ReLU before the addition, and adding the result of the first convolution
# instead of the block's input. 3.4: a stage whose every block has stride 2; $n$ taken as $(\text{depth}-2)/3$. Ask: a plain and a
# residual network with shortcut A have the same number of parameters. What, then, does the shortcut add?

# %% [markdown]
# ## 3 · What shrinks, and what explodes
#
# We look at **fresh** networks: one batch, forward and backward, no training. The weights are drawn as
# [He et al. 2015](https://arxiv.org/abs/1502.01852) recommend for ReLU, so bad luck at the start is not the explanation.
#
# **Exercise 3.6.** Measure each convolution: the root mean square (RMS) of its output, and of the gradient of the loss with respect to that
# output. A **forward hook**, `layer.register_forward_hook(f)`, calls `f(layer, inputs, output)` after each forward pass. If `f`
# calls `output.retain_grad()` and keeps `output`, then `output.grad` is there after `loss.backward()`. `f` must return nothing.


# %% TODO 3.6
def record(model, images, labels):
    """→ two lists of numbers, one for each nn.Conv2d in the order of the forward pass:
    RMS of its output, and RMS of the cross-entropy's gradient with respect to its output."""
    ...


# %% solution 3.6
def record(model, images, labels):
    """→ two lists of numbers, one for each nn.Conv2d in the order of the forward pass:
    RMS of its output, and RMS of the cross-entropy's gradient with respect to its output."""
    outputs = []

    def keep(layer, inputs, output):
        output.retain_grad()
        outputs.append(output)

    hooks = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Conv2d)]
    F.cross_entropy(model(images), labels).backward()
    for hook in hooks:
        hook.remove()  # or the next forward pass is recorded too
    rms = lambda x: x.square().mean().sqrt().item()  # noqa: E731
    return [rms(y) for y in outputs], [rms(y.grad) for y in outputs]


# %%
check("3.6", record)


# %%
def fresh(depth, residual, batch_norm, seed):
    """A network of yours with new weights."""
    torch.manual_seed(seed)
    model = make_network(depth, residual=residual, batch_norm=batch_norm, in_channels=data.in_channels)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return model


images, labels = next(iter(data.val))
DEPTHS = (8, 20, 44, 110)
KINDS = {
    "plain": (False, False),
    "plain, batch norm": (False, True),
    "residual, batch norm": (True, True),
}
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
for name, (residual, batch_norm) in KINDS.items():
    activations, gradients = record(fresh(44, residual, batch_norm, 0), images, labels)
    axes[0].semilogy(activations, label=name)
    axes[1].semilogy(gradients, label=name)
axes[0].set(title="44 layers: RMS of the output", xlabel="convolution, from the input on")
axes[1].set(title="RMS of the gradient with respect to it", xlabel="convolution, from the input on")
axes[1].legend()
for axis in axes:
    axis.grid(alpha=0.25)

# %% [markdown]
# Read it from left to right for the activations, and from right to left for the gradients: that is the way each of them goes.
# Now the gradient that the **first** layer's weights get, against the depth, with three seeds.

# %%
SEEDS = (0, 1, 2)


def first_gradient(depth, residual, batch_norm, seed):
    """Norm of the gradient of the first convolution's weights."""
    model = fresh(depth, residual, batch_norm, seed)
    F.cross_entropy(model(images), labels).backward()
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return first.weight.grad.norm().item()


figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
print("norm of the first layer's gradient, geometric mean of three seeds (lowest to highest)")
for name, (residual, batch_norm) in KINDS.items():
    values = np.array(
        [[first_gradient(depth, residual, batch_norm, seed) for seed in SEEDS] for depth in DEPTHS]
    )
    means = np.exp(np.log(values).mean(1))
    axis.loglog(DEPTHS, means, ".-", label=name)
    axis.fill_between(DEPTHS, values.min(1), values.max(1), alpha=0.2)
    for depth, mean, row in zip(DEPTHS, means, values, strict=True):
        print(f"{name:<22}{depth:>4} layers   {mean:.1e}  ({row.min():.1e} to {row.max():.1e})")
axis.set(xlabel="depth", ylabel="norm of the first layer's gradient")
axis.set_xticks(DEPTHS, DEPTHS)
axis.minorticks_off()
_ = axis.legend()

# %% [markdown] results
# In numbers, for the plain network on MNIST: without batch norm the first layer's gradient falls from 2.0e-02 at 8 layers to 3.1e-06 at 110. With
# batch norm it grows from 4.2e-01 to 2.3e+06. With shortcuts and batch norm it grows from 3.5e-01 to 7.1e+00 and stays in a range that one learning
# rate can serve.

# %% [markdown]
# **Two different problems.** *Without* batch norm the signal of a plain network dies out on its way through the layers, and the gradient with it:
# the first layer hardly learns. *With* batch norm the activations are of one size everywhere, but the gradient of a plain network **explodes**
# towards the input: each normalisation divides by a standard deviation, and the backward pass divides by it too. Shortcuts keep the
# growth small, since one way back goes through no layer at all:
#
# $$\frac{\partial \mathcal{L}}{\partial x} = \frac{\partial \mathcal{L}}{\partial y}\left(1 + \frac{\partial F}{\partial x}\right)$$
#
# for a block without its last ReLU.
#
# **"The flatter the line, the better" is a bad rule.** Here is a line that is perfectly flat in a network that cannot be trained.
#
# **Exercise 3.7.** For each convolution with weights $W$ compute $\langle W, \partial\mathcal{L}/\partial W\rangle$: multiply weight and gradient
# element by element, and sum.


# %% TODO 3.7
def inner_products(model, images, labels):
    """→ a list of numbers, one for each nn.Conv2d: the sum of weight times gradient."""
    ...


# %% solution 3.7
def inner_products(model, images, labels):
    """→ a list of numbers, one for each nn.Conv2d: the sum of weight times gradient."""
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    return [(m.weight * m.weight.grad).sum().item() for m in model.modules() if isinstance(m, nn.Conv2d)]


# %%
check("3.7", inner_products)

# %%
for name, (residual, batch_norm) in KINDS.items():
    model = fresh(20, residual, batch_norm, 0).double()  # float64: so that rounding is not what we see
    values = inner_products(model, images.double(), labels)
    print(f"{name:<22}first {values[0]:>10.2e}   middle {values[9]:>10.2e}   last {values[-1]:>10.2e}")
    if name == "plain":
        assert np.ptp(values) < 1e-6 * abs(values[0])  # the same in every layer

# %% [markdown]
# In the plain network without batch norm it is **the same number in every layer**. Why: a ReLU network without biases is homogeneous. Multiply
# the weights of *any one* layer by $1+\varepsilon$, and the input of the last linear layer grows by $1+\varepsilon$, whichever layer it was. So the
# derivative of the loss in $\varepsilon$, and that is $\langle W, \partial\mathcal{L}/\partial W\rangle$, is the same for all. The line is flat at any depth, and says
# nothing about whether the network learns: what counts is how small the number is beside the size of the weights.
#
# With batch norm it is 0 in every layer up to the ε of the normalisation: multiply the weights by $1+\varepsilon$, and the normalisation takes it back.

# %% [markdown] teacher
# **For the teacher.** Let the class predict each of the three curves before it is drawn. A frequent mistake in 3.6 is a hook that returns
# something: PyTorch then takes it for the output. An in-place ReLU would change the recorded output; the block of 3.3 has none.
# Questions: what would happen to the flat line with biases? What does weight decay do to a layer before batch norm, whose scale has no
# effect? (It changes the effective learning rate.)

# %% [markdown]
# ## 4 · What it does to training
#
# Depth × shortcut × batch norm, each with two seeds (other weights at the start), judged on validation. The networks are those of `cnnlab.create_model("resnet", …)`, which
# has the layers of yours and trains faster. Without batch norm the rate is 0.02, since 0.1 is too much there: so compare plain with
# residual, and one depth with another, but not the two halves of the table with each other. Without batch norm the deepest is left out.

# %%
depths = (8, 20, 44, 110) if FULL else (8, 44)
seeds = (0, 1)
rows = {}
for batch_norm in (True, False):
    for depth in depths if batch_norm else depths[:-1]:
        for kind in ("plain", "residual"):
            for seed in seeds:
                torch.manual_seed(seed)
                options = {"depth": depth, "residual": kind == "residual", "batch_norm": batch_norm}
                model = cnnlab.create_model("resnet", width=8, in_channels=data.in_channels, **options)
                name = f"{kind}-{depth}-{'bn' if batch_norm else 'no-bn'}-{seed}"
                run = train(name, model, rate=0.1 if batch_norm else 0.02)
                rows.setdefault((batch_norm, kind, depth), []).append(run.history[-1])


def spread(values):
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


print(
    f"after {EPOCHS} epochs on {len(data.split['train'])} images, mean ± standard deviation of {len(seeds)} seeds"
)
print(f"{'batch norm':<12}{'kind':<10}{'depth':>6}{'training loss':>18}{'validation accuracy':>22}")
for (batch_norm, kind, depth), cell in rows.items():
    losses, accuracies = ([row[key] for row in cell] for key in ("train_loss", "val_accuracy"))
    print(
        f"{'yes' if batch_norm else 'no':<12}{kind:<10}{depth:>6}{spread(losses):>18}{spread(accuracies):>22}"
    )

# %% [markdown]
# **Exercise 3.8.** A deeper network has a lower validation accuracy than a shallower one. Two explanations are possible: it **overfits** (it is
# *better* on the training images), or it suffers from **degradation** (it is *worse* on the training images too). Write the
# function that tells them apart.


# %% TODO 3.8
def compare_depths(shallow, deep):
    """Each a dict with "train_loss" and "val_accuracy" → "deeper is better", "overfitting" or "degradation"."""
    ...


# %% solution 3.8
def compare_depths(shallow, deep):
    """Each a dict with "train_loss" and "val_accuracy" → "deeper is better", "overfitting" or "degradation"."""
    if deep["val_accuracy"] >= shallow["val_accuracy"]:
        return "deeper is better"
    return "overfitting" if deep["train_loss"] < shallow["train_loss"] else "degradation"


# %%
check("3.8", compare_depths)


# %%
def mean_row(cell):
    return {key: float(np.mean([row[key] for row in cell])) for key in ("train_loss", "val_accuracy")}


for batch_norm in (True, False):
    for kind in ("plain", "residual"):
        used = [depth for depth in depths if (batch_norm, kind, depth) in rows]
        for shallow, deep in zip(used, used[1:], strict=False):
            found = compare_depths(*(mean_row(rows[batch_norm, kind, depth]) for depth in (shallow, deep)))
            print(
                f"{'with' if batch_norm else 'without':<8}batch norm, {kind:<9} {shallow:>3} → {deep:<4}{found}"
            )

# %% [markdown] results
# With batch norm, plain networks lose training loss and validation accuracy together from 20 layers on, and at 44 the training loss is 1.230 where
# the residual network has 0.011: degradation, not overfitting. Residual networks gain until 44 layers in the training loss, hardly in
# validation accuracy (0.959, 0.960, 0.960), and at 110 layers these 8 epochs are too few: 0.930, with a higher training loss (0.103) than the
# shallow ones. Without batch norm and at the smaller rate shortcuts help as well (0.917 against 0.297 at 20 layers), but at 44 layers neither kind
# learns in the time it has. Two seeds each: small differences say nothing.

# %% [markdown]
# These trainings are short, and the images few. What they can show is the order of magnitude of the plain network's trouble; whether a residual
# network gains from 44 to 110 layers takes all of CIFAR-10 and many epochs, and even there it saturates. The long version, resumable,
# with a report:
#
# ```
# cnnlab study residual_depth                       the grid above; cnnlab study --list names others
# cnnlab study model.depth=20,56 model.residual=true,false data=cifar10 seed=0,1,2
# ```
#
# Results of long runs are in [docs/results.md](../docs/results.md).
#
# ### Following many runs: Weights & Biases
#
# `logger=wandb` sends the curves of each run to [W&B](https://wandb.ai), where tables and plots over all of them are made. Without an
# account, `logger.wandb_mode=offline` writes the same into the run folder, and `wandb sync` uploads it later.

# %%
if importlib.util.find_spec("wandb"):
    os.environ["WANDB_SILENT"] = "true"
    words = ["logger=wandb", "logger.wandb_mode=offline", "logger.gradients=true"]
    torch.manual_seed(0)
    model = cnnlab.create_model("resnet", depth=8, width=4, in_channels=data.in_channels)
    shutil.rmtree(RUNS / "followed", ignore_errors=True)
    run = cnnlab.fit(
        model,
        data,
        epochs=2,
        dir=RUNS / "followed",
        overrides=[*SETTINGS[:-1], *words],
        test=False,
        progress=False,
    )
    for path in sorted(run.dir.glob("wandb/offline-run-*/*")):
        print(path.relative_to(run.dir).parts[0], "…", path.name)
    print(f"upload: wandb sync {next(iter(run.dir.glob('wandb/offline-run-*'))).parent}/offline-run-…")
else:
    print("pip install 'cnnlab[wandb]' for this cell")

# %% [markdown] teacher
# **For the teacher.** The table is the result of the paper in small. Insist on the standard deviations: a difference that is smaller than
# they are is none. In 3.8 the frequent mistake is to look at validation alone.

# %% [markdown]
# ## 5 · What do the shortcuts carry?
#
# We train a small residual network that we can open.

# %%
torch.manual_seed(0)
shallow = train(
    "shallow",
    cnnlab.create_model("resnet", depth=8, width=8, in_channels=data.in_channels),
    epochs=2 * EPOCHS,
)
print(f"validation accuracy {shallow.history[-1]['val_accuracy']:.1%}")
images, labels = next(iter(data.val))
shown = []
for i, pixels in enumerate(data.preprocess.denormalise(images[:8])[..., 0].numpy()):
    shown.append(RUNS / f"{i} (a {data.classes[labels[i]]}).png")
    Image.fromarray(pixels).save(shown[-1])
cnnlab.look(shallow.dir, images=[str(file) for file in shown], height=760)

# %% [markdown]
# The page runs the network. Open the stages (*Unfold all*): above each addition stand the names of what is added, the block's last batch norm and
# its shortcut. A click on a name takes it out of the sum. Take out the three shortcuts (the names that do not end in `norm2`), and see
# what becomes of the first image.
#
# **Exercise 3.9.** Do the same in code: a copy of the network in which no block adds its shortcut. In cnnlab's blocks, `block.shortcut` is a
# module, or `None` in a plain network. The network that you were given must stay as it is (`copy.deepcopy`).


# %% TODO 3.9
def without_shortcuts(model):
    """cnnlab's residual network → a copy with the same weights, whose blocks compute y = ReLU(F(x))."""
    ...


# %% solution 3.9
def without_shortcuts(model):
    """cnnlab's residual network → a copy with the same weights, whose blocks compute y = ReLU(F(x))."""
    import copy

    model = copy.deepcopy(model)
    for block in model.modules():
        if hasattr(block, "shortcut"):
            block.shortcut = None
    return model


# %%
check("3.9", without_shortcuts)

# %%
model, _ = cnnlab.load_run(shallow.dir)


@torch.no_grad()
def accuracy(model, batches):
    return torch.cat([(model(x).argmax(1) == y).float() for x, y in batches]).mean().item()


with torch.no_grad():
    for name, one in {"with": model, "without": without_shortcuts(model)}.items():
        probabilities = one(data.preprocess(shown[0])[None]).softmax(1)[0]
        best = int(probabilities.argmax())
        print(
            f"{name:<8} shortcuts: validation accuracy {accuracy(one, data.val):.1%}; "
            f"image 0: {data.classes[best]} with {probabilities[best]:.1%}"
        )

# %% [markdown] results
# With its shortcuts this network reads 96.7 % of the validation images, without them 29.5 %.

# %% [markdown]
# The answer for image 0 must be what you saw on the page. And a residual network without its shortcuts is *not* the plain network from
# above: that one learned to do without. Here each block learned only what has to be added, and what it was to be added to is missing.

# %% [markdown]
# ## 6 · Where does it look? Class activation maps
#
# A network that ends in a global average and one linear layer can tell where its answer comes from
# ([Zhou et al. 2016](https://arxiv.org/abs/1512.04150)). With features $f_k(i,j)$ and weights $w_{ck}$,
#
# $$z_c = \sum_k w_{ck}\,\frac{1}{hw}\sum_{i,j} f_k(i,j) + b_c = \frac{1}{hw}\sum_{i,j}
# \underbrace{\sum_k w_{ck}\,f_k(i,j)}_{M_c(i,j)} + b_c$$
#
# so $M_c$, the **class activation map** (CAM), says how much each place speaks for class $c$.
#
# **Exercise 3.10.** Write it.


# %% TODO 3.10
def class_activation_map(features, weight, target):
    """features (K, h, w), weight of the linear layer (classes, K), a class → M (h, w)."""
    ...


# %% solution 3.10
def class_activation_map(features, weight, target):
    """features (K, h, w), weight of the linear layer (classes, K), a class → M (h, w)."""
    return torch.einsum("k,khw->hw", weight[target], features)


# %%
check("3.10", class_activation_map)

# %% [markdown]
# For this we need images with room in them: 28×28, MNIST's own size; the digits of cnnlab are enlarged to 20×20 and set on black, as MNIST's
# are.

# %%
if MNIST:
    large = cnnlab.load_data(
        "mnist", root=ROOT, limit=6000 if FULL else 600, augment="light", batch_size=25, download=False
    )
else:
    tiny = cnnlab.load_data("digits", augment="none", val_fraction=0.0, batch_size=1)
    for part in ("train", "test"):
        for i, (image, label) in enumerate(getattr(tiny, part)):
            pixels = tiny.preprocess.denormalise(image)[0, :, :, 0].numpy()
            framed = Image.new("L", (28, 28))
            framed.paste(Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC), (4, 4))
            folder = RUNS / "images" / part / tiny.classes[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            framed.save(folder / f"{i:04}.png")
    large = cnnlab.load_data(
        "folder",
        root=RUNS / "images",
        channels=1,
        augment="light",
        batch_size=25,
        limit=None if FULL else 600,
    )

torch.manual_seed(0)
finder = train(
    "finder",
    cnnlab.create_model("vgg", image_size=28, width=16, in_channels=1),
    rate=0.01,
    data=large,
    epochs=8 if FULL else 5,
    more=["optimizer=adamw", "schedule=linear"],
)
model, _ = cnnlab.load_run(finder.dir)
print(f"validation accuracy {finder.history[-1]['val_accuracy']:.1%}")

# %%
images, labels = (torch.cat(parts) for parts in zip(*large.val, strict=True))
with torch.no_grad():
    features = model.forward_features(images)  # (N, K, h, w)
    logits = model(images)
answers = logits.argmax(1)
one = class_activation_map(features[0], model.head.weight, answers[0])
assert torch.allclose(one.mean() + model.head.bias[answers[0]], logits[0, answers[0]], atol=1e-3)
print(f"an image of {tuple(images.shape[2:])} pixels, a map of {tuple(one.shape)} places")

# %% [markdown]
# **Finer maps.** The map is coarse because the network has strides (or pools). They can be taken out of a *trained* network: let the last
# convolution with stride 2 take every place (stride 1), and let the convolutions **behind** it step over every second place
# (dilation 2, padding 2). At every second place the new map then has exactly the old values, and between them new ones. This is the
# *à trous* trick of [Chen et al. 2015](https://arxiv.org/abs/1412.7062).
#
# **Exercise 3.11.** Write it for a sequence of layers whose first convolution has stride 2 and whose others are 3×3 with padding 1. Change a
# copy; `layer.stride = (1, 1)` works on a convolution that is there.


# %% TODO 3.11
def finer(stage):
    """nn.Sequential with a convolution of stride 2 first → a copy that gives a map twice as large."""
    ...


# %% solution 3.11
def finer(stage):
    """nn.Sequential with a convolution of stride 2 first → a copy that gives a map twice as large."""
    import copy

    stage = copy.deepcopy(stage)
    first, *others = [layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)]
    first.stride = (1, 1)
    for layer in others:
        layer.dilation, layer.padding = (2, 2), (2, 2)
    return stage


# %%
check("3.11", finer)

# %% [markdown]
# In `cnnlab explain RUN IMAGE --method layercam` you have another way to finer maps: Layer-CAM weights an earlier layer by its gradient.
# Below both, for mistakes.
#
# **Mistakes, pair by pair.** One wrong answer is an anecdote; the same wrong answer ten times is something the network does not know.
#
# **Exercise 3.12.** Group the mistakes.


# %% TODO 3.12
def group_mistakes(labels, answers):
    """(N,) true classes, (N,) answers → a dict (true, answer) → list of the images' numbers,
    the largest group first; images that are right are in none."""
    ...


# %% solution 3.12
def group_mistakes(labels, answers):
    """(N,) true classes, (N,) answers → a dict (true, answer) → list of the images' numbers,
    the largest group first; images that are right are in none."""
    groups = {}
    for i, (true, answer) in enumerate(zip(labels.tolist(), answers.tolist(), strict=True)):
        if true != answer:
            groups.setdefault((true, answer), []).append(i)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


# %%
check("3.12", group_mistakes)

# %%
groups = group_mistakes(labels, answers)
print(f"{sum(map(len, groups.values()))} mistakes of {len(labels)} validation images")
for (true, answer), members in list(groups.items())[:5]:
    print(f"{len(members):>3} × a {large.classes[true]} taken for a {large.classes[answer]}")

pixels = large.preprocess.denormalise(images)[..., 0].numpy()
chosen = [(pair, members[0]) for pair, members in list(groups.items())[:5]]
figure, axes = plt.subplots(3, len(chosen), figsize=(2 * len(chosen), 6), layout="constrained", squeeze=False)
for column, ((true, answer), i) in zip(axes.T, chosen, strict=True):
    column[0].imshow(pixels[i], cmap="gray")
    column[0].set_title(f"a {large.classes[true]}", fontsize=10)
    for axis, target, word in ((column[1], true, "for"), (column[2], answer, "for")):
        heat = cnnlab.explain.layercam(model, images[i : i + 1], target=target, layer="features.0")[0]
        axis.imshow(cnnlab.explain.overlay(pixels[i], heat.numpy()))
        axis.set_title(f"{word} {large.classes[target]}", fontsize=10)
    for axis in column:
        axis.set_axis_off()

# %% [markdown]
# Go through them one by one: which strokes speak for the true class, which for the answer? Is the mistake one that you could make too? Which images
# would you add to the training set?

# %% [markdown] teacher
# **For the teacher.** A CAM shows where evidence for a class lies, not why it is evidence, and the second row is not "what the network
# missed": it is what spoke for the true class, and was outweighed. 3.11: a frequent mistake is dilation on the strided layer itself; its
# input has not changed its grid.

# %% [markdown]
# ## 7 · Finding objects: the fully convolutional network
#
# A linear layer after a global average is a 1×1 convolution that comes before the average. Written so, the classifier takes images of
# **any size** and answers at every place ([Long et al. 2015](https://arxiv.org/abs/1411.4038)).
#
# **Exercise 3.13.** Turn a linear layer into the convolution.


# %% TODO 3.13
def to_convolution(linear):
    """nn.Linear(K, classes) → nn.Conv2d with kernel 1 that does the same at each place of (B, K, h, w)."""
    ...


# %% solution 3.13
def to_convolution(linear):
    """nn.Linear(K, classes) → nn.Conv2d with kernel 1 that does the same at each place of (B, K, h, w)."""
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[:, :, None, None])
        convolution.bias.copy_(linear.bias)
    return convolution


# %%
check("3.13", to_convolution)

# %% [markdown]
# A canvas of 96×96 with four digits at random places. No network here was ever told where a digit is.

# %%
random = np.random.default_rng(4)
canvas, placed = np.zeros((96, 96), np.uint8), []
for corner in ((0, 0), (0, 48), (48, 0), (48, 48)):
    i = int(random.integers(len(pixels)))
    top, left = (edge + int(random.integers(0, 20)) for edge in corner)
    canvas[top : top + 28, left : left + 28] = pixels[i]
    ys, xs = np.nonzero(pixels[i] > 60)
    box = (left + xs.min(), top + ys.min(), left + xs.max() + 1, top + ys.max() + 1)
    placed.append((int(labels[i]), tuple(int(edge) for edge in box)))

page = large.preprocess.normalise(torch.from_numpy(canvas)[None, :, :, None])  # (1, 1, 96, 96)
head = to_convolution(model.head)
with torch.no_grad():
    evidence = head(model.forward_features(page))[0]  # (classes, h, w)
    evidence = F.interpolate(evidence[None], page.shape[2:], mode="bilinear")[0]  # (classes, 96, 96)
    window = cnnlab.explain.FullyConvolutional(model, (1, 28, 28))
    everywhere = window(page).softmax(1)[0]  # (classes, n, m): each window of 28×28
print(f"evidence {tuple(evidence.shape)}, windows {tuple(everywhere.shape)}")

# %% [markdown]
# Where is an object? **Threshold** a map, find the connected parts, and frame each. Which map? The evidence is the honest one, but coarse; on
# black the ink itself is a map too, as fine as the image. We try both.
#
# **Exercise 3.14.** Find the boxes of the connected parts of a mask. Start at a pixel that is true and not yet seen, and collect its neighbours
# (left, right, above, below), their neighbours, and so on.


# %% TODO 3.14
def find_boxes(mask):
    """(H, W) bool, a NumPy array → a list of (left, top, right, bottom), one for each connected part;
    right and bottom are one past the last pixel."""
    ...


# %% solution 3.14
def find_boxes(mask):
    """(H, W) bool, a NumPy array → a list of (left, top, right, bottom), one for each connected part;
    right and bottom are one past the last pixel."""
    left_over = {(int(y), int(x)) for y, x in np.argwhere(np.asarray(mask))}
    boxes = []
    while left_over:
        waiting, part = [left_over.pop()], []
        while waiting:
            y, x = waiting.pop()
            part.append((y, x))
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left_over
            left_over -= near
            waiting += near
        ys, xs = zip(*part, strict=True)
        boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return boxes


# %%
check("3.14", find_boxes)

# %% [markdown]
# **Exercise 3.15.** A box is right where it overlaps the true one enough. Write the **intersection over union**: the area that both have, divided by
# the area that at least one has. It is 1 for equal boxes, and 0 for boxes that do not touch.


# %% TODO 3.15
def iou(a, b):
    """Two boxes (left, top, right, bottom) → a number from 0 to 1."""
    ...


# %% solution 3.15
def iou(a, b):
    """Two boxes (left, top, right, bottom) → a number from 0 to 1."""
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(area) - wide * high)


# %%
check("3.15", iou)

# %% [markdown]
# Now all of it: boxes from a mask, small specks left out, the class from the window that lies over the box; beside it what `cnnlab localize`
# finds, which also merges parts of one object and refuses what it is not sure of.


# %%
def detect(mask):
    """(96, 96) bool → a list of (class, box)."""
    found = []
    for box in find_boxes(mask):
        if (box[2] - box[0]) * (box[3] - box[1]) < 30:
            continue
        middle = [(box[1] + box[3]) / 2, (box[0] + box[2]) / 2]
        row, column = (
            min(max(round((m - size / 2) / window.stride), 0), n - 1)  # the window whose middle is nearest
            for m, size, n in zip(middle, window.window, everywhere.shape[1:], strict=True)
        )
        found.append((int(everywhere[:, row, column].argmax()), box))
    return found


strongest = evidence.amax(0)  # (96, 96)
coarse = detect((strongest > strongest.max() / 2).numpy())
found = detect(canvas > 60)
ours = cnnlab.explain.Localizer(model, (1, 28, 28))(page[0])
theirs = [(int(one.label), one.box) for one in ours.objects]


def hits(found):
    return sum(any(label == k and iou(box, b) >= 0.5 for k, b in found) for label, box in placed)


print("digits found of 4, with the right class and an IoU of at least 0.5")
print(f"boxes of the evidence: {hits(coarse)} ({len(coarse)} boxes)")
print(f"boxes of the ink:      {hits(found)} ({len(found)} boxes)")
print(f"cnnlab localize:       {hits(theirs)} ({len(theirs)} boxes)")
figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
for axis, boxes, title in ((axes[0], found, "boxes of the ink"), (axes[1], coarse, "boxes of the evidence")):
    axis.imshow(canvas, cmap="gray")
    for label, (left, top, right, bottom) in boxes:
        corner = (left - 0.5, top - 0.5)
        axis.add_patch(plt.Rectangle(corner, right - left, bottom - top, fill=False, edgecolor="#00c8ff"))
        axis.text(left, top - 2, large.classes[label], color="#00c8ff", fontsize=9)
    axis.set(title=title, xlim=(-0.5, 95.5), ylim=(95.5, -0.5))
axes[2].imshow(evidence.amax(0), cmap="inferno")
axes[2].set(title="evidence of the strongest class")
for axis in axes:
    axis.set(xticks=[], yticks=[])

# %% [markdown]
# What breaks the method by hand: digits that touch are one part, a digit of two strokes that do not touch is two, and on a photograph the
# object is not the only thing with ink. The command for your own images is `cnnlab localize RUN image.png`; how well it works is
# measured in [Explain](../docs/explain.md).
#
# Go on with [lab 4](4-design-your-own.ipynb): your own design, on photographs.

# %% [markdown] teacher
# **For the teacher.** About five hours in all; parts 1 to 4 and 5 to 7 can be two sessions. Ask at the end: which of the two problems of part 3
# does batch norm solve, which does the shortcut solve, and why are both used together?
