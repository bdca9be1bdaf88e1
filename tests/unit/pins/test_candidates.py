"""Which requirements and versions come into question."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from pypi_simple import DistributionPackage

from tfslim.pins.candidates import cuda_requirements, short_name, shortlist
from tfslim.pins.index import Wheel


def wheels(*versions: str) -> list[Wheel]:
    package = DistributionPackage("x", "u", "x", None, "wheel", {}, None, None)
    return [Wheel("x", Version(v), f"x-{v}.whl", "0" * 64, 1, package) for v in versions]


def chosen(text: str, *versions: str, all_: bool = False) -> list[str]:
    found = shortlist(Requirement(text), wheels(*versions), all_=all_)
    return [str(wheel.version) for wheel in found]


def test_what_the_extra_adds_on_this_python() -> None:
    listed = [
        Requirement(text)
        for text in (
            "numpy>=1.26",
            'nvidia-cublas-cu12<13,>=12.5; extra == "and-cuda"',
            'nvidia-old-cu11; extra == "and-cuda" and python_version < "3.9"',
            'nvidia-win; extra == "and-cuda" and sys_platform == "win32"',
            'tensorflow-intel; platform_system == "Windows"',
            'other; extra == "gcs"',
        )
    ]
    assert [item.name for item in cuda_requirements(listed, "3.13")] == ["nvidia-cublas-cu12"]


def test_the_lowest_and_the_last_of_each_line() -> None:
    versions = ("12.5.2", "12.5.3", "12.6.0", "12.6.4", "12.8.3", "12.8.5", "12.9.0", "13.0.1")
    assert chosen("x<13,>=12.5.2", *versions) == ["12.5.2", "12.5.3", "12.6.4", "12.8.5", "12.9.0"]


def test_lines_are_told_apart_by_three_numbers_where_two_do_not() -> None:
    versions = ("10.3.6.82", "10.3.7.37", "10.3.7.77", "10.3.10.19")
    assert chosen("x", *versions) == ["10.3.6.82", "10.3.7.77", "10.3.10.19"]


def test_all_of_them() -> None:
    versions = ("1.0.1", "1.0.2", "1.1.1", "1.2.1")
    assert chosen("x>1.0.1", *versions, all_=True) == list(versions[1:])


def test_an_exact_requirement_leaves_one() -> None:
    assert chosen("x==8.9.7.29", "8.9.6.50", "8.9.7.29", "9.0.0.1") == ["8.9.7.29"]


@pytest.mark.parametrize(
    ("project", "name"),
    [
        ("nvidia-cudnn-cu12", "cudnn"),
        ("nvidia-cuda-nvcc-cu12", "cuda-nvcc"),
        ("nvidia_nccl_cu13", "nccl"),
        ("nvidia-cublas", "cublas"),
    ],
)
def test_short_names(project: str, name: str) -> None:
    assert short_name(project) == name
