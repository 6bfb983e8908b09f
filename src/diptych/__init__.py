"""diptych: the whole of CLIP in one package: curate, train, evaluate, search, export.

>>> import diptych
>>> diptych.preset("ViT-B-32").embed_dim
512

The names below are the public ones; each is imported from its module on first use, so that
`import diptych` stays instant. Training (`diptych.train.trainer`), scores (`diptych.evaluate`) and search
(`diptych.search`) are imported from their own modules.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.core.errors import DiptychError as DiptychError
    from diptych.data.images.transforms import Preprocess as Preprocess
    from diptych.data.loader import Loader as Loader
    from diptych.data.loader import LoaderSettings as LoaderSettings
    from diptych.data.pack import pack as pack
    from diptych.data.shards.reader import ShardSet as ShardSet
    from diptych.data.sources.open import open_source as open_source
    from diptych.data.tokenizers.clip import Tokenizer as Tokenizer
    from diptych.evaluate.classifier import build_classifier as build_classifier
    from diptych.evaluate.estimator import ZeroShotClassifier as ZeroShotClassifier
    from diptych.evaluate.prompts.templates import Templates as Templates
    from diptych.models.checkpoint import save as save
    from diptych.models.load import load as load
    from diptych.models.model import Model as Model
    from diptych.models.towers.clip import build as build
    from diptych.models.towers.config import ClipConfig as ClipConfig
    from diptych.models.towers.presets import preset as preset
    from diptych.train.loss import contrastive_loss as contrastive_loss

__version__ = "0.1.0"

_MODULES = {
    "ClipConfig": "models.towers.config",
    "DiptychError": "core.errors",
    "Loader": "data.loader",
    "LoaderSettings": "data.loader",
    "Model": "models.model",
    "Preprocess": "data.images.transforms",
    "ShardSet": "data.shards.reader",
    "Templates": "evaluate.prompts.templates",
    "Tokenizer": "data.tokenizers.clip",
    "ZeroShotClassifier": "evaluate.estimator",
    "build": "models.towers.clip",
    "build_classifier": "evaluate.classifier",
    "contrastive_loss": "train.loss",
    "load": "models.load",
    "open_source": "data.sources.open",
    "pack": "data.pack",
    "preset": "models.towers.presets",
    "save": "models.checkpoint",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'diptych' has no attribute {name!r}")
    value = getattr(import_module(f"diptych.{_MODULES[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
