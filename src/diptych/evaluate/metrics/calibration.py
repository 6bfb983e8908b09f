"""Calibration of scores: match probabilities, z-scores, and a threshold for "none of these" at a stated rate.

Cosines become z-scores by a bank of background images and texts; a probability is fitted to those of matched
and mismatched pairs (Platt 1999). The reject option is conformal (Vovk et al. 2005): of images like those of
the bank, the stated share passes, whatever the model.

Reads and writes: `calibration.npz` (arrays, no pickle).
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.core import checks
from diptych.core.checks import Bools, Doubles, Floats
from diptych.core.errors import DataError, IntegrityError, UsageError
from diptych.core.files.durable import write_bytes
from diptych.core.seeds import numpy_rng

BANK = 2000  # images and texts in the bank: a p-value is then exact to 1/1501
FIT_SHARE = 4  # one pair of so many is kept out of the bank to fit the probabilities on
USUAL_SHARE = (
    4  # one image of so many of the bank gives a text's background; new ones are compared with the others
)
MISMATCHES = 8  # wrong texts that an image is paired with for fitting
LEAST = 20  # different images, and pairs of an image and a wrong text, that a fit needs
STEPS, RIDGE = 50, 1e-4
_FIELDS = ("image_bank", "text_bank", "weights", "model_digest")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one model's scores are compared with.

    Attributes:
        image_bank: (M, E) unit length.
        text_bank: (M', E) unit length; without rows if it was made of images alone.
        weights: (3,) of the logistic function at even odds: per text z-score, per image z-score, constant.
        model_digest: of the model whose embeddings these are; empty if unknown.
    """

    image_bank: Floats
    text_bank: Floats
    weights: Doubles
    model_digest: str = ""

    @property
    def has_pairs(self) -> bool:
        """Whether it was made of pairs: without texts there are no match probabilities."""
        return len(self.text_bank) > 0

    def z_scores(self, image_embeds: Floats, text_embeds: Floats) -> Doubles:
        """Return (N, C): how many deviations above its background each text scores for each image."""
        return _z_scores(*self._checked(image_embeds, text_embeds), self.image_bank)

    def probabilities(self, image_embeds: Floats, text_embeds: Floats, *, prior: float = 0.5) -> Doubles:
        """Return (N, C): how probable a match is; `prior` is the share of matches expected before looking."""
        image_embeds, text_embeds = self._checked(image_embeds, text_embeds)
        checks.fraction(prior, "prior")
        if not self.has_pairs:
            raise UsageError(
                "a calibration from images alone has no match probabilities",
                expected="one from pairs",
                fix="make it again from images with captions, without --images",
            )
        scores = (image_embeds @ text_embeds.T).astype(np.float64)
        mean, deviation = _background(image_embeds, self.text_bank)
        by_image = (scores - mean[:, None]) / deviation[:, None]
        logits = self.weights[0] * self.z_scores(image_embeds, text_embeds)
        logits += self.weights[1] * by_image + self.weights[2] + np.log(prior / (1 - prior))
        return _logistic(logits)

    def p_values(self, image_embeds: Floats, text_embeds: Floats) -> Doubles:
        """Return (N,): how often an image of the bank fits its best text as well; NaN if unreadable."""
        image_embeds, text_embeds = self._checked(image_embeds, text_embeds)
        # Some images give the backgrounds, the others are scored as new images are: only so are the scores of
        # the bank and of a new image exchangeable.
        is_background = np.arange(len(self.image_bank)) % USUAL_SHARE == 0
        background, others = self.image_bank[is_background], self.image_bank[~is_background]
        usual = np.sort(_z_scores(others, text_embeds, background).max(axis=1))
        best = _z_scores(image_embeds, text_embeds, background).max(axis=1)
        at_least = len(usual) - np.searchsorted(usual, best, side="left")
        return np.where(np.isnan(best), np.nan, (1 + at_least) / (1 + len(usual)))

    def _checked(self, image_embeds: Floats, text_embeds: Floats) -> tuple[Floats, Floats]:
        width = self.image_bank.shape[1]
        images = checks.rows(image_embeds, "image_embeds", width=width, missing=True, unit=True)
        return images, checks.rows(text_embeds, "text_embeds", width=width, least=1, unit=True)

    def save(self, path: str | Path) -> None:
        """Write the calibration durably."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name) for name in _FIELDS})
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read a calibration; files of earlier versions call the images `picture_bank`."""
        try:
            with np.load(path, allow_pickle=False) as file:
                names = dict(zip(_FIELDS, _FIELDS, strict=True))
                if "picture_bank" in file:
                    names["image_bank"] = "picture_bank"
                arrays = {field: file[name] for field, name in names.items()}
            for name, least in (("image_bank", 1), ("text_bank", 0)):
                checks.rows(arrays[name], name, least=least, width=arrays["text_bank"].shape[-1], unit=True)
            checks.numbers(arrays["weights"], "weights", length=3)
            return cls(**{**arrays, "model_digest": str(arrays["model_digest"])})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            fix = "make it again: diptych calibrate MODEL SOURCE"
            what = "a calibration cannot be read"
            raise IntegrityError(what, where=path, found=str(error)[:100], fix=fix) from error


