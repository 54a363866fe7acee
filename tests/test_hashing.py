"""Iterative quantisation and Hamming distances."""

import numpy as np
import pytest

from cbir_utils.hashing import IterativeQuantization, hamming_distances


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(400, 20)) * np.linspace(3, 0.1, 20) + 5).astype(np.float32)


def test_the_loss_never_grows_and_falls(codes):
    losses = IterativeQuantization(16).fit(codes).losses
    assert len(losses) == 50 and losses[-1] < losses[0]
    assert all(later <= earlier + 1e-9 for earlier, later in zip(losses, losses[1:], strict=False))


def test_bits_are_the_signs_of_the_rotated_codes(codes):
    quantizer = IterativeQuantization(8).fit(codes)
    packed = quantizer.encode(codes[:3])
    assert packed.shape == (3, 1) and packed.dtype == np.uint8
    for row, code in zip(np.unpackbits(packed, axis=1), codes[:3], strict=True):
        values = [sum((code[d] - quantizer.mean[d]) * quantizer.matrix[d, bit] for d in range(20)) for bit in range(8)]
        assert [int(value > 0) for value in values] == row.tolist()


def test_the_projection_is_principal_and_the_rotation_orthogonal(codes):
    quantizer = IterativeQuantization(8).fit(codes)
    np.testing.assert_allclose(quantizer.matrix.T @ quantizer.matrix, np.eye(8), atol=1e-9)
    centred = codes - codes.mean(axis=0, dtype=np.float64)
    kept = np.square(centred @ quantizer.matrix).sum()
    np.testing.assert_allclose(kept, np.square(np.linalg.svd(centred)[1][:8]).sum())


def test_more_bits_than_numbers_are_filled_by_the_rotation(codes):
    quantizer = IterativeQuantization(64).fit(codes)
    packed = quantizer.encode(codes)
    assert packed.shape == (400, 8)
    assert np.unpackbits(packed, axis=1).mean(axis=0).min() > 0, "no bit is always 0"


def test_near_codes_differ_in_few_bits(codes):
    quantizer = IterativeQuantization(16).fit(codes)
    own = hamming_distances(quantizer.encode(codes + np.float32(1e-3)), quantizer.encode(codes))
    assert np.diag(own).mean() < 0.1 < own.mean()


def test_hamming_distances_count_bits():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(256, size=(n, 4), dtype=np.uint8) for n in (3, 5))
    slow = [[sum(bin(x ^ y).count("1") for x, y in zip(p.tolist(), q.tolist(), strict=True)) for q in b] for p in a]
    assert hamming_distances(a, b).tolist() == slow


def test_bad_input_is_named(codes):
    with pytest.raises(ValueError, match="a multiple of 8, not 12"):
        IterativeQuantization(12)
    with pytest.raises(ValueError, match=r"non-empty \(N, D\) matrix, not of shape \(20,\)"):
        IterativeQuantization(8).fit(codes[0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        IterativeQuantization(8).fit(np.full((4, 8), np.nan))
    with pytest.raises(ValueError, match="have 19 numbers each, but it was fitted to 20"):
        IterativeQuantization(8).fit(codes).encode(codes[:, :19])
