"""What a score means: match probability, z-score, a threshold at a stated rate, and "none of these".

A cosine by itself means nothing: 0.25 is a match for one text and noise for the next. Held against a bank of
background images and texts it becomes a z-score (how far above what this text, and this image, score by
chance), and from matched and mismatched pairs of a source a probability is fitted to the two z-scores. No
label is needed, only pairs that the model did not learn from.

The reject option is conformal: an image is turned away when its best z-score is among the usual ones of the
bank. Of images like those of the bank, the stated share passes, whatever the model.

Reads and writes: `calibration.npz` (arrays, no pickle) through `save` and `load`.
Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines"; Vovk et al. 2005 for the
p-values; Guo et al. 2017, "On Calibration of Modern Neural Networks", for the temperature and the
expected calibration error.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.core import checks
from diptych.core.errors import DataError, IntegrityError, UsageError
from diptych.core.files.durable import write_bytes
from diptych.core.seeds import numpy_rng

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BANK = 2000
"""Images and texts in the bank; a p-value is then exact to 1/1501."""

FIT_SHARE = 4
"""One pair of so many is kept out of the bank to fit the probabilities on: three numbers need few pairs."""

USUAL_SHARE = 4
"""One image of so many of the bank says what a text scores by chance; the others are what new ones meet."""

MISMATCHES = 8
"""Wrong texts that an image is paired with for fitting."""

LEAST = 20
"""Different images, and pairs of an image and a wrong text, that a fit needs."""

STEPS, RIDGE = 50, 1e-4
_FIELDS = ("picture_bank", "text_bank", "weights", "model_digest")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one model's scores are held against.

    Attributes:
        picture_bank: (M, E) float32, unit length.
        text_bank: (M', E) float32, unit length; without rows if it was made of images alone.
        weights: (3,) of the logistic function: per text z-score, per image z-score, constant; for even
            odds. Zeros if it was made of images alone.
        model_digest: of the model whose embeddings these are; empty if nobody said.
    """

    picture_bank: Floats
    text_bank: Floats
    weights: Doubles
    model_digest: str = ""

    @property
    def has_pairs(self) -> bool:
        """Say whether it was made of pairs: without texts there are no match probabilities."""
        return len(self.text_bank) > 0

    def z_scores(self, image_embeds: Floats, text_embeds: Floats) -> Doubles:
        """Return (N, C): how many deviations above its background each text scores for each image."""
        image_embeds, text_embeds = self._checked(image_embeds, text_embeds)
        return _z_scores(image_embeds, text_embeds, self.picture_bank)

    def probabilities(self, image_embeds: Floats, text_embeds: Floats, *, prior: float = 0.5) -> Doubles:
        """Return (N, C): how probable it is that a text belongs to an image.

        Args:
            image_embeds: (N, E) unit length.
            text_embeds: (C, E) unit length.
            prior: share of matches that is expected before looking, above 0 and below 1.

        Raises:
            UsageError: it was made of images alone.
        """
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
        by_picture = (scores - mean[:, None]) / deviation[:, None]
        logits = self.weights[0] * self.z_scores(image_embeds, text_embeds)
        logits += self.weights[1] * by_picture + self.weights[2] + np.log(prior / (1 - prior))
        return _logistic(logits)

    def p_values(self, image_embeds: Floats, text_embeds: Floats) -> Doubles:
        """Return (N,): how often an image of the bank fits its best text at least as well; never 0.

        NaN for an unreadable image.
        """
        image_embeds, text_embeds = self._checked(image_embeds, text_embeds)
        # Some say what is usual for a text, the others are held against it as new images are: only so are
        # the bank's and a new image's scores exchangeable.
        says = np.arange(len(self.picture_bank)) % USUAL_SHARE == 0
        known, held = self.picture_bank[says], self.picture_bank[~says]
        usual = np.sort(_z_scores(held, text_embeds, known).max(axis=1))
        best = _z_scores(image_embeds, text_embeds, known).max(axis=1)
        at_least = len(usual) - np.searchsorted(usual, best, side="left")
        return np.where(np.isnan(best), np.nan, (1 + at_least) / (1 + len(usual)))

    def _checked(self, image_embeds: Floats, text_embeds: Floats) -> tuple[Floats, Floats]:
        width = self.picture_bank.shape[1]
        images = checks.rows(image_embeds, "image_embeds", width=width, missing=True, unit=True)
        return images, checks.rows(text_embeds, "text_embeds", width=width, least=1, unit=True)

    def save(self, path: str | Path) -> None:
        """Write the calibration durably."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name) for name in _FIELDS})
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read a calibration.

        Raises:
            IntegrityError: the file is not one, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in _FIELDS}
            for name, least in (("picture_bank", 1), ("text_bank", 0)):
                checks.rows(arrays[name], name, least=least, width=arrays["text_bank"].shape[-1], unit=True)
            checks.numbers(arrays["weights"], "weights", length=3)
            return cls(**{**arrays, "model_digest": str(arrays["model_digest"])})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise IntegrityError(
                "a calibration cannot be read",
                where=path,
                found=str(error)[:100],
                fix="make it again: diptych calibrate MODEL SOURCE",
            ) from error


def calibrate(
    image_embeds: Floats, text_embeds: Floats | None, *, seed: int = 0, model_digest: str = ""
) -> Calibration:
    """Fit a calibration to pairs, or to images alone.

    Args:
        image_embeds: (N, E) unit length; rows of NaN are left out with their texts.
        text_embeds: (N, E) unit length, the text of each image; None leaves match probabilities out.
        seed: of the draws of the bank and of wrong texts.
        model_digest: of the model that made the embeddings; kept, so that no other one is held against them.

    Raises:
        ArrayError: the rows are no pairs, or not of unit length.
        DataError: fewer than 20 readable pairs of different images, or texts that hardly differ: then a
            mismatch cannot be told from a match.
    """
    image_embeds = checks.rows(image_embeds, "image_embeds", missing=True, unit=True)
    good = np.isfinite(image_embeds).all(axis=1)
    if text_embeds is not None:
        width = image_embeds.shape[1]
        text_embeds = checks.rows(text_embeds, "text_embeds", width=width, missing=True, unit=True)
        checks.same_length(text_embeds, "text_embeds", len(image_embeds))
        good &= np.isfinite(text_embeds).all(axis=1)
    images = image_embeds[good]
    distinct = len({image.tobytes() for image in images})
    if distinct < LEAST:
        found = f"{len(images)} that can be read, of {distinct} different images"
        raise DataError("too few images to calibrate on", found=found, expected=f"{LEAST} or more")
    rng = numpy_rng(seed, "calibration")
    order = rng.permutation(len(images))
    if text_embeds is None:
        return Calibration(images[order[:BANK]], images[:0], np.zeros(3), model_digest)
    texts = text_embeds[good]
    size = max(10, min(BANK, len(images) - len(images) // FIT_SHARE))
    bank, rest = order[:size], order[size:]
    if len(rest) < 10:
        rest = order
    blank = Calibration(images[bank], texts[bank], np.array([0.0, 0.0, 0.0]))
    steps = rng.integers(1, len(rest), (len(rest), MISMATCHES))
    wrong = rest[(np.arange(len(rest))[:, None] + steps) % len(rest)]
    features = [_features(blank, images[rest], texts[rest])]
    features += [_features(blank, images[rest], texts[wrong[:, turn]]) for turn in range(MISMATCHES)]
    # Texts that are equal to the right one are no mismatches, whoever wrote them.
    same = [(texts[wrong[:, turn]] == texts[rest]).all(axis=1) for turn in range(MISMATCHES)]
    matched = np.r_[np.ones(len(rest), bool), np.zeros(len(rest) * MISMATCHES, bool)]
    kept = np.r_[np.ones(len(rest), bool), ~np.concatenate(same)]
    if (kept & ~matched).sum() < LEAST or len({text.tobytes() for text in blank.text_bank}) < 2:
        raise DataError(
            "the texts of the pairs are nearly all the same: no picture can be paired with a wrong one",
            found=f"{len({text.tobytes() for text in texts})} different texts",
            fix="calibrate on captions that differ from image to image",
        )
    weights = _fit(np.concatenate(features)[kept], matched[kept])
    return Calibration(blank.picture_bank, blank.text_bank, weights, model_digest)


def _z_scores(image_embeds: Floats, text_embeds: Floats, bank: Floats) -> Doubles:
    scores = (image_embeds @ text_embeds.T).astype(np.float64)
    mean, deviation = _background(text_embeds, bank)
    return (scores - mean) / deviation


def _background(embeds: Floats, bank: Floats) -> tuple[Doubles, Doubles]:
    """Return the mean and deviation of each row's scores over the bank, in O(E^2) whatever its size."""
    mean = bank.astype(np.float64).mean(axis=0)
    centred = bank.astype(np.float64) - mean
    spread = centred.T @ centred / len(bank)
    rows = embeds.astype(np.float64)
    variance = np.einsum("ne,ne->n", rows @ spread, rows)
    return rows @ mean, np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny))


