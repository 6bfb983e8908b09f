"""What users get wrong: every mistake ends with its exit code, a message that helps, and no output."""

import io
import shlex
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.conftest import Run, call

MANY_LINES = 16  # a message that is longer is not read


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A folder with everything that can be wrong."""
    place = tmp_path_factory.mktemp("mistakes")
    recipe = run.recipe.read_text(encoding="utf-8")
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "PNG")
    for name, content in {
        "red.png": buffer.getvalue(),
        "note.png": b"this is no picture",
        "pairs.csv": b"image,caption,colour\nred.png,a red square,red\n",
        "allbad.csv": b"image,caption\nnowhere.png,a hat\nneither.png,a shoe\n",
        "headless.csv": b"picture,text\nred.png,a red square\n",
        "placeless.txt": b"a photo\n",
        "shapeless.json": b'{"prompts": 1}',
        "prompts.yaml": b"- a {}\n",
        "broken.toml": b"model = [",
        "typo.toml": recipe.replace("[train]", "[trian]").encode(),
        "named.toml": recipe.replace("vit-mini-16-64", "vit-mini-16").encode(),
        "empty/nothing.md": b"",
        "notmodel/readme.md": b"",
    }.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content)
    return place


# name: words, exit code, what the message must hold; RUN and PLACE are filled in.
MISTAKES: dict[str, tuple[str, int, list[str]]] = {
    "command": ("trian x", 2, ["unknown command 'trian'", "did you mean 'train'?"]),
    "option": ("train x.toml --reusme", 2, ["--reusme", "--resume"]),
    "option of the top": ("--verbsion", 2, ["--verbsion"]),
    "argument missing": ("pack scenes:train", 2, ["OUT"]),
    "argument too many": ("pack a b c", 2, ["c"]),
    "option without a value": ("search a b -k", 2, ["-k"]),
    "option of another type": ("search a b -k two", 2, ["-k", "'two'"]),
    "choice": ("evaluate a b --task zershot", 2, ["zershot", "zeroshot"]),
    "recipe missing": ("train PLACE/none.toml", 2, ["no such file", "none.toml"]),
    "recipe is a folder": ("train PLACE", 2, ["this is a folder"]),
    "recipe is not TOML": ("train PLACE/broken.toml", 2, ["not TOML", "broken.toml"]),
    "recipe with an unknown table": ("train PLACE/typo.toml", 2, ["trian", "did you mean 'train'?"]),
    "recipe with an unknown preset": (
        "train PLACE/named.toml --out PLACE/r", 2, ["vit-mini-16", "did you mean 'vit-mini-16-64'?"],
    ),
    "assignment of nothing": ("train RECIPE --set train.steps", 2, ["train.steps", "name=value"]),
    "assignment of an unknown setting": (
        "train RECIPE --set train.stepz=4 --out PLACE/r", 2, ["stepz", "did you mean 'steps'?"],
    ),
    "assignment of another type": (
        "train RECIPE --set train.steps=four --out PLACE/r", 2, ["steps", "'four'", "a whole number"],
    ),
    "preset of the sigmoid loss": (
        "train RECIPE --set model.preset=ViT-B-16-SigLIP --out PLACE/r", 2, ["sigmoid loss", "ViT-B-32"],
    ),
    "warm-up longer than the run": (
        "train RECIPE --set train.warmup_steps=6 --out PLACE/r", 2, ["before its warm-up", "fewer than 6"],
    ),
    "steps below zero": ("train RECIPE --set train.steps=-1 --out PLACE/r", 2, ["train.steps"]),
    "two lengths": ("train RECIPE --set train.epochs=1 --out PLACE/r", 2, ["exactly one of"]),
    "vocabulary too small": (
        "train RECIPE --set tokenizer.size=100 --out PLACE/r", 2, ["vocabulary", "100", "514"],
    ),
    "vocabulary missing": ("train RECIPE --set tokenizer.file=none.json --out PLACE/r", 2, ["none.json"]),
    "source missing": ("train RECIPE --set data.source=none --out PLACE/r", 2, ["none"]),
    "split of scenes": (
        "train RECIPE --set data.source=scenes:trian --out PLACE/r", 2, ["did you mean 'train'?"],
    ),
    "setting of scenes": ("pack scenes:train?cuont=2 PLACE/p", 2, ["cuont", "did you mean 'count'?"]),
    "source without pairs": ("pack PLACE/empty PLACE/p", 2, ["holds no images", "nothing.md"]),
    "source is a picture": ("pack PLACE/red.png PLACE/p", 2, ["no kind of file", "diptych classify"]),
    "source without its columns": ("pack PLACE/headless.csv PLACE/p", 2, ["image", "picture, text"]),
    "source with bad rows alone": ("pack PLACE/allbad.csv PLACE/p --workers 0", 3, ["dropped"]),
    "columns without a name": ("pack PLACE/pairs.csv PLACE/p --columns photo", 2, ["name=column"]),
    "columns of another kind": (
        "pack PLACE/pairs.csv PLACE/p --columns imge=photo", 2, ["did you mean 'image'?"],
    ),
    "column missing": (
        "pack PLACE/pairs.csv PLACE/p --columns caption=titel", 2, ["titel", "caption, colour"],
    ),
    "vocabulary of no size": ("tokenizer scenes:train PLACE/t --size 3", 2, ["514"]),
    "run used already": ("train RECIPE --out RUN", 2, ["holds a run already", "--out OTHER"]),
    "run is a file": ("train RECIPE --out RECIPE", 2, ["is a file", "--out"]),
    "run of other settings": (
        "train RECIPE --set train.learning_rate=1e-4 --out RUN --resume", 2, ["learning_rate"],
    ),
    "model missing": ("classify PLACE/none PLACE/red.png --labels a,b", 2, ["no model", "none"]),
    "model is another folder": (
        "classify PLACE/notmodel PLACE/red.png --labels a,b", 2, ["no model", "config.json"],
    ),
    "one label": ('classify RUN PLACE/red.png --labels "a cat"', 2, ["--labels", "at least two"]),
    "picture missing": ("classify RUN PLACE/none.png --labels a,b", 2, ["none.png"]),
    "templates without a place": (
        "classify RUN PLACE/red.png --labels a,b --templates PLACE/placeless.txt", 2, ["one {}"],
    ),
    "templates of another shape": (
        "classify RUN PLACE/red.png --labels a,b --templates PLACE/shapeless.json", 2,
        ["shapeless.json", "prompts"],
    ),
    "templates of another kind": (
        "classify RUN PLACE/red.png --labels a,b --templates PLACE/prompts.yaml", 2, [".yaml"],
    ),
    "zero-shot without labels": ("evaluate RUN PLACE/pairs.csv --task zeroshot", 2, ["--labels"]),
    "labels of no column": (
        "evaluate RUN PLACE/pairs.csv --task zeroshot --labels color", 2, ["did you mean 'colour'?"],
    ),
    "source to evaluate missing": ("evaluate RUN none.csv --task retrieval", 2, ["none.csv"]),
    "nothing to find": ('search PLACE "a hat" -k 0', 2, ["-k", "found 0"]),
    "nothing to look for": ('search PLACE " "', 2, ["a text"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_and_helped(name: str, place: Path, run: Run) -> None:
    line, code, told = MISTAKES[name]
    places = {"PLACE": place, "RECIPE": run.recipe, "RUN": run.folder}
    words = shlex.split(line)
    for mark, folder in places.items():
        words = [word.replace(mark, str(folder)) for word in words]
    said = call(*words)
    assert said.code == code, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    assert all(part in said.err for part in told), said.err
    assert len(said.err.splitlines()) <= MANY_LINES
    assert not (place / "r").exists() or not list((place / "r").glob("data/*"))  # found before packing


def test_an_unreadable_picture_is_named_and_the_others_are_answered(place: Path, run: Run) -> None:
    said = call(
        "classify", run.folder, place / "note.png", place / "red.png", "--labels", "a red square,a hat"
    )
    assert said.code == 3
    assert "note.png" in said.err and "1 of 2" in said.err
    assert "red.png" in said.out and "note.png" not in said.out


def test_a_damaged_model_is_refused(run: Run, tmp_path: Path) -> None:
    for file in (run.folder / "model").iterdir():
        data = bytearray(file.read_bytes())
        if file.name == "model.safetensors":
            data[-1] ^= 1
        (tmp_path / file.name).write_bytes(bytes(data))
    said = call("classify", tmp_path, run.recipe, "--labels", "a,b")
    assert (said.code, said.out) == (5, "")
    assert "model.safetensors" in said.err


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.core.files.durable import operations

    monkeypatch.setenv("DIPTYCH_TESTING", "1")
    monkeypatch.setenv("DIPTYCH_FAILPOINT", f"enospc:{operations() + 4}")
    said = call("pack", "scenes:train?count=20", tmp_path / "shards", "--workers", "0")
    assert (said.code, said.out) == (4, "")
    assert "No space left" in said.err
    assert not (tmp_path / "shards").exists()


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*words: object, **options: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("diptych.data.sources.open.open_source", broken)
    with pytest.raises(KeyError):
        call("pack", "a", "b")
