"""Miniatures of evaluation sets in the form their authors publish, two or three images each.

`write` fills a folder with the `test` split of a row and returns what must be read from it: (class number,
color) of each image in order; the color is what tells images apart.
"""

import gzip
import io
import json
import struct
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Color = tuple[int, int, int]
Content = bytes | str | Color | Callable[[Path], Any]  # of a file: a color is an image of it
Expected = list[tuple[int, Color]]
A, B, C = (200, 10, 10), (10, 200, 10), (10, 10, 200)
DARK, LIGHT = (50, 50, 50), (150, 150, 150)


@cache
def image(color: Color, form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, form, **({"quality": 100} if form == "JPEG" else {}))
    return file.getvalue()


def put(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
        return
    if isinstance(content, tuple):
        content = image(content, {".jpg": "JPEG", ".ppm": "PPM"}.get(path.suffix, "PNG"))
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write(name: str, root: Path) -> Expected:
    files, expected = MINIATURES[name]
    for path, content in files.items():
        put(root / path, content)
    folder, count = EMPTY_FOLDERS.get(name, ("", 0))
    for number in range(count):
        (root / folder / f"~{number:04d}").mkdir()
    return expected


def python2_pickle(**values: object) -> bytes:
    """Write a table of texts, lists of numbers and byte arrays as Python 2 and NumPy 1 did, by hand."""

    def text(value: str) -> bytes:
        raw = value.encode("latin-1")
        return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw

    def one(value: object) -> bytes:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, list):
            return b"](" + b"".join(b"K" + bytes([number]) for number in value) + b"e"
        assert isinstance(value, np.ndarray)
        rows, columns = value.shape
        shape = b"K" + bytes([rows]) + b"M" + struct.pack("<H", columns) + b"\x86"
        dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        return made + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes().decode("latin-1")) + b"tb"

    body = b"".join(text(key) + one(value) for key, value in values.items())
    return b"\x80\x02}(" + body + b"u."


def planes(side: int, *colors: Color) -> np.ndarray:
    """(N, 3 * side * side) uint8: all red, then all green, then all blue of an image."""
    return np.array([np.repeat(np.array(color, np.uint8), side * side) for color in colors])


def mat(path: Path, packed: bool = False, **variables: object) -> None:
    import scipy.io

    scipy.io.savemat(path, variables, do_compression=packed)


def hdf5(path: Path, **arrays: np.ndarray) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def video(path: Path, colors: list[Color]) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 64, "yuv420p", 4_000_000
        for color in colors:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), color, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def clevr(*depths: list[float]) -> dict[str, Content]:
    scenes = [
        {
            "image_filename": f"CLEVR_val_{n:06d}.png",
            "objects": [{"pixel_coords": [1, 2, z]} for z in of_scene],
        }
        for n, of_scene in enumerate(depths)
    ]
    images = {f"CLEVR_v1.0/images/val/CLEVR_val_00000{n}.png": color for n, color in enumerate((A, B))}
    return {"CLEVR_v1.0/scenes/CLEVR_val_scenes.json": json.dumps({"info": {}, "scenes": scenes}), **images}


