"""What setup.cfg cannot say: the top-level folder ``properties`` is a part of the package."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["recbole_edt*"]), "recbole_edt.properties"])
