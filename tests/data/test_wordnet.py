"""A WordNet is the same in each of its formats, as far as the format tells."""

import gzip
from pathlib import Path

import pytest
from tests.curate.miniatures import write_wndb

from diptych.core.errors import DataError, UsageError
from diptych.data.wordnet import Synset, read_wordnet

SYNSETS = [
    ("n", ["animal", "animate being"], "a living thing", []),
    ("n", ["dog", "domestic dog"], 'a pet; "the dog barked"', [0]),
    ("n", ["cad", "dog"], "someone morally bad", []),
    ("v", ["chase", "dog"], "go after", []),
    ("s", ["doggy"], "like a dog", []),
    ("r", ["doggedly"], "with tenacity", []),
]
LMF = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.3.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
  <Lexicon id="oewn" label="OEWN" language="en" version="2025">
    <LexicalEntry id="oewn-dog-n"><Lemma writtenForm="dog" partOfSpeech="n"/>
      <Sense id="s1" synset="oewn-2-n"/><Sense id="s2" synset="oewn-3-n"/></LexicalEntry>
    <LexicalEntry id="oewn-cad-n"><Lemma writtenForm="cad" partOfSpeech="n"/>
      <Sense id="s3" synset="oewn-3-n"/></LexicalEntry>
    <LexicalEntry id="oewn-animal-n"><Lemma writtenForm="animal" partOfSpeech="n"/>
      <Sense id="s4" synset="oewn-1-n"/></LexicalEntry>
    <LexicalEntry id="oewn-doggy-s"><Lemma writtenForm="doggy" partOfSpeech="s"/>
      <Sense id="s5" synset="oewn-4-s"/></LexicalEntry>
    <Synset id="oewn-1-n" partOfSpeech="n" members="oewn-animal-n" lexfile="noun.animal">
      <Definition>a living thing</Definition></Synset>
    <Synset id="oewn-2-n" partOfSpeech="n" members="oewn-dog-n" lexfile="noun.animal">
      <Definition>a pet &amp; more</Definition><SynsetRelation relType="hypernym" target="oewn-1-n"/>
      <SynsetRelation relType="mero_part" target="oewn-3-n"/><Example>the dog barked</Example></Synset>
    <Synset id="oewn-3-n" partOfSpeech="n" members="oewn-cad-n oewn-dog-n">
      <Definition>a bad one</Definition></Synset>
    <Synset id="oewn-4-s" partOfSpeech="s"><Definition>like a dog</Definition></Synset>
  </Lexicon>
</LexicalResource>
"""


def test_wndb_gives_lemmas_glosses_hypernyms_and_the_order_of_senses(tmp_path):
    wordnet = read_wordnet(write_wndb(tmp_path / "dict", SYNSETS))
    synsets = list(wordnet.synsets.values())
    assert [(one.pos, list(one.lemmas), one.gloss) for one in synsets] == [one[:3] for one in SYNSETS]
    animal, dog, cad, chase, doggy, _ = synsets
    assert dog.hypernyms == (animal.id,) and dog.id.endswith("-n") and len(dog.id) == 10
    assert animal.lexfile == "noun.animal"
    meanings = {("dog", "n"): (dog, cad), ("Dog", "v"): (chase,), ("doggy", "a"): (doggy,)}
    meanings |= {("domestic dog", "n"): (dog,), ("unicorn", "n"): ()}
    assert {key: wordnet.meanings(*key) for key in meanings} == meanings
    folder = write_wndb(tmp_path / "marked", [("a", ["galore(ip)"], "in plenty", [])])
    assert next(iter(read_wordnet(folder).synsets.values())).lemmas == ("galore",)


@pytest.mark.parametrize("name", ["oewn.xml", "english-wordnet-2025.xml.gz"])
def test_lmf_gives_the_same(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(LMF.encode()) if name.endswith(".gz") else LMF.encode())
    wordnet = read_wordnet(path)
    animal, dog, cad, doggy = wordnet.synsets.values()
    assert dog == Synset("oewn-2-n", "n", ("dog",), "a pet & more", (animal.id,), "noun.animal")
    assert cad.lemmas == ("cad", "dog") and (doggy.pos, doggy.lemmas) == ("s", ("doggy",))
    assert wordnet.meanings("dog") == (dog, cad)
    assert wordnet.meanings("doggy", "a") == (doggy,)


def test_entities_of_the_files_own_are_refused(tmp_path):
    """A billion laughs: ten lines that would unfold to gigabytes."""
    path = tmp_path / "a.xml"
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    path.write_text(f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x><Definition>&l9;</Definition></x>')
    with pytest.raises(DataError, match="entities"):
        read_wordnet(path)


def test_a_table_gives_lemmas_in_its_order(tmp_path):
    path = tmp_path / "a.tsv"
    rows = 'synset lexfile pos members definition\n1-n noun.animal n dog|hot_dog "pet\n2-n noun.x n dog cad'
    path.write_text(rows.replace(" ", "\t").replace("_", " "))
    wordnet = read_wordnet(path)
    assert (wordnet.synsets["1-n"].lemmas, wordnet.synsets["1-n"].gloss) == (("dog", "hot dog"), '"pet')
    assert [one.id for one in wordnet.meanings("dog")] == ["1-n", "2-n"]


def test_the_real_table_is_read_whole(shared_data):
    wordnet = read_wordnet(shared_data / "text" / "oewn_synsets.tsv")
    assert len(wordnet.synsets) == 107_525
    assert wordnet.synsets["00002312-a"].lemmas == ("abaxial", "dorsal")


def test_what_is_no_wordnet_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.xml", Path(__file__)):
        with pytest.raises(UsageError, match="no WordNet"):
            read_wordnet(path)


def test_damage_is_named_in_a_short_message(tmp_path):
    packed = bytearray(gzip.compress(" ".join(f"<a>{n * n}</a>" for n in range(9999)).encode()))
    packed[len(packed) // 2 :: 50] = b"\xff" * len(packed[len(packed) // 2 :: 50])
    damaged = {"cut.xml": LMF[:900].encode(), "lacks.tsv": b"synset\tpos\n1\tn\n", "long.tsv": b"x" * 200_000}
    damaged["packed.xml.gz"] = bytes(packed)
    for number, verbs in enumerate((b"00001740 29 v\n", b"00001740 " + b"x" * 9999 + b" v\n")):
        damaged[f"dict{number}/data.verb"] = verbs
        write_wndb(tmp_path / f"dict{number}", SYNSETS)
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="cannot be read") as caught:
            read_wordnet(tmp_path / name.removesuffix("/data.verb"))
        assert len(caught.value.found) <= 200
        assert "members" in caught.value.found or name != "lacks.tsv"
