"""Training loop. A run killed at any point resumes bit-exactly from its last saved state.

Reads: a loader's batches, and `state/` when resuming.
Writes, in the run folder: `metrics.jsonl`, `state/`, `model/` (the checkpoint), `manifest.json` last;
`bad_batch.json` when the run stops over numbers that are not finite.
Source: Radford et al. 2021, sections 2.3 to 2.5, figure 3 and table 18.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from diptych.core.errors import EnvironmentFault, IntegrityError, SettingsError, UsageError
from diptych.core.files.durable import make_folder
from diptych.core.files.locks import locked
from diptych.core.manifest import Manifest, created_by, file_entry, is_done, verify, write_manifest
from diptych.core.progress import Progress
from diptych.core.records import Counts, Evaluator, Metric
from diptych.core.settings import to_mapping
from diptych.data.loader import Loader
from diptych.models import checkpoint
from diptych.models.model import Model
from diptych.models.towers.config import ClipConfig, TextConfig
from diptych.models.towers.text import pack_sequences
from diptych.train import state
from diptych.train.loss import contrastive_loss
from diptych.train.metrics_log import MetricsLog, evaluations
from diptych.train.settings import RESUME_IGNORED_FIELDS, TrainSettings
from diptych.train.state import Counters, Facts
from diptych.train.steps import Loss, TrainStep

# So many saves in a row may fail (a full disk that is being cleared) before the run gives up
FAILED_SAVES = 3
CAUGHT = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    steps: int
    samples_seen: int
    skipped_steps: int  # left out because loss or gradients were not finite
    seconds: float  # of the whole run, over all its sessions
    metrics: tuple[Metric, ...]  # of the last evaluation
    model_folder: Path | None  # the checkpoint; None if the run was stopped before its end
    stopped_by: int | None  # number of the signal that stopped it

    @property
    def exit_code(self) -> int:
        """Exit code for the command: 0, or 128 + the signal's number."""
        return 0 if self.stopped_by is None else 128 + self.stopped_by


def train(
    model: Model,
    loader: Loader,
    settings: TrainSettings,
    *,
    run_folder: str | Path,
    evaluators: Sequence[Evaluator] = (),
    resume: bool = False,
    loss: Loss = contrastive_loss,
) -> TrainResult:
    """Train a model in place and write it to the run folder.

    Args:
        model: with its starting weights; has the trained ones afterwards.
        loader: batches of `settings.batch_size` pairs, seeded with `settings.seed`.
        run_folder: for everything the run writes.
        evaluators: called every `evaluate_every_steps` and at the end.
        resume: go on from the newest good state in the folder (from the start where there is none). The
            result is bit-equal to that of a run never stopped, on one machine with one number of threads.
        loss: what is minimized.

    Returns:
        How it ended. After SIGTERM or SIGINT the state is saved and `stopped_by` is set; a second signal ends
        the process at once.

    Raises:
        UsageError: the folder holds a run already and `resume` is off, or another command is working in it.
        SettingsError: the settings do not fit the loader, or not the run that is resumed.
        NonFiniteError: three steps in a row were not finite.
        IntegrityError: all saved states are damaged.
    """
    run = Trainer(model, loader, settings, Path(run_folder), evaluators, loss)
    total = settings.batch_size * run.last_step
    with (
        locked(make_folder(run_folder)),
        stop_signals() as signals,
        Progress("training", total=total) as progress,
    ):
        run.begin(progress, resume=resume)
        with closing(run.batches):
            while run.step < run.last_step and not signals:
                run.advance()
            return run.finish(signals[0] if signals else None)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Catch SIGTERM and SIGINT: the list receives the first one's number, a second one ends the process.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        for caught in CAUGHT:
            signal.signal(caught, signal.SIG_DFL)

    main = threading.current_thread() is threading.main_thread()
    before = {caught: signal.signal(caught, note) for caught in CAUGHT if main}
    try:
        yield received
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


