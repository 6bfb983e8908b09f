"""Miniatures of evaluation sets in the form their authors publish, two or three pictures each.

Every writer fills a folder with the `test` split of a row and returns what must be read from it: (class
number, color) of each picture in order; the color is what tells pictures apart.
"""

import gzip
import io
import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

Color = tuple[int, int, int]
Told = list[tuple[int, Color]]
A, B, C = (200, 10, 10), (10, 200, 10), (10, 10, 200)
GREY = [(50, 50, 50), (150, 150, 150)]


def picture(color: Color, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, form, **({"quality": 100} if form == "JPEG" else {}))
    return file.getvalue()


def put(path: Path, content: bytes | str | Color) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, tuple):
        forms = {".jpg": "JPEG", ".jpeg": "JPEG", ".ppm": "PPM"}
        content = picture(content, forms.get(path.suffix.lower(), "PNG"))
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def classes(root: Path, named: dict[str, Color], filler: int = 0, suffix: str = ".jpg") -> None:
    """One folder a class; fillers are empty folders that make up the stated number."""
    for name, color in named.items():
        put(root / name / f"p{suffix}", color)
    for number in range(filler):
        (root / f"~{number:04d}").mkdir()


def python2_pickle(values: dict[str, object]) -> bytes:
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


def cifar_rows(*colors: Color) -> np.ndarray:
    """(N, 3072) uint8: all red, then all green, then all blue of a picture."""
    return np.array([np.repeat(np.array(color, np.uint8), 1024) for color in colors])


def cifar10(root: Path) -> Told:
    batch = {"batch_label": "testing batch 1 of 1", "labels": [3, 9], "data": cifar_rows(A, B)}
    put(root / "cifar-10-batches-py" / "test_batch", python2_pickle(batch))
    return [(3, A), (9, B)]


def cifar100(root: Path) -> Told:
    batch = {"fine_labels": [99, 0], "coarse_labels": [1, 2], "data": cifar_rows(A, C)}
    put(root / "cifar-100-python" / "test", python2_pickle(batch))
    return [(99, A), (0, C)]


def birdsnap(root: Path) -> Told:
    put(root / "test_images.txt", "path\nAcorn_Woodpecker/1.jpg\nZone_tailed_Hawk/2.jpg\n")
    put(root / "images.txt", "url\tmd5\tpath\tspecies_id\nhttp://a/b.jpg\t0f\tAcorn_Woodpecker/1.jpg\t2\n"
        "http://a/c.jpg\t1f\tAcorn_Woodpecker/3.jpg\t2\n")  # fmt: skip
    put(root / "download/images/Acorn_Woodpecker/1.jpg", A)
    put(root / "download/images/Acorn_Woodpecker/3.jpg", C)
    put(root / "download/images/Zone_tailed_Hawk/2.jpg", B)
    return [(1, A), (499, B)]


def stanford_cars(root: Path) -> Told:
    kinds = [("bbox_x1", object), ("class", object), ("fname", object)]
    rows = np.array([(30, 1, "00001.jpg"), (40, 196, "00002.jpg")], dtype=kinds)
    file = io.BytesIO()
    scipy.io.savemat(file, {"annotations": rows.reshape(1, 2)}, do_compression=True)
    put(root / "cars_test_annos_withlabels.mat", file.getvalue())
    put(root / "cars_test/00001.jpg", A)
    put(root / "cars_test/00002.jpg", B)
    return [(0, A), (195, B)]


VOC = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip


def voc2007(root: Path) -> Told:
    """Picture 1 has a dog and a person, and a chair that is hard to see; picture 2 a train."""
    lists = root / "VOCdevkit/VOC2007/ImageSets/Main"
    put(lists / "test.txt", "000001\n000002\n")
    marks = {"dog": " 1\n000002 -1\n", "person": " 1\n000002 -1\n", "chair": " 0\n000002 -1\n",
             "train": "-1\n000002  1\n"}  # fmt: skip
    for name in VOC:
        put(lists / f"{name}_test.txt", f"000001 {marks.get(name, '-1' + chr(10) + '000002 -1' + chr(10))}")
    put(root / "VOCdevkit/VOC2007/JPEGImages/000001.jpg", A)
    put(root / "VOCdevkit/VOC2007/JPEGImages/000002.jpg", B)
    return [(11, A), (18, B)]


