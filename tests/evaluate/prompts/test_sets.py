import hashlib
import json
import re
from pathlib import Path

import pytest

from diptych.core.errors import SettingsError, UnknownNameError
from diptych.evaluate.prompts.sets import folded, prompt_set, prompt_set_names
from diptych.evaluate.prompts.templates import fill

# Our name -> the heading of the published list.
PUBLISHED = {
    "birdsnap": "Birdsnap", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "clevr-counts": "CLEVRCounts",
    "caltech101": "Caltech101", "country211": "Country211", "dtd": "DescribableTextures",
    "eurosat": "EuroSAT", "fgvc-aircraft": "FGVCAircraft", "fer2013": "FacialEmotionRecognition2013",
    "flowers102": "Flowers102", "food101": "Food101", "gtsrb": "GTSRB", "hateful-memes": "HatefulMemes",
    "kitti-distance": "KITTI", "kinetics700": "Kinetics700", "mnist": "MNIST", "oxford-pets": "OxfordPets",
    "voc2007": "PascalVOC2007", "pcam": "PatchCamelyon", "resisc45": "RESISC45", "rendered-sst2": "SST2",
    "stl10": "STL10", "sun397": "SUN397", "stanford-cars": "StanfordCars", "ucf101": "UCF101",
}  # fmt: skip

# Classes and templates of the paper's 27 data sets, counted by hand.
COUNTS = {
    "birdsnap": (500, 1), "cifar10": (10, 18), "cifar100": (100, 18), "clevr-counts": (8, 1),
    "caltech101": (102, 34), "country211": (211, 5), "dtd": (47, 8), "eurosat": (10, 3),
    "fgvc-aircraft": (100, 2), "fer2013": (7, 6), "flowers102": (102, 1), "food101": (101, 1),
    "gtsrb": (43, 3), "hateful-memes": (2, 1), "kitti-distance": (4, 1), "kinetics700": (700, 28),
    "mnist": (10, 1), "oxford-pets": (37, 1), "voc2007": (20, 1), "pcam": (2, 1), "resisc45": (45, 18),
    "rendered-sst2": (2, 1), "stl10": (10, 2), "sun397": (397, 2), "stanford-cars": (196, 8),
    "ucf101": (101, 48), "imagenet": (1000, 80),
}  # fmt: skip


