"""Photographs, crops, and the pairs made of them."""

import dataclasses
import io
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.trainer.data.crops import Budget, Crop, Data, PhotoCrops, StepSampler, bucket_shapes, training_photos
from flowmapsr.trainer.data.pairs import Degrade, make_pairs
from flowmapsr.trainer.data.photos import Decoded, find_photos
from PIL import Image


def crops_of(folder, seed=5, **settings):
    data = Data(photos=str(folder), **{"budgets": (Budget(64, 4),), **settings})
    return PhotoCrops(data, training_photos(data)[0], 8, seed)


def test_crops_are_the_same_for_a_seed_and_pass_over_what_is_no_image(photos):
    first, second, other = crops_of(photos), crops_of(photos), crops_of(photos, seed=6)
    assert training_photos(first.data)[1] == 1
    key = Crop(1000, 3, (64, 64))
    crop, damaged = first[key]
    assert torch.equal(crop, second[key][0])
    assert damaged == []
    assert not torch.equal(crop, first[Crop(1000, 2, (64, 64))][0])
    assert not torch.equal(crop, other[key][0])
    assert crop.shape == (3, 64, 64)
    assert crop.min() >= 0
    assert crop.max() <= 1


def test_a_damaged_photograph_is_passed_over_and_named(photos):
    whole = (photos / "0.png").read_bytes()
    for index in range(6):
        (photos / f"cut{index}.png").write_bytes(whole[: len(whole) // 2])
    crops = crops_of(photos)
    found = [crops[Crop(0, number, (64, 64))] for number in range(8)]
    names = {name.rsplit("/")[-1] for _, damaged in found for name in damaged}
    assert names
    assert all(name.startswith("cut") for name in names)
    assert all(crop.isfinite().all() for crop, _ in found)


def test_what_pillow_calls_broken_or_huge_is_passed_over_too(photos, monkeypatch):
    (photos / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    Image.new("1", (2000, 2000)).save(photos / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 540 * 360)
    _, unreadable = find_photos(photos)
    assert unreadable == 3  # and the one that was there


def test_a_folder_of_damaged_photographs_is_an_error(tmp_path, photos):
    whole = (photos / "0.png").read_bytes()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.png; check the folder"):
        crops_of(tmp_path / "bad")[Crop(0, 0, (64, 64))]


def test_shards_hold_the_same_photographs_as_a_folder(tmp_path, photos):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "000.tar", "w") as shard:
        for path in sorted(photos.rglob("*.png")):
            shard.add(path, path.name)
        caption = tarfile.TarInfo("0.txt")
        caption.size = 5
        shard.addfile(caption, io.BytesIO(b"hello"))
    folder, shards = (find_photos(place)[0] for place in (photos, tmp_path / "shards"))
    assert sorted(folder.values()) == sorted(shards.values())
    for one, other in zip(sorted(folder, key=lambda photo: Path(photo.path).name), shards, strict=True):
        assert one.decode().tobytes() == other.decode().tobytes()
    (tmp_path / "shards" / "001.tar").write_bytes(b"no tar")
    with pytest.raises(UserError, match=r"001\.tar is not an uncompressed tar"):
        find_photos(tmp_path / "shards")


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif"])
def test_16_bits_keep_their_grays(tmp_path, name):
    values = np.linspace(0, 65535, 40 * 50).round().astype(np.uint16).reshape(40, 50)
    Image.fromarray(values).save(tmp_path / name)
    (photo,) = find_photos(tmp_path)[0]
    image = np.asarray(photo.decode())
    assert image.shape == (40, 50, 3)
    assert np.array_equal(image, np.repeat((values / 257).round().astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "raw"])
def test_shards_may_hold_compressed_tiffs(tmp_path, photos, compression):
    image = Image.open(photos / "0.png").convert("RGB")
    image.save(tmp_path / "photo.tif", compression=compression)
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "000.tar", "w") as shard:
        for number in range(2):
            shard.add(tmp_path / "photo.tif", f"{number}.tif")
    found, unreadable = find_photos(tmp_path / "shards")
    assert unreadable == 0
    assert [photo.decode().tobytes() for photo in found] == [image.tobytes()] * 2


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_all_kinds_of_images_become_rgb(tmp_path, mode):
    image = Image.linear_gradient("L").resize((50, 40))
    (image if mode == "I;16" else image.convert("RGB")).convert(mode).save(tmp_path / "image.tif")
    (photo,) = find_photos(tmp_path)[0]
    assert (photo.decode().mode, photo.decode().size) == ("RGB", (50, 40))


def test_turned_photographs_count_as_they_are_seen(tmp_path):
    image = Image.new("RGB", (90, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    ((photo, size),) = find_photos(tmp_path)[0].items()
    assert size == photo.decode().size == (60, 90)


def test_decoded_photographs_are_kept_within_the_budget_of_a_machine(photos):
    alone, eight = crops_of(photos), crops_of(photos, workers=8)
    assert alone.decoded.budget == 2**30
    assert eight.decoded.budget == 2**27
    assert PhotoCrops(eight.data, training_photos(eight.data)[0], 8, 5, processes=4).decoded.budget == 2**25
    size = 3 * 540 * 360
    for budget, kept in ((0, 1), (2 * size, 2), (3 * size, 3)):
        decoded, found = Decoded(budget), list(find_photos(photos)[0])
        images = [decoded.load(photo) for photo in found]
        assert list(decoded.images) == found[-kept:]
        assert decoded.load(found[2]) is images[2]


def test_processes_share_the_work_of_finding_photographs(photos, monkeypatch):
    for name in ("no.tar", "nor.tar"):
        (photos / name).mkdir()
    parts = []

    def gather(part):
        parts.append(part)
        return parts[-1] + parts[0]

    monkeypatch.setattr("flowmapsr.trainer.data.photos.gather_object", gather)
    for name in ("no.tar", "nor.tar"):
        with pytest.raises(UserError, match=r"no.*\.tar is not an uncompressed tar"):
            find_photos(photos, 1, SimpleNamespace(process_index=0, num_processes=2))
        (photos / name).rmdir()
    parts.clear()
    alone = find_photos(photos)
    for index in range(2):
        shared = find_photos(photos, 1, SimpleNamespace(process_index=index, num_processes=2))
    assert (list(shared[0].items()), shared[1]) == (list(alone[0].items()), alone[1])
    assert sorted(len(part) for part in parts) == [2, 3]


def test_an_index_is_small_to_send_to_a_worker(photos):
    sizes, _ = training_photos(Data(photos=str(photos)))
    many = {
        dataclasses.replace(photo, path=f"{photo.path}{n}"): size for n in range(1000) for photo, size in sizes.items()
    }
    names = sum(len(photo.path) for photo in many)
    assert len(pickle.dumps(many)) < names + 50 * len(many)


def test_bucket_shapes_keep_the_pixels_and_the_multiple():
    assert bucket_shapes(64, 1, 8) == [(64, 64)]
    shapes = bucket_shapes(512, 2, 64)
    assert (512, 512) in shapes
    assert {(width, height) for height, width in shapes} == set(shapes)
    for height, width in shapes:
        assert height % 64 == width % 64 == 0
        assert abs(height * width / 512**2 - 1) < 0.13
        assert 0.45 < height / width < 2.2


def test_buckets_follow_the_photographs_shapes_and_budgets_have_their_own_batches(tmp_path):
    for index, size in enumerate([(300, 150), (300, 150), (300, 150), (150, 300)]):
        Image.new("RGB", size, (index * 40, 0, 0)).save(tmp_path / f"{index}.png")
    crops = crops_of(tmp_path, aspect=2.0, budgets=(Budget(64, 4), Budget(96, 2)))
    drawn = Counter(crops.draw_bucket(step) for step in range(800))
    shapes = {shape for shape, _ in drawn}
    assert {batch for _, batch in drawn} == {4, 2}
    assert all(height != width for height, width in shapes)
    lying = sum(count for ((height, width), _), count in drawn.items() if width > height)
    assert 0.68 < lying / 800 < 0.82  # three photographs of four
    (shape, _), _ = drawn.most_common(1)[0]
    assert crops[Crop(0, 0, shape)][0].shape == (3, *shape)


@pytest.mark.parametrize(("parts", "processes"), [(1, 2), (2, 1), (2, 2)])
def test_a_step_is_the_same_however_it_is_shared_out(photos, parts, processes):
    crops = crops_of(photos)
    alone = [crop for batch in StepSampler(crops, range(7, 9), 1, 0, 1) for crop in batch]
    shared = [list(StepSampler(crops, range(7, 9), parts, process, processes)) for process in range(processes)]
    assert [crop for batches in zip(*shared, strict=True) for batch in batches for crop in batch] == alone


def test_tone_changes_keep_the_range_and_make_negatives(photos):
    plain, toned = crops_of(photos), crops_of(photos, tone=0.5)
    slopes = []
    for number in range(20):
        key = Crop(0, number, (64, 64))
        before, after = plain[key][0], toned[key][0]
        assert after.min() >= 0
        assert after.max() <= 1
        slopes.append(((after - after.mean()) * (before - before.mean())).mean() / before.var())
    slopes = torch.stack(slopes)
    assert (slopes.abs() > 0.49).all()
    assert (slopes.abs() < 1.01).all()
    assert 4 < (slopes < 0).sum() < 16


def test_negative_samples_get_a_milder_target(generator):
    hr = torch.rand(8, 3, 32, 32, generator=generator)
    negative = torch.tensor([True, False] * 4)
    recipe = Degrade(presets={"bicubic": 1.0}, factor=(4, 4), balance=1.0)
    target, lr, weight, small = make_pairs(hr, recipe, negative, [generator] * 4)
    assert torch.equal(target[1::2], hr[1::2])
    assert torch.equal(weight, torch.ones(8))
    assert [group.images.shape for group in small] == [(2, 3, 8, 8)] * 4
    milder, full = ((image - hr).square().mean(dim=(1, 2, 3))[::2] for image in (target, lr))
    assert (milder < full).all()