def caltech101(root: Path) -> Told:
    """31 equal pictures of each of two classes: 30 are for training, one is left."""
    for number in range(31):
        put(root / f"101_ObjectCategories/Faces_easy/image_{number:04d}.jpg", A)
        put(root / f"101_ObjectCategories/yin_yang/image_{number:04d}.jpg", B)
    classes(root / "101_ObjectCategories", {}, filler=100)
    return [(2, A), (101, B)]


def flowers102(root: Path) -> Told:
    labels = {"labels": np.array([[77, 1, 102]], np.uint8)}
    splits = {"trnid": np.array([[1]], np.uint16), "tstid": np.array([[3, 2]], np.uint16)}
    for name, values in (("imagelabels", labels), ("setid", splits)):
        file = io.BytesIO()
        scipy.io.savemat(file, values)
        put(root / f"{name}.mat", file.getvalue())
    put(root / "jpg/image_00002.jpg", A)
    put(root / "jpg/image_00003.jpg", B)
    return [(0, A), (101, B)]


def mnist(root: Path) -> Told:
    pixels = np.repeat(np.array([50, 150], np.uint8), 28 * 28).tobytes()
    put(root / "t10k-images-idx3-ubyte.gz", gzip.compress(struct.pack(">4I", 0x803, 2, 28, 28) + pixels))
    put(root / "t10k-labels-idx1-ubyte.gz", gzip.compress(struct.pack(">2I", 0x801, 2) + bytes([7, 0])))
    return [(7, GREY[0]), (0, GREY[1])]


def fer2013(root: Path) -> Told:
    pixels = [" ".join([str(grey[0])] * 48 * 48) for grey in GREY]
    put(root / "fer2013.csv", f"emotion,pixels,Usage\n3,{pixels[1]},Training\n0,{pixels[0]},PrivateTest\n"
        f"6,{pixels[1]},PrivateTest\n")  # fmt: skip
    return [(0, GREY[0]), (6, GREY[1])]


def stl10(root: Path) -> Told:
    rows = [np.repeat(np.array(color, np.uint8), 96 * 96).tobytes() for color in (A, B)]
    put(root / "stl10_binary/test_X.bin", b"".join(rows))
    put(root / "stl10_binary/test_y.bin", bytes([10, 1]))
    return [(9, A), (0, B)]


def eurosat(root: Path) -> Told:
    """More than the training pictures of a class, so that some are left; equal ones, so that any will do."""
    for number in range(1001):
        put(root / f"2750/SeaLake/SeaLake_{number}.jpg", (1, 2, 3))
    classes(root / "2750", {}, filler=9)
    return [(9, (1, 2, 3))]


def resisc45(root: Path) -> Told:
    for number in range(71):
        put(root / f"NWPU-RESISC45/sea_ice/sea_ice_{number:03d}.jpg", A)
    classes(root / "NWPU-RESISC45", {}, filler=44)
    return [(35, A)]


KITTI_OBJECT = "{} 0.00 0 -1.57 1.0 2.0 3.0 4.0 1.5 1.6 3.9 0.5 1.7 {} -1.6\n"


