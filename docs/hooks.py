"""What mkdocs does beside its own work: pages keep their places in the repository, so that all links between them hold.

The site has the repository's paths. It contains README.md, the pages of docs/, the READMEs of the recipes, every file
that one of them may link to, and one generated page for each package of the reference.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
LINKED = ("*.cff", "benchmarks/*.py", "brainplug/**/*.py", "hparams/*.yaml", "recipes/**/*.*")
CARDS = ("brainplug/backbones/nano/*/*.md", "brainplug/backbones/nano/*/*.png")  # not in the navigation
PAGES = ("*.md", "docs/**/*.md", "docs/*.png")
ROOMS = (
    "inference", "methods", "backbones", "models", "optim", "adapters", "data", "tasks", "training", "config",
    "results", "errors",
)  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Puts the files of the repository in the place of those of the folder docs."""
    for file in files.documentation_pages() + files.media_files():
        if file.src_dir == config.docs_dir:
            files.remove(file)
    for pattern in (*PAGES, *LINKED, *CARDS):
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            if path.is_file() and files.get_file_from_path(name) is None:
                level = InclusionLevel.NOT_IN_NAV if pattern in CARDS else InclusionLevel.INCLUDED
                files.append(File.generated(config, name, abs_src_path=str(path), inclusion=level))
    for room in ROOMS:
        files.append(File.generated(config, f"docs/reference/{room}.md", content=reference_page(room)))
    return files


def reference_page(room: str) -> str:
    """A page with the docstrings of all modules of a package."""
    paths = sorted((ROOT / "brainplug" / room).rglob("*.py")) or [ROOT / "brainplug" / f"{room}.py"]
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    names = [".".join(part for part in module if part != "__init__") for module in parts]
    return "\n\n".join([f"# brainplug.{room}", *(f"::: {name}" for name in names)]) + "\n"
