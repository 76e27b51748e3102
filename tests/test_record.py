"""How a picture was made, in the picture."""

import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.images.picture_files import Picture, read_picture, write_picture
from flowmapsr.flowmapsr_core.images.record import LONGEST, PROCESSING_SOFTWARE, read_about, read_record, with_record
from PIL import Image

MAKE, SOFTWARE, DESCRIPTION, EXIF_IFD, GPS_IFD, ORIENTATION = 0x010F, 0x0131, 0x010E, 0x8769, 0x8825, 0x0112
RECORD = {"model": "Büroklammer 2", "steps": 4, "guidance": 1.5, "seed": 2**64 - 1, "loras": {"a.safetensors": -0.5}}


@pytest.fixture
def camera():
    """What a camera and a photographer have written."""
    exif = Image.Exif()
    exif[MAKE], exif[SOFTWARE], exif[DESCRIPTION] = "Camera", "Firmware 1.2", "Pier at dusk"
    exif[PROCESSING_SOFTWARE] = "Another program"
    exif.get_ifd(EXIF_IFD).update({0x829A: 0.01, 0x9286: b"ASCII\0\0\0a comment"})
    exif.get_ifd(GPS_IFD).update({1: "N", 2: (52.0, 30.0, 0.0)})
    return exif.tobytes()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_record_survives_in_every_format_beside_what_was_there(tmp_path, camera, suffix, bits):
    path = tmp_path / f"out{suffix}"
    for metadata in ({"exif": camera, "dpi": (300, 300)}, {}):
        write_picture(Picture(torch.rand(1, 3, 9, 14), bits=bits, metadata=with_record(metadata, RECORD)), path)
        assert read_record(path) == RECORD
    write_picture(Picture(torch.rand(1, 3, 9, 14), metadata=with_record({"exif": camera}, RECORD)), path)
    again = read_picture(path)
    write_picture(Picture(again.color, metadata=with_record(again.metadata, {"steps": 1})), path)
    assert read_record(path) == {"steps": 1}
    with Image.open(path) as image:
        exif = image.getexif()
        assert (exif[MAKE], exif[SOFTWARE], exif[DESCRIPTION]) == ("Camera", "Firmware 1.2", "Pier at dusk")
        assert float(exif.get_ifd(EXIF_IFD)[0x829A]) == pytest.approx(0.01)
        assert exif.get_ifd(EXIF_IFD)[0x9286] == b"ASCII\0\0\0a comment"
        assert [float(part) for part in exif.get_ifd(GPS_IFD)[2]] == [52, 30, 0]


@pytest.mark.parametrize("text", [None, "Another program", "FlowMapSR ", 'FlowMapSR {"steps": 4', "FlowMapSR 0.1"])
def test_pictures_without_a_record(tmp_path, text):
    exif = Image.Exif()
    if text is not None:
        exif[PROCESSING_SOFTWARE] = text
    Image.new("RGB", (9, 9)).save(tmp_path / "in.jpg", exif=exif.tobytes())
    assert read_record(tmp_path / "in.jpg") is None


@pytest.mark.parametrize("turned", [1, 6])
def test_a_pictures_size_is_that_of_it_upright(tmp_path, turned):
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    Image.new("RGB", (12, 9)).save(tmp_path / "in.jpg", exif=exif.tobytes())
    assert read_about(tmp_path / "in.jpg")[0] == tuple(read_picture(tmp_path / "in.jpg").color.shape[2:])


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        read_record(tmp_path / "text.png")


def test_a_photographers_exif_comes_first(tmp_path, caplog):
    """Where both do not fit into a JPEG."""
    exif = Image.Exif()
    exif[MAKE] = "C" * (LONGEST - 100)
    metadata = {"exif": exif.tobytes()}
    assert len(metadata["exif"]) <= LONGEST
    with caplog.at_level("WARNING", "flowmapsr"):
        assert with_record(metadata, RECORD) == metadata
    assert "left out" in caplog.text
    write_picture(Picture(torch.rand(1, 3, 9, 14), metadata=metadata), tmp_path / "out.jpg")
    assert len(Image.open(tmp_path / "out.jpg").getexif()[MAKE]) == LONGEST - 100
    exif[MAKE] = "C" * LONGEST  # a JPEG holds none of it
    assert len(with_record({"exif": exif.tobytes()}, RECORD)["exif"]) > len(exif.tobytes())