def kitti(root: Path) -> Told:
    """Two videos of two pictures each; whichever is drawn for testing, the other is not."""
    put(root / "mapping/train_mapping.txt", "2011_09_26 drive_1 0000000000\n2011_09_26 drive_1 0000000001\n"
        "2011_09_26 drive_2 0000000000\n2011_09_26 drive_2 0000000001\n")  # fmt: skip
    put(root / "mapping/train_rand.txt", "1,2,3,4\n")
    near, far = KITTI_OBJECT.format("Car", 7.9), KITTI_OBJECT.format("Van", 20.1)
    labels = [near + KITTI_OBJECT.format("Car", 30), far + KITTI_OBJECT.format("Pedestrian", 2)]
    for number, text in enumerate(labels * 2):
        put(root / f"training/label_2/{number:06d}.txt", text)
        put(root / f"training/image_2/{number:06d}.png", (A, B)[number % 2])
    return [(0, A), (2, B)]


def ucf101(root: Path) -> Told:
    put(root / "ucfTrainTestlist/testlist01.txt", "ApplyEyeMakeup/v_a.avi\nYoYo/v_b.avi\n")
    video(root / "UCF-101/ApplyEyeMakeup/v_a.avi", [C, C, A, C])
    video(root / "UCF-101/YoYo/v_b.avi", [C, B, C])
    return [(0, A), (100, B)]


def kinetics700(root: Path) -> Told:
    video(root / "val/abseiling/x_000001_000011.mp4", [C, A, C])
    video(root / "val/yoga/y_000001_000011.mp4", [B])
    return [(0, A), (698, B)]


def video(path: Path, colors: list[Color]) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 64, "yuv420p", 4_000_000
        for color in colors:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), color, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def clevr(root: Path, objects: list[list[float]]) -> None:
    scenes = [
        {"image_filename": f"CLEVR_val_{n:06d}.png", "objects": [{"pixel_coords": [1, 2, z]} for z in depths]}
        for n, depths in enumerate(objects)
    ]
    put(root / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json", json.dumps({"info": {}, "scenes": scenes}))
    put(root / "CLEVR_v1.0/images/val/CLEVR_val_000000.png", A)
    put(root / "CLEVR_v1.0/images/val/CLEVR_val_000001.png", B)


def clevr_counts(root: Path) -> Told:
    clevr(root, [[9.0] * 3, [9.0] * 10])
    return [(0, A), (7, B)]


def clevr_distance(root: Path) -> Told:
    """The third of six classes is 8.5 to 9, the last beyond 10."""
    clevr(root, [[11.0, 8.7], [10.5, 12.0]])
    return [(2, A), (5, B)]


def pcam(root: Path) -> Told:
    import h5py

    with h5py.File(root / "camelyonpatch_level_2_split_test_x.h5", "w") as file:
        file["x"] = np.stack([np.full((96, 96, 3), color, np.uint8) for color in (A, B)])
    with h5py.File(root / "camelyonpatch_level_2_split_test_y.h5", "w") as file:
        file["y"] = np.array([1, 0], np.uint8).reshape(2, 1, 1, 1)
    return [(1, A), (0, B)]


def objectnet(root: Path) -> Told:
    names = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "banana": "Banana"}
    put(root / "mappings/folder_to_objectnet_label.json", json.dumps(names))
    shared = {"Banana": "banana", "Alarm clock": "analog clock; digital clock"}
    put(root / "mappings/objectnet_to_imagenet_1k.json", json.dumps(shared))
    classes(root / "images", {"air_freshener": C, "alarm_clock": A, "banana": B}, suffix=".png")
    return [(0, A), (1, B)]


