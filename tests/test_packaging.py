"""What is installed holds its property files and the bundled data, as a checkout does."""

import shutil
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = "recbole_edt properties dataset_atomic setup.py setup.cfg pyproject.toml README.md".split()


def test_installed_wheel_finds_its_properties_and_data(python, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for part in (*PARTS, "LICENSE"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    build = "from setuptools import build_meta as b; print(b.build_wheel('..'))"
    built = python("-c", build, cwd=source, path=source)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    shutil.rmtree(source)
    code = (
        "import recbole_edt, recbole_edt.config as c;"
        "c.EDTConfig('LLMEDT', 'cloth_sport', None, {'preset': 'paper'});"
        "from recbole_edt.io.paths import bundled_data, find_data_root as f;"
        "print(recbole_edt.__file__, c.properties_dir(), bundled_data(), f('cloth_sport'))"
    )
    shown = python("-c", code, cwd=tmp_path, path=tmp_path / "site")
    assert shown.returncode == 0, shown.stderr
    for place in shown.stdout.splitlines()[-1].split():
        assert Path(place).is_relative_to(tmp_path / "site")
