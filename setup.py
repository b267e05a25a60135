"""What pyproject.toml can't say: configs/ and data/ stand at the top, where people read them, and go into the wheel."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Recipes beside their corpora: never the corpora themselves, which lie in the same folders.
SHIPPED = (
    "configs/*.toml",
    "data/*/recipe.toml",
    "data/*/README.md",
    "data/*/SHA256SUMS",
    "data/books/gutenberg.csv",
    "data/rewrite/natural.tsv",
)


class BuildWithPresets(build_py):
    """Copies presets and recipes to jslm/shipped; an editable install reads them where they are."""

    def run(self) -> None:
        """Builds the modules, then copies."""
        super().run()
        if not self.editable_mode:
            for target, source in self._shipped().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files that an install leaves."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self._shipped())]

    def get_source_files(self) -> list[str]:
        """The files that go into a source distribution."""
        return [*super().get_source_files(), *self._shipped().values()]

    def _shipped(self) -> dict[str, str]:
        sources = [path for pattern in SHIPPED for path in sorted(Path().glob(pattern))]
        return {str(Path(self.build_lib, "jslm", "shipped", path)): str(path) for path in sources}


setup(cmdclass={"build_py": BuildWithPresets})
