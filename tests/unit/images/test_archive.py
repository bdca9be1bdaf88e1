"""Reading image archives of every form, and refusing what is none."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path

import image_factory as make
import pytest

from tfslim.errors import InputError
from tfslim.images.archive import Image, read_archive, read_layout
from tfslim.images.layer_table import Limits, Look

LOOK = Look(checksums=True)
LAYERS = [
    make.layer(make.directory("etc"), make.Entry("etc/a", b"alpha" * 100)),
    make.layer(make.Entry("etc/b", b"beta"), make.hardlink("etc/c", "etc/b")),
]


def read(path: Path, look: Look = LOOK) -> Image:
    return read_archive(path, look, name=path.name)


def paths(image: Image) -> list[list[tuple[str, str]]]:
    return [[(member.kind, member.path) for member in layer.members] for layer in image.layers]


EXPECTED = [[("dir", "etc"), ("file", "etc/a")], [("file", "etc/b"), ("hardlink", "etc/c")]]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_oci_archive_in_any_compression_gives_the_same_tables(
    tmp_path: Path, compression: str
) -> None:
    built = make.build(LAYERS, compression=compression)
    image = read(make.oci_archive(tmp_path / "i.tar", built))
    assert paths(image) == EXPECTED
    assert image.name == "demo:1"
    assert image.platform == "linux/amd64"
    assert image.manifest_digest == make.sha256(built.manifest)
    assert [layer.digest for layer in image.layers] == [make.sha256(b) for b in built.layers]
    assert [layer.blob_bytes for layer in image.layers] == [len(b) for b in built.layers]
    assert [layer.unpacked_bytes for layer in image.layers] == [len(data) for data in LAYERS]
    assert [layer.created_by for layer in image.layers] == ["RUN step 0", "RUN step 1"]
    assert [layer.compression for layer in image.layers] == [compression] * 2


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_layout_folder_reads_like_the_archive(tmp_path: Path, compression: str) -> None:
    built = make.build(LAYERS, compression=compression)
    assert read_layout(make.oci_layout(tmp_path, built), LOOK) == read_archive(
        make.oci_archive(tmp_path / "i.tar", built), LOOK, name="i.tar"
    )


def test_older_docker_save_with_linked_equal_layers(tmp_path: Path) -> None:
    built = make.build([LAYERS[0], LAYERS[1], LAYERS[0]])
    image = read(make.docker_archive(tmp_path / "d.tar", built))
    assert paths(image) == [*EXPECTED, EXPECTED[0]]
    assert [layer.digest for layer in image.layers] == built.diff_ids
    assert image.manifest_digest is None


def test_docker_archive_with_compressed_layers(tmp_path: Path) -> None:
    image = read(make.docker_archive(tmp_path / "d.tar", make.build(LAYERS, compression="gzip")))
    assert paths(image) == EXPECTED


def test_whole_archive_may_be_compressed(tmp_path: Path) -> None:
    path = make.oci_archive(tmp_path / "i.tar", make.build(LAYERS))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert paths(read(path)) == EXPECTED


def test_chunks_of_any_length_from_an_engine(tmp_path: Path) -> None:
    data = make.oci_archive(tmp_path / "i.tar", make.build(LAYERS, compression="zstd")).read_bytes()
    chunks = [data[at : at + 7] for at in range(0, len(data), 7)]
    assert paths(read_archive(chunks, LOOK, name="engine")) == EXPECTED


def test_attestations_and_absent_platforms_are_passed_over(tmp_path: Path) -> None:
    built = make.attested(make.build(LAYERS), platforms_without_content=["arm64", "s390x"])
    assert paths(read(make.oci_archive(tmp_path / "i.tar", built))) == EXPECTED


def test_amd64_is_chosen_among_platforms(tmp_path: Path) -> None:
    arm, amd = make.build(LAYERS[:1], architecture="arm64"), make.build(LAYERS)
    both = make.attested(amd)
    both.blobs |= arm.blobs
    both.index["manifests"] += arm.index["manifests"]
    image = read(make.oci_archive(tmp_path / "i.tar", both))
    assert image.platform == "linux/amd64"
    assert paths(image) == EXPECTED


def test_several_images_are_named_and_one_can_be_asked_for(tmp_path: Path) -> None:
    one, two = make.build(LAYERS, name="one:1"), make.build(LAYERS[:1], name="two:1")
    one.blobs |= two.blobs
    one.index["manifests"] += two.index["manifests"]
    path = make.oci_archive(tmp_path / "i.tar", one)
    with pytest.raises(InputError, match=r"one:1, two:1"):
        read(path)
    assert len(read_archive(path, LOOK, name="i", only="two:1").layers) == 1


def test_whiteouts_and_opaque_folders_are_named(tmp_path: Path) -> None:
    data = make.layer(make.Entry("a/.wh.gone"), make.Entry("b/.wh..wh..opq"), make.Entry(".wh.top"))
    image = read(make.oci_archive(tmp_path / "i.tar", make.build([data])))
    assert paths(image) == [[("whiteout", "a/gone"), ("opaque", "b"), ("whiteout", "top")]]


def test_long_and_non_ascii_names(tmp_path: Path) -> None:
    long = "d/" * 80 + "größe-" + "x" * 120
    for fmt in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        data = make.tar_of([make.Entry(long, b"1")], fmt)
        image = read(make.oci_archive(tmp_path / "i.tar", make.build([data])))
        assert paths(image) == [[("file", long)]]


def test_layer_whose_first_path_starts_like_json(tmp_path: Path) -> None:
    data = make.layer(make.Entry("[", b"1"))
    assert paths(read(make.oci_archive(tmp_path / "i.tar", make.build([data])))) == [
        [("file", "[")]
    ]


def test_content_is_kept_probed_and_summed_only_where_asked(tmp_path: Path) -> None:
    data = make.layer(make.Entry("keep", b"kept"), make.Entry("lib.so", b"\x7fELF" + b"z" * 100))
    seen: list[bytes] = []
    look = Look(
        keep=lambda path: path == "keep",
        probe_wanted=lambda _path, size, head: size > 64 and head.startswith(b"\x7fELF"),
        probe=lambda path: seen.append(path.read_bytes()) or "found",
        checksums=True,
    )
    image = read(make.oci_archive(tmp_path / "i.tar", make.build([data])), look)
    kept, probed = image.layers[0].members
    assert image.layers[0].kept == {"keep": b"kept"}
    assert seen == [b"\x7fELF" + b"z" * 100]
    assert (kept.finding, probed.finding) == (None, "found")
    assert probed.sha256.hex() == make.sha256(seen[0]).removeprefix("sha256:")


def test_estimate_is_made_for_uncompressed_layers_only(tmp_path: Path) -> None:
    zeros = make.layer(make.Entry("zeros", bytes(1_000_000)))
    look = Look(estimate=True)
    plain = read(make.oci_archive(tmp_path / "p.tar", make.build([zeros])), look)
    packed = read(
        make.oci_archive(tmp_path / "z.tar", make.build([zeros], compression="zstd")), look
    )
    assert plain.layers[0].estimate_bytes is not None
    assert 0 < plain.layers[0].estimate_bytes < 10_000
    assert packed.layers[0].estimate_bytes is None


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_cut_off_archive_says_so(tmp_path: Path, cut: float) -> None:
    noise = random.Random(1).randbytes(200_000)
    built = make.build([make.layer(make.Entry("noise", noise))])
    path = make.oci_archive(tmp_path / "i.tar", built)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(InputError, match="ends too early"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", bytes(4096), b"\x1f\x8b\x08garbage"])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.way_out


def test_a_tar_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(make.tar_of([make.Entry("README", b"hello")]))
    with pytest.raises(InputError, match=r"neither index\.json nor manifest\.json"):
        read(path)


def test_missing_layer_is_named(tmp_path: Path) -> None:
    built = make.build(LAYERS, compression="gzip")
    gone = make.sha256(built.layers[1])
    del built.blobs[gone]
    with pytest.raises(InputError, match=f"lacks the layer {gone}"):
        read(make.oci_archive(tmp_path / "i.tar", built))


def test_changed_blob_is_found_by_its_digest(tmp_path: Path) -> None:
    built = make.build(LAYERS)
    digest = make.sha256(built.layers[0])
    built.blobs[digest] = built.blobs[digest].replace(b"alpha", b"omega", 1)
    with pytest.raises(InputError, match="does not match its digest"):
        read(make.oci_archive(tmp_path / "i.tar", built))


def test_broken_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(make.layer(make.Entry("a", b"1"), make.Entry("b", b"2")))
    data[1024] ^= 0xFF  # the first byte of the second header
    with pytest.raises(InputError, match="checksum is wrong"):
        read(make.oci_archive(tmp_path / "i.tar", make.build([bytes(data)])))


def test_bomb_is_refused_at_the_limit(tmp_path: Path) -> None:
    bomb = make.layer(make.Entry("zeros", bytes(20_000_000)))
    path = make.oci_archive(tmp_path / "i.tar", make.build([bomb], compression="gzip"))
    with pytest.raises(InputError, match="unpacks to more than 5000000 bytes"):
        read(path, Look(limits=Limits(layer_unpacked_bytes=5_000_000)))
    many = make.layer(*(make.Entry(str(number)) for number in range(50)))
    path = make.oci_archive(tmp_path / "i.tar", make.build([many]))
    with pytest.raises(InputError, match="more than 40 entries"):
        read(path, Look(limits=Limits(layer_members=40)))


def test_header_that_claims_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with pytest.raises(InputError, match="a header claims"):
        read(make.oci_archive(tmp_path / "i.tar", make.build([data])))


@pytest.mark.parametrize("name", ["../etc/passwd", "a/../../b", "/../x"])
def test_paths_out_of_the_image_are_refused(tmp_path: Path, name: str) -> None:
    data = make.layer(make.Entry(name, b"x"))
    with pytest.raises(InputError, match="leads out of the image"):
        read(make.oci_archive(tmp_path / "i.tar", make.build([data])))


def test_layers_of_another_config_are_refused(tmp_path: Path) -> None:
    built = make.build(LAYERS)
    config = json.loads(built.config)
    config["rootfs"]["diff_ids"].reverse()
    built.config = json.dumps(config).encode()
    with pytest.raises(InputError, match="not those that the image's config names"):
        read(make.docker_archive(tmp_path / "d.tar", built))


@pytest.mark.parametrize(
    "change",
    [
        {"config": []},
        {"config": {"Entrypoint": "sh"}},
        {"config": {"Labels": ["a"]}},
        {"rootfs": None},
        {"rootfs": {"diff_ids": "sha256:0"}},
        {"history": [{"created_by": 1}]},
        {"created": 5},
        {"os": None},
    ],
)
def test_config_with_values_of_other_types_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    built = make.build(LAYERS)
    built.config = json.dumps(json.loads(built.config) | change).encode()
    with pytest.raises(InputError, match=r"\.json is not what an image archive has there"):
        read(make.docker_archive(tmp_path / "d.tar", built))


def test_any_single_bit_flip_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """Every blob is under a digest: only tar padding and header trivia may differ unseen."""
    data = make.oci_archive(tmp_path / "i.tar", make.build(LAYERS, compression="gzip")).read_bytes()
    good = read_archive([data], LOOK, name="i")
    dice = random.Random(7)
    refused = 0
    for _ in range(400):
        flipped = bytearray(data)
        flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        try:
            image = read_archive([bytes(flipped)], LOOK, name="i")
        except InputError:
            refused += 1
            continue
        assert paths(image) == paths(good)
    assert refused > 20


def test_memory_stays_bounded_for_a_large_file(tmp_path: Path) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    path = tmp_path / "big.tar"
    big = io.BytesIO(make.layer(make.Entry("big", bytes(64_000_000)))).getvalue()
    make.oci_archive(path, make.build([big], compression="zstd"))
    del big
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24_000_000
