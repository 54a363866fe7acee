"""Iterative quantisation and Hamming distances."""

import numpy as np
import pytest

from cbir_utils.methods.binary import IterativeQuantization, hamming_distances


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(400, 20)) * np.linspace(3, 0.1, 20) + 5).astype(np.float32)


def test_the_loss_never_grows_and_falls(codes):
    losses = IterativeQuantization(16).fit(codes).losses
    assert len(losses) == 51 and losses[-1] < losses[0]
    assert all(later <= earlier + 1e-9 for earlier, later in zip(losses, losses[1:], strict=False))


def test_bits_are_the_signs_of_the_rotated_codes(codes):
    quantizer = IterativeQuantization(8).fit(codes)
    packed = quantizer.encode(codes[:3])
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    assert packed.shape == (3, 1) and packed.dtype == np.uint8
    for row, code in zip(np.unpackbits(packed, axis=1), unit[:3], strict=True):
        values = [sum((code[d] - quantizer.mean[d]) * quantizer.matrix[d, bit] for d in range(20)) for bit in range(8)]
        assert [int(value > 0) for value in values] == row.tolist()


def test_the_projection_is_principal_and_the_rotation_orthogonal(codes):
    quantizer = IterativeQuantization(8).fit(codes)
    np.testing.assert_allclose(quantizer.matrix.T @ quantizer.matrix, np.eye(8), atol=1e-9)
    unit = codes / np.linalg.norm(codes.astype(np.float64), axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    kept = np.square(centred @ quantizer.matrix).sum()
    np.testing.assert_allclose(kept, np.square(np.linalg.svd(centred)[1][:8]).sum())


def test_more_bits_than_numbers_are_filled_by_the_rotation(codes):
    quantizer = IterativeQuantization(64).fit(codes)
    packed = quantizer.encode(codes)
    assert packed.shape == (400, 8)
    share = np.unpackbits(packed, axis=1).mean(axis=0)
    assert share.min() > 0 and share.max() < 1, "no bit is always the same"


def test_near_codes_differ_in_few_bits(codes):
    quantizer = IterativeQuantization(16).fit(codes)
    own = hamming_distances(quantizer.encode(codes + np.float32(1e-3)), quantizer.encode(codes))
    assert np.diag(own).mean() < 0.1 < own.mean()


def test_the_unrotated_loss_is_that_of_the_principal_directions(codes):
    unit = codes / np.linalg.norm(codes.astype(np.float64), axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    values = centred @ np.linalg.svd(centred, full_matrices=False)[2][:8].T
    slow = np.mean([sum((np.sign(v) - v) ** 2 for v in row) for row in values])
    np.testing.assert_allclose(IterativeQuantization(8).fit(codes).unrotated_loss, slow)


def test_the_length_of_a_code_does_not_matter(codes):
    quantizer = IterativeQuantization(16).fit(codes)
    assert np.array_equal(quantizer.encode(codes), quantizer.encode(codes * np.float32(4)))


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
