"""Does a model know who does what: captions that differ by a word, an order, a relation.

Every score is a share of strict wins: a caption that scores as high as the right one, or a picture that
cannot be read, is a miss.

Reads: SugarCrepe's json files, Winoground's examples.jsonl, ARO's json files, as their authors publish them,
and the pictures beside them. Writes: nothing.
Source: Hsieh et al. 2023 (SugarCrepe); Thrush et al. 2022, section 3.3 (Winoground's text, image and group
score); Yuksekgonul et al. 2023 (ARO; pictures are cut to the box of the two objects, relations and pairs of
attributes count alike).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.records import Metric
from diptych.embed.features import Precision, embed_images, embed_texts
from diptych.evaluate.metrics import wilson
from diptych.evaluate.ranks import Bools, Doubles, exact_scores
from diptych.models.inputs import Picture

if TYPE_CHECKING:
    from diptych.models.model import Model

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """A picture and captions of which the first is right.

    Attributes:
        key: the row's name in its file.
        image: the picture's file.
        captions: at least two, the right one first.
        group: what the case is about: a category, a relation, a pair of attributes.
        box: (left, top, right, bottom) in pixels to cut the picture to; None keeps it whole.
    """

    key: str
    image: Path
    captions: tuple[str, ...]
    group: str
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Quartet:
    """Two pictures and two captions of the same words; number i belongs to number i.

    Attributes:
        key: the row's name.
        images: the pictures' files.
        captions: the captions.
        tag: what was swapped.
    """

    key: str
    images: tuple[Path, Path]
    captions: tuple[str, str]
    tag: str


def read_sugarcrepe(folder: str | Path, images: str | Path) -> list[Choice]:
    """Read every category of SugarCrepe: json files of rows with filename, caption and negative_caption.

    Args:
        folder: holds add_att.json, …, swap_obj.json; the file's name is the group.
        images: COCO's val2017.

    Raises:
        DataError: there is no such file, or a row lacks something.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise DataError("no SugarCrepe here", where=folder, expected="json files such as swap_obj.json")
    return [
        Choice(key, Path(images) / row["filename"], (row["caption"], row["negative_caption"]), file.stem)
        for file in files
        for key, row in _rows(file, ("filename", "caption", "negative_caption"))
    ]


def read_winoground(examples: str | Path, images: str | Path) -> list[Quartet]:
    """Read Winoground's examples.jsonl; pictures are png files.

    Raises:
        DataError: a row lacks something.
    """
    wanted = ("image_0", "image_1", "caption_0", "caption_1")
    return [
        Quartet(
            str(row.get("id", key)),
            (Path(images) / f"{row['image_0']}.png", Path(images) / f"{row['image_1']}.png"),
            (row["caption_0"], row["caption_1"]),
            str(row.get("collapsed_tag", row.get("tag", ""))),
        )
        for key, row in _rows(Path(examples), wanted)
    ]


def read_aro(file: str | Path, images: str | Path) -> list[Choice]:
    """Read one of ARO's files.

    Args:
        file: visual_genome_relation.json or visual_genome_attribution.json; or rows of image_path and
            caption_options, the right one first, which is what ARO's order sets are once their shuffles
            are made.
        images: Visual Genome's, COCO's or Flickr30k's.

    Raises:
        DataError: a row lacks something.
    """
    found = []
    for key, row in _rows(Path(file), ("image_path",)):
        image = Path(images) / row["image_path"]
        if "caption_options" in row:
            if len(row["caption_options"]) < 2:
                raise DataError("a case has nothing to choose from", where=f"{file}, row {key}")
            found.append(Choice(key, image, tuple(row["caption_options"]), "order"))
            continue
        _require(row, ("true_caption", "false_caption", "bbox_x", "bbox_y", "bbox_w", "bbox_h"), file, key)
        left, top = int(row["bbox_x"]), int(row["bbox_y"])
        box = (left, top, left + int(row["bbox_w"]), top + int(row["bbox_h"]))
        group = str(row["relation_name"]) if "relation_name" in row else "_".join(row.get("attributes", ()))
        found.append(Choice(key, image, (row["true_caption"], row["false_caption"]), group, box))
    return found


def choice_hits(scores: Doubles) -> Bools:
    """Say where the first caption scores more than every other.

    Args:
        scores: (N, K); -inf where a row has fewer captions, NaN where the picture is unreadable.

    >>> choice_hits(np.array([[0.3, 0.2], [0.3, 0.3], [np.nan, np.nan]]))
    array([ True, False, False])
    """
    return np.asarray(scores[:, 0] > scores[:, 1:].max(axis=1))


