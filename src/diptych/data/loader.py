"""Batches for training: order and augmentation are pure functions of (seed, position); the state is a number.

Position p of the endless sequence holds sample `order.sample_at(p)`; a batch is a run of positions, and each
worker builds whole batches (read, decode, augment, tokenize). Neither the number of workers nor the number of
processes changes what is in a batch, and resuming at any position costs nothing.
"""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from diptych.core.errors import BadSampleError, EnvironmentFault, IntegrityError, Reason, SettingsError
from diptych.core.records import Counts
from diptych.core.seeds import numpy_rng
from diptych.core.settings import to_mapping
from diptych.data.images.limits import DEFAULT_LIMITS, ImageLimits
from diptych.data.images.transforms import Preprocess, read_pixels
from diptych.data.order import sample_at

if TYPE_CHECKING:
    from diptych.data.shards.reader import ShardSet
    from diptych.data.tokenizers.clip import Tokenizer

MAX_POSITION = 2**62  # of a sequence that has no end
PREFETCHED_BATCHES = 2  # held ready by each worker: enough to ride out a slow image, little memory
# With a fork server (the default from Python 3.14 on) workers would outlive a killed trainer: torch's
# workers watch their parent, and that would be the server. Forking also starts them in 20 ms instead of 3 s.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
WORKER_EXIT_GRACE_SECONDS = 1.0  # how long a worker whose connection broke may take to be seen as dead
SAMPLES_BEFORE_CHECK = 1000  # the rate of bad samples is checked against the allowed one from here on
WHOLE_CAPTIONS = 0.5  # share of captions that lose no word (LOG.md, 2026-11-24)


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """How batches are made.

    Attributes:
        batch_size: pairs per step, over all processes together.
        workers: processes that build batches beside the training process; 0 builds them in it.
        seed: of order, augmentation and the choice among several captions.
        augment: random crops (the paper's training transform); off: the evaluation transform, whole captions.
        word_dropout: largest share of words that every second caption loses, drawn anew each epoch; the paper
            has 0. Against learning a small data set's captions by heart.
        max_bad_fraction: share of samples that may be skipped before loading fails.
    """

    batch_size: int
    workers: int = 1
    seed: int = 0
    augment: bool = True
    word_dropout: float = 0.0
    max_bad_fraction: float = 0.01
    limits: ImageLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            found = f"batch_size {self.batch_size}, workers {self.workers}"
            expected = "batch_size of 1 or more, workers of 0 or more"
            raise SettingsError("the loader cannot be set like this", found=found, expected=expected)
        if not 0 <= self.word_dropout < 1:
            what, where = "no such share of words", "loader.word_dropout"
            raise SettingsError(what, where=where, found=self.word_dropout, expected="0 to below 1")


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's pairs.

    Attributes:
        pixels: (B, 3, H, W) uint8, channels-last in memory.
        tokens: (B, L) int64, cut to the longest caption of the batch.
        indices: (B,) int64, the samples' numbers in the data set.
        samples_seen: positions done once this batch is, over all processes: the loader's whole state.
        skipped: reason and location of every sample that could not be used; the batch is shorter by these.
        packed: what the loader's `pack` made of the tokens; None without one.
    """

    pixels: Tensor
    tokens: Tensor
    indices: Tensor
    epoch: int
    samples_seen: int
    skipped: tuple[tuple[Reason, str], ...] = field(default=())
    packed: Any = None

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that a GPU reads while it computes; torch's DataLoader asks for it."""
        packed = None if self.packed is None else self.packed.pin_memory()
        return replace(self, pixels=self.pixels.pin_memory(), tokens=self.tokens.pin_memory(), packed=packed)


