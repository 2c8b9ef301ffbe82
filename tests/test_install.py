"""deploy/install.sh laying an image of a gateway below a folder: again, after an upgrade, and removing it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_agent import __version__
from tests.scripts import ROOT

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="the image is taken out of a Debian package")
NEXT = "99.0.0"
MINE = {
    "etc/edge-agent/agent.toml": b"what the operator has written",
    "etc/credstore/edge-agent-master-key": b"what opens the cache",
    "var/lib/edge-agent/journal.jsonl": b"what the agent remembers",
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """What install.sh has laid for the package, with an operator's files beside it."""
    root = tmp_path_factory.mktemp("image")
    subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    for name, content in MINE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def install(root: Path, *options: str, tree: Path = ROOT) -> str:
    """Run it; returns what it printed."""
    command = [str(tree / "deploy" / "install.sh"), "--destdir", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def content(root: Path) -> dict[str, object]:
    """Every file below a folder, with where it points, or when a package was written, or its digest."""

    def told(path: Path) -> object:
        if path.is_symlink():
            return path.readlink()
        if root / "opt/edge-agent/versions" in path.parents:
            return path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns
        return hashlib.sha256(path.read_bytes()).hexdigest()

    files = (path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path.relative_to(root)): told(path) for path in files}


def version(root: Path) -> str:
    """What the installed program says it is."""
    command = [str(root / "opt/edge-agent/current/bin/python"), "-I", "-m", "edge_agent", "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def current(root: Path) -> str:
    """The folder of the version that runs."""
    return (root / "opt/edge-agent/current").readlink().name


def kept(root: Path) -> dict[str, bytes]:
    """The operator's files as they are."""
    return {name: (root / name).read_bytes() for name in MINE if (root / name).exists()}


def test_whoever_installs_the_service_can_read_it(image: Path) -> None:
    # With root's umask at 077, as on hardened machines, the agent's user could not enter /opt/edge-agent.
    installed = [path for path in image.rglob("*") if not path.is_symlink() and "var/lib" not in str(path)]
    closed = [path for path in installed if path.stat().st_mode & 0o444 != 0o444]
    assert [path for path in closed if str(path.relative_to(image)) not in MINE] == []
    assert "umask 022" in (ROOT / "deploy" / "configure.sh").read_text()


def test_the_wheel_is_built_without_a_network_from_what_the_help_says(tmp_path: Path) -> None:
    # pip download of a tree brings what it runs with, but not what builds it.
    told = subprocess.run([ROOT / "deploy/install.sh", "--help"], capture_output=True, text=True, check=True).stdout
    needed = re.search(r"pip download -d DIR -c constraints.txt (\w+)\s+'\.\[oci,web\]'", told)
    assert needed
    tree, pip = tmp_path / "tree", [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for name in ("deploy/page", "edge_agent"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    subprocess.run([*pip, "download", "-d", wheels, "-c", ROOT / "constraints.txt", needed[1]], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-index", "-f", wheels, "-w", out, tree], check=True)
    with zipfile.ZipFile(next(out.glob("edge_agent-*.whl"))) as wheel:
        assert "edge_agent/page/static/lib/uPlot.iife.min.js" in wheel.namelist()


def test_a_new_image_starts_its_service_and_an_upgrade_leaves_it_as_it_is(image: Path, tmp_path: Path) -> None:
    assert not (image / "etc/systemd").exists()  # in a package that is dpkg's to do
    root = tmp_path / "root"
    subprocess.run(["cp", "-al", image, root], check=True)
    (root / "opt/edge-agent/current").unlink()
    install(root)
    wanted = root / "etc/systemd/system/multi-user.target.wants/edge-agent.service"
    assert str(wanted.readlink()) == "/usr/lib/systemd/system/edge-agent.service"
    wanted.unlink()
    install(root)
    assert not wanted.is_symlink()


def test_an_image_names_no_place_of_the_machine_that_made_it(image: Path) -> None:
    links = [path for path in image.rglob("*") if path.is_symlink()]
    assert {str(path.readlink()) for path in links if path.readlink().is_absolute()} == {"/usr/bin/python3"}
    for path in (image / "opt/edge-agent").rglob("*"):
        if path.is_file() and path.suffix in ("", ".cfg", ".json", ".pth") and path.stat().st_size < 100_000:
            assert str(ROOT).encode() not in path.read_bytes(), path


def test_installing_what_is_installed_changes_nothing(image: Path) -> None:
    before = content(image)
    assert "is installed" in install(image)
    assert content(image) == before


def test_an_upgrade_keeps_what_is_the_operators_and_the_version_before(image: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("deploy", "edge_agent", "systemd"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, tree)
    module = tree / "edge_agent" / "__init__.py"
    module.write_text(module.read_text().replace(f'"{__version__}"', f'"{NEXT}"'))
    assert version(image) == __version__
    first = current(image)
    install(image, tree=tree)
    assert version(image) == NEXT
    assert kept(image) == MINE
    versions = image / "opt/edge-agent/versions"
    assert sorted(path.name.split("-")[0] for path in versions.iterdir()) == sorted([__version__, NEXT])
    assert (versions / first / "bin/python").exists()
    # Flash wears: packages that stay the same are not written again, and the old version's files are as they were.
    old, new = (next((versions / name).glob("lib/*/site-packages")) for name in (first, current(image)))
    assert (old / "torch/__init__.py").samefile(new / "torch/__init__.py")
    assert f'"{__version__}"' in (old / "edge_agent/__init__.py").read_text()
    # Twice after an upgrade is once.
    before = content(image)
    install(image, tree=tree)
    assert content(image) == before


def test_uninstalling_leaves_what_is_the_operators_and_purging_nothing(image: Path) -> None:
    install(image, "--uninstall")
    assert kept(image) == MINE
    assert set(content(image)) == set(MINE)
    install(image, "--uninstall", "--purge")
    assert content(image) == {}


@pytest.mark.parametrize(
    ("options", "words"), [(["--destdir"], "--destdir needs a value"), (["--fast"], "unknown option --fast")]
)
def test_a_wrong_option_is_told_and_nothing_is_done(options: list[str], words: str) -> None:
    done = subprocess.run([ROOT / "deploy/install.sh", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr
