"""What setup.cfg cannot say: two top-level folders are parts of the package."""

from setuptools import find_packages, setup

FOLDERS = ["recbole_edt.properties", "recbole_edt.dataset_atomic"]
setup(packages=[*find_packages(include=["recbole_edt*"]), *FOLDERS])
