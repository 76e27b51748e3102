"""Validation: what is measured, and what of it is shown."""

import math

import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.method.methods import CTMSR
from flowmapsr.trainer.run.validation import CROP, UNGUIDED, distinct, load_crops, score, validate


def test_scores_of_known_errors(photo):
    hr = torch.cat([photo, photo.flip(3)])
    psnr, ratio = score(0.5 * hr, hr)
    assert math.isclose(ratio, 0.25, rel_tol=1e-4)
    offset = 0.1 * 255 / 219  # of all channels: 0.1 of the luma, which spans 219 of 255
    psnr, ratio = score(hr + offset, hr)
    assert math.isclose(psnr, 20, abs_tol=1e-3)
    assert math.isclose(ratio, 1, rel_tol=1e-4)
    assert score(hr, hr) == (math.inf, 1)


def test_guidance_is_measured_where_it_was_learned(small_model, photos):
    hr = load_crops(photos)[:1]
    plain, picture = validate(small_model, hr)
    more, wider = validate(small_model, hr, guided=True)
    assert picture.shape == (3, CROP, 9 * CROP)
    assert wider.shape == (3, CROP, 10 * CROP)
    assert plain == {name: more[name] for name in plain}
    assert more.keys() - plain.keys() == {
        f"{preset}/balanced/{figure}" for preset in ("bicubic", "flowmapsr") for figure in ("hf", "gain")
    }
    ends = [plain[f"bicubic/{label}/gain"] for label in ("mean", "1")]
    assert plain["bicubic/blend/gain"] > min(ends)
    assert more["bicubic/balanced/gain"] != more["bicubic/2/gain"]  # w = 2 against w = 1


def test_a_method_of_one_step_is_measured_by_that_alone(small_model):
    assert list(distinct(small_model, UNGUIDED)) == ["mean", "0.5", "1", "2", "4"]
    small_model.flow.method = CTMSR()
    assert list(distinct(small_model, UNGUIDED)) == ["mean", "0.5", "1"]


def test_a_damaged_photograph_is_said(photos):
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:20000])
    with pytest.raises(UserError, match="is damaged"):
        load_crops(photos)
