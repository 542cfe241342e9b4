"""What pyproject.toml cannot say: a wheel holds conf/, which stands beside the package here, as csb/conf."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["csb*"]), "csb.conf"],
    package_dir={"csb.conf": "conf"},
    package_data={
        "csb.conf": ["**/*.yaml"],
        "csb.evaluation": ["*.jinja", "*.css"],
    },
)