def quartet_hits(scores: Doubles) -> dict[str, Bools]:
    """Return Winoground's three scores row by row.

    Args:
        scores: (N, 2, 2), picture by caption.

    Returns:
        text: both pictures prefer their own caption; image: both captions prefer their own picture; group:
        both. (N,) bool each.

    >>> hits = quartet_hits(np.array([[[0.9, 0.5], [0.6, 0.7]], [[0.9, 0.5], [0.95, 0.99]]]))
    >>> {name: found.tolist() for name, found in hits.items()}
    {'text': [True, True], 'image': [True, False], 'group': [True, False]}
    """
    own = scores[:, 0, 0], scores[:, 1, 1]
    text = (own[0] > scores[:, 0, 1]) & (own[1] > scores[:, 1, 0])
    image = (own[0] > scores[:, 1, 0]) & (own[1] > scores[:, 0, 1])
    return {"text": text, "image": image, "group": text & image}


def choice_metrics(choices: Sequence[Choice], hits: Bools, *, task: str) -> list[Metric]:
    """List the accuracy over all cases, of each group, and the mean of the groups.

    Args:
        choices: N cases.
        hits: (N,) bool.
        task: the name the metrics carry.
    """
    groups: dict[str, list[bool]] = {}
    for choice, hit in zip(choices, hits.tolist(), strict=True):
        groups.setdefault(choice.group, []).append(hit)
    mean = float(np.mean([np.mean(of) for of in groups.values()])) if groups else float("nan")
    return [
        _share(task, "accuracy", hits),
        Metric(task, "mean_per_group", mean, None, len(hits)),
        *(_share(task, f"accuracy[{name}]", np.array(of)) for name, of in sorted(groups.items())),
    ]


def quartet_metrics(hits: dict[str, Bools], *, task: str) -> list[Metric]:
    """List the text, image and group score with 95 % intervals."""
    return [_share(task, f"{name}_score", found) for name, found in hits.items()]


def score_choices(model: "Model", choices: Sequence[Choice], *, precision: Precision = "float32") -> Doubles:
    """Return the cosines (N, K) of pictures and their captions, for `choice_hits`."""
    most = max((len(choice.captions) for choice in choices), default=2)
    pictures = embed_images(model, map(_picture, choices), precision=precision, preprocessing="exact")
    texts = [caption for choice in choices for caption in choice.captions]
    rows = np.repeat(np.arange(len(choices)), [len(choice.captions) for choice in choices])
    columns = np.concatenate([np.arange(0), *(np.arange(len(choice.captions)) for choice in choices)])
    pairs = np.stack([rows, np.arange(len(texts))], axis=1)
    scores = np.full((len(choices), most), -np.inf)
    scores[rows, columns] = exact_scores(pictures, embed_texts(model, texts, precision=precision), pairs)
    return scores


def score_quartets(
    model: "Model", quartets: Sequence[Quartet], *, precision: Precision = "float32"
) -> Doubles:
    """Return the cosines (N, 2, 2) of pictures and captions, for `quartet_hits`."""
    files = (image for quartet in quartets for image in quartet.images)
    pictures = embed_images(model, files, precision=precision, preprocessing="exact")
    captions = [caption for quartet in quartets for caption in quartet.captions]
    texts = embed_texts(model, captions, precision=precision)
    starts = np.repeat(2 * np.arange(len(quartets)), 4)
    pairs = np.stack(
        [starts + np.tile([0, 0, 1, 1], len(quartets)), starts + np.tile([0, 1], 2 * len(quartets))], 1
    )
    return exact_scores(pictures, texts, pairs).reshape(-1, 2, 2)


def _share(task: str, name: str, hits: Bools) -> Metric:
    count, right = len(hits), int(hits.sum())
    return Metric(task, name, right / count if count else float("nan"), wilson(right, count), count)


def _picture(choice: Choice) -> Picture:
    """Return the picture, cut to its box; a file that cannot be read is left to the decoder to refuse."""
    if choice.box is None:
        return choice.image
    try:
        with Image.open(choice.image) as image:
            return image.convert("RGB").crop(choice.box)
    except (OSError, Image.DecompressionBombError):
        return choice.image


def _rows(file: Path, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a json file (a list, or a mapping by key) or of json lines, with their names."""
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".jsonl":
            told: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            told = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError("cannot read these cases", where=file, found=str(error), expected="json") from error
    named = told.items() if isinstance(told, dict) else enumerate(told)
    for key, row in named:
        _require(row, wanted, file, key)
        yield str(key), row


def _require(row: Any, wanted: Sequence[str], file: str | Path, key: object) -> None:
    missing = [name for name in wanted if name not in row] if isinstance(row, dict) else list(wanted)
    if missing:
        raise DataError("a case lacks something", where=f"{file}, row {key}", expected=", ".join(missing))
