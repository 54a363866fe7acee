"""The checks that every index shares: what passes, and what each refusal says."""

import numpy as np
import pytest

from cbir_utils.codes import checked_codes, checked_k, checked_queries, own_rows, rows_of, unit_length, whole_numbers

KNOWN = np.array([2, 4, 9])


def test_unit_length_by_hand_whatever_the_scale():
    for scale in (1e-30, 1, 1e30):
        rows = np.float32([[3, 4], [0, 0]]) * np.float32(scale)
        np.testing.assert_allclose(unit_length(rows), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert unit_length(np.ones((1, 3), np.float16)).dtype == np.float32


def test_codes_and_queries_that_fit_are_returned_contiguous():
    codes = np.ones((4, 6), np.float32)[:, ::2]
    assert checked_codes(codes, "codes", 3).flags.c_contiguous
    assert checked_queries(codes[0]).shape == (1, 3)


@pytest.mark.parametrize(
    "codes, message",
    [
        (np.zeros((1, 3), np.float32), "have 3 numbers each, but the index has 2"),
        (np.float32([[0, 0], [0, np.nan]]), r"have NaN or infinity in 1 row\(s\), first in row 1"),
        (np.float32([[-np.inf, 0], [np.inf, 0]]), r"have NaN or infinity in 2 row\(s\), first in row 0"),
        (np.zeros((1, 2)), "must be float32, not float64; convert with .astype"),
        (np.zeros((1, 1, 2), np.float32), r"must be a non-empty \(N, D\) matrix, not of shape \(1, 1, 2\)"),
        (np.zeros((0, 2), np.float32), r"must be a non-empty \(N, D\) matrix, not of shape \(0, 2\)"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, message):
    with pytest.raises(ValueError, match="^codes " + message):
        checked_codes(codes, "codes", 2)
    with pytest.raises(ValueError, match="^queries " + message):
        checked_queries(codes, 2)


def test_k_may_be_any_whole_number_up_to_the_rows():
    for k in (3, np.int64(3), np.uint8(3)):
        assert type(checked_k(k, 3)) is int and checked_k(k, 4, without_self=True) == 3


@pytest.mark.parametrize("k", [0, -1, True, np.bool_(True), 2.0, "2", None])
def test_what_is_no_k_is_refused(k):
    with pytest.raises(ValueError, match="k must be a whole number of 1 or more, not"):
        checked_k(k, 3)


def test_a_k_above_the_rows_is_refused():
    with pytest.raises(ValueError, match="k is 4, but the index holds only 3 rows$"):
        checked_k(4, 3)
    with pytest.raises(ValueError, match="k is 3, but the index holds only 2 rows besides the query itself"):
        checked_k(3, 3, without_self=True)
    with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
        checked_k(1, 0)


def test_rows_of_ids_in_any_order_and_more_than_once():
    assert rows_of([9, 2, 9], KNOWN, "ids").tolist() == [2, 0, 2]
    assert rows_of(np.uint64(4), KNOWN, "ids").tolist() == [1]
    assert own_rows([9, 2], KNOWN, 2).tolist() == [2, 0]


@pytest.mark.parametrize(
    "ids, message",
    [
        ([4, 3, 10], r"subset name 2 id\(s\) that are not in the index, first 3"),
        ([-1], r"subset name 1 id\(s\) that are not in the index, first -1"),
        ([], r"subset must be a non-empty sequence of whole numbers, not float64 of shape \(0,\)"),
        ([2.0], "subset must be a non-empty sequence of whole numbers, not float64"),
        ([True], "subset must be a non-empty sequence of whole numbers, not bool"),
        ([[2]], r"subset must be a non-empty sequence of whole numbers, not int64 of shape \(1, 1\)"),
    ],
)
def test_ids_that_name_no_rows_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        rows_of(ids, KNOWN, "subset")
    with pytest.raises(ValueError, match="subset"):
        rows_of(ids, KNOWN[:0], "subset")


def test_exclude_self_has_one_id_for_each_query():
    with pytest.raises(ValueError, match=r"exclude_self has 2 id\(s\) for 3 queries; give one for each"):
        own_rows([2, 4], KNOWN, 3)


def test_whole_numbers_are_an_array():
    assert whole_numbers(5, "ids").tolist() == [5]