def voc() -> dict[str, Content]:
    """Image 1 has a dog and a person, and a chair that is hard to see; image 2 a train."""
    classes = (
        "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    )
    classes += "pottedplant sheep sofa train tvmonitor"
    marks = {"dog": (" 1", "-1"), "person": (" 1", "-1"), "chair": (" 0", "-1"), "train": ("-1", " 1")}
    files: dict[str, Content] = {"ImageSets/Main/test.txt": "000001\n000002\n"}
    for name in classes.split():
        first, second = marks.get(name, ("-1", "-1"))
        files[f"ImageSets/Main/{name}_test.txt"] = f"000001 {first}\n000002 {second}\n"
    files |= {"JPEGImages/000001.jpg": A, "JPEGImages/000002.jpg": B}
    return {f"VOCdevkit/VOC2007/{path}": content for path, content in files.items()}


def kitti() -> dict[str, Content]:
    """Two videos of two images each; whichever is drawn for testing, the other is not."""
    line = "{} 0.00 0 -1.57 1.0 2.0 3.0 4.0 1.5 1.6 3.9 0.5 1.7 {} -1.6\n"
    near, far = line.format("Car", 7.9) + line.format("Car", 30), line.format("Van", 20.1)
    mapping = "".join(f"2011_09_26 drive_{v} 000000000{n}\n" for v in (1, 2) for n in (0, 1))
    files: dict[str, Content] = {"mapping/train_mapping.txt": mapping, "mapping/train_rand.txt": "1,2,3,4\n"}
    for number, text in enumerate((near, far + line.format("Pedestrian", 2)) * 2):
        files[f"training/label_2/{number:06d}.txt"] = text
        files[f"training/image_2/{number:06d}.png"] = (A, B)[number % 2]
    return files


GRAYS = [" ".join([str(gray[0])] * 48 * 48) for gray in (DARK, LIGHT)]
CARS = np.array(
    [(30, 1, "00001.jpg"), (40, 196, "00002.jpg")],
    dtype=[("bbox_x1", object), ("class", object), ("fname", object)],
)
SHARED = {"Banana": "banana", "Alarm clock": "analog clock; digital clock"}
OBJECTNET = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "banana": "Banana"}
IMAGENET = {"n01440764/p.jpg": A, "n15075141/p.jpg": B}
# The files of each set, and what is read from them.
MINIATURES: dict[str, tuple[Mapping[str, Content], Expected]] = {
    "cifar10": ({"cifar-10-batches-py/test_batch": python2_pickle(
        batch_label="testing batch 1 of 1", labels=[3, 9], data=planes(32, A, B))}, [(3, A), (9, B)]),
    "cifar100": ({"cifar-100-python/test": python2_pickle(
        fine_labels=[99, 0], coarse_labels=[1, 2], data=planes(32, A, C))}, [(99, A), (0, C)]),
    "birdsnap": ({
        "test_images.txt": "path\nAcorn_Woodpecker/1.jpg\nZone_tailed_Hawk/2.jpg\n",
        "images.txt": "url\tmd5\tpath\tspecies_id\nhttp://a/b.jpg\t0f\tAcorn_Woodpecker/1.jpg\t2\n"
        "http://a/c.jpg\t1f\tAcorn_Woodpecker/3.jpg\t2\n",
        "download/images/Acorn_Woodpecker/1.jpg": A, "download/images/Acorn_Woodpecker/3.jpg": C,
        "download/images/Zone_tailed_Hawk/2.jpg": B}, [(1, A), (499, B)]),
    "stanford-cars": ({
        "cars_test_annos_withlabels.mat": partial(mat, packed=True, annotations=CARS.reshape(1, 2)),
        "cars_test/00001.jpg": A, "cars_test/00002.jpg": B}, [(0, A), (195, B)]),
    "voc2007": (voc(), [(11, A), (18, B)]),
    # 31 equal images of each of two classes: 30 are for training, one is left.
    "caltech101": ({f"101_ObjectCategories/{name}/image_{n:04d}.jpg": color for n in range(31)
                    for name, color in (("Faces_easy", A), ("yin_yang", B))}, [(2, A), (101, B)]),
    "flowers102": ({
        "imagelabels.mat": partial(mat, labels=np.array([[77, 1, 102]], np.uint8)),
        "setid.mat": partial(mat, trnid=np.array([[1]], np.uint16), tstid=np.array([[3, 2]], np.uint16)),
        "jpg/image_00002.jpg": A, "jpg/image_00003.jpg": B}, [(0, A), (101, B)]),
    "mnist": ({
        "t10k-images-idx3-ubyte.gz": gzip.compress(
            struct.pack(">4I", 0x803, 2, 28, 28) + np.repeat(np.array([50, 150], np.uint8), 784).tobytes()),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(struct.pack(">2I", 0x801, 2) + bytes([7, 0]))},
        [(7, DARK), (0, LIGHT)]),
    "fer2013": ({"fer2013.csv": f"emotion,pixels,Usage\n3,{GRAYS[1]},Training\n0,{GRAYS[0]},PrivateTest\n"
                 f"6,{GRAYS[1]},PrivateTest\n"}, [(0, DARK), (6, LIGHT)]),
    "stl10": ({"stl10_binary/test_X.bin": planes(96, A, B).tobytes(),
               "stl10_binary/test_y.bin": bytes([10, 1])}, [(9, A), (0, B)]),
    # More than the training images of a class, so that some are left; equal ones, so that any will do.
    "eurosat": ({f"2750/SeaLake/SeaLake_{n}.jpg": C for n in range(1001)}, [(9, C)]),
    "resisc45": ({f"NWPU-RESISC45/sea_ice/sea_ice_{n:03d}.jpg": A for n in range(71)}, [(35, A)]),
    "kitti-distance": (kitti(), [(0, A), (2, B)]),
    "ucf101": ({
        "ucfTrainTestlist/testlist01.txt": "ApplyEyeMakeup/v_a.avi\nYoYo/v_b.avi\n",
        "UCF-101/ApplyEyeMakeup/v_a.avi": partial(video, colors=[C, C, A, C]),
        "UCF-101/YoYo/v_b.avi": partial(video, colors=[C, B, C])}, [(0, A), (100, B)]),
    "kinetics700": ({"val/abseiling/x_000001_000011.mp4": partial(video, colors=[C, A, C]),
                     "val/yoga/y_000001_000011.mp4": partial(video, colors=[B])}, [(0, A), (698, B)]),
    "clevr-counts": (clevr([9.0] * 3, [9.0] * 10), [(0, A), (7, B)]),
    # The third of six classes is 8.5 to 9, the last beyond 10.
    "clevr-distance": (clevr([11.0, 8.7], [10.5, 12.0]), [(2, A), (5, B)]),
    "pcam": ({
        "camelyonpatch_level_2_split_test_x.h5": partial(
            hdf5, x=np.stack([np.full((96, 96, 3), color, np.uint8) for color in (A, B)])),
        "camelyonpatch_level_2_split_test_y.h5": partial(hdf5, y=np.uint8([1, 0]).reshape(2, 1, 1, 1))},
        [(1, A), (0, B)]),
    "objectnet": ({
        "mappings/folder_to_objectnet_label.json": json.dumps(OBJECTNET),
        "mappings/objectnet_to_imagenet_1k.json": json.dumps(SHARED), "images/air_freshener/p.png": C,
        "images/alarm_clock/p.png": A, "images/banana/p.png": B}, [(0, A), (1, B)]),
    "food101": ({
        "meta/test.txt": "apple_pie/11\nwaffles/7\n",
        "images/apple_pie/11.jpg": A, "images/waffles/7.jpg": B}, [(0, A), (100, B)]),
    "sun397": ({
        "Testing_01.txt": "/a/abbey/sun_a.jpg\n/a/apartment_building/outdoor/sun_b.jpg\n",
        "SUN397/a/abbey/sun_a.jpg": A, "SUN397/a/apartment_building/outdoor/sun_b.jpg": B}, [(0, A), (8, B)]),
    "fgvc-aircraft": ({
        "data/images_variant_test.txt": "1514522 707-320\n0747566 F-16A/B\n",
        "data/images/1514522.jpg": A, "data/images/0747566.jpg": B}, [(0, A), (72, B)]),
    "dtd": ({
        "labels/test1.txt": "banded/banded_0002.jpg\npolka-dotted/polka-dotted_0001.jpg\n",
        "images/banded/banded_0002.jpg": A, "images/polka-dotted/polka-dotted_0001.jpg": B},
        [(0, A), (30, B)]),
    "oxford-pets": ({
        "annotations/test.txt": "Abyssinian_201 1 1 1\namerican_pit_bull_terrier_8 3 2 2\n",
        "images/Abyssinian_201.jpg": A, "images/american_pit_bull_terrier_8.jpg": B}, [(0, A), (2, B)]),
    "gtsrb": ({
        "GT-final_test.csv": "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
        "00000.ppm;8;8;0;0;7;7;16\n00001.ppm;8;8;0;0;7;7;1\n",
        "GTSRB/Final_Test/Images/00000.ppm": A, "GTSRB/Final_Test/Images/00001.ppm": B}, [(16, A), (1, B)]),
    "hateful-memes": ({
        "dev.jsonl": '{"id": 8291, "img": "img/08291.png", "label": 1, "text": "a"}\n'
        '{"id": 46971, "img": "img/46971.png", "label": 0, "text": "b"}\n',
        "img/08291.png": A, "img/46971.png": B}, [(1, A), (0, B)]),
    "country211": ({"test/DE/p.jpg": A, "test/ZW/p.jpg": B}, [(49, A), (210, B)]),
    "rendered-sst2": ({"test/negative/p.png": A, "test/positive/p.png": B}, [(0, A), (1, B)]),
    "imagenet": ({f"val/{path}": color for path, color in IMAGENET.items()}, [(0, A), (999, B)]),
    "imagenet-v2": ({"imagenetv2-matched-frequency-format-val/10/p.jpg": A,
                     "imagenetv2-matched-frequency-format-val/9/p.jpg": B}, [(10, A), (9, B)]),
    "imagenet-a": ({"imagenet-a/n01498041/p.jpg": A, "imagenet-a/n12267677/p.jpg": B}, [(0, A), (199, B)]),
    "imagenet-r": ({"imagenet-r/n01443537/p.jpg": A}, [(0, A)]),
    "imagenet-sketch": ({"sketch/n01440764/p.jpg": A}, [(0, A)]),
    "imagenet-o": ({"imagenet-o/n01443537/p.jpg": A, "imagenet-o/n15075141/p.jpg": B}, [(0, A), (1, B)]),
}  # fmt: skip
# Folders of classes without images, which make up the stated number of classes: where, and how many.
EMPTY_FOLDERS = {
    "caltech101": ("101_ObjectCategories", 100), "eurosat": ("2750", 9), "resisc45": ("NWPU-RESISC45", 44),
    "country211": ("test", 209), "imagenet": ("val", 998), "imagenet-a": ("imagenet-a", 198),
    "imagenet-v2": ("imagenetv2-matched-frequency-format-val", 998), "imagenet-r": ("imagenet-r", 199),
    "imagenet-sketch": ("sketch", 999), "imagenet-o": ("imagenet-o", 198),
}  # fmt: skip
NEEDS = {"ucf101": "av", "kinetics700": "av", "pcam": "h5py"}
