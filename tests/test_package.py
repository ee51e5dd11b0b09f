"""What must be true of the package as a whole: cheap imports, one door, little repetition, no stray words."""

import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mbrl

ROOT = Path(__file__).parents[1]
WINDOW = 8
HEAVY = "jax", "brax", "mujoco", "matplotlib", "orbax", "tyro", "rich", "yaml", "numpy"


def imported(statement, cwd):
    """The heavy modules that a fresh interpreter has imported after ``statement``."""
    code = f"import sys\n{statement}\nsys.stderr.write(' '.join(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd)
    return set(done.stderr.rpartition("\n")[2].split())


def test_import_and_help_import_nothing_heavy(tmp_path):
    assert imported("import mbrl", tmp_path) == set()
    assert imported("from mbrl.cli.main import main\nmain(['--help'])\nmain(['trian'])", tmp_path) == set()


@pytest.mark.parametrize("kind", ["envs", "agents", "experiments", "suites"])
def test_listing_does_not_load_physics_or_pictures(kind, tmp_path):
    loaded = imported(f"from mbrl.cli.main import main\nmain(['list', {kind!r}])", tmp_path)
    assert loaded.isdisjoint({"brax", "mujoco", "matplotlib", "orbax"})


def test_python_m_is_the_same_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mbrl", "trian"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mbrl: unknown command 'trian'; did you mean 'train'?\n"


def test_every_public_name_exists():
    assert {name for name in mbrl.__all__ if not callable(getattr(mbrl, name))} == {"__version__"}
    assert set(mbrl.__all__) <= set(dir(mbrl))
    misspelt = "trian"
    with pytest.raises(AttributeError, match="'mbrl' has no attribute 'trian'"):
        getattr(mbrl, misspelt)


def test_the_version_is_the_packages():
    assert f'version = "{mbrl.__version__}"' in (ROOT / "pyproject.toml").read_text()


def code_lines(path):
    """Lines that do something: no blanks, comments, imports or lone brackets."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line.strip("()[]{},") and not re.match(r"#|import |from ", line)]


def windows(lines):
    """All runs of ``WINDOW`` lines."""
    return list(zip(*(lines[start:] for start in range(WINDOW)), strict=False))


def repeated_share(files):
    """The share of windows that occur more than once in all files together."""
    counts = Counter(itertools.chain.from_iterable(windows(lines) for lines in files))
    return sum(n for n in counts.values() if n > 1) / max(counts.total(), 1)


def test_the_share_of_repeated_lines_by_hand():
    once, twice = [str(n) for n in range(10)], [f"x{n}" for n in range(8)]
    assert repeated_share([once]) == 0  # three windows, all different
    assert repeated_share([once, twice, twice]) == 2 / 5


def test_less_than_a_twentieth_of_the_code_is_repeated():
    files = {path: code_lines(path) for path in sorted((ROOT / "mbrl").rglob("*.py"))}
    counts = Counter(itertools.chain.from_iterable(windows(lines) for lines in files.values()))
    culprits = {str(path) for path, lines in files.items() if any(counts[window] > 1 for window in windows(lines))}
    assert repeated_share(files.values()) < 0.05, culprits


def test_no_file_grows_too_long():
    long = {str(path): n for path in (ROOT / "mbrl").rglob("*.py") if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}
