"""PrefixFolders: where engines keep prefixes over a restart, a folder for each model that may."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

log = logging.getLogger(__name__)


class PrefixFolders:
    """Names the folders; engines make them, and fill them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, model: str) -> Path:
        """The folder of a model, whatever its name looks like."""
        return self._root / f"{quote(model, safe='')}.kv"

    def keep_only(self, models: Iterable[str]) -> None:
        """Delete the folders of all other models. Blocks on the file system."""
        kept = {self.of(model) for model in models}
        try:
            others = [path for path in self._root.glob("*.kv") if path not in kept]
            for path in others:
                shutil.rmtree(path)
        except OSError as error:
            log.warning("prefixes of models that are gone were not deleted: %s", error)
