"""Iterative quantisation and Hamming distances."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbir_utils.methods.binary import BinaryIndex, IterativeQuantization, hamming_distances, tied_average_precision
from cbir_utils.metrics import average_precision


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(400, 20)) * np.linspace(3, 0.1, 20) + 5).astype(np.float32)


def test_bits_are_the_signs_of_the_rotated_codes_of_unit_length(codes):
    quantizer = IterativeQuantization(8).fit(codes)
    packed = quantizer.encode(codes[:3])
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    assert packed.shape == (3, 1) and packed.dtype == np.uint8
    for row, code in zip(np.unpackbits(packed, axis=1), unit[:3], strict=True):
        values = [sum((code[d] - quantizer.mean[d]) * quantizer.matrix[d, bit] for d in range(20)) for bit in range(8)]
        assert [int(value > 0) for value in values] == row.tolist()
    assert np.array_equal(quantizer.encode(codes[:3] * np.float32(4)), packed)


def test_the_projection_is_principal_the_rotation_orthogonal_and_the_loss_falls(codes):
    quantizer = IterativeQuantization(8).fit(codes)
    np.testing.assert_allclose(quantizer.matrix.T @ quantizer.matrix, np.eye(8), atol=1e-9)
    unit = codes / np.linalg.norm(codes.astype(np.float64), axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.square(centred @ quantizer.matrix).sum(), np.square(lengths[:8]).sum())
    values = centred @ directions[:8].T
    slow = np.mean([sum((np.sign(v) - v) ** 2 for v in row) for row in values])
    np.testing.assert_allclose(quantizer.unrotated_loss, slow)
    assert len(quantizer.losses) == 51 and quantizer.losses[-1] < quantizer.losses[0]
    assert all(later <= earlier + 1e-9 for earlier, later in zip(quantizer.losses, quantizer.losses[1:], strict=False))


def test_more_bits_than_numbers_are_filled_by_the_rotation(codes):
    packed = IterativeQuantization(64).fit(codes).encode(codes)
    share = np.unpackbits(packed, axis=1).mean(axis=0)
    assert packed.shape == (400, 8) and share.min() > 0 and share.max() < 1, "no bit is always the same"


def test_hamming_distances_count_bits_and_the_index_finds_the_nearest():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(256, size=(n, 4), dtype=np.uint8) for n in (3, 50))
    slow = [[sum(bin(x ^ y).count("1") for x, y in zip(p.tolist(), q.tolist(), strict=True)) for q in b] for p in a]
    assert hamming_distances(a, b).tolist() == slow
    hits = BinaryIndex(b).search(a, 7)
    assert hits.distances.tolist() == np.sort(slow, axis=1)[:, :7].tolist()
    assert np.take_along_axis(np.array(slow), hits.ids, axis=1).tolist() == hits.distances.tolist()


def test_bad_input_is_named(codes):
    with pytest.raises(ValueError, match="a multiple of 8, not 12"):
        IterativeQuantization(12)
    with pytest.raises(ValueError, match=r"non-empty \(N, D\) matrix, not of shape \(20,\)"):
        IterativeQuantization(8).fit(codes[0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        IterativeQuantization(8).fit(np.full((4, 8), np.nan, np.float32))
    with pytest.raises(ValueError, match="have 19 numbers each, but it was fitted to 20"):
        IterativeQuantization(8).fit(codes).encode(codes[:, :19])
    index = BinaryIndex(np.zeros((4, 2), np.uint8))
    with pytest.raises(ValueError, match=r"packed uint8 \(N, 2\), not uint8 \(1, 3\)"):
        index.search(np.zeros((1, 3), np.uint8), 1)
    with pytest.raises(ValueError, match="k is 5, but the index holds only 4 rows"):
        index.search(np.zeros((1, 2), np.uint8), 5)


def test_average_precision_with_ties_by_hand():
    # One image at distance 0 (wrong), then two tied at 1, one of them right. Either the right one is second: AP = 1/2,
    # or third: AP = 1/3. Expected: (1/2 + 1/3) / 2 = 5/12.
    np.testing.assert_allclose(tied_average_precision([[1, 0, 1]], [[True, False, False]]), [5 / 12])


@given(st.data())
def test_average_precision_with_ties_is_the_mean_over_all_orders(data):
    n = data.draw(st.integers(1, 6))
    distances = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    relevant = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if not relevant.any():
        assert np.isnan(tied_average_precision(distances[None], relevant[None])[0])
        return
    orders = [np.array(p) for p in itertools.permutations(range(n))]
    orders = [order for order in orders if (np.diff(distances[order]) >= 0).all()]
    slow = np.mean([average_precision(relevant[order][None])[0] for order in orders])
    np.testing.assert_allclose(tied_average_precision(distances[None], relevant[None])[0], slow)


def test_several_queries_with_ties_do_not_mix():
    rng = np.random.default_rng(0)
    distances, relevant = rng.integers(5, size=(230, 30)), rng.random((230, 30)) < 0.3
    one_by_one = [tied_average_precision(d[None], r[None])[0] for d, r in zip(distances, relevant, strict=True)]
    np.testing.assert_allclose(tied_average_precision(distances, relevant), one_by_one)


def test_fractional_distances_have_no_ties_to_share():
    with pytest.raises(ValueError, match="must be whole numbers, not float64; use average_precision"):
        tied_average_precision([[0.5]], [[True]])