class Loader:
    """Endless batches over a data set, from any position.

    Of `world` training processes, whose number must divide the batch size, number `rank` gets its run of
    every batch.

    Attributes:
        counts: samples used and skipped by this process, by reason.
        pinned: hand out batches in page-locked memory, for a GPU.
        pack: makes (B, L) tokens into what the text tower computes, in the workers; picklable.
    """

    def __init__(
        self,
        pairs: "ShardSet",
        tokenizer: "Tokenizer",
        preprocess: Preprocess,
        settings: LoaderSettings,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not len(pairs):
            raise SettingsError("nothing to load: the data set holds no samples", expected="1 or more")
        if settings.batch_size % world or not 0 <= rank < world:
            what, fix = "the batch cannot be shared out", "choose another batch size"
            found = f"batch_size {settings.batch_size}, world {world}, rank {rank}"
            expected = "a batch size that the number of processes divides, and 0 ≤ rank < world"
            raise SettingsError(what, found=found, expected=expected, fix=fix)
        self.settings = settings
        self.counts = Counts()
        self.pinned = False
        self.pack: Callable[[Tensor], Any] | None = None
        self.count = len(pairs)
        self._pairs, self._tokenizer, self._preprocess = pairs, tokenizer, preprocess
        self._size = settings.batch_size // world  # of this process's part of a batch
        self._offset = rank * self._size
        self._worker_positions = torch.empty(0)

    @property
    def identity(self) -> dict[str, Any]:
        """What the sequence of batches depends on, by name; not the workers."""
        settings = to_mapping(self.settings)
        del settings["workers"], settings["max_bad_fraction"]
        return {
            "data": {"digest": self._pairs.digest},
            "vocabulary": {"digest": self._tokenizer.digest},
            "preprocess": to_mapping(self._preprocess),
            "loader": settings,
        }

    def keys(self, indices: Tensor) -> list[str]:
        """Return the keys of samples by their numbers, to find them by hand."""
        return [self._pairs.pair(number).key for number in indices.tolist()]

    def batches(self, samples_seen: int = 0) -> Generator[Batch, None, None]:
        """Yield batches for ever, from the position that a batch's `samples_seen` counts.

        Raises:
            EnvironmentFault: a worker process died; names it, and what it was reading.
            TooMuchBadDataError: more samples than allowed cannot be used.
        """
        workers = self.settings.workers
        # (process id, sample number) of each worker: the error about a dead one names its sample.
        worker_positions = torch.full((max(workers, 1), 2), -1, dtype=torch.int64)
        worker_positions.share_memory_()  # type: ignore[no-untyped-call]
        self._worker_positions = worker_positions
        loading: DataLoader[Any] = DataLoader(
            range(MAX_POSITION),  # type: ignore[arg-type]
            sampler=itertools.count(samples_seen, self.settings.batch_size),
            batch_size=None,
            num_workers=workers,
            collate_fn=self._build,  # type: ignore[arg-type]
            worker_init_fn=self._begin_worker,
            prefetch_factor=PREFETCHED_BATCHES if workers else None,
            multiprocessing_context=START_METHOD if workers else None,
            pin_memory=self.pinned,
        )
        batches = _begin(loading)
        try:
            while not isinstance(batch := self._next(batches, worker_positions), EnvironmentFault):
                for reason, where in batch.skipped:
                    self.counts.drop(reason, where)
                self.counts.keep(len(batch.indices))
                if self.counts.seen >= SAMPLES_BEFORE_CHECK or not len(batch.indices):
                    setting = "max_bad_fraction of the loader"
                    self.counts.check(self.settings.max_bad_fraction, setting=setting)
                yield batch
        finally:
            del batches  # ends the workers now, not when somebody drops the last traceback
        raise batch

    def _next(self, batches: Iterator[Batch], worker_positions: Tensor) -> Batch | EnvironmentFault:
        try:
            return next(batches)
        except (RuntimeError, OSError, EOFError):  # the last two where it died handing over a batch
            fault = self._dead_worker(worker_positions) if self.settings.workers else None
            if fault is None:
                raise
            return fault

    def _dead_worker(self, worker_positions: Tensor) -> EnvironmentFault | None:
        started = {row[0]: (worker, row[1]) for worker, row in enumerate(worker_positions.tolist())}
        deadline = time.monotonic() + WORKER_EXIT_GRACE_SECONDS
        while not (dead := started.keys() - {child.pid for child in active_children()} - {-1}):
            if time.monotonic() > deadline:
                return None
            time.sleep(WORKER_EXIT_GRACE_SECONDS / 20)
        reading = []
        for process in sorted(dead):
            worker, sample = started[process]
            where = self._pairs.location(sample) if sample >= 0 else "nothing yet"
            reading.append(f"worker {worker} (process {process}), reading {where}")
        fix = "look for lack of memory (dmesg); resume the run, with fewer workers if it happens again"
        return EnvironmentFault("a loader worker died", where="; ".join(reading), fix=fix)

    def _build(self, start: int) -> Batch:
        """Build this process's part of the batch that starts at a position; runs inside the workers."""
        size, seed = self._size, self.settings.seed
        positions = np.arange(start + self._offset, start + self._offset + size)
        samples = sample_at(positions, count=self.count, seed=seed)
        worker = get_worker_info()
        here = self._worker_positions.numpy()[worker.id if worker is not None else 0]
        pixels = np.empty((size, *self._preprocess.size, 3), dtype=np.uint8)
        captions: list[str] = []
        used: list[int] = []
        skipped: list[tuple[Reason, str]] = []
        for epoch, sample in zip((positions // self.count).tolist(), samples.tolist(), strict=True):
            here[1] = sample
            try:
                caption = self._fill(pixels[len(used)], sample, epoch)
            except BadSampleError as error:
                skipped.append((error.reason, error.where or self._pairs.location(sample)))
            except IntegrityError as error:
                skipped.append((Reason.DAMAGED, error.where))
            else:
                captions.append(caption)
                used.append(sample)
        rows = self._tokenizer.tokens(captions)
        lengths = np.flatnonzero(rows.any(axis=0)) + 1  # every row ends in its end token, which is not 0
        tokens = torch.from_numpy(np.ascontiguousarray(rows[:, : lengths[-1] if lengths.size else 0]))
        return Batch(
            pixels=torch.from_numpy(pixels[: len(used)]).permute(0, 3, 1, 2),
            tokens=tokens,
            indices=torch.tensor(used, dtype=torch.int64),
            epoch=start // self.count,
            samples_seen=start + self.settings.batch_size,
            skipped=tuple(skipped),
            packed=self.pack(tokens) if self.pack is not None and used else None,
        )

    def _fill(self, pixels: npt.NDArray[np.uint8], sample: int, epoch: int) -> str:
        """Write one sample's pixels into its row of the batch and return its caption."""
        pair, settings = self._pairs.pair(sample), self.settings
        if not pair.captions:
            raise BadSampleError(Reason.MISSING_CAPTION, where=self._pairs.location(sample))
        rng = numpy_rng(settings.seed, "augment", epoch, sample)
        number = int(rng.integers(len(pair.captions))) if len(pair.captions) > 1 else 0
        drawn = rng if settings.augment else None
        pixels[:] = read_pixels(pair.image, self._preprocess, limits=settings.limits, rng=drawn)
        caption = pair.captions[number]
        return drop_words(caption, settings.word_dropout, rng) if settings.augment else caption

    def _begin_worker(self, worker: int) -> None:
        """Set up a worker: one thread, for the trainer needs the cores, and a session of its own."""
        torch.set_num_threads(1)
        if hasattr(os, "setsid"):
            # Ctrl-C and a signal to the whole group must not take the workers away while the trainer saves.
            # (Ignoring SIGTERM here would be wrong: it is how a parent that exits ends its workers.)
            os.setsid()
        self._worker_positions[worker, 0] = os.getpid()


def drop_words(caption: str, largest_share: float, rng: np.random.Generator) -> str:
    """Leave out some of a caption's words (between white space).

    Every second caption stays whole: what will be looked for later are whole ones. Of the others a share is
    drawn evenly from 0 to `largest_share`, then each word stays or goes by itself; at least one stays.

    Source: Wei & Zou 2019, "EDA: Easy Data Augmentation", section 2 (random deletion).

    >>> drop_words("red shoes", 0.0, np.random.default_rng(0))
    'red shoes'
    """
    words = caption.split()
    if largest_share <= 0 or len(words) < 2 or rng.random() < WHOLE_CAPTIONS:
        return caption
    share = rng.random() * largest_share
    chances = rng.random(len(words))
    chances[rng.integers(len(words))] = 1.0  # this one stays
    kept = [word for word, chance in zip(words, chances.tolist(), strict=True) if chance >= share]
    return caption if len(kept) == len(words) else " ".join(kept)


def _begin(loading: DataLoader[Batch]) -> Iterator[Batch]:
    """Start the workers, without torch's handler for their death.

    That handler raises wherever the main thread happens to be: between two halves of an optimizer step, or in
    the middle of a save. Without it a dead worker is noticed where its batch is awaited, within some 5 s.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loading)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loading)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