class Trainer:
    """Training loop of one run: the state that lives from step to step."""

    def __init__(
        self,
        model: Model,
        loader: Loader,
        settings: TrainSettings,
        folder: Path,
        evaluators: Sequence[Evaluator],
        loss: Loss,
    ) -> None:
        for name in ("batch_size", "seed"):
            theirs, ours = getattr(loader.settings, name), getattr(settings, name)
            if theirs != ours:
                what, where = f"loader and run disagree on {name}", f"train.{name}"
                expected, fix = f"{ours} as in the run", "give both the same"
                raise SettingsError(what, where=where, found=f"{theirs}", expected=expected, fix=fix)
        require_loss(model.config, loss)
        self.model, self.loader, self.settings, self.folder = model, loader, settings, folder
        prepare_loader(loader, model.to(settings.resolved_device()))
        self.evaluators = evaluators
        self.last_step = settings.last_step(loader.count)
        self.total_steps = settings.total_steps(loader.count)
        self.train_step = TrainStep(model, settings, loss, total_steps=self.total_steps)
        self.step = self.samples_seen = 0
        self.metrics: tuple[Metric, ...] = ()
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._failed_saves = 0
        self._saved_step = -1

    def begin(self, progress: Progress, *, resume: bool) -> None:
        """Start, or go on from the newest good state."""
        self.progress = progress
        held = (self.folder / "state").exists() or (self.folder / "metrics.jsonl").exists()
        if held and not resume:
            fix = "go on with it (--resume), or choose another folder"
            raise UsageError("the folder holds a run already", where=self.folder, fix=fix)
        latest = state.latest(self.folder / "state", progress.log) if resume else None
        self.metrics_log = MetricsLog(
            self.folder / "metrics.jsonl",
            progress,
            every=self.settings.logged_every(self.total_steps),
            last_step=self.last_step,
            warmup_steps=self.settings.warmup(self.total_steps),
        )
        if latest is not None:
            self._restore(latest)
        elif resume:
            progress.log("no saved state in this folder yet: starting from the beginning")
        self.metrics_log.begin(self.step)
        self.batches = self.loader.batches(self.samples_seen)
        self._started = time.monotonic()

    def _restore(self, folder: Path) -> None:
        facts = state.load_facts(folder)
        # A run of a version without these settings read images like this.
        read = {"orientation": "upright", "scaled_jpeg": True, **facts.identity["preprocess"]}
        saved = {**facts.identity, "preprocess": read}
        state.require_same(saved, self._identity(), where=folder)
        machine = state.machine_facts(self.model.device)
        if facts.machine != machine:
            then = dict(facts.machine)
            self.progress.log(f"saved with {then}, resumed with {machine}: the last bits may differ")
        state.restore(folder, self.model.clip, self.train_step.optimizer)
        counters = facts.counters
        self.step, self.samples_seen = counters.step, counters.samples_seen
        self.train_step.skipped_steps = counters.skipped_steps
        self.train_step.skipped_in_row = counters.skipped_in_row
        self.metrics_log.losses = list(counters.losses)
        self.loader.counts = Counts.from_dict(counters.samples)
        self._seconds_before = counters.seconds
        self._saved_step = self.step
        self.metrics = evaluations(self.folder / "metrics.jsonl", self.step)
        self.progress.log(f"resuming at step {self.step} of {self.last_step} ({folder})")

    def advance(self) -> None:
        """Do one step, and what is due after it."""
        waiting = time.monotonic()
        batch = next(self.batches)
        waited = time.monotonic() - waiting
        result = self.train_step.step(batch, self.step)
        self.step += 1
        self.samples_seen = batch.samples_seen
        skipped = self.train_step.skipped_steps
        self.metrics_log.log_step(self.step, batch, result, waited=waited, skipped=skipped)
        if not result.finite:
            self.train_step.require_progress(self.step, batch, self.loader, self.folder)
        every = self.settings.evaluate_every_steps
        last = self.step == self.last_step
        if last or (every is not None and self.step % every == 0):
            self._evaluate()
        if last or self.step % self.settings.save_every_steps == 0:
            self._save(required=False)

    def finish(self, signal_number: int | None) -> TrainResult:
        """Save what the run has become: a checkpoint at its end, a state where it was stopped."""
        folder = None
        if self.step >= self.last_step:
            folder = self._publish()
        elif self._saved_step != self.step:
            self._save(required=True)
        if signal_number is not None and folder is None:
            self.progress.log(
                f"stopped by signal {signal_number} after step {self.step} of {self.last_step}; "
                f"everything is saved: run the same command again with --resume to go on"
            )
        return TrainResult(
            steps=self.step,
            samples_seen=self.samples_seen,
            skipped_steps=self.train_step.skipped_steps,
            seconds=self._seconds(),
            metrics=self.metrics,
            model_folder=folder,
            stopped_by=signal_number if folder is None else None,
        )

    def _evaluate(self) -> None:
        measured: list[Metric] = []
        with self.metrics_log.paused():
            for evaluator in self.evaluators:
                self.model.clip.eval()
                metrics = evaluator(self.model)
                self.metrics_log.write_evaluation(self.step, evaluator.name, metrics)
                measured.extend(metrics)
        self.model.clip.train()
        self.metrics = tuple(measured)

    def _save(self, *, required: bool) -> None:
        counters = Counters(
            step=self.step,
            samples_seen=self.samples_seen,
            skipped_steps=self.train_step.skipped_steps,
            skipped_in_row=self.train_step.skipped_in_row,
            losses=tuple(self.metrics_log.losses),
            seconds=self._seconds(),
            samples=self.loader.counts.as_dict(),
        )
        facts = Facts(counters, self._identity(), state.machine_facts(self.model.device))
        try:
            with self.metrics_log.paused():
                optimizer, keep = self.train_step.optimizer, self.settings.keep
                state.save(self.folder / "state", self.model.clip, optimizer, facts, keep=keep)
        except EnvironmentFault as fault:
            self._failed_saves += 1
            if required or self._failed_saves >= FAILED_SAVES:
                raise
            self.progress.log(f"could not save at step {self.step}, training goes on: {fault}")
        else:
            self._failed_saves = 0
            self._saved_step = self.step

    def _publish(self) -> Path:
        folder = self.folder / "model"
        try:
            if is_done(self.folder, "run"):
                verify(self.folder)
                self.progress.log(f"this run is done: {folder}")
                return folder
        except IntegrityError as error:
            self.progress.log(f"this run was done, and is written again from its last state: {error}")
        identity = self._identity()
        self.model.clip.eval()
        self.model.provenance.update(
            created_by=created_by(), steps=self.step, samples_seen=self.samples_seen, **identity
        )
        checkpoint.save(folder, self.model, replace=True)
        # A run that was stopped after its last step, before its line, has no metrics.
        metrics = self.folder / "metrics.jsonl"
        written = [*sorted(folder.iterdir()), *([metrics] if metrics.exists() else [])]
        manifest = Manifest(
            kind="run",
            settings=identity,
            outputs=tuple(file_entry(path, root=self.folder) for path in written),
            counts=self.loader.counts.as_dict(),
            seed=self.settings.seed,
            seconds=self._seconds(),
            extra={"metrics": [metric.as_dict() for metric in self.metrics]},
        )
        write_manifest(self.folder, manifest)
        return folder

    def _identity(self) -> dict[str, object]:
        """Return what must be equal for a resumed run to be the same run."""
        mapping = to_mapping(self.settings)
        return {
            "train": {
                **{name: value for name, value in mapping.items() if name not in RESUME_IGNORED_FIELDS},
                "warmup_steps": self.settings.warmup(self.total_steps),
                "precision": self.train_step.precision,
            },
            "architecture": to_mapping(self.model.config),
            **self.loader.identity,
        }

    def _seconds(self) -> float:
        return round(self._seconds_before + time.monotonic() - self._started, 3)


def prepare_loader(loader: Loader, model: Model) -> None:
    """Let a loader's workers make all that a step moves to the model's device: pinned, texts packed."""
    loader.pinned = model.device.type == "cuda"
    text = model.config.text
    if isinstance(text, TextConfig):
        one_group = model.device.type != "cpu"
        loader.pack = partial(pack_sequences, end_id=text.end_id, one_group=one_group)


def require_loss(config: ClipConfig, loss: Loss = contrastive_loss) -> None:
    """Refuse to train a model of the sigmoid loss with the softmax loss, which leaves its bias as it is."""
    if config.logit_bias_init is not None and loss is contrastive_loss:
        what, where = "this model is made for the sigmoid loss, which is not here yet", "model.preset"
        found, expected = "a model with a logit bias (SigLIP)", "one that is trained with the softmax loss"
        fix = "choose a CLIP preset, such as ViT-B-32 or resnet-mini-64"
        raise SettingsError(what, where=where, found=found, expected=expected, fix=fix)