def calibrate(
    image_embeds: Floats, text_embeds: Floats | None, *, seed: int = 0, model_digest: str = ""
) -> Calibration:
    """Fit a calibration to pairs (N, E) of unit length, or to images alone: without match probabilities.

    Rows of NaN are left out with their texts; the seed is that of the draws of the bank and of wrong texts.

    Raises:
        DataError: fewer than 20 readable pairs of different images, or texts that hardly differ.
    """
    image_embeds = checks.rows(image_embeds, "image_embeds", missing=True, unit=True)
    good = np.isfinite(image_embeds).all(axis=1)
    if text_embeds is not None:
        width = image_embeds.shape[1]
        text_embeds = checks.rows(text_embeds, "text_embeds", width=width, missing=True, unit=True)
        checks.same_length(text_embeds, "text_embeds", len(image_embeds))
        good &= np.isfinite(text_embeds).all(axis=1)
    images = image_embeds[good]
    distinct = _distinct(images)
    if distinct < LEAST:
        count = f"{len(images)} that can be read, of {distinct} different images"
        raise DataError("too few images to calibrate on", found=count, expected=f"{LEAST} or more")
    rng = numpy_rng(seed, "calibration")
    order = rng.permutation(len(images))
    if text_embeds is None:
        return Calibration(images[order[:BANK]], images[:0], np.zeros(3), model_digest)
    texts = text_embeds[good]
    size = max(10, min(BANK, len(images) - len(images) // FIT_SHARE))
    bank, rest = order[:size], order[size:]
    if len(rest) < 10:
        rest = order
    image_bank, text_bank = images[bank], texts[bank]
    steps = rng.integers(1, len(rest), (len(rest), MISMATCHES))
    partners = np.concatenate([rest[None], rest[(np.arange(len(rest))[:, None] + steps) % len(rest)].T])
    features = [_features(images[rest], texts[partner], image_bank, text_bank) for partner in partners]
    # Texts that are equal to the right one are no mismatches.
    kept = np.stack([(texts[partner] != texts[rest]).any(axis=1) for partner in partners])
    kept[0] = True
    matched = np.zeros_like(kept)
    matched[0] = True
    if kept[1:].sum() < LEAST or _distinct(text_bank) < 2:
        raise DataError(
            "the texts of the pairs are nearly all the same: no image can be paired with a wrong one",
            found=f"{_distinct(texts)} different texts",
            fix="calibrate on captions that differ from image to image",
        )
    weights = _fit(np.stack(features)[kept], matched[kept])
    return Calibration(image_bank, text_bank, weights, model_digest)


def _distinct(rows: Floats) -> int:
    return len({row.tobytes() for row in rows})


def _z_scores(left: Floats, right: Floats, bank: Floats) -> Doubles:
    """Return the scores (N, C) in deviations from what each row of `right` scores over the bank."""
    mean, deviation = _background(right, bank)
    return ((left @ right.T).astype(np.float64) - mean) / deviation


def _background(embeds: Floats, bank: Floats) -> tuple[Doubles, Doubles]:
    """Return the mean and deviation of each row's scores over the bank, in O(E^2) whatever its size."""
    mean = bank.astype(np.float64).mean(axis=0)
    centered = bank.astype(np.float64) - mean
    spread = centered.T @ centered / len(bank)
    rows = embeds.astype(np.float64)
    variance = np.einsum("ne,ne->n", rows @ spread, rows)
    return rows @ mean, np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny))


def _features(images: Floats, texts: Floats, image_bank: Floats, text_bank: Floats) -> Doubles:
    """Return (N, 3): the two z-scores of each pair, and 1."""
    scores = np.einsum("ne,ne->n", images, texts).astype(np.float64)
    backgrounds = _background(texts, image_bank), _background(images, text_bank)
    columns = [(scores - mean) / deviation for mean, deviation in backgrounds]
    return np.stack([*columns, np.ones(len(scores))], axis=1)


def _fit(features: Doubles, matched: Bools) -> Doubles:
    """Fit a logistic function by Newton's method, matches and mismatches weighing the same in all."""
    weight = np.where(matched, 0.5 / max(1, matched.sum()), 0.5 / max(1, (~matched).sum()))
    weights = np.zeros(features.shape[1])
    for _ in range(STEPS):
        probabilities = _logistic(features @ weights)
        gradient = features.T @ (weight * (matched - probabilities)) - RIDGE * weights
        curvature = (features * (weight * probabilities * (1 - probabilities))[:, None]).T @ features
        step = np.linalg.solve(curvature + RIDGE * np.eye(len(weights)), gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def _logistic(values: Doubles) -> Doubles:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