# Sets that are lists of images: text files, and the class number and path of image A and of image B.
LISTS: dict[str, tuple[dict[str, str], tuple[int, str], tuple[int, str]]] = {
    "food101": (
        {"meta/test.txt": "apple_pie/11\nwaffles/7\n"},
        (0, "images/apple_pie/11.jpg"), (100, "images/waffles/7.jpg"),
    ),
    "sun397": (
        {"Testing_01.txt": "/a/abbey/sun_a.jpg\n/a/apartment_building/outdoor/sun_b.jpg\n"},
        (0, "SUN397/a/abbey/sun_a.jpg"), (8, "SUN397/a/apartment_building/outdoor/sun_b.jpg"),
    ),
    "fgvc-aircraft": (
        {"data/images_variant_test.txt": "1514522 707-320\n0747566 F-16A/B\n"},
        (0, "data/images/1514522.jpg"), (72, "data/images/0747566.jpg"),
    ),
    "dtd": (
        {"labels/test1.txt": "banded/banded_0002.jpg\npolka-dotted/polka-dotted_0001.jpg\n"},
        (0, "images/banded/banded_0002.jpg"), (30, "images/polka-dotted/polka-dotted_0001.jpg"),
    ),
    "oxford-pets": (
        {"annotations/test.txt": "Abyssinian_201 1 1 1\namerican_pit_bull_terrier_8 3 2 2\n"},
        (0, "images/Abyssinian_201.jpg"), (2, "images/american_pit_bull_terrier_8.jpg"),
    ),
    "gtsrb": (
        {"GT-final_test.csv": "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
         "00000.ppm;8;8;0;0;7;7;16\n00001.ppm;8;8;0;0;7;7;1\n"},
        (16, "GTSRB/Final_Test/Images/00000.ppm"), (1, "GTSRB/Final_Test/Images/00001.ppm"),
    ),
    "hateful-memes": (
        {"dev.jsonl": '{"id": 8291, "img": "img/08291.png", "label": 1, "text": "a"}\n'
         '{"id": 46971, "img": "img/46971.png", "label": 0, "text": "b"}\n'},
        (1, "img/08291.png"), (0, "img/46971.png"),
    ),
}  # fmt: skip
# Sets of one folder a class: the folder of all, images by class, empty folders beside, and class numbers.
FOLDERS: dict[str, tuple[str, dict[str, Color], int, tuple[int, ...]]] = {
    "country211": ("test", {"DE": A, "ZW": B}, 209, (49, 210)),
    "rendered-sst2": ("test", {"negative": A, "positive": B}, 0, (0, 1)),
    "imagenet": ("val", {"n01440764": A, "n15075141": B}, 998, (0, 999)),
    "imagenet-v2": ("imagenetv2-matched-frequency-format-val", {"10": A, "9": B}, 998, (10, 9)),
    "imagenet-a": ("imagenet-a", {"n01498041": A, "n12267677": B}, 198, (0, 199)),
    "imagenet-r": ("imagenet-r", {"n01443537": A}, 199, (0,)),
    "imagenet-sketch": ("sketch", {"n01440764": A}, 999, (0,)),
    "imagenet-o": ("imagenet-o", {"n01443537": A, "n15075141": B}, 198, (0, 1)),
}


def listed(name: str, root: Path) -> Told:
    files, *images = LISTS[name]
    for path, text in files.items():
        put(root / path, text)
    for (_, path), color in zip(images, (A, B), strict=True):
        put(root / path, color)
    return [(number, color) for (number, _), color in zip(images, (A, B), strict=True)]


def foldered(name: str, root: Path) -> Told:
    folder, named, filler, numbers = FOLDERS[name]
    classes(root / folder, named, filler, ".png" if name == "rendered-sst2" else ".jpg")
    return list(zip(numbers, named.values(), strict=True))


WRITERS: dict[str, Callable[[Path], Told]] = {
    "cifar10": cifar10, "cifar100": cifar100, "birdsnap": birdsnap, "stanford-cars": stanford_cars,
    "voc2007": voc2007, "caltech101": caltech101, "flowers102": flowers102, "mnist": mnist,
    "fer2013": fer2013, "stl10": stl10, "eurosat": eurosat, "resisc45": resisc45,
    "kitti-distance": kitti, "pcam": pcam, "ucf101": ucf101, "kinetics700": kinetics700,
    "clevr-counts": clevr_counts, "clevr-distance": clevr_distance, "objectnet": objectnet,
    **{name: partial(listed, name) for name in LISTS}, **{name: partial(foldered, name) for name in FOLDERS},
}  # fmt: skip
NEEDS = {"ucf101": "av", "kinetics700": "av", "pcam": "h5py"}
