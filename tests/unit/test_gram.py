import subprocess
import sys

import pytest
import torch

from pruning.calibration import gram
from pruning.calibration.gram import Gram
from workspace import ROOT

CPU = torch.device("cpu")


def rows(tokens=60, size=11, seed=0):
    """Tokens of which every third has numbers that bfloat16 does not hold."""
    x = torch.randn(tokens, size, generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    x[::3] += 1e-4
    return x


@pytest.mark.parametrize("strip", [1, 4, 11, 100])
def test_the_sum_of_all_tokens_products(monkeypatch, strip):
    monkeypatch.setattr(gram, "STRIP", strip)
    own, x = Gram(CPU, 11), rows()
    for part in x.split([1, 0, 29, 30]):
        own.add(part)
    found = own.whole()
    assert found.dtype == torch.float64 and torch.equal(found, found.T)
    torch.testing.assert_close(found, x.double().T @ x.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strip", [1, 4, 11, 100])
def test_it_is_symmetric_where_a_processors_products_are_not(monkeypatch, strip):
    monkeypatch.setattr(gram, "STRIP", strip)
    own, given = Gram(CPU, 11), rows(11).double()
    own.sums.copy_(given)
    assert torch.equal(own.whole(), given.triu() + given.triu(1).T)


def test_half_of_it_is_multiplied(monkeypatch):
    monkeypatch.setattr(gram, "STRIP", 1)
    multiplied = []
    monkeypatch.setattr(gram, "add", lambda sums, product: multiplied.append(product.numel()))
    Gram(CPU, 11).add(torch.ones(5, 11))
    assert sum(multiplied) == 11 * 12 / 2 == gram.multiplied(11)


def test_only_what_bfloat16_holds_is_multiplied_as_such(monkeypatch):
    seen, x = {}, rows()
    monkeypatch.setattr(gram, "add", lambda _, product: seen.update({torch.get_float32_matmul_precision(): product}))
    Gram(CPU, 11).add(x)
    assert set(seen) == {"medium", "highest"} and torch.get_float32_matmul_precision() == "highest"
    others = torch.ones(60, dtype=torch.bool)
    others[::3] = False
    torch.testing.assert_close(seen["medium"], x[others].T @ x[others])
    torch.testing.assert_close(seen["highest"], x[::3].T @ x[::3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nothing_is_lost_of_numbers_that_a_type_holds(dtype):
    """Also on processors that multiply bfloat16's as such: sums of many are as exact as float32's."""
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(1)).to(dtype).float()
    own = Gram(CPU, 64)
    own.add(x)
    exact = x.double().T @ x.double()
    assert (own.whole() - exact).abs().max() < 2e-6 * exact.abs().max()


def test_a_number_that_is_none_stays_one():
    own, x = Gram(CPU, 11), rows()
    x[4, 2] = torch.nan
    own.add(x)
    assert own.whole().isnan().any()


def test_the_precision_is_as_before_also_after_an_error():
    with pytest.raises(RuntimeError), gram.units_for_short_floats():
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == "highest"


BY_BACKEND = """
import torch
from pruning.calibration.gram import Gram

torch.backends.mkldnn.matmul.fp32_precision = "ieee"
own, x = Gram(torch.device("cpu"), 8), torch.rand(20, 8)
own.add(x.bfloat16().float())
own.add(x)
assert torch.backends.mkldnn.matmul.fp32_precision == "ieee" and own.whole().isfinite().all()
"""


def test_a_program_may_set_precisions_by_backend():
    subprocess.run([sys.executable, "-c", BY_BACKEND], check=True, cwd=ROOT / "scripts")


def test_sums_are_added_to_some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(gram, "ROWS", 3)
    sums, product = torch.rand(8, 5, dtype=torch.float64), torch.rand(8, 5)
    expected = sums + product
    gram.add(sums, product)
    assert torch.equal(sums, expected)
