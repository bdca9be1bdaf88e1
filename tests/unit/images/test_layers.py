"""What a container sees of stacked layers, and what was shipped for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import image_factory as make
import pytest

from tfslim.images.archive import read_archive
from tfslim.images.layer_table import Look
from tfslim.images.layers import Merged, merge


def merged(*layers: Sequence[make.Entry]) -> Merged:
    built = make.build([make.layer(*entries) for entries in layers])
    archive = make.tar_of(make.oci_files(built))
    return merge(read_archive([archive], Look(), name="i").layers)


def sizes(result: Merged) -> dict[str, int]:
    return {inode.paths[0]: inode.member.size_bytes for inode in result.live}


def wasted(result: Merged) -> int:
    return sum(inode.member.size_bytes for inode in result.wasted)


def test_overwritten_file_is_wasted_once() -> None:
    result = merged([make.Entry("a", b"1" * 10)], [make.Entry("a", b"2" * 30)])
    assert sizes(result) == {"a": 30}
    assert wasted(result) == 10
    # dive: path "a" has 10 and 30; score = 10 / 40, wasted = all copies
    assert result.efficiency == pytest.approx(0.25)
    assert result.dive_wasted_bytes == 40


def test_whiteout_deletes_a_file_and_a_folder_below_only() -> None:
    base = [
        make.Entry("file", b"1" * 5),
        make.directory("d"),
        make.Entry("d/x", b"2" * 7),
        make.Entry("d/sub/y", b"3" * 11),
        make.Entry("dd", b"4"),
    ]
    result = merged(base, [make.Entry(".wh.file"), make.Entry(".wh.d"), make.Entry("d/new", b"5")])
    assert sizes(result) == {"dd": 1, "d/new": 1}
    assert wasted(result) == 23
    # dive: "file" 5 and 0; "d" is a leaf only where it is deleted: 7 + 11; the rest once
    assert result.efficiency == pytest.approx((0 + 18 + 7 + 11 + 1 + 1) / (5 + 18 + 7 + 11 + 1 + 1))
    assert result.dive_wasted_bytes == 5


def test_opaque_folder_hides_what_lies_below_but_not_its_own_layer() -> None:
    result = merged(
        [make.directory("d"), make.Entry("d/old", b"1"), make.Entry("keep", b"2")],
        [make.Entry("d/new", b"3"), make.Entry("d/.wh..wh..opq")],
    )
    assert set(sizes(result)) == {"keep", "d/new"}
    assert "d" in result.files


def test_opaque_root_hides_everything() -> None:
    result = merged([make.Entry("a/b", b"1")], [make.Entry(".wh..wh..opq"), make.Entry("c", b"2")])
    assert set(result.files) == {"c"}


def test_file_in_place_of_a_folder_removes_its_content() -> None:
    result = merged([make.directory("d"), make.Entry("d/x", b"12")], [make.Entry("d", b"3")])
    assert sizes(result) == {"d": 1}


def test_folder_over_folder_keeps_the_content() -> None:
    result = merged([make.directory("d"), make.Entry("d/x", b"12")], [make.directory("d")])
    assert sizes(result) == {"d/x": 2}


def test_hard_links_count_once_and_survive_their_first_name() -> None:
    result = merged(
        [make.Entry("a", b"1" * 10), make.hardlink("b", "a"), make.hardlink("c", "./a")],
        [make.Entry(".wh.a")],
    )
    assert sizes(result) == {"b": 10}
    assert result.live[0].paths == ["b", "c"]
    assert wasted(result) == 0


def test_hard_link_to_a_lower_layer_shares_its_content() -> None:
    result = merged([make.Entry("a", b"1" * 10)], [make.hardlink("b", "a")])
    assert len(result.live) == 1


def test_path_through_a_linked_folder_is_the_real_path() -> None:
    result = merged(
        [make.directory("usr/lib"), make.symlink("lib", "usr/lib"), make.Entry("usr/lib/x", b"1")],
        [make.Entry("lib/x", b"22"), make.Entry("lib/y", b"3")],
        [make.Entry("lib/.wh.y")],
    )
    assert sizes(result) == {"usr/lib/x": 2}


def test_absolute_link_and_link_loops_stay_inside() -> None:
    result = merged(
        [make.symlink("a", "/usr"), make.symlink("loop", "loop/x"), make.symlink("up", "../../b")],
        [make.Entry("a/f", b"1"), make.Entry("loop/g", b"2"), make.Entry("up/h", b"3")],
    )
    assert {"usr/f", "b/h"} <= set(sizes(result))


def test_same_path_twice_in_one_layer_is_waste() -> None:
    assert wasted(merged([make.Entry("a", b"111"), make.Entry("a", b"2")])) == 3


def test_empty_image_is_efficient() -> None:
    assert merged([]).efficiency == 1.0


def test_dives_own_figures() -> None:
    """dive 0.13.1 says of this image: efficiencyScore 0.70099046907, inefficientBytes 17000."""
    base = [
        make.Entry("file", b"1" * 5000),
        make.directory("d"),
        make.Entry("d/x", b"2" * 7000),
        make.directory("d/sub"),
        make.Entry("d/sub/y", b"3" * 11000),
        make.Entry("dd", b"4" * 10),
        make.Entry("over", b"5" * 3000),
    ]
    second = [make.Entry(".wh.file"), make.Entry(".wh.d"), make.Entry("over", b"6" * 8000)]
    third = [make.Entry("over", b"7" * 1000), make.Entry("new", b"8" * 500)]
    result = merged(base, second, third)
    assert result.efficiency == pytest.approx(0.70099046907)
    assert result.dive_wasted_bytes == 17000
    assert wasted(result) == 5000 + 18000 + 3000 + 8000
