"""The overlap analysis gives the numbers of scipy and of the paper's definitions, at every size."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import betainc

from diptych.core.errors import ArrayError
from diptych.core.intervals import exact_interval as clopper_pearson
from diptych.core.intervals import incomplete_beta
from diptych.data.near_copies.overlap import binomial_greater, overlap_report
from diptych.report.page import environment

CASES = [
    (0, 1), (1, 1), (0, 40), (40, 40), (1, 40), (20, 40), (39, 40), (7, 123), (600, 4544), (2600, 4544),
    (4543, 4544), (50_000, 100_000), (99_990, 100_000), (3, 1_000_000),
]  # fmt: skip


@pytest.mark.parametrize(("hits", "n"), CASES)
def test_the_test_and_the_interval_are_scipys(hits: int, n: int) -> None:
    for probability in (1e-6, 0.01, 0.3, 0.5, 0.577, 0.99):
        expected = stats.binomtest(hits, n, probability, alternative="greater").pvalue
        assert binomial_greater(hits, n, probability) == pytest.approx(expected, rel=1e-7, abs=1e-250)
    for level in (0.9, 0.95, 0.995):
        both = stats.binomtest(hits, n).proportion_ci(level, method="exact")
        assert clopper_pearson(hits, n, level=level) == pytest.approx((both.low, both.high), rel=1e-8)


def test_the_beta_function_holds_everywhere() -> None:
    rng = np.random.default_rng(0)
    for a, b, x in zip(*(10 ** rng.uniform(-1, 6, (2, 300))), rng.random(300), strict=True):
        assert incomplete_beta(a, b, x) == pytest.approx(betainc(a, b, x), rel=1e-6, abs=1e-200)
    assert (incomplete_beta(2, 3, 0.0), incomplete_beta(2, 3, 1.0)) == (0.0, 1.0)


def test_a_contaminated_set_by_hand() -> None:
    """100 seen images with 80 right, 400 clean ones with 240 right: 0.64 - 0.6 = 0.04."""
    seen = np.arange(500) < 100
    correct = np.concatenate([np.arange(100) < 80, np.arange(400) < 240])
    report = overlap_report(seen, correct, task="birds")
    assert (report.n, report.n_overlap, report.overlap_share) == (500, 100, 0.2)
    assert (report.all_accuracy, report.overlap_accuracy, report.clean_accuracy) == (0.64, 0.8, 0.6)
    assert report.difference == pytest.approx(0.04)
    assert report.p_value == pytest.approx(stats.binom.sf(79, 100, 0.6), rel=1e-9)
    expected = stats.binomtest(80, 100).proportion_ci(0.995, method="exact")
    assert report.overlap_interval == pytest.approx((expected.low, expected.high), rel=1e-9)
    order = np.random.default_rng(1).permutation(500)
    assert overlap_report(seen[order], correct[order], task="birds") == report


def test_sets_without_a_seen_or_a_clean_image_say_so() -> None:
    correct = np.array([True, False, True, True])
    clean = overlap_report(np.zeros(4, bool), correct)
    assert (clean.n_overlap, clean.all_accuracy, clean.difference) == (0, 0.75, 0.0)
    assert clean.overlap_interval == (0.0, 1.0)
    assert clean.as_dict()["overlap_accuracy"] is None and clean.as_dict()["p_value"] is None
    seen = overlap_report(np.ones(4, bool), correct)
    assert math.isnan(seen.clean_accuracy) and math.isnan(seen.p_value) and seen.overlap_accuracy == 0.75
    assert overlap_report(np.zeros(0, bool), np.zeros(0, bool)).as_dict()["overlap_share"] is None
    with pytest.raises(ArrayError, match="one value for each image"):
        overlap_report(np.zeros(3, bool), correct)


def test_the_table_holds_every_set_the_most_contaminated_first() -> None:
    correct = np.arange(50) % 3 > 0
    reports = [overlap_report(np.arange(50) < n, correct, task=f"<set {n}>") for n in (0, 20, 5)]
    page = environment().get_template("macros.html").module.overlap_table(reports)
    places = [page.index(f"&lt;set {n}&gt;") for n in (20, 5, 0)]
    assert places == sorted(places)
    assert "<set" not in page and page.count("<tr") == 4
