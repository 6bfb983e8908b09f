"""The sequence of batches depends on seed and position alone, and what cannot be used is counted."""

import itertools
import os
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.odd_files import encoded, rgb

from diptych.core.errors import (
    BadSampleError,
    EnvironmentFault,
    IntegrityError,
    Reason,
    SettingsError,
    TooMuchBadDataError,
)
from diptych.core.records import Pair
from diptych.data.images.transforms import Preprocess
from diptych.data.loader import Batch, Loader, LoaderSettings, drop_words

PREPROCESS = Preprocess(size=(4, 6))
END = 9


IMAGES = [encoded(rgb(9, 9, number), "PNG") for number in range(8)]


class Memory:
    """Pairs in memory; some of them broken, and one that takes its worker down."""

    digest = "memory"

    def __init__(self, count: int, broken: dict[int, Exception] | None = None, deadly: int = -1) -> None:
        self.count, self.broken, self.deadly = count, broken or {}, deadly

    def __len__(self) -> int:
        return self.count

    def pair(self, number: int) -> Pair:
        if number in self.broken:
            raise self.broken[number]
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        captions = tuple(f"{number} {word}" for word in range(1 + number % 3))
        return Pair(str(number), IMAGES[number % 8], captions)

    def location(self, number: int) -> str:
        return f"memory.tar, sample {number}"


