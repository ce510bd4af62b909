"""Compiled samples: lock-free bursts on any number of cores, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from optex_core.async_sgd import DenseSamples, SparseSamples, minimize
from optex_core.async_sgd.hogwild import _data_rows, full_value_and_gradient, hogwild_burst
from optex_core.async_sgd.sample_order import draw_samples, mix_seed
from optex_core.errors import ArgumentError, ArgumentTypeError


def square(x):
    return 0.5 * x @ x, x


@pytest.fixture(scope="module")
def sparse() -> SparseSamples:
    from optex_core.bench.async_sgd.problems import sparse_logistic

    return sparse_logistic(500, 60, 5)


@pytest.fixture(scope="module")
def dense() -> DenseSamples:
    from optex_core.bench.async_sgd.problems import dense_logistic

    return dense_logistic(300, 12)


class TestCompiled:
    def test_the_gradient_of_all_samples(self, sparse, dense) -> None:
        for fun, d in ((sparse, 60), (dense, 12)):
            x = np.random.default_rng(0).standard_normal(d)
            value, gradient = full_value_and_gradient(fun, x)
            e = np.random.default_rng(1).standard_normal(d)
            slope = (
                full_value_and_gradient(fun, x + 1e-5 * e)[0]
                - full_value_and_gradient(fun, x - 1e-5 * e)[0]
            ) / 2e-5
            assert gradient @ e == pytest.approx(slope, rel=1e-6)
            assert value > 0

    @pytest.mark.parametrize("cores", [1, 3])
    def test_a_burst_on_samples_of_constant_gradient_is_exact_on_any_number_of_cores(
        self, sparse, cores: int
    ) -> None:
        import numba

        @numba.njit
        def sample(x, i, index, entry, data):
            index[0], entry[0] = i, 1.0
            return 1, 2.0

        n = 8
        samples, order = SparseSamples(sample, n, 1), draw_samples(n, 40_000, 3)
        s, value, lost = hogwild_burst(samples, np.zeros(n), order, 1.0, cores)
        # private sums: no step is missing, even where writes on u were lost
        assert s.sum() == 40_000
        assert value == 2.0
        assert 0 <= lost < 1
        assert s.min() > 40_000 / n * 0.9  # drawn evenly
        assert s.tolist() == np.bincount(order).tolist()

    def test_one_core_repeats_bit_for_bit_and_two_cores_come_close(self, sparse, dense) -> None:
        for fun, d in ((sparse, 60), (dense, 12)):
            one = [
                minimize(fun, np.zeros(d), rate=0.3, inner_steps=50, maxiter=60, rng=2)
                for _ in range(2)
            ]
            assert one[0].x.tobytes() == one[1].x.tobytes()
            assert one[0].deterministic
            two = minimize(fun, np.zeros(d), rate=0.3, inner_steps=50, maxiter=60, rng=2, cores=2)
            assert not two.deterministic
            assert two.fun == pytest.approx(one[0].fun, rel=0.03)
            assert one[0].fun < 0.95 * np.log(2)
            assert one[0].njev == 60 * 50 + fun.n

    def test_rows_that_are_loaded_ahead_are_those_of_the_samples(self, sparse) -> None:
        wide, flat = np.zeros((3, 500)), np.zeros(3, np.float32)
        data = (np.zeros(4), 2.5, wide, flat)
        rows = _data_rows(SparseSamples(sparse.sample, 3, 1, data))
        assert rows.tolist() == [[wide.ctypes.data, 4000, 1024], [flat.ctypes.data, 4, 4]]
        assert _data_rows(SparseSamples(sparse.sample, 3, 1)).shape == (0, 3)

    def test_float32_samples(self, sparse) -> None:
        columns, entries, labels = sparse.data
        single = SparseSamples(
            sparse.sample, sparse.n, sparse.width, (columns, entries.astype(np.float32), labels)
        )
        res = minimize(
            single, np.zeros(60, np.float32), rate=0.3, inner_steps=50, maxiter=10, rng=0
        )
        assert res.x.dtype == np.float32

    def test_streams_of_parts_differ(self) -> None:
        assert len({mix_seed(seed, k) for seed in range(50) for k in range(50)}) == 2500
        assert all(0 <= mix_seed(seed, 1) < 2**63 for seed in (0, 2**63 - 1))

    def test_uncompiled_samples_are_refused(self) -> None:
        with pytest.raises(ArgumentTypeError, match="numba.njit"):
            SparseSamples(lambda *a: (0, 0.0), 3, 1)
        with pytest.raises(ArgumentTypeError, match="numba.njit"):
            DenseSamples(square, 3)

    def test_samples_take_no_arguments(self, sparse) -> None:
        with pytest.raises(ArgumentError, match="leave out args"):
            minimize(sparse, np.zeros(60), args=(1,))
