import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.data.lerobot.layout import fill_template, short_name
from vlmreward.data.paths import inside
from vlmreward.errors import DatasetError

NUMBERS = st.integers(0, 10**7)
PIECES = ("data/", "chunk-", "{chunk_index:03d}", "{file_index:06d}", "{file_index}", "{{", "}}", ".mp4", "蓝")
TEMPLATES = st.lists(st.sampled_from(PIECES)).map("".join)


@given(TEMPLATES, NUMBERS, NUMBERS)
def test_templates_are_filled_as_str_format_does(template, chunk, file):
    values = {"chunk_index": chunk, "file_index": file}
    assert fill_template(template, values, "data_path") == template.format(**values)


@given(st.text("{}:!.[]_ad0123chunkindex", max_size=30))
def test_any_template_is_filled_plainly_or_refused(template):
    values = {"chunk_index": 1, "file_index": 2, "video_key": "cam"}
    try:
        filled = fill_template(template, values, "data_path")
    except DatasetError as e:
        assert "\n" not in str(e)  # noqa: PT017
        return
    assert filled == template.format(**values)
    assert len(filled) < 1000


@given(st.text(min_size=1, max_size=40))
def test_no_name_leads_out_of_the_dataset(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp()
    try:
        found = inside(root, name)
    except DatasetError as e:
        assert re.search("leads out|can't be a file", str(e))  # noqa: PT017
        return
    assert found.is_relative_to(root.resolve())


def test_links_within_the_dataset_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path, "link/x") == tmp_path / "real/x"
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(DatasetError, match="leads out"):
        inside(tmp_path, "out/passwd")


def test_short_names_are_those_of_users():
    assert short_name("observation.images.front") == "front"
    assert short_name("observation.image") == "observation.image"
    assert short_name("observation.images.") == "observation.images."
