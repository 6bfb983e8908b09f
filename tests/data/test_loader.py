"""The sequence of batches depends on seed and position alone, and what cannot be used is counted."""

import io
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
from PIL import Image

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
from diptych.data.loader import Batch, Loader, LoaderSettings

PREPROCESS = Preprocess(size=(4, 6))
END = 9


def make_image(number: int) -> bytes:
    buffer = io.BytesIO()
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [make_image(number) for number in range(8)]


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


def batches(
    pairs: Memory, count: int, *, seen: int = 0, rank: int = 0, world: int = 1, **changes: int
) -> list[Batch]:
    loader = Loader(
        pairs, Words(), PREPROCESS, LoaderSettings(**{"batch_size": 8, "workers": 0, **changes}),
        rank=rank, world=world,
    )  # fmt: skip
    return list(itertools.islice(loader.batches(seen), count))


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
def test_all_processes_together_see_what_one_would(
    count: int, share: int, world: int, seed: int, start: int
) -> None:
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
def test_workers_change_nothing(workers: int, world: int) -> None:
    pairs = Memory(21)
    for rank in range(world):
        without = batches(pairs, 6, rank=rank, world=world, seen=16)
        with_workers = batches(pairs, 6, rank=rank, world=world, seen=16, workers=workers)
        assert all(same(a, b) for a, b in zip(without, with_workers, strict=True))


def test_resuming_reads_nothing_that_was_seen() -> None:
    class Counted(Memory):
        reads = 0

        def pair(self, number: int) -> Pair:
            self.reads += 1
            return super().pair(number)

    pairs = Counted(10**9)
    first = batches(pairs, 1, seen=10**15)
    assert pairs.reads == 8
    assert first[0].epoch == 10**6


def test_augmentation_belongs_to_epoch_and_sample() -> None:
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


def test_all_captions_of_a_sample_get_their_turn() -> None:
    stated: dict[int, set[str]] = {}
    for batch in batches(Memory(6), 40, batch_size=6):
        for index, row in zip(batch.indices.tolist(), batch.tokens.tolist(), strict=True):
            stated.setdefault(index, set()).add("".join(map(chr, row[1 : row.index(END)])))
    assert stated[2] == {"2 0", "2 1", "2 2"}
    assert stated[3] == {"3 0"}


def test_batch_has_the_promised_form() -> None:
    batch = batches(Memory(30), 1)[0]
    assert (batch.pixels.shape, batch.pixels.dtype) == ((8, 3, 4, 6), torch.uint8)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.tokens.dtype == batch.indices.dtype == torch.int64
    lengths = (batch.tokens == END).int().argmax(dim=1) + 1
    assert batch.tokens.shape[1] == lengths.max()


def test_without_augmentation_the_evaluation_transform_is_used() -> None:
    plain = LoaderSettings(batch_size=8, workers=0, augment=False)
    loader = Loader(Memory(8), Words(), PREPROCESS, plain)
    pixels = {}
    for batch in itertools.islice(loader.batches(), 2):
        for index, row in zip(batch.indices.tolist(), batch.pixels, strict=True):
            assert torch.equal(pixels.setdefault(index, row), row)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_left_out_and_counted(workers: int) -> None:
    broken: dict[int, Exception] = {
        3: BadSampleError(Reason.TRUNCATED_IMAGE, where="here"),
        5: IntegrityError("a sample of a shard is damaged", where="there"),
    }
    loader = Loader(Memory(16, broken), Words(), PREPROCESS, LoaderSettings(batch_size=8, workers=workers))
    epoch = list(itertools.islice(loader.batches(), 2))
    assert sorted(len(batch.indices) for batch in epoch) in ([6, 8], [7, 7])
    assert all(len(batch.pixels) == len(batch.tokens) == len(batch.indices) for batch in epoch)
    assert loader.counts.as_dict()["dropped"] == {"damaged": 1, "truncated_image": 1}
    assert (loader.counts.seen, loader.counts.kept) == (16, 14)


def test_too_many_bad_samples_stop_the_loading() -> None:
    broken: dict[int, Exception] = {
        number: BadSampleError(Reason.UNREADABLE_IMAGE, where=f"row {number}") for number in range(100)
    }
    with pytest.raises(TooMuchBadDataError, match="too many samples"):
        batches(Memory(1000, broken), 200)


def test_batch_without_any_good_sample_stops_the_loading() -> None:
    broken: dict[int, Exception] = {n: BadSampleError(Reason.UNREADABLE_IMAGE) for n in range(8)}
    with pytest.raises(TooMuchBadDataError):
        batches(Memory(8, broken), 1)


def test_dead_worker_is_named_with_what_it_was_reading() -> None:
    with pytest.raises(EnvironmentFault, match="a loader worker died") as caught:
        batches(Memory(40, deadly=17), 5, workers=2)
    message = str(caught.value)
    assert "memory.tar, sample 17" in message
    assert "worker 0" in message or "worker 1" in message


def test_identity_names_the_sequence_and_not_the_workers() -> None:
    def identity(**changes: object) -> dict[str, Any]:
        chosen = LoaderSettings(**{"batch_size": 8, **changes})  # type: ignore[arg-type]
        return Loader(Memory(8), Words(), PREPROCESS, chosen).identity

    assert identity(workers=3) == identity(workers=0) == identity()
    others = ({"seed": 1}, {"batch_size": 4}, {"augment": False}, {"word_dropout": 0.5})
    for changes in others:
        assert identity(**changes)["loader"] == {**identity()["loader"], **changes}
    assert identity()["vocabulary"] == {"digest": "letters"}


def test_words_are_left_out_by_epoch_and_sample() -> None:
    """The same for any number of workers, another choice in another epoch, and never outside training."""
    pairs = Memory(12)

    def stated(**changes: float) -> list[list[int]]:
        chosen = LoaderSettings(**{"batch_size": 12, "workers": 0, "word_dropout": 0.9, **changes})  # type: ignore[arg-type]
        loader = Loader(pairs, Words(), PREPROCESS, chosen)
        made = list(itertools.islice(loader.batches(), 4))
        return [row[: row.index(END)] for batch in made for row in batch.tokens.tolist()]

    assert stated() == stated(workers=2)
    assert any(ord(" ") not in row for row in stated())
    assert all(len(row) > 1 for row in stated())
    assert all(ord(" ") in row for row in stated(augment=0) + stated(word_dropout=0.0))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_impossible_share_of_words_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match="share of words"):
        LoaderSettings(batch_size=8, word_dropout=share)


@pytest.mark.parametrize(("rank", "world", "size"), [(0, 3, 8), (2, 2, 8), (-1, 2, 8)])
def test_batch_that_cannot_be_shared_out_is_refused(rank: int, world: int, size: int) -> None:
    with pytest.raises(SettingsError, match="cannot be shared out"):
        Loader(Memory(8), Words(), PREPROCESS, LoaderSettings(batch_size=size), rank=rank, world=world)


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(SettingsError, match="no samples"):
        Loader(Memory(0), Words(), PREPROCESS, LoaderSettings(batch_size=8))
