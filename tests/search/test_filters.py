"""Filters select what plain Python selects, and nothing of their text is run as SQL."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.errors import UsageError
from diptych.search.filters import parse_filter
from diptych.search.items import Item, Items, Place, write_items

ITEMS = [
    Item(
        f"{n}",
        (Place("/s", f"{n}.jpg", f"/s/{('new', 'old')[n < 5]}/{n}.jpg"), Place("/t", "x"))[: 1 + (n == 7)],
        caption=f"a 'text' {n}",
        taken=f"20{n + 10}-0{n % 9 + 1}-15T1{n % 10}:00:00" if n % 3 else "",
        camera=("Pixel 8", "Canon R5", "")[n % 3],
        width=100 * n,
        height=1000,
        latitude=None if n % 2 else -40.5 + n,
        fields={"price": str(n), "code": f"0{n}", "good": n > 6, "the size": n / 2} if n % 4 else {},
    )
    for n in range(12)
]  # fmt: skip


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Items:
    path = tmp_path_factory.mktemp("items") / "items.sqlite"
    path.write_bytes(write_items(ITEMS))
    return Items(path)


def select(items: Items, text: str) -> list[int]:
    condition = parse_filter(text, [*items.columns, "elsewhere"])(items.columns)
    return items.select(condition.sql, condition.values)


CASES: list[tuple[str, Callable[[Item], object]]] = [
    ("year >= 2020", lambda i: i.taken and int(i.taken[:4]) >= 2020),
    ("year >= 2015 and camera like 'pixel%'", lambda i: i.taken > "2015" and i.camera.startswith("Pixel")),
    ("not year >= 2020", lambda i: not (i.taken and int(i.taken[:4]) >= 2020)),
    ("taken is null or taken = ''", lambda i: not i.taken),
    ("camera is not null and camera != 'Pixel 8'", lambda i: i.camera != "Pixel 8"),
    ("date between '2012-01-01' and '2015-12-31'", lambda i: "2012" <= i.taken < "2016"),
    ("month = 3 or hour in (11, 12)", lambda i: i.taken[5:7] == "03" or i.taken[11:13] in ("11", "12")),
    ("megapixels > 0.45 and width < 900", lambda i: i.width > 450 and i.width < 900),
    ("latitude < -36", lambda i: i.latitude is not None and i.latitude < -36),
    ("latitude is null", lambda i: i.latitude is None),
    ("price < 3", lambda i: "price" in i.fields and int(i.fields["price"]) < 3),
    ("price = '5'", lambda i: i.fields.get("price") == "5"),
    ("code = '05'", lambda i: i.fields.get("code") == "05"),
    ("good = true", lambda i: i.fields.get("good") is True),
    ("`the size` > 1.5", lambda i: i.fields.get("the size", 0) > 1.5),
    ("price != 5", lambda i: i.fields.get("price") != "5"),
    ("path like '%/old/%'", lambda i: any("/old/" in p.path for p in i.places)),
    ("path not like '%/old/%'", lambda i: not any("/old/" in p.path for p in i.places)),
    ("source = '/t'", lambda i: any(p.source == "/t" for p in i.places)),
    ("caption = 'a ''text'' 3'", lambda i: i.caption == "a 'text' 3"),
    ("elsewhere is null", lambda i: True),
    ("elsewhere = 3", lambda i: False),
    ("(year = 2011 or year = 2014) and not (camera like 'Canon%')",
     lambda i: i.taken[:4] in ("2011", "2014") and not i.camera.startswith("Canon")),
    ("not not width = 300", lambda i: i.width == 300),
]  # fmt: skip


@pytest.mark.parametrize(("text", "holds"), CASES)
def test_a_filter_selects_what_python_selects(
    items: Items, text: str, holds: Callable[[Item], object]
) -> None:
    assert select(items, text) == [row for row, item in enumerate(ITEMS) if holds(item)]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "a name"), ("year", "a comparison"), ("year >=", "a value"), ("year >= 2020 and", "a name"),
        ("(year = 1", "a closing parenthesis"), ("year = 1)", "the end, `and` or `or`"),
        ("year = name", "texts stand in quotes"), ("year in 3", "in parentheses"), ("year like", "a value"),
        ("year between 1 or 2", "`and` and a second value"), ("year is 3", "null"), ("1 = 1", "a name"),
        ("year not = 3", "like, in or between"), ("year = 1; drop table items", "a name, a value"),
        ("camera = 'open", "a name, a value"), ("(" * 60 + "year=1", "parentheses"), ("yaer = 3", "year"),
        ("f:price = 1", "price"), ("row = 1", "one of"), ("x" * 20000, "at most"),
    ],
)  # fmt: skip
def test_a_filter_that_cannot_be_read_says_where(items: Items, text: str, part: str) -> None:
    with pytest.raises(UsageError) as error:
        select(items, text)
    assert part in str(error.value)


@given(st.text(alphabet="yearpicode=<>!()'\"`,;-_ %0159andorliknbtws\\\0é", max_size=60))
def test_any_text_is_a_filter_or_a_usage_error(text: str) -> None:
    try:
        condition = parse_filter(text, ["price", "code", "a b"])(["price"])
    except UsageError:
        return
    assert condition.sql.count("?") == len(condition.values)
    assert ";" not in condition.sql and "--" not in condition.sql


def test_values_stand_beside_the_condition(items: Items) -> None:
    attack = "camera = 'x'' OR 1=1 --' or `code` = '\"; DROP TABLE items'"
    condition = parse_filter(attack, ["code"])(["code"])
    assert condition.values == ("x' OR 1=1 --", '"; DROP TABLE items')
    assert select(items, attack) == []


def test_columns_with_any_name_can_be_asked_for(tmp_path: Path) -> None:
    names = ["a b", 'quo"te', "Ünï", "row", "year", "f:x", "select"]
    path = tmp_path / "items.sqlite"
    path.write_bytes(write_items([Item("d", (Place("/s", "k"),), fields={name: name for name in names})]))
    items = Items(path)
    assert items.columns == names
    assert next(items.get([0])).fields == {name: name for name in names}
    for name in ("a b", 'quo"te', "Ünï", "f:x", "select"):
        assert select(items, f"`{name}` = '{name}'") == [0]