def published_lists(text: str) -> dict[str, dict[str, list[str]]]:
    """Read the quoted strings of the published file line by line; a line with several is one class."""
    lists: dict[str, dict[str, list[str]]] = {}
    heading, part = "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:].strip()
            lists[heading] = {"classes": [], "templates": []}
        elif match := re.match(r"(classes|templates) = \[", line):
            part = match[1]
        elif line.startswith("]"):
            part = ""
        elif part and line.strip():
            names = [a or b for a, b in re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", line)]
            lists[heading][part].append("|".join(name.replace("\\'", "'") for name in names))
    return lists


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_the_sets_of_the_paper_have_its_counts(name: str) -> None:
    prompts = prompt_set(name)
    assert (len(prompts.class_names), len(prompts.templates)) == COUNTS[name]
    assert len(prompts.labels) == len(prompts.class_names)
    assert prompts.source and prompts.license


def test_the_sets_are_what_was_published(shared_data: Path) -> None:
    lists = published_lists((shared_data / "text" / "prompts.md").read_text(encoding="utf-8"))
    assert set(lists) == set(PUBLISHED.values())
    for name, heading in PUBLISHED.items():
        prompts = prompt_set(name)
        assert list(prompts.templates) == lists[heading]["templates"], name
        names = ["|".join(names) for names in prompts.class_names]
        reordered = name in ("eurosat", "clevr-counts", "oxford-pets", "voc2007", "food101", "ucf101")
        assert (sorted if reordered else list)(lists[heading]["classes"]) == (
            sorted(names) if reordered else names
        ), name


def test_the_names_of_imagenet_are_the_published_ones_but_for_two(shared_data: Path) -> None:
    published = json.loads((shared_data / "text" / "en_classnames.json").read_text(encoding="utf-8"))
    prompts = prompt_set("imagenet")
    changed = {
        number: (was, now)
        for number, (was, now) in enumerate(zip(published["imagenet1k"], prompts.keys, strict=True))
        if was != now
    }
    assert changed == {744: ("missile", "projectile"), 836: ("sunglasses", "sunglass")}


def test_the_labels_of_imagenet_are_wordnet_ids_in_order() -> None:
    prompts = prompt_set("imagenet")
    assert list(prompts.labels) == sorted(prompts.labels)
    assert dict(zip(prompts.labels, prompts.keys, strict=True))["n01440764"] == "tench"
    assert prompts.labels[207] == "n02099601" and prompts.keys[207] == "Golden Retriever"


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_a_part_of_imagenet_has_its_names_and_templates(name: str) -> None:
    prompts, whole = prompt_set(name), prompt_set("imagenet")
    names = dict(zip(whole.labels, whole.class_names, strict=True))
    assert len(prompts.labels) == 200 and prompts.templates == whole.templates
    assert prompts.class_names == tuple(names[label] for label in prompts.labels)


@pytest.mark.parametrize("name", prompt_set_names())
def test_no_two_classes_are_read_as_the_same(name: str) -> None:
    prompts = prompt_set(name)
    prompts = [tuple(p.lower() for p in of_class) for of_class in fill(prompts.as_templates(), prompts.keys)]
    assert len(set(prompts)) == len(prompts)


# SHA-256 (16 digits) of the class names in the order of the class numbers, a line each, letters and digits in
# lower case. From tensorflow-datasets 4.9.10; the last six from CLIP_benchmark's en_classnames.json.
ORDERS = {
    "food101": "06b4cc66bb4daaca", "ucf101": "ba5efe3c836f22f5", "imagenet": "385e0240499426c0",
    "eurosat": "af05069654fb3507", "resisc45": "5695c28318b9efb3", "oxford-pets": "7257f9637ec43465",
    "stanford-cars": "3f64f3dfe5f8488e", "voc2007": "7d877f185c807bc5", "pcam": "2ee16537aa03761d",
    "gtsrb": "a4d82007535937e2", "dmlab": "8d74a4a34a927f7f", "diabetic-retinopathy": "1a3db81402204429",
    "kitti-distance": "bb4c757bac8595ef", "svhn": "dfab20279a085795",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_classes_stand_in_the_order_of_the_published_class_numbers(name: str) -> None:
    lines = [re.sub("[^a-z0-9]", "", label.lower()) for label in prompt_set(name).labels]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == ORDERS[name]


@pytest.mark.parametrize(
    ("name", "number", "label"),
    [
        ("food101", 16, "cheesecake"), ("food101", 17, "cheese plate"), ("ucf101", 34, "Hammering"),
        ("ucf101", 35, "Hammer Throw"), ("ucf101", 46, "Jumping Jack"), ("ucf101", 47, "Jump Rope"),
        ("fer2013", 4, "sadness"), ("fer2013", 6, "neutral"), ("stl10", 2, "car"), ("stl10", 7, "monkey"),
        ("cifar10", 9, "truck"), ("flowers102", 72, "water lily"),
        ("rendered-sst2", 1, "positive"), ("clevr-counts", 0, "three"), ("country211", 210, "ZW"),
    ],
)  # fmt: skip
def test_class_numbers_checked_by_hand(name: str, number: int, label: str) -> None:
    assert prompt_set(name).labels[number] == label


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("apple_pie", "Apple Pie", True), ("ApplyEyeMakeup", "apply eye makeup", True),
        ("F/A-18", "F-A-18", True), ("Z06 2007", "Z06_2007", True),
        ("crane (bird)", "crane bird", True), ("cre\u0300me", "cr\u00e8me", True), ("C++", "C#", False),
        ("C", "C++", False), ("A-", "A", False), ("A+", "A-", False), ("1.5 mm", "15 mm", False),
        ("-1", "1", False),
        ("American_Three-toed Woodpecker", "american three toed woodpecker", True),
        ("1-2", "12", False), ("\U0001f600", "\U0001f602", False), ("<5", ">5", False), ("5 %", "5", False),
    ],
)  # fmt: skip
def test_names_are_the_same_if_case_and_separators_alone_differ(one: str, other: str, same: bool) -> None:
    assert (folded(one) == folded(other)) is same


def test_class_numbers_follow_the_files_of_the_data_set() -> None:
    assert prompt_set("eurosat").labels[9] == "SeaLake" and prompt_set("eurosat").keys[9] == "lake or sea"
    assert prompt_set("clevr-counts").keys == ("3", "4", "5", "6", "7", "8", "9", "10")
    assert prompt_set("oxford-pets").keys[:3] == (
        "Abyssinian",
        "american bulldog",
        "american pit bull terrier",
    )
    assert prompt_set("voc2007").keys[10:12] == ("diningtable", "dog")
    assert dict(zip(prompt_set("country211").labels, prompt_set("country211").keys, strict=True))["DE"] == (
        "Germany"
    )


def test_a_set_of_the_users_own_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "fruit.toml"
    file.write_text(
        'source = "me"\nlicense = "CC0"\ntemplates = ["a {}"]\n'
        'class_names = ["apple", ["pear", "quince"]]\nlabels = ["A", "P"]\n'
    )
    prompts = prompt_set(file)
    assert (prompts.name, prompts.keys, prompts.labels) == ("fruit", ("apple", "pear"), ("A", "P"))


@pytest.mark.parametrize(
    "text",
    ['class_names = ["a"]\ntemplates = ["no place"]', 'class_names = ["a", "A"]\ntemplates = ["{}"]',
     'class_names = ["a"]\nlabels = ["a", "b"]\ntemplates = ["{}"]', 'class_names = ["a"]\ntemplates = []'],
)  # fmt: skip
def test_a_set_that_cannot_work_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(f'source = "me"\nlicense = "CC0"\n{text}\n')
    with pytest.raises(SettingsError):
        prompt_set(file)


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        prompt_set("cifra10")


def test_a_file_of_an_earlier_version_is_told_the_new_name(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text('source = "me"\nlicence = "CC0"\ntemplates = ["{}"]\n')
    with pytest.raises(SettingsError) as caught:
        prompt_set(tmp_path / "old.toml")
    assert "write license" in caught.value.fix
