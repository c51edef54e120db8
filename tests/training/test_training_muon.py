"""Muon against the singular value decomposition, and its other half against torch's AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import cnnlab
from cnnlab.training import muon
from cnnlab.training.muon import COEFFICIENTS, Muon, PaddedBatches
from rounding import ROUNDINGS, rounded_factors


def orthogonalise(given: Tensor) -> Tensor:
    """(n, rows, columns) → the same, through the list that Muon takes."""
    return torch.stack(muon.orthogonalise(list(given)))


def by_decomposition(given: Tensor, steps: int) -> Tensor:
    """What the iteration gives in exact arithmetic: its polynomial, applied to the singular values."""
    a, b, c = COEFFICIENTS
    u, values, vt = torch.linalg.svd(given.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return (u * values) @ vt


def of_spectrum(values: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix with these singular values and random singular vectors."""
    draw = torch.Generator().manual_seed(rows)
    u = torch.linalg.qr(torch.randn(rows, len(values), generator=draw, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(columns, len(values), generator=draw, dtype=torch.float64))[0]
    return ((u * values) @ v.T).float()


SPECTRA = {
    "equal": lambda k, n: torch.ones_like(k),
    "1/k": lambda k, n: 1 / k,
    "1/k²": lambda k, n: 1 / k**2,
    "half rank": lambda k, n: (k <= n // 2).double(),
    "rank one": lambda k, n: (k == 1).double(),
    "falling by halves": lambda k, n: 2.0 ** (-k / 4),
    "two scales": lambda k, n: torch.where(k <= n // 8, 1.0, 1e-3),
}


def ill_conditioned(spectrum: str, rows: int, columns: int) -> Tensor:
    n = min(rows, columns)
    if spectrum == "zero rows":
        given = matrices(1, rows, columns)[0]
        given[::3] = 0
        return given
    if spectrum == "along the axes":
        given = torch.zeros(rows, columns)
        given.diagonal().copy_(1 / torch.arange(1, n + 1))
        return given
    return of_spectrum(SPECTRA[spectrum](torch.arange(1, n + 1, dtype=torch.float64), n), rows, columns)


def matrices(count: int, rows: int, columns: int) -> Tensor:
    return torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(rows * columns))


@pytest.mark.parametrize("shape", [(3, 16, 144), (3, 144, 16), (2, 32, 64), (1, 10, 64), (2, 1, 9), (2, 9, 1)])
def test_singular_values_become_nearly_one_and_singular_vectors_stay(shape: tuple[int, int, int]) -> None:
    given = matrices(*shape)
    u, values, vt = torch.linalg.svd(given, full_matrices=False)
    result = orthogonalise(given)
    assert result.shape == given.shape
    inner = u.transpose(1, 2) @ result @ vt.transpose(1, 2)  # diagonal if the singular vectors are the same
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert values.max() / values.min() < 10  # the iteration is meant for such
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ROUNDINGS)
@pytest.mark.parametrize("spectrum", [*SPECTRA, "zero rows", "along the axes"])
@pytest.mark.parametrize("shape", [(128, 1152), (64, 576), (576, 64), (16, 144), (40, 40), (1000, 16), (2, 9)], ids=str)
def test_no_spectrum_makes_the_iteration_leave_its_bounds(kind: str, spectrum: str, shape: tuple[int, int]) -> None:
    """In any precision of products that it may run in, for the steps of the recipes (3, 5) and many more."""
    given = ill_conditioned(spectrum, *shape)
    for steps in (1, 3, 5, 30):
        with rounded_factors(kind):
            result = muon.orthogonalise([given], steps)[0]
        assert result.isfinite().all()
        assert torch.linalg.matrix_norm(result, 2) < 1.25, steps  # 1.2 is the polynomial's own bound
        if steps <= 5:
            error = torch.linalg.matrix_norm(result - by_decomposition(given, steps), 2)
            assert error < {"fp32": 1e-3, "tf32": 0.03, "bf16": 0.2}[kind], steps


def test_products_of_short_factors_are_products_on_this_processor() -> None:
    """Also with the sums that the iteration fuses into them, whatever oneDNN makes of them here."""
    x, y, z = matrices(3, 48, 48).unsqueeze(1)
    expected = 3.4 * x.double() - 4.8 * (y.double() @ z.double())
    with muon.short_products():
        torch.testing.assert_close(torch.baddbmm(x, y, z, beta=3.4, alpha=-4.8).double(), expected, atol=0.5, rtol=0)
        torch.testing.assert_close(torch.addmm(x[0], y[0], z[0]).double(), (x + y @ z)[0].double(), atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_every_layer_takes_steps_of_the_size_that_the_rate_says(kind: str) -> None:
    """In training, where gradients are ill-conditioned: the stem of a network for photographs the most."""
    torch.manual_seed(0)
    model = cnnlab.create_model("convnet", num_classes=4, width=8)
    layers = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith("head.")]
    optimizer = Muon(layers, lr=0.02)
    images, labels = torch.rand(16, 3, 48, 48), torch.arange(16) % 4
    images[:, :, ::2] = images[:, :, :1]  # stripes: little rank, as smooth photographs have
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        before = [p.detach().clone() for p in layers]
        with rounded_factors(kind):
            optimizer.step()
        for p, was in zip(layers, before, strict=True):
            update = (p.detach() - was).square().mean().sqrt().item() / 0.02
            assert update < 0.2 * 1.25, p.shape


# ---- the form for accelerators


def together(given: list[Tensor], steps: int) -> list[Tensor]:
    """As `muon.orthogonalise`."""
    batches = PaddedBatches([(len(x), x.shape[1]) for x in given], torch.device("cpu"))
    scales = batches.take(torch.ones(len(given)))
    found = batches.orthogonalise([x.reshape(-1) for x in given], steps, scales)
    return [x.view(like.shape) for x, like in zip(found, given, strict=True)]


@pytest.mark.parametrize(
    ("spectrum", "tolerance"), [("equal", 0.05), ("1/k", 0.05), ("1/k²", 0.2), ("zero rows", 0.05)]
)
def test_the_form_for_accelerators_gives_what_exact_arithmetic_and_the_processors_form_give(
    spectrum: str, tolerance: float
) -> None:
    """To the rounding of bfloat16, and within the same bound, however many matrices of other sizes lie beside one.

    Singular values below 0.4 % of the norm, as many are of 1/k², are less than what the rounding adds.
    """
    shapes = [(64, 576), (300, 64), (16, 144), (40, 40), (128, 300), (2, 9)]
    given = [ill_conditioned(spectrum, *shape) for shape in shapes]
    for steps in (3, 5, 12):
        found, plain = together(given, steps), muon.orthogonalise(given, steps)
        for x, result, on_processor in zip(given, found, plain, strict=True):
            assert result.shape == x.shape
            assert torch.linalg.matrix_norm(result, 2) < 1.21, (tuple(x.shape), steps)
            if steps <= 5:
                exact = by_decomposition(x, steps)
                scale = torch.linalg.matrix_norm(exact)
                assert torch.linalg.matrix_norm(result - exact) < tolerance * scale, (tuple(x.shape), steps)
                assert torch.linalg.matrix_norm(result - on_processor) < tolerance * scale, (tuple(x.shape), steps)


def test_filters_of_near_sizes_share_a_batch_and_others_do_not_pay_for_the_largest() -> None:
    def batches(*shapes: tuple[int, int]) -> list[tuple[int, int, int]]:
        return [batch.shape for batch in PaddedBatches(shapes, torch.device("cpu")).batches]

    resnet20 = [(16, 27), *[(16, 144)] * 6, (32, 144), *[(32, 288)] * 5, (64, 288), *[(64, 576)] * 5]
    assert batches(*resnet20) == [(19, 64, 576)]
    assert batches((64, 216), (64, 576), (256, 576), *[(256, 2304)] * 3) == [(6, 256, 2304)]
    assert batches((64, 147), (512, 4608), (128, 1152), (512, 4608)) == [(2, 512, 4608), (2, 128, 1152)]


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_step_on_an_accelerator_is_the_processors_to_the_rounding_of_bf16(
    keep_norm: bool, channels_last: bool
) -> None:
    """Filters, a tall matrix, a 1×1 filter, and a bank that begins with zeros."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    shapes = [(8, 4, 3, 3), (16, 8, 3, 3), (24, 6, 1, 1), (40, 5, 2, 2), (6, 3, 3, 3)]
    start = [torch.randn(shape) for shape in shapes]
    start[-1].zero_()
    results = []
    for form in ("processor", "accelerator"):
        weights = [nn.Parameter(x.clone().contiguous(memory_format=layout)) for x in start]
        weights.append(nn.Parameter(start[0][0, 0].clone()))
        optimizer = Muon(weights, lr=0.1, weight_decay=0.1, keep_norm=keep_norm)
        if form == "accelerator":
            optimizer._step_orthogonal = optimizer._step_together  # type: ignore[method-assign]
        torch.manual_seed(1)
        for _ in range(4):
            for weight in weights:
                weight.grad = torch.randn(weight.shape).contiguous(memory_format=layout) if weight.ndim == 4 else None
            weights[-1].grad = torch.randn(3, 3)
            optimizer.step()
        results.append([weight.detach() for weight in weights])
    for one, other, first in zip(*results, [*start, start[0][0, 0]], strict=True):
        moved = (one - first).norm()
        assert moved > 0
        assert (one - other).norm() < 0.05 * moved


def test_the_size_of_a_gradient_does_not_matter() -> None:
    given = matrices(1, 8, 20)
    torch.testing.assert_close(orthogonalise(given * 1e-3), orthogonalise(given), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(orthogonalise(given * 1e6), orthogonalise(given), rtol=1e-4, atol=1e-4)


def test_a_gradient_of_zero_moves_nothing() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


def test_a_batch_gives_what_each_matrix_gives_alone() -> None:
    given = matrices(4, 6, 10)
    alone = torch.cat([orthogonalise(one[None]) for one in given])
    torch.testing.assert_close(orthogonalise(given), alone)


def test_matrices_of_many_shapes_give_together_what_each_gives_alone() -> None:
    shapes = [(6, 10), (10, 6), (6, 33), (4, 4), (1, 6), (6, 1), (8, 6)]
    given = [matrices(1, *shape)[0] for shape in shapes]
    for one, together in zip(given, muon.orthogonalise(given), strict=True):
        assert together.shape == one.shape
        torch.testing.assert_close(together, orthogonalise(one[None])[0])


def test_a_step_of_a_filter_is_as_large_as_the_rate_says() -> None:
    weight = torch.nn.Parameter(torch.zeros(16, 8, 3, 3))
    optimizer = Muon([weight], lr=0.1, momentum=0.9)
    weight.grad = matrices(1, 16, 72).view(16, 8, 3, 3)
    optimizer.step()
    u, _, vt = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
    cosine = torch.cosine_similarity(weight.detach().flatten(), -(u @ vt).flatten(), dim=0)
    assert cosine > 0.98
    root_mean_square = weight.detach().square().mean().sqrt().item()
    assert root_mean_square == pytest.approx(0.1 * 0.2, rel=0.2)


def test_weight_decay_of_a_filter_is_decoupled_from_its_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(4, 6)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 6), 0.95))


def test_momentum_is_nesterovs() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([weight], lr=1.0, momentum=0.8)
    gradients = [matrices(1, 4, 6)[0], matrices(1, 6, 4)[0].T.contiguous()]
    average, expected = torch.zeros(4, 6), torch.zeros(4, 6)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
        average = 0.8 * average + 0.2 * gradient
        expected -= 0.2 * 6**0.5 * orthogonalise((0.2 * gradient + 0.8 * average)[None])[0]
    torch.testing.assert_close(weight.detach(), expected)


def test_what_is_not_orthogonal_takes_the_step_of_adamw() -> None:
    start = matrices(1, 5, 7)[0]
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    muon = Muon([{"params": [ours], "orthogonal": False}], **settings)  # type: ignore[arg-type]
    adamw = torch.optim.AdamW([theirs], **settings)  # type: ignore[arg-type]
    for seed in range(6):
        gradient = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs)


def test_a_parameter_without_gradient_stays() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 6))
    Muon([weight], weight_decay=0.5).step()
    assert torch.equal(weight.detach(), torch.ones(4, 6))


def test_a_closure_gives_its_loss() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    assert Muon([weight]).step(lambda: 3.5) == 3.5


def test_a_filter_bank_can_keep_its_norm() -> None:
    """And turns as one of free norm does: the step is the same, the length is put back."""
    start = matrices(1, 6, 18)[0].view(6, 2, 3, 3)
    kept, free = (torch.nn.Parameter(start.clone()) for _ in range(2))
    unit = 0.2 * 18**0.5 / (start.norm() / 6**0.5)  # the free step's size over the kept one's, at the same rate
    gradient = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1)) - start  # its step lengthens them
    kept.grad, free.grad = gradient.clone(), gradient.clone()
    Muon([kept], lr=0.5, keep_norm=True).step()
    Muon([free], lr=0.5 / unit.item()).step()
    assert free.detach().norm() != pytest.approx(start.norm().item(), rel=0.01)
    torch.testing.assert_close(kept.detach(), free.detach() * start.norm() / free.detach().norm())
    optimizer = Muon([kept], lr=0.5, keep_norm=True)
    for _ in range(20):
        optimizer.step()
    assert kept.detach().norm().item() == pytest.approx(start.norm().item(), rel=1e-4)


def test_a_filter_bank_that_begins_with_zeros_learns_all_the_same() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([weight], lr=0.1, keep_norm=True)
    optimizer.step()
    weight.grad = matrices(1, 4, 6)[0]
    optimizer.step()
    assert weight.isfinite().all()
    assert weight.detach().norm() > 0


def test_the_norm_to_keep_is_part_of_the_state() -> None:
    weight = torch.nn.Parameter(matrices(1, 6, 18)[0])
    optimizer = Muon([weight], lr=0.5, keep_norm=True)
    weight.grad = torch.randn(6, 18, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    again = torch.nn.Parameter(weight.detach() * 3)  # whatever stands there now
    again.grad = weight.grad.clone()
    resumed = Muon([again], lr=0.5, keep_norm=True)
    resumed.load_state_dict(optimizer.state_dict())
    optimizer.step()
    resumed.step()
    assert again.detach().norm().item() == pytest.approx(weight.detach().norm().item(), rel=1e-5)