class Words:
    """One token per letter: start, letters, end, zeros."""

    digest = "letters"

    def tokens(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        rows = np.zeros((len(texts), 64), dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [8, *(ord(letter) for letter in text), END]
            row[: len(ids)] = ids
        return rows


def make_loader(pairs: Memory, *, rank: int = 0, world: int = 1, **changes: Any) -> Loader:
    chosen = LoaderSettings(**{"batch_size": 8, "workers": 0, **changes})
    return Loader(pairs, Words(), PREPROCESS, chosen, rank=rank, world=world)


def batches(pairs: Memory, count: int, *, seen: int = 0, **changes: Any) -> list[Batch]:
    return list(itertools.islice(make_loader(pairs, **changes).batches(seen), count))


def texts(batch: Batch) -> list[str]:
    return ["".join(map(chr, row[1 : row.index(END)])) for row in batch.tokens.tolist()]


def same(one: Batch, other: Batch) -> bool:
    tensors = ((one.pixels, other.pixels), (one.tokens, other.tokens), (one.indices, other.indices))
    return all(torch.equal(a, b) for a, b in tensors) and one.samples_seen == other.samples_seen


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 40),
    share=st.integers(1, 5),
    world=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**40),
    start=st.integers(0, 6),
)
def test_all_processes_together_see_what_one_would(count, share, world, seed, start):
    """Whatever the number of processes, the global sequence is one, and an epoch holds each sample once."""
    size, pairs = share * 4, Memory(count)
    steps = -(-2 * count // size) + 1
    alone = batches(pairs, start + steps, batch_size=size, seed=seed)
    sequence = [index for batch in alone for index in batch.indices.tolist()]
    for epoch in range(len(sequence) // count):
        assert sorted(sequence[epoch * count : (epoch + 1) * count]) == list(range(count))
    parts = [
        batches(pairs, steps, seen=start * size, rank=rank, world=world, batch_size=size, seed=seed)
        for rank in range(world)
    ]
    for step, whole in enumerate(alone[start:]):
        mine = [part[step] for part in parts]
        assert torch.cat([batch.indices for batch in mine]).tolist() == whole.indices.tolist()
        assert torch.equal(torch.cat([batch.pixels for batch in mine]), whole.pixels)
        assert {batch.samples_seen for batch in mine} == {whole.samples_seen} == {(start + step + 1) * size}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_change_nothing(workers, world):
    pairs = Memory(21)
    for rank in range(world):
        without = batches(pairs, 6, rank=rank, world=world, seen=16)
        with_workers = batches(pairs, 6, rank=rank, world=world, seen=16, workers=workers)
        assert all(same(a, b) for a, b in zip(without, with_workers, strict=True))


def test_resuming_reads_nothing_that_was_seen(monkeypatch):
    pairs, reads = Memory(10**9), []
    monkeypatch.setattr(Memory, "pair", lambda _, number: reads.append(number) or Pair("", IMAGES[0], ("a",)))
    assert batches(pairs, 1, seen=10**15)[0].epoch == 10**6
    assert len(reads) == 8


def test_augmentation_belongs_to_epoch_and_sample():
    """The same sample is cropped the same way wherever its batch begins, and another way in another epoch."""
    by_place: dict[int, list[torch.Tensor]] = {}
    for size in (4, 6):
        seen: Counter[int] = Counter()
        for batch in batches(Memory(12), 24 // size, batch_size=size, seed=5):
            for index, pixels in zip(batch.indices.tolist(), batch.pixels, strict=True):
                by_place.setdefault(index + 100 * seen[index], []).append(pixels)
                seen[index] += 1
    assert all(torch.equal(*crops) for crops in by_place.values())
    assert any(not torch.equal(by_place[index][0], by_place[100 + index][0]) for index in range(12))


def test_all_captions_of_a_sample_get_their_turn():
    stated: dict[int, set[str]] = {}
    for batch in batches(Memory(6), 40, batch_size=6):
        for index, text in zip(batch.indices.tolist(), texts(batch), strict=True):
            stated.setdefault(index, set()).add(text)
    assert stated[2] == {"2 0", "2 1", "2 2"}
    assert stated[3] == {"3 0"}


def test_batch_has_the_promised_form():
    batch = batches(Memory(30), 1)[0]
    assert (batch.pixels.shape, batch.pixels.dtype) == ((8, 3, 4, 6), torch.uint8)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.tokens.dtype == batch.indices.dtype == torch.int64
    lengths = (batch.tokens == END).int().argmax(dim=1) + 1
    assert batch.tokens.shape[1] == lengths.max()


def test_without_augmentation_the_evaluation_transform_is_used():
    first, second = batches(Memory(8), 2, augment=False)
    assert torch.equal(first.pixels[first.indices.argsort()], second.pixels[second.indices.argsort()])


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_left_out_and_counted(workers):
    broken: dict[int, Exception] = {
        3: BadSampleError(Reason.TRUNCATED_IMAGE, where="here"),
        5: IntegrityError("a sample of a shard is damaged", where="there"),
    }
    loader = make_loader(Memory(16, broken), workers=workers)
    epoch = list(itertools.islice(loader.batches(), 2))
    assert sorted(len(batch.indices) for batch in epoch) in ([6, 8], [7, 7])
    assert all(len(batch.pixels) == len(batch.tokens) == len(batch.indices) for batch in epoch)
    assert loader.counts.as_dict()["dropped"] == {"damaged": 1, "truncated_image": 1}
    assert (loader.counts.seen, loader.counts.kept) == (16, 14)


def test_too_many_bad_samples_stop_the_loading():
    broken: dict[int, Exception] = {n: BadSampleError(Reason.UNREADABLE_IMAGE, where="x") for n in range(100)}
    with pytest.raises(TooMuchBadDataError, match="too many samples"):
        batches(Memory(1000, broken), 200)
    with pytest.raises(TooMuchBadDataError):  # a batch without any good sample
        batches(Memory(8, broken), 1)


def test_dead_worker_is_named_with_what_it_was_reading():
    with pytest.raises(EnvironmentFault, match="a loader worker died") as caught:
        batches(Memory(40, deadly=17), 5, workers=2)
    message = str(caught.value)
    assert "memory.tar, sample 17" in message
    assert "worker 0" in message or "worker 1" in message


def test_identity_names_the_sequence_and_not_the_workers():
    def identity(**changes: object) -> dict[str, Any]:
        return make_loader(Memory(8), **changes).identity

    assert identity(workers=3) == identity(workers=0) == identity()
    for changes in ({"seed": 1}, {"batch_size": 4}, {"augment": False}, {"word_dropout": 0.5}):
        assert identity(**changes)["loader"] == {**identity()["loader"], **changes}
    assert identity()["vocabulary"] == {"digest": "letters"}


def test_words_are_left_out_by_epoch_and_sample():
    """The same for any number of workers, another choice in another epoch, and never outside training."""

    def stated(**changes: Any) -> list[str]:
        made = batches(Memory(12), 4, **{"batch_size": 12, "word_dropout": 0.9, **changes})
        return [text for batch in made for text in texts(batch)]

    assert stated() == stated(workers=2)
    assert any(" " not in text for text in stated()) and all(stated())
    assert all(" " in text for text in stated(augment=False) + stated(word_dropout=0.0))


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        *((8, {"word_dropout": share}, "share of words") for share in (-0.1, 1.0, float("nan"))),
        *((8, {"rank": r, "world": w}, "cannot be shared out") for r, w in ((0, 3), (2, 2), (-1, 2))),
        *((8, change, "cannot be set") for change in ({"batch_size": 0}, {"workers": -1})),
        (0, {}, "no samples"),
    ],
)
def test_impossible_settings_are_refused(count, changes, message):
    with pytest.raises(SettingsError, match=message):
        make_loader(Memory(count), **changes)


# --- captions that lose words

CAPTION = "puma men black running shoes size nine in a box of ten"


def drawn(share: float, count: int, caption: str = CAPTION) -> list[str]:
    rng = np.random.default_rng(3)
    return [drop_words(caption, share, rng) for _ in range(count)]


def test_words_keep_their_order_and_at_least_one_stays():
    words = CAPTION.split()
    for text in drawn(0.999, 2000):
        kept = iter(words)
        assert text
        assert all(word in kept for word in text.split())
    assert drawn(0.0, 1) == [CAPTION]
    assert drawn(0.9, 50, "shoes") == ["shoes"] * 50
    assert drawn(0.9, 2, "") == ["", ""]
    assert set(drawn(1e-9, 5, "two  spaces")) == {"two  spaces"}


def test_half_stays_whole_and_the_share_is_even_among_the_others():
    """S is 0 or even on (0, s), half and half; one word of n is exempt, the others go with probability S."""
    others = len(CAPTION.split()) - 1
    lost = np.array([others + 1 - len(text.split()) for text in drawn(0.8, 20_000)]) / others
    mean, square = 0.8 / 4, 0.8**2 / 6  # of S
    assert lost.mean() == pytest.approx(mean, abs=0.006)
    # Variance of Binomial(n, S) / n: Var S + E[S (1 - S)] / n.
    assert lost.var() == pytest.approx(square - mean**2 + (mean - square) / others, rel=0.05)
    # E[(1 - S)^n] for even S is (1 - (1 - s)^(n + 1)) / (s (n + 1)): some of the others stay whole by luck.
    lucky = (1 - 0.2 ** (others + 1)) / (0.8 * (others + 1))
    assert np.mean(lost == 0) == pytest.approx(0.5 + lucky / 2, abs=0.01)


def test_every_word_goes_equally_often():
    words = CAPTION.split()
    assert len(set(words)) == len(words)
    kept = [set(text.split()) for text in drawn(0.5, 20_000)]
    rates = np.array([np.mean([word in texts for texts in kept]) for word in words])
    assert rates.mean() < 0.95
    assert np.ptp(rates) < 0.02