def _features(blank: Calibration, images: Floats, texts: Floats) -> Doubles:
    """Return (N, 3): the two z-scores of each pair, and 1."""
    scores = np.einsum("ne,ne->n", images, texts).astype(np.float64)
    by_text = _background(texts, blank.picture_bank)
    by_picture = _background(images, blank.text_bank)
    columns = [(scores - mean) / deviation for mean, deviation in (by_text, by_picture)]
    return np.stack([*columns, np.ones(len(scores))], axis=1)


def _fit(features: Doubles, matched: NDArray[np.bool_]) -> Doubles:
    """Fit a logistic function by Newton's method, matches and mismatches weighing the same in all."""
    weight = np.where(matched, 0.5 / max(1, matched.sum()), 0.5 / max(1, (~matched).sum()))
    found = np.zeros(features.shape[1])
    for _ in range(STEPS):
        shares = _logistic(features @ found)
        gradient = features.T @ (weight * (matched - shares)) - RIDGE * found
        curvature = (features * (weight * shares * (1 - shares))[:, None]).T @ features
        step = np.linalg.solve(curvature + RIDGE * np.eye(len(found)), gradient)
        found = found + step
        if np.abs(step).max() < 1e-10:
            break
    return found


def _logistic(values: Doubles) -> Doubles:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
